package leader

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// A hello in parts counts once its last part is there: until then nothing is granted to the node,
// and nothing of what it has yet to state is released. Parts out of place end the stream.
func TestHelloInParts(t *testing.T) {
	keys := []*fsmpb.Key{fsmpb.KeyOf(limit.HostConnections("a.up")), fsmpb.KeyOf(limit.HostConnections("b.up")), fsmpb.KeyOf(limit.HostConnections("c.up"))}
	start := func(t *testing.T) (d *desk, session uint64) {
		d = newDesk(t, kit.Limit(t, "*.up", 3, limit.Queue{}))
		d.join(1, "a", "1")
		for _, k := range keys {
			d.alloc.update(d.now, 1, &leasepb.Update{Demands: []*leasepb.Demand{{Key: k, Waiting: 1}}, LimitsIndex: d.state.Table().Index})
		}
		d.turn()
		session = d.alloc.conns[1].ID
		d.alloc.Gone(1)
		d.turn()
		if n := len(d.state.SessionGrants(session)); n != len(keys) {
			t.Fatalf("%d grants, want %d", n, len(keys))
		}
		return d, session
	}
	verify := func(d *desk) {
		if d.alloc.Verify() {
			d.alloc.Verified(d.now, d.state, true)
		}
	}
	hello := func(session uint64) *leasepb.NodeMessage {
		return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: leasepb.VersionPaged, Node: "a", Identity: "1",
			Session: session, Holdings: []*leasepb.Holding{{Key: keys[0], Slots: 1}}, More: true}}}
	}
	part := func(k *fsmpb.Key, more bool) *leasepb.NodeMessage {
		return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Holdings{Holdings: &leasepb.Holdings{Holdings: []*leasepb.Holding{{Key: k, Slots: 1}}, More: more}}}
	}
	receive := func(d *desk, conn uint64, m *leasepb.NodeMessage) []Outbound {
		d.alloc.Receive(d.now, conn, proto.CloneOf(m), d.now)
		verify(d)
		return d.turn()
	}
	t.Run("whole", func(t *testing.T) {
		d, session := start(t)
		for _, m := range []*leasepb.NodeMessage{hello(session), part(keys[1], true)} {
			if out := receive(d, 2, m); len(out) != 0 || d.alloc.conns[2] != nil {
				t.Fatalf("before the last part the node hears %v", out)
			}
			d.alloc.update(d.now, 2, &leasepb.Update{Demands: []*leasepb.Demand{{Key: keys[0], Held: 1, InUse: 1, Waiting: 1}}})
			if d.turn(); d.state.GrantOf(session, limit.HostConnections("a.up")) != 1 {
				t.Fatal("slots are granted before the last part")
			}
		}
		out := receive(d, 2, part(keys[2], false))
		if len(out) != 2 || !out[1].Msg.GetWelcome().GetResumed() || len(out[1].Msg.GetWelcome().GetCorrected()) != 0 {
			t.Fatalf("after the last part the node hears %v", out)
		}
		d.alloc.update(d.now, 2, &leasepb.Update{})
		if d.turn(); len(d.state.SessionGrants(session)) != len(keys) {
			t.Errorf("the log grants %v", d.state.SessionGrants(session))
		}
	})
	for name, send := range map[string]func(d *desk, session uint64) []Outbound{
		"part without a hello": func(d *desk, _ uint64) []Outbound { return receive(d, 2, part(keys[1], true)) },
		"part after a whole one": func(d *desk, session uint64) []Outbound {
			receive(d, 2, hello(session))
			receive(d, 2, part(keys[1], false))
			return receive(d, 2, part(keys[2], false))
		},
		"too much": func(d *desk, session uint64) []Outbound {
			receive(d, 2, hello(session))
			m := part(nil, true)
			m.GetHoldings().Holdings = make([]*leasepb.Holding, maxHoldings)
			d.alloc.Receive(d.now, 2, m, d.now)
			return d.turn()
		},
		"unreadable key in a part": func(d *desk, session uint64) []Outbound {
			receive(d, 2, hello(session))
			return receive(d, 2, part(&fsmpb.Key{Scope: 99, Name: "x"}, false))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, session := start(t)
			if out := send(d, session); len(out) != 1 || !out[0].End {
				t.Errorf("the node hears %v", out)
			}
			if len(d.alloc.partial) != 0 || d.alloc.conns[2] != nil {
				t.Error("something of the statement is kept")
			}
			if len(d.state.SessionGrants(session)) != len(keys) {
				t.Errorf("the log grants %v", d.state.SessionGrants(session))
			}
		})
	}
	t.Run("stream ends", func(t *testing.T) {
		d, session := start(t)
		receive(d, 2, hello(session))
		d.alloc.Gone(2)
		receive(d, 3, part(keys[1], false))
		if len(d.alloc.partial) != 0 || d.alloc.conns[2] != nil || d.alloc.conns[3] != nil {
			t.Error("the part of another stream is taken")
		}
	})
}
