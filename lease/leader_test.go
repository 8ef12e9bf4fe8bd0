package lease

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

func TestVoidEndIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 3, limit.Queue{}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.void = true
		c.mu.Unlock()
		c.setCut("a", true)
		time.Sleep(6 * time.Second) // virtual
		if told := c.hasTold(); !slices.Equal(told, []string{"a fenced: 0 severed"}) {
			t.Errorf("reported: %q", told)
		}
		c.mu.Lock()
		c.void = false
		c.mu.Unlock()
		time.Sleep(6 * time.Second)
		if told := c.hasTold(); !slices.Contains(told, "a expired: 0 slots") {
			t.Errorf("reported: %q", told)
		}
	})
}

// A farewell that comes between two leaders ends the session once this server leads again, at once
// and not after a ttl.
func TestFarewellBetweenLeaders(t *testing.T) {
	for _, late := range []time.Duration{0, 500 * time.Millisecond, 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			c := startCluster(t, kit.Limit(t, "up", 3, limit.Queue{}))
			m, stop := c.start(t, "a", "1")
			if err := m.WaitLive(t.Context()); err != nil {
				t.Fatal(err)
			}
			id := m.Session().ID
			c.depose()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			c.server.Left(leader.Farewell{Node: "a", Session: id})
			c.server.Left(leader.Farewell{Node: "a"}) // says nothing
			time.Sleep(late)
			c.lead(t, 2)
			time.Sleep(100 * time.Millisecond)
			told := c.hasTold()
			if ended := slices.Contains(told, "a left: 0 slots"); ended != (late < time.Minute) {
				t.Errorf("a leader %v after the farewell reports %q", late, told)
			}
		})
	}
}

// racingStore changes the limits right after the new leader has read them.
type racingStore struct {
	*testCluster
	change func()
}

func (s *racingStore) Read(f func(*fsm.State)) {
	s.testCluster.Read(f)
	if change := s.change; change != nil {
		s.change = nil
		change()
	}
}

// A change of the limits in the first moment of a leadership reaches the nodes.
func TestLimitsChangedAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, kit.Limit(t, "up", 2, limit.Queue{}))
		c.depose()
		store := &racingStore{testCluster: c}
		changed := uint64(0)
		store.change = func() {
			l := kit.Limit(t, "up", 7, limit.Queue{})
			if _, err := c.Propose(t.Context(), 1, &fsm.PutLimit{Limit: l}); err != nil {
				t.Error(err)
			}
			changed = c.index
		}
		c.server = leader.New(c, store, func() string { return "" }, hclog.NewNullLogger())
		c.lead(t, 2)
		m, _ := c.start(t, "a", "1")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := m.WaitLive(ctx); err != nil {
			t.Fatal(err)
		}
		if err := m.WaitTable(ctx, changed); err != nil {
			t.Errorf("the node never heard of the limits at index %d: %v", changed, err)
		}
	})
}
