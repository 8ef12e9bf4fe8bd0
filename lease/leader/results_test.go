package leader

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// A release in an entry that had no effect is proposed again, whatever made the entry void, also
// where the node's stream has ended meanwhile.
func TestVoidEntryKeepsRelease(t *testing.T) {
	for _, void := range []error{fsm.ErrRepeated, fsm.ErrStaleTerm} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprint(void, ", reconnects: ", back), func(t *testing.T) {
				d := newDesk(t, kit.Limit(t, "up", 3, limit.Queue{}))
				d.join(1, "a", "1")
				d.demand(1, &leasepb.Demand{Waiting: 2})
				d.turn()
				session := d.alloc.conns[1].ID
				key := limit.HostConnections("up")
				if g := d.state.GrantOf(session, key); g != 2 {
					t.Fatalf("%d slots are granted, want 2", g)
				}
				d.alloc.update(d.now, 1, &leasepb.Update{
					Releases: []*leasepb.Holding{{Key: fsmpb.KeyOf(key), Slots: 2}},
					Demands:  []*leasepb.Demand{{Key: fsmpb.KeyOf(key)}},
				})
				if cmd, ok := d.alloc.Next(d.now, d.state).(*fsm.Adjust); !ok || len(cmd.Adjustments) != 1 {
					t.Fatalf("proposed: %v", cmd)
				}
				if back {
					d.alloc.Gone(1)
				}
				d.alloc.Applied(d.now, d.state, fsm.Result{Err: void})
				if back {
					d.alloc.hello(d.now, d.state, 2, &leasepb.Hello{Protocol: leasepb.Version, Node: "a", Identity: "1", Session: session})
					d.alloc.update(d.now, 2, &leasepb.Update{})
				}
				d.turn()
				if g := d.state.GrantOf(session, key); g != 0 {
					t.Errorf("%d slots that are out of use stay granted", g)
				}
				if err := d.alloc.Check(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A session is told of its end, and its end is reported, only where the log has ended it.
func TestVoidEndIsNoEnd(t *testing.T) {
	for name, end := range map[string]func(d *desk){
		"expired":   func(d *desk) { d.now += 10 * time.Second; d.alloc.Tick(d.now) },
		"said bye":  func(d *desk) { d.alloc.bye(1) },
		"said left": func(d *desk) { d.alloc.Left(Farewell{Node: "a", Session: d.alloc.conns[1].ID}) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, kit.Limit(t, "up", 3, limit.Queue{}))
			d.join(1, "a", "1")
			d.turn()
			end(d)
			if _, ok := d.alloc.Next(d.now, d.state).(*fsm.CloseSessions); !ok {
				t.Fatal("no end is proposed")
			}
			d.alloc.Applied(d.now, d.state, fsm.Result{Err: fsm.ErrStaleTerm})
			for _, o := range d.alloc.Take() {
				if o.Msg.GetClosed() != nil || o.End {
					t.Errorf("the node hears %v", o.Msg)
				}
			}
			if p := d.alloc.conns[1]; p == nil || p.closing || d.alloc.peers[p.ID] != p {
				t.Error("the session is forgotten")
			}
			d.now += 10 * time.Second
			d.turn()
			if n := len(d.state.Sessions()); n != 0 {
				t.Errorf("%d sessions are left once they are judged anew", n)
			}
		})
	}
}

// A leader's side that is started again in the same term goes on numbering its entries where the
// log is.
func TestSecondLeadershipOfTerm(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 3, limit.Queue{}))
	d.join(1, "a", "1")
	for range 3 {
		d.demand(1, &leasepb.Demand{Waiting: 1})
		d.turn()
		d.alloc.update(d.now, 1, &leasepb.Update{
			Releases: []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Slots: 1}},
			Demands:  []*leasepb.Demand{{Key: fsmpb.KeyOf(limit.HostConnections("up"))}},
		})
		d.turn()
	}
	session := d.alloc.conns[1].ID
	d.alloc = NewAllocator(d.now, 1, d.state)
	d.alloc.hello(d.now, d.state, 2, &leasepb.Hello{Protocol: leasepb.Version, Node: "a", Identity: "1", Session: session})
	d.turn()
	d.now += time.Second // past the rest of a new leader
	d.demand(2, &leasepb.Demand{Waiting: 2})
	if cmd := d.alloc.Next(d.now, d.state); cmd == nil {
		t.Fatal("nothing is proposed")
	} else if res := d.apply(cmd); res.Err != nil {
		t.Fatalf("the first entry is void: %v", res.Err)
	}
	if b := d.state.Batch(2); b != 0 {
		t.Errorf("the next term begins after batch %d", b)
	}
}

// unreadableKeys are keys as another version might send them, or a broken one.
var unreadableKeys = map[string]*fsmpb.Key{
	"none":             nil,
	"empty":            {},
	"unknown scope":    {Scope: 99, Resource: 1, Name: "up"},
	"unknown resource": {Scope: 1, Resource: 99, Name: "up"},
}

// A key that this server can't read ends the stream, before anything else of the message counts.
func TestUnreadableKeyEndsStream(t *testing.T) {
	up := fsmpb.KeyOf(limit.HostConnections("up"))
	for name, bad := range unreadableKeys {
		for what, send := range map[string]func(d *desk){
			"release": func(d *desk) {
				d.alloc.update(d.now, 1, &leasepb.Update{Releases: []*leasepb.Holding{{Key: up, Slots: 1}, {Key: bad, Slots: 1}}})
			},
			"demand": func(d *desk) {
				d.alloc.update(d.now, 1, &leasepb.Update{Demands: []*leasepb.Demand{{Key: up, Waiting: 1}, {Key: bad, Waiting: 1}}})
			},
			"holding": func(d *desk) {
				d.alloc.hello(d.now, d.state, 1, &leasepb.Hello{Protocol: leasepb.Version, Node: "a", Identity: "1", Session: d.alloc.order[0].ID,
					Holdings: []*leasepb.Holding{{Key: up, Slots: 1}, {Key: bad, Slots: 1}}})
			},
		} {
			t.Run(what+", "+name, func(t *testing.T) {
				d := newDesk(t, kit.Limit(t, "up", 3, limit.Queue{}))
				d.join(1, "a", "1")
				d.turn()
				if what == "holding" {
					d.alloc.Gone(1)
				}
				send(d)
				out := d.turn()
				if len(out) != 1 || !out[0].End || out[0].Msg.GetRefused().GetReason() != leasepb.Refused_REASON_PROTOCOL {
					t.Errorf("the node hears %v", out)
				}
				if d.alloc.conns[1] != nil || d.state.Granted(limit.HostConnections("up")) != 0 {
					t.Error("some of the message counts")
				}
				if err := d.alloc.Check(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// While no verification comes back, one keep-alive of each stream waits, the newest, and its hello
// is not displaced.
func TestOneKeepAliveWaits(t *testing.T) {
	d := newDesk(t, kit.Limit(t, "up", 3, limit.Queue{}))
	d.join(1, "a", "1")
	d.join(2, "b", "2")
	say := func(conn, seq uint64) {
		d.alloc.Receive(d.now, conn, &leasepb.NodeMessage{Message: &leasepb.NodeMessage_KeepAlive{KeepAlive: &leasepb.KeepAlive{Seq: seq}}}, d.now)
	}
	d.alloc.Receive(d.now, 3, &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: leasepb.Version, Node: "c", Identity: "3"}}}, d.now)
	say(1, 1)
	d.alloc.Verify() // hangs
	for seq := uint64(2); seq < 100; seq++ {
		d.now += time.Millisecond
		say(1, seq)
		say(2, seq)
	}
	if n := len(d.alloc.unverified) + len(d.alloc.verifying); n != 4 {
		t.Fatalf("%d messages wait, want 4", n)
	}
	acks := map[uint64]uint64{}
	for range 2 {
		d.alloc.Verified(d.now, d.state, true)
		for _, o := range d.turn() {
			if k := o.Msg.GetKeepAliveAck(); k != nil {
				acks[o.Conn] = k.Seq
			}
		}
		d.alloc.Verify()
	}
	if acks[1] != 99 || acks[2] != 99 {
		t.Errorf("answered: %v", acks)
	}
	if p := d.alloc.conns[1]; p.seen != d.now {
		t.Errorf("the node counts as heard at %v, want %v", p.seen, d.now)
	}
}

// The server forgets farewells and dead nodes beyond a bound.
func TestServerMemoryIsBounded(t *testing.T) {
	s := New(nil, nil, nil, nil)
	for i := range 3 * maxDead {
		s.Health(fmt.Sprint("node-", i), true)
		s.Left(Farewell{Node: fmt.Sprint("node-", i), Session: uint64(i + 1)})
	}
	if len(s.dead) != maxDead || !s.dead[fmt.Sprint("node-", 3*maxDead-1)] {
		t.Errorf("%d dead nodes are remembered", len(s.dead))
	}
	if n := len(s.left); n != maxFarewells || s.left[n-1].Session != 3*maxDead {
		t.Errorf("%d farewells are remembered", n)
	}
}
