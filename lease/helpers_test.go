package lease

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

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
