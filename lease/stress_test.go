package lease

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// stress is two nodes whose workers begin requests, take tokens, acquire, park, reuse and release
// at random, move bytes, and give up waiting.
type stress struct {
	t        *testing.T
	c        *testCluster
	managers []*Manager
	stop     context.Context
	live     map[string]*atomic.Int64 // by host, client or user: slots that may be used at this moment
	begun    *judge                   // every request: all are under one rate
	moved    atomic.Int64             // bytes: all flows are under one limit
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
			c := startCluster(t, append(scopedLimits(t, q),
				kit.Limit(t, "up", 3, q), kit.Limit(t, "down", 1, limit.Queue{}), kit.Limit(t, "*.x.org", 2, q))...)
			ctx, cancel := context.WithCancel(t.Context())
			s := &stress{
				t: t, c: c, stop: ctx, live: map[string]*atomic.Int64{},
				limits: map[string]int64{"up": 3, "down": 1, "a.x.org": 2, "b.x.org": 2, "10.0.0.0": 4, "10.0.0.1": 4, "10.0.0.2": 4, "u": 3, "all": 11},
				begun:  newJudge(),
			}
			s.strict.Store(!change)
			for _, name := range []string{"a", "b"} {
				m, _ := c.start(t, name, name)
				s.managers = append(s.managers, m)
				if err := m.WaitLive(ctx); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range append([]string{"10.0.0.0", "10.0.0.1", "10.0.0.2", "u", "", "all"}, stressHosts...) {
				s.live[name] = new(atomic.Int64)
			}
			for i := range 4 {
				s.workers.Go(func() { s.flow(s.managers[i%2]) })
			}
			for i := range 40 {
				s.workers.Go(func() { s.work(rand.New(rand.NewPCG(uint64(i), 1)), s.managers[i%2], stressSubject(t, i)) })
			}
			s.disturb(change)
			cancel()
			s.workers.Wait()
			s.check()
		})
	}
}

// scopedLimits are limits of all scopes, on requests in hand, on how many begin, and on bytes.
func scopedLimits(t *testing.T, q limit.Queue) []limit.Limit {
	user := scopeLimit(t, limit.ScopeUser, "u", 3)
	user.Queue = q
	total := scopeLimit(t, limit.ScopeTotal, "", 11)
	total.Queue = q
	total.Requests = limit.Rate{Thousandths: stressRate * 1000, Per: time.Second, Burst: stressBurst}
	total.Bandwidth = limit.Bandwidth{Download: stressBytes, Burst: stressBytes}
	return []limit.Limit{scopeLimit(t, limit.ScopeClient, "*", 4), user, total}
}

const (
	stressRate  = 100    // requests a second
	stressBurst = 20     // at once
	stressBytes = 64_000 // a second, and at once
)

func stressSubject(t *testing.T, i int) *limit.Subject {
	return &limit.Subject{
		Host: to(t, stressHosts[i%len(stressHosts)]), User: []string{"u", "", ""}[i%3],
		Client: limit.ClientOf(netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 3)})),
	}
}

// work begins requests for a subject, one after the other, in the same memory. The subject is
// cleared between them.
func (s *stress) work(rng *rand.Rand, m *Manager, of *limit.Subject) {
	var r Request
	subject := new(limit.Subject)
	for s.stop.Err() == nil {
		*subject = *of
		ctx, cancel := context.WithTimeout(s.stop, time.Duration(1+rng.Int64N(int64(600*time.Millisecond))))
		h := newHolder()
		err := m.Begin(ctx, &r, subject, h)
		if err == nil {
			s.serve(ctx, rng, m, subject, h)
			r.End()
		}
		if rng.IntN(4) == 0 {
			r.End()
		}
		*subject = limit.Subject{}
		cancel()
		time.Sleep(time.Duration(rng.Int64N(int64(20 * time.Millisecond)))) // a refusal may take no time
	}
}

// serve is a request in hand: it takes a token, and uses a few connections.
func (s *stress) serve(ctx context.Context, rng *rand.Rand, m *Manager, subject *limit.Subject, h *holder) {
	for _, name := range []string{"all", subject.Client.Name, subject.User} {
		n := s.live[name].Add(1)
		defer s.live[name].Add(-1)
		if limit, ok := s.limits[name]; ok && s.strict.Load() && n > limit && h.severed() == 0 {
			s.t.Errorf("%d requests of %s in hand, limit %d", n, name, limit)
		}
	}
	if m.Take(ctx, subject, 0) != nil {
		return
	}
	s.begun.note(m.cfg.Name)
	s.connect(ctx, rng, m, subject.Host.Host)
}

// flow moves bytes as fast as it may.
func (s *stress) flow(m *Manager) {
	wake := make(wakeup, 1)
	subject := &limit.Subject{Host: to(s.t, "free")}
	for s.stop.Err() == nil {
		var f Meter
		m.Init(&f, subject, limit.Download, wake)
		for range 100 {
			n := f.Take(5000)
			if n == 0 {
				select {
				case <-wake:
				case <-time.After(time.Second): // it ends, and another begins
				}
				continue
			}
			f.Put(n / 4)
			s.moved.Add(int64(n - n/4))
			time.Sleep(time.Millisecond) // without a limit, it would take all of the time
		}
		f.End()
	}
}

func (s *stress) connect(until context.Context, rng *rand.Rand, m *Manager, host string) {
	nap := func(d time.Duration) { time.Sleep(time.Duration(rng.Int64N(int64(d)))) }
	for range 1 + rng.IntN(3) {
		ctx, cancel := context.WithTimeout(until, time.Duration(1+rng.Int64N(int64(400*time.Millisecond))))
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
	if rng.IntN(2) == 0 {
		s.changeScoped(rng, term)
		return
	}
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

// changeScoped changes a limit of another scope: its numbers, or whether it is there.
func (s *stress) changeScoped(rng *rand.Rand, term uint64) {
	all := scopedLimits(s.t, limit.Queue{Timeout: 300 * time.Millisecond, Size: 4})
	l := all[rng.IntN(len(all))]
	l.Source, l.Connections, l.Evict, l.Report = limit.SourceAPI, int64(1+rng.IntN(6)), rng.IntN(2) == 0, rng.IntN(3) == 0
	if l.Requests.Burst != 0 {
		l.Requests.Thousandths = 1000 * int64(1+rng.IntN(2*stressRate))
	}
	var cmd fsm.Command = &fsm.PutLimit{Limit: l}
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
	if s.strict.Load() {
		s.begun.check(t, stressRate, stressBurst)
		if n, most := float64(s.moved.Load()), stressBytes*(1+time.Since(s.begun.start).Seconds()); n > most || n < most/20 {
			t.Errorf("%.0f bytes were moved, at most %.0f may be", n, most)
		}
	}
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
