package lease

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// TestFirstLimitWithoutSession: a connection that needed no session, because it was under no limit,
// outlives the moment in which a node that comes back hears of its first limit.
func TestFirstLimitWithoutSession(t *testing.T) {
	m, clock := liveManager(t, ExpiryClose, 0, kit.Limit(t, "other", 5, limit.Queue{}))
	s := mustAcquire(t, m, "free")
	clock.now.Store(int64(20 * time.Second))
	m.do(func(now time.Duration) { m.node.Tick(now, now) })
	if !s.Live() {
		t.Fatal("it ended with the session")
	}
	m.do(m.node.StreamDown)
	m.do(m.node.StreamUp)
	m.do(func(now time.Duration) { m.node.Outgoing(now) })
	other, free := kit.Limit(t, "other", 5, limit.Queue{}), kit.Limit(t, "free", 5, limit.Queue{})
	hear(t, m, leasepb.LimitsMessage("", limit.NewTable(9, 9, []limit.Limit{other, free})))
	if !s.Live() {
		t.Error("it may move nothing between the limits and the welcome")
	}
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{
		Welcome: &leasepb.Welcome{Session: 8, TtlNs: int64(10 * time.Second)},
	}})
	if !s.Live() {
		t.Error("it may move nothing after the welcome")
	}
	if u, _ := m.Use(limit.HostConnections("free")); u.InUse != 1 {
		t.Errorf("%d connections count, want 1", u.InUse)
	}
}
