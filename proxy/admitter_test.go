package proxy

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
)

// admitter is a strict fake: it grants at most limit slots, and the others wait in order.
type admitter struct {
	limit int // 0: unlimited
	queue int // -1: no queue

	mu       sync.Mutex
	fail     error // returned by every Acquire
	held     map[*slot]struct{}
	waiting  []chan struct{}
	acquired int
	released int
	misuse   []string
	blocked  atomic.Bool
}

func (a *admitter) Limit(t fsm.Target) (Limit, bool) {
	n := int64(a.limit)
	if a.blocked.Load() {
		n = 0
	}
	return Limit{Name: t.Host, Connections: n}, a.limit > 0 || a.blocked.Load()
}

func newAdmitter(limit int) *admitter {
	return &admitter{limit: limit, held: make(map[*slot]struct{})}
}

func (a *admitter) Acquire(ctx context.Context, t fsm.Target, h lease.Holder) (Slot, error) {
	start := time.Now()
	for {
		a.mu.Lock()
		if a.fail != nil {
			defer a.mu.Unlock()
			return nil, a.fail
		}
		if a.limit == 0 || len(a.held) < a.limit {
			s := &slot{a: a, holder: h, key: fsm.HostConnections(t.Host), waited: time.Since(start)}
			s.live.Store(true)
			a.held[s] = struct{}{}
			a.acquired++
			a.mu.Unlock()
			return s, nil
		}
		if a.queue < 0 {
			defer a.mu.Unlock()
			return nil, lease.ErrOverLimit
		}
		turn := make(chan struct{})
		a.waiting = append(a.waiting, turn)
		wanted := a.takeParked()
		a.mu.Unlock()
		if wanted != nil {
			wanted.holder.Sever(lease.SeverWanted)
		}
		select {
		case <-turn:
		case <-ctx.Done():
			a.mu.Lock()
			for i, w := range a.waiting {
				if w == turn {
					a.waiting = append(a.waiting[:i], a.waiting[i+1:]...)
					break
				}
			}
			a.mu.Unlock()
			return nil, context.Cause(ctx)
		}
	}
}

// takeParked takes a parked slot away from its holder.
func (a *admitter) takeParked() *slot {
	for s := range a.held {
		if s.parked && !s.wanted {
			s.wanted = true
			return s
		}
	}
	return nil
}

func (a *admitter) counts() (held, waiting, acquired, released int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.held), len(a.waiting), a.acquired, a.released
}

func (a *admitter) inUse() int {
	held, _, _, _ := a.counts()
	return held
}

func (a *admitter) queued() int {
	_, waiting, _, _ := a.counts()
	return waiting
}

// slots returns the held slots.
func (a *admitter) slots() []*slot {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []*slot
	for s := range a.held {
		list = append(list, s)
	}
	return list
}

func (a *admitter) refuseWith(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = err
}

type slot struct {
	a      *admitter
	holder lease.Holder
	key    fsm.Key
	waited time.Duration
	live   atomic.Bool

	parked, wanted, released bool
}

func (s *slot) Release() {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if s.released {
		return
	}
	s.released = true
	s.a.released++
	delete(s.a.held, s)
	for _, w := range s.a.waiting {
		close(w)
	}
	s.a.waiting = nil
}

func (s *slot) Park() {
	s.a.mu.Lock()
	if s.released { // the flow was aborted while it was being parked
		s.a.mu.Unlock()
		return
	}
	if s.parked {
		s.a.misuse = append(s.a.misuse, "Park of a parked slot")
	}
	s.parked = true
	s.wanted = len(s.a.waiting) > 0
	wanted := s.wanted
	s.a.mu.Unlock()
	if wanted {
		s.holder.Sever(lease.SeverWanted)
	}
}

func (s *slot) Closing() {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if s.released {
		s.a.misuse = append(s.a.misuse, "Closing after Release")
	}
}

func (s *slot) Unpark() bool {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	if !s.parked || s.released {
		s.a.misuse = append(s.a.misuse, fmt.Sprintf("Unpark: parked %t, released %t", s.parked, s.released))
	}
	if s.wanted {
		return false
	}
	s.parked = false
	return true
}

func (s *slot) isParked() bool {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	return s.parked
}

func (s *slot) Live() bool { return s.live.Load() }

func (s *slot) Limited() bool { return s.a.limit > 0 }

func (s *slot) Waited() time.Duration { return s.waited }

func (s *slot) Key() fsm.Key { return s.key }
