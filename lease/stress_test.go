package lease

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// stress is two nodes whose workers acquire, park, reuse and release at random, and give up
// waiting.
type stress struct {
	t        *testing.T
	c        *testCluster
	managers []*Manager
	stop     context.Context
	live     map[string]*atomic.Int64 // by host: slots that may be used at this moment
	limits   map[string]int64
	strict   atomic.Bool // the limits hold: no change of them is under way
	served   atomic.Int64
	workers  sync.WaitGroup
}

var stressHosts = []string{"up", "down", "a.x.org", "b.x.org", "free"}

// Goroutines that do everything at once, on nodes whose streams break, whose leader changes and
// which are cut off: the cap holds, and in the end nothing is left of it. Then the same while
// limits change their numbers and their shapes.
func TestManagersUnderStress(t *testing.T) {
	for _, change := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			q := limit.Queue{Timeout: 300 * time.Millisecond, Size: 4}
			c := startCluster(t, kit.Limit(t, "up", 3, q), kit.Limit(t, "down", 1, limit.Queue{}), kit.Limit(t, "*.x.org", 2, q))
			ctx, cancel := context.WithCancel(t.Context())
			s := &stress{
				t: t, c: c, stop: ctx, live: map[string]*atomic.Int64{},
				limits: map[string]int64{"up": 3, "down": 1, "a.x.org": 2, "b.x.org": 2},
			}
			s.strict.Store(!change)
			for _, name := range []string{"a", "b"} {
				m, _ := c.start(t, name, name)
				s.managers = append(s.managers, m)
				if err := m.WaitLive(ctx); err != nil {
					t.Fatal(err)
				}
			}
			for _, host := range stressHosts {
				s.live[host] = new(atomic.Int64)
			}
			for i := range 40 {
				s.workers.Go(func() { s.work(rand.New(rand.NewPCG(uint64(i), 1)), s.managers[i%2], stressHosts[i%len(stressHosts)]) })
			}
			s.disturb(change)
			cancel()
			s.workers.Wait()
			s.check()
		})
	}
}

func (s *stress) work(rng *rand.Rand, m *Manager, host string) {
	nap := func(d time.Duration) { time.Sleep(time.Duration(rng.Int64N(int64(d)))) }
	for s.stop.Err() == nil {
		ctx, cancel := context.WithTimeout(s.stop, time.Duration(1+rng.Int64N(int64(400*time.Millisecond))))
		h := newHolder()
		slot, err := acquire(m, ctx, to(s.t, host), h)
		cancel()
		if err != nil {
			nap(20 * time.Millisecond)
			continue
		}
		s.served.Add(1)
		s.use(rng, slot, h, host)
		slot.Release()
		if rng.IntN(4) == 0 {
			slot.Release()
		}
	}
}

// use holds a slot for a while, parked in between. Where it is severed, its end is at once.
func (s *stress) use(rng *rand.Rand, slot *Slot, h *holder, host string) {
	n := s.live[host].Add(1)
	defer s.live[host].Add(-1)
	if limit, ok := s.limits[host]; ok && s.strict.Load() && n > limit {
		s.t.Errorf("%d slots of %s in use, limit %d", n, host, limit)
	}
	for range rng.IntN(4) {
		select {
		case <-h.done:
			return
		case <-time.After(time.Duration(rng.Int64N(int64(30 * time.Millisecond)))):
		}
		if rng.IntN(2) == 0 {
			slot.Park()
			select {
			case <-h.done:
				return
			case <-time.After(time.Duration(rng.Int64N(int64(30 * time.Millisecond)))):
			}
			if !slot.Unpark() {
				return
			}
		}
	}
}

// disturb lets things go wrong for a while, and then be whole again.
func (s *stress) disturb(change bool) {
	rng := rand.New(rand.NewPCG(7, 7))
	depose, term := s.c.depose, uint64(1)
	for range 60 {
		time.Sleep(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
		node := []string{"a", "b"}[rng.IntN(2)]
		switch rng.IntN(5) {
		case 0, 1:
			s.c.breakStream(node)
		case 2:
			depose()
			term++
			depose = s.c.lead(s.t, term)
		case 3:
			s.c.setCut(node, true)
			time.Sleep(time.Duration(rng.Int64N(int64(5 * time.Second))))
			s.c.setCut(node, false)
			s.c.breakStream(node) // what was lost on the way
		case 4:
			if change {
				s.change(rng, term)
			}
		}
	}
	time.Sleep(5 * time.Second)
}

func (s *stress) change(rng *rand.Rand, term uint64) {
	var cmd fsm.Command
	pattern := []string{"up", "down:443", "*.x.org"}[rng.IntN(3)]
	l := kit.Limit(s.t, pattern, int64(rng.IntN(4)), limit.Queue{Timeout: 300 * time.Millisecond, Size: 4})
	l.Source = limit.SourceAPI
	l.Shared = pattern == "*.x.org" && rng.IntN(2) == 0
	l.Evict = rng.IntN(2) == 0
	cmd = &fsm.PutLimit{Limit: l}
	if rng.IntN(3) == 0 {
		cmd = &fsm.DeleteLimit{Pattern: l.Pattern}
	}
	if _, err := s.c.Propose(s.t.Context(), term, cmd); err != nil && !errors.Is(err, context.Canceled) {
		s.t.Error(err)
	}
}

// check waits until everything must have gone back, and looks for what is left.
func (s *stress) check() {
	time.Sleep(10 * time.Second)
	synctest.Wait()
	t := s.t
	if s.served.Load() < 1000 {
		t.Errorf("only %d served", s.served.Load())
	}
	for host, n := range s.live {
		if n.Load() != 0 {
			t.Errorf("%d slots of %s are still in use", n.Load(), host)
		}
	}
	s.c.Read(func(st *fsm.State) {
		st.Keys(func(key limit.Key, n int64) bool {
			t.Errorf("%d slots of %s are still granted", n, key)
			return true
		})
	})
	for _, m := range s.managers {
		for _, h := range m.Uses() {
			if h.Granted+h.InUse+h.Waiting != 0 {
				t.Errorf("node %s, %s: %d granted, %d in use, %d waiting", m.cfg.Name, h.Key, h.Granted, h.InUse, h.Waiting)
			}
		}
	}
	if err := s.c.server.AtRest(t.Context()); err != nil {
		t.Error(err)
	}
}
