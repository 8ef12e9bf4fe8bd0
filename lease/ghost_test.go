package lease

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

func reportLimit(t *testing.T, pattern string, n int64) limit.Limit {
	t.Helper()
	l := kit.Limit(t, pattern, n, limit.Queue{})
	l.Report = true
	return l
}

// A limit that only reports closes nothing, whatever the leader asks for or takes away: no
// connection that is kept for reuse while others have exceeded the limit, none above a target, none
// that the log knows nothing of.
func TestReportSeversNothing(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 1, reportLimit(t, "up", 1))
	holders, _ := parkEach(t, m, m, m)
	m.do(func(now time.Duration) {
		for _, msg := range m.node.Outgoing(now) {
			for _, d := range msg.GetUpdate().GetDemands() {
				if d.InUse < 0 {
					t.Errorf("the node says %v", d)
				}
			}
		}
	})
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: &leasepb.Assign{
		Targets: []*leasepb.Target{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Seq: 1, Slots: 0, Contended: true, Evict: true}}}}})
	m.do(func(now time.Duration) {
		m.node.correct(now, []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up"))}})
	})
	for i, h := range holders {
		if why := h.severed(); why != 0 {
			t.Errorf("connection %d is to be given up: %v", i, why)
		}
	}
}

// A request that still waits under a limit that only reports, when that is removed, is forgotten.
func TestReportingLimitIsRemovedUnderWaiters(t *testing.T) {
	m, _ := liveManager(t, ExpiryClose, 0, reportLimit(t, "up", 1))
	mustAcquire(t, m, "up")
	m.do(func(now time.Duration) { m.node.setLimits(now, limit.NewTable(9, 9, nil)) })
	if err := m.node.Check(); err != nil {
		t.Error(err)
	}
	if use, _ := m.Use(limit.HostConnections("up")); use.Waiting != 0 || use.InUse != 1 {
		t.Errorf("%+v", use)
	}
}
