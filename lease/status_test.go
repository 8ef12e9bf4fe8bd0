package lease

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// A session's age is counted from the hello, and a fence ends it.
func TestSessionAge(t *testing.T) {
	m, clock := liveManager(t, ExpiryClose, 1, kit.Limit(t, "up", 5, limit.Queue{}))
	began := m.node.sess.begun
	clock.now.Store(int64(began + 3*time.Second))
	if st := m.Session(); st.State != leasepb.SessionLive || st.Age != 3*time.Second || st.Fences != 0 {
		t.Errorf("after 3 s: %+v", st)
	}
	clock.now.Store(int64(time.Hour))
	m.do(func(now time.Duration) { m.node.Tick(now, now) })
	if st := m.Session(); st.State != leasepb.SessionFenced || st.Age != 0 || st.Fences != 1 {
		t.Errorf("after the fence: %+v", st)
	}
}
