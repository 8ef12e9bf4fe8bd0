package lease

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

func encode(f *testing.F, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// Whatever a leader says, the node neither panics nor admits more than it was granted.
func FuzzLeaderMessage(f *testing.F) {
	key := fsmpb.KeyOf(limit.HostConnections("up"))
	for _, m := range []*leasepb.LeaderMessage{
		{Message: &leasepb.LeaderMessage_Welcome{Welcome: &leasepb.Welcome{Session: 1, TtlNs: 1e10, Resumed: true, Corrected: []*leasepb.Holding{{Key: key, Slots: 1}}}}},
		{Message: &leasepb.LeaderMessage_KeepAliveAck{KeepAliveAck: &leasepb.KeepAliveAck{Seq: 1}}},
		{Message: &leasepb.LeaderMessage_Limits{Limits: &leasepb.Limits{Index: 9, Limits: []*fsmpb.Limit{{Pattern: "*", Connections: proto.Int64(0)}}}}},
		{Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{
			Grants:  []*leasepb.Holding{{Key: key, Slots: 2}, {Key: key, Slots: -5}, nil},
			Targets: []*leasepb.Target{{Key: key, Seq: 1, Slots: 0, Contended: true, Evict: true}},
			Answers: []*leasepb.Answer{{Key: key, Ask: 1}},
		}}},
		{Message: &leasepb.LeaderMessage_Closed{Closed: &leasepb.Closed{}}},
		{Message: &leasepb.LeaderMessage_Refused{Refused: &leasepb.Refused{Reason: leasepb.Refused_REASON_SESSION_GONE}}},
	} {
		f.Add(encode(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m leasepb.LeaderMessage
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		for _, live := range []bool{false, true} {
			n := NewNode("a", "1", ExpiryClose, nil)
			n.setLimits(0, limit.NewTable(1, 1, []limit.Limit{configLimit(t, "up", 3, limit.Queue{Timeout: time.Second, Size: 5})}))
			n.StreamUp(0)
			n.Outgoing(0)
			if live {
				n.welcome(0, &leasepb.Welcome{Session: 7, TtlNs: int64(10 * time.Second)})
			}
			var slots []*Slot
			for range 3 {
				s := &Slot{target: limit.Target{Host: "up", Port: 443}, holder: newHolder()}
				if w, err := n.Acquire(0, s, func(error) {}); err == nil && w == nil {
					slots = append(slots, s)
				}
			}
			_ = n.Receive(1, &m)
			n.TakeSevers()
			n.Outgoing(2)
			n.Tick(time.Second, time.Second)
			for _, p := range n.all {
				if p.limit.Capped() && p.open > max(p.granted, int64(len(slots))) {
					t.Errorf("%d connections to %s are open on %d slots", p.open, p.key, p.granted)
				}
			}
			for _, s := range slots {
				n.Release(3, s)
			}
		}
	})
}

// Whatever a node says, the leader neither panics nor proposes what the log would have to cut.
func FuzzNodeMessage(f *testing.F) {
	key := fsmpb.KeyOf(limit.HostConnections("up"))
	for _, m := range []*leasepb.NodeMessage{
		{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: 1, Node: "b", Identity: "2"}}},
		{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: 1, Node: "a", Identity: "1", Session: 2, Holdings: []*leasepb.Holding{{Key: key, Slots: 9}, nil}}}},
		{Message: &leasepb.NodeMessage_KeepAlive{KeepAlive: &leasepb.KeepAlive{Seq: 1}}},
		{Message: &leasepb.NodeMessage_Update{Update: &leasepb.Update{
			Releases: []*leasepb.Holding{{Key: key, Slots: 5}, {Key: key, Slots: -5}, nil},
			Demands:  []*leasepb.Demand{{Key: key, Held: -1, InUse: 1 << 62, Waiting: 1 << 62, Refused: -7, Ask: 1}, nil},
		}}},
		{Message: &leasepb.NodeMessage_Bye{Bye: &leasepb.Bye{}}},
	} {
		f.Add(encode(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m leasepb.NodeMessage
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		st := fsm.NewState()
		index := uint64(0)
		apply := func(c fsm.Command) fsm.Result {
			index++
			return st.Apply(index, 1, c)
		}
		apply(&fsm.Init{ClusterID: "c", TTL: 10 * time.Second, Limits: []limit.Limit{configLimit(t, "up", 3, limit.Queue{})}})
		apply(&fsm.OpenSession{Term: 1, Node: "a", Identity: "1"})
		a := NewAllocator(0, 1, st)
		a.hello(0, st, 1, &leasepb.Hello{Protocol: protocolVersion, Node: "a", Identity: "1", Session: 2})
		a.update(0, 1, &leasepb.Update{Demands: []*leasepb.Demand{{Key: key, Waiting: 2}}})
		switch m := m.Message.(type) {
		case *leasepb.NodeMessage_Hello:
			a.hello(1, st, 2, m.Hello)
		case *leasepb.NodeMessage_KeepAlive:
			a.keepAlive(1, m.KeepAlive.Seq, 1)
		case *leasepb.NodeMessage_Update:
			a.update(1, 1, m.Update)
		case *leasepb.NodeMessage_Bye:
			a.bye(1)
		}
		for now := time.Second; now < 5*time.Second; now += time.Second {
			a.Tick(now)
			cmd := a.Next(now, st)
			a.Take()
			if cmd == nil {
				continue
			}
			a.Applied(now, st, apply(cmd))
			if err := st.Check(); err != nil {
				t.Fatal(err)
			}
			if g := st.Granted(limit.HostConnections("up")); g > 3 {
				t.Fatalf("%d slots are granted, limit 3", g)
			}
		}
	})
}

// A table that a node kept reads back as it was; anything else is an error.
func FuzzUnmarshalTable(f *testing.F) {
	b, err := MarshalTable(limit.NewTable(5, 4, []limit.Limit{configLimit(f, "*.x.org", 3, limit.Queue{Timeout: time.Second, Size: 2}), configLimit(f, "up", 0, limit.Queue{})}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := UnmarshalTable(b)
		if err != nil {
			return
		}
		again, err := MarshalTable(table)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := UnmarshalTable(again)
		if err != nil || twice.Index != table.Index || len(twice.Limits()) != len(table.Limits()) {
			t.Fatalf("a table does not survive: %v", err)
		}
	})
}
