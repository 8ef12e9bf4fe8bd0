package lease

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// spread makes a pool act as one that many processors admit to at once.
func spread(t *testing.T, p *pool) []part {
	t.Helper()
	p.lock()
	defer p.mu.Unlock()
	p.crowded = crowdedAfter
	p.noteCrowd()
	parts := p.spread.Load()
	if parts == nil {
		t.Fatal("it is not spread")
	}
	return *parts
}

// A spread pool admits no more than it holds, wherever the slots are; the core finds every
// connection, and the fence too.
func TestSpreadPoolHoldsItsCount(t *testing.T) {
	n := int64(sharePerPart * min(2*runtime.GOMAXPROCS(0), maxParts))
	m, _ := liveManager(t, ExpiryClose, n+3, kit.Limit(t, "up", 1000, limit.Queue{}))
	p := m.node.lookup(limit.HostConnections("up"))
	spread(t, p)
	var slots []*Slot
	var holders []*holder
	admit := func(most int64) {
		for range most {
			h := newHolder()
			s := NewSlot(to(t, "up"), h)
			if ok, err := m.node.TryAcquire(s, m.cfg.Clock); !ok || err != nil {
				return
			}
			slots, holders = append(slots, s), append(holders, h)
		}
	}
	admit(2 * n)
	if got := int64(len(slots)); got > n+3 || got < n {
		t.Fatalf("%d of %d slots were admitted", got, n+3)
	}
	inParts := 0
	for _, s := range slots {
		if s.part.Load() != &p.part {
			inParts++
		}
	}
	if inParts == 0 {
		t.Fatal("none was admitted to a part")
	}
	if !m.node.Park(slots[0]) && !m.node.Unpark(slots[0], m.cfg.Clock) {
		t.Error("a slot in a part can't be parked and taken back")
	}
	for range 2 { // the second does nothing
		if !m.node.TryRelease(slots[1]) {
			t.Error("a slot in a part is not released without the core")
		}
	}
	if use, _ := m.Use(p.key); use.InUse != int64(len(slots)-1) || use.Granted != n+3 || use.Admitted != uint64(len(slots)) {
		t.Errorf("counted %d in use, %d granted, %d admitted, of %d admitted", use.InUse, use.Granted, use.Admitted, len(slots))
	}
	if p.spread.Load() != nil {
		t.Error("the core left it spread")
	}
	if err := m.node.Check(); err != nil {
		t.Error(err)
	}
	hear(t, m, granted(n))
	spread(t, p)
	admit(n / 2)
	m.do(m.node.Lose)
	for i, h := range holders {
		if i != 1 && h.severed() != SeverFenced {
			t.Errorf("connection %d was not severed by the fence", i)
		}
	}
	if ok, _ := m.node.TryAcquire(NewSlot(to(t, "up"), newHolder()), m.cfg.Clock); ok {
		t.Error("admitted after the fence")
	}
}

// Many admit, release, park and are moved by new limits and by the core at once: the number in use
// never exceeds what is held, and the counts agree in the end. Run with -race.
func TestSpreadPoolUnderLoad(t *testing.T) {
	const held = 200
	m, _ := liveManager(t, ExpiryClose, held, kit.Limit(t, "up", held, limit.Queue{}))
	p := m.node.lookup(limit.HostConnections("up"))
	var open, peak, spreads, admitted atomic.Int64
	stop := make(chan struct{})
	var workers, meddlers sync.WaitGroup
	for i := range 8 {
		workers.Go(func() {
			var slots [40]Slot
			for round := range 300 {
				taken := slots[:0]
				for j := range slots {
					if ok, _ := m.node.TryAcquire(fresh(&slots[j], m, t), m.cfg.Clock); !ok {
						break
					}
					taken = slots[:j+1]
					peak.Store(max(peak.Load(), open.Add(1)))
					admitted.Add(1)
				}
				for j := range taken {
					s := &taken[j]
					if (i+round+j)%5 == 0 {
						s.Park()
						s.Unpark()
					}
					open.Add(-1)
					s.Release()
				}
			}
		})
	}
	meddlers.Go(func() {
		for index := uint64(2); ; index++ {
			select {
			case <-stop:
				return
			default:
			}
			if p.spread.Load() != nil {
				spreads.Add(1)
			}
			switch index % 3 {
			case 0:
				m.Uses()
			case 1:
				m.do(func(now time.Duration) {
					m.node.setLimits(now, limit.NewTable(index, 1, []limit.Limit{kit.Limit(t, "up", held, limit.Queue{})}))
				})
			case 2:
				p.lock()
				p.crowded = crowdedAfter
				p.noteCrowd()
				p.mu.Unlock()
			}
			runtime.Gosched()
		}
	})
	workers.Wait()
	close(stop)
	meddlers.Wait()
	if peak.Load() > held || admitted.Load() == 0 || spreads.Load() == 0 {
		t.Errorf("%d in use at once of %d held; %d admitted, %d times found spread", peak.Load(), held, admitted.Load(), spreads.Load())
	}
	if use, _ := m.Use(p.key); use.InUse != 0 || use.Granted != held || use.Admitted != uint64(admitted.Load()) {
		t.Errorf("in the end %d in use, %d granted, %d admitted of %d", use.InUse, use.Granted, use.Admitted, admitted.Load())
	}
	if err := m.node.Check(); err != nil {
		t.Error(err)
	}
}

// fresh makes a slot ready to be acquired.
func fresh(s *Slot, m *Manager, t *testing.T) *Slot {
	s.manager, s.target, s.holder = m, to(t, "up"), &holder{done: make(chan struct{})}
	return s
}

// New numbers in the limits are followed at once by the fast path, without the core, and by the
// core some hosts at a time.
func TestNumbersAreFollowedInTurns(t *testing.T) {
	const hosts = 3*regovernAtOnce + 10
	m, _ := liveManager(t, ExpiryClose, 0, kit.Limit(t, "*.x.org", 5, limit.Queue{}))
	var keys []limit.Key
	for i := range hosts {
		host := to(t, string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676))+".x.org").Host
		keys = append(keys, limit.HostConnections(host))
		m.node.grant(keys[i], 1)
	}
	m.do(func(now time.Duration) {
		m.node.setLimits(now, limit.NewTable(2, 1, []limit.Limit{kit.Limit(t, "*.x.org", 0, limit.Queue{})}))
	})
	if m.node.stream.ackDue || len(m.node.regoverning) != hosts-regovernAtOnce {
		t.Fatalf("after the first step %d hosts are left, acknowledged: %v", len(m.node.regoverning), m.node.stream.ackDue)
	}
	last := keys[hosts-1]
	if err := m.Acquire(context.Background(), new(Slot), limit.Target{Host: last.Name, Port: 443}, newHolder()); !errors.Is(err, ErrBlocked) {
		t.Errorf("a host that the core has not come to is admitted by the old limit: %v", err)
	}
	for i := 0; len(m.node.regoverning) > 0; i++ {
		if i > 4 || m.node.NextWake(0) != 0 {
			t.Fatal("the core takes its time")
		}
		m.do(func(now time.Duration) { m.node.Tick(now, now) })
	}
	if !m.node.stream.ackDue {
		t.Error("the new limits are not acknowledged")
	}
	for _, key := range keys {
		if use, _ := m.Use(key); use.Limit == nil || use.Limit.Connections != 0 {
			t.Fatalf("%s goes by %+v", key, use.Limit)
		}
	}
}
