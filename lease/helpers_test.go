package lease

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// acquire acquires a new slot.
func acquire(m *Manager, ctx context.Context, target limit.Target, h Holder) (*Slot, error) {
	s := new(Slot)
	if err := m.Acquire(ctx, s, target, h); err != nil {
		return nil, err
	}
	return s, nil
}

// parkEach opens a connection to up on each of some nodes, and parks it.
func parkEach(t *testing.T, nodes ...*Manager) (holders []*holder, slots []*Slot) {
	t.Helper()
	for _, m := range nodes {
		h := newHolder()
		s, err := acquire(m, t.Context(), to(t, "up"), h)
		if err != nil {
			t.Fatal(err)
		}
		s.Park()
		holders, slots = append(holders, h), append(slots, s)
	}
	return holders, slots
}

func to(t testing.TB, s string) limit.Target {
	t.Helper()
	tg, err := limit.ParseTarget(s, 443)
	if err != nil {
		t.Fatal(err)
	}
	return tg
}

// holder notes how it was severed.
type holder struct {
	mu   sync.Mutex
	why  Reason
	done chan struct{}
}

func newHolder() *holder { return &holder{done: make(chan struct{})} }

func (h *holder) Sever(why Reason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.why == 0 {
		h.why = why
		close(h.done)
	}
}

func (h *holder) severed() Reason {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.why
}

type manualClock struct{ now atomic.Int64 }

func (c *manualClock) Now() time.Duration { return time.Duration(c.now.Load()) }

func (c *manualClock) Wall() time.Duration { return time.Duration(c.now.Load()) }

// grant gives a node slots without a leader.
func (n *Node) grant(key limit.Key, slots int64) {
	p := n.pool(0, key)
	n.lock(p)
	defer p.mu.Unlock()
	n.hold(p)
	p.granted += slots
}

// inUse counts the connections that the session allows.
func (n *Node) inUse() (open int64) {
	for _, p := range n.all {
		n.lock(p)
		if p.limit.Capped() {
			open += p.open
		}
		p.mu.Unlock()
	}
	return open
}

// liveManager is a node in the middle of a session of 10 s, with slots of "up" in hand, on a clock
// that stands at 0.
func liveManager(t *testing.T, expiry Expiry, slots int64, limits ...limit.Limit) (*Manager, *manualClock) {
	t.Helper()
	clock := &manualClock{}
	m := NewManager(ManagerConfig{Name: "a", Identity: "1", OnExpiry: expiry, Clock: clock, Log: hclog.NewNullLogger()})
	m.node.setLimits(0, limit.NewTable(1, 1, limits))
	m.node.StreamUp(0)
	m.node.Outgoing(0)
	hear(t, m, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{
		Welcome: &leasepb.Welcome{Session: 7, TtlNs: int64(10 * time.Second)}}})
	if slots > 0 {
		hear(t, m, granted(slots))
	}
	m.node.Outgoing(0)
	return m, clock
}

func granted(slots int64) *leasepb.LeaderMessage {
	return &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{
		Assign: &leasepb.Assign{Grants: []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Slots: slots}}}}}
}

// hear lets the leader say something, at the time that the clock shows.
func hear(t *testing.T, m *Manager, msg *leasepb.LeaderMessage) {
	t.Helper()
	m.do(func(now time.Duration) {
		if err := m.node.Receive(now, msg); err != nil {
			t.Fatal(err)
		}
	})
}

func mustAcquire(t *testing.T, m *Manager, host string) *Slot {
	t.Helper()
	s, err := acquire(m, t.Context(), to(t, host), newHolder())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// said collects what the node would send now.
func said(m *Manager) (releases int64, hello *leasepb.Hello, bye bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, msg := range m.node.Outgoing(m.cfg.Clock.Now()) {
		for _, r := range msg.GetUpdate().GetReleases() {
			releases += r.Slots
		}
		if h := msg.GetHello(); h != nil {
			hello = h
		}
		bye = bye || msg.GetBye() != nil
	}
	return releases, hello, bye
}
