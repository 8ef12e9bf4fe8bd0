package leader

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// Whatever a node says, the leader neither panics nor proposes what the log would have to cut.
func FuzzNodeMessage(f *testing.F) {
	key, rate := fsmpb.KeyOf(limit.HostConnections("up")), fsmpb.KeyOf(totalRequests)
	for _, m := range []*leasepb.NodeMessage{
		{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: 1, Node: "b", Identity: "2"}}},
		{Message: &leasepb.NodeMessage_Hello{Hello: &leasepb.Hello{Protocol: 1, Node: "a", Identity: "1", Session: 2, Holdings: []*leasepb.Holding{{Key: key, Slots: 9}, nil}}}},
		{Message: &leasepb.NodeMessage_KeepAlive{KeepAlive: &leasepb.KeepAlive{Seq: 1}}},
		{Message: &leasepb.NodeMessage_Update{Update: &leasepb.Update{
			Releases: []*leasepb.Holding{{Key: key, Slots: 5}, {Key: key, Slots: -5}, nil},
			Demands:  []*leasepb.Demand{{Key: key, Held: -1, InUse: 1 << 62, Waiting: 1 << 62, Refused: -7, Ask: 1}, nil},
		}}},
		{Message: &leasepb.NodeMessage_Update{Update: &leasepb.Update{
			Releases: []*leasepb.Holding{{Key: rate, Slots: 5, Level: 1 << 62}, {Key: rate, Slots: 1 << 40, Level: 1 << 62}, {Key: key, Slots: 1, Level: 9}},
			Demands:  []*leasepb.Demand{{Key: rate, Held: 1 << 62, InUse: 3, Waiting: 7, Headroom: 1 << 62, Ask: 1}},
		}}},
		{Message: &leasepb.NodeMessage_Bye{Bye: &leasepb.Bye{}}},
	} {
		f.Add(kit.Encode(f, m))
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
		apply(&fsm.Init{ClusterID: "c", TTL: 10 * time.Second, Limits: []limit.Limit{kit.Limit(t, "up", 3, limit.Queue{}), rateLimit(t, "7/s", 7)}})
		apply(&fsm.OpenSession{Term: 1, Node: "a", Identity: "1"})
		a := NewAllocator(0, 1, st)
		a.hello(0, st, 1, &leasepb.Hello{Protocol: leasepb.Version, Node: "a", Identity: "1", Session: 2, LimitsVersion: leasepb.LimitsVersion})
		a.update(0, 1, &leasepb.Update{Demands: []*leasepb.Demand{{Key: key, Waiting: 2}, {Key: rate, Waiting: limit.Shares / 2}}})
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
			if err := a.Check(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
