package lease

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

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
		f.Add(kit.Encode(f, m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m leasepb.LeaderMessage
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		for _, live := range []bool{false, true} {
			n := NewNode("a", "1", ExpiryClose, nil)
			n.setLimits(0, limit.NewTable(1, 1, []limit.Limit{kit.Limit(t, "up", 3, limit.Queue{Timeout: time.Second, Size: 5})}))
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
			n.Effects(1)
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
