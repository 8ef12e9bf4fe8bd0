package proxy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
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
	reports  atomic.Bool // the limit that Limit returns refuses nothing

	inHand    atomic.Int64 // the most requests in hand; 0: unlimited
	failBegin error
	requests  map[*claims]struct{}
	beginning []chan struct{} // requests that wait
	subjects  []limit.Subject // of all requests
	uncounted bool            // requests are not counted, which is faster
	onPaces   func()          // with mu, but not while it is called

	scarce   bool // tokens are limited
	tokens   int
	failTake error
	taken    int
	waits    []time.Duration // what each Take was told
	forToken []chan struct{} // requests that wait

	names  atomic.Bool // limits count names
	paced  bool
	supply map[limit.Resource]*supply
}

// supply is a fake bucket of bytes.
type supply struct {
	left, moved int
	meters      int // that have not ended
	waiting     []*meter
}

// pace makes bytes scarce in both directions: there are none before feed.
func (a *admitter) pace() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.paced = true
	a.supply = map[limit.Resource]*supply{limit.Upload: {}, limit.Download: {}}
}

// starved reports whether somebody waits for bytes.
func (a *admitter) starved(r limit.Resource) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.supply[r].waiting) > 0
}

// feed adds bytes and wakes who waits for some.
func (a *admitter) feed(r limit.Resource, n int) {
	a.mu.Lock()
	s := a.supply[r]
	s.left += n
	woken := s.waiting
	s.waiting = nil
	for _, m := range woken {
		m.waits = false
	}
	a.mu.Unlock()
	for _, m := range woken {
		m.waker.Wake()
	}
}

// flowing returns how many bytes have been moved, and how many meters wait and have not ended.
func (a *admitter) flowing(r limit.Resource) (moved, waiting, meters int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.supply[r]
	return s.moved, len(s.waiting), s.meters
}

func (a *admitter) CountsNames() bool { return a.names.Load() }

// Take takes a token, or waits for one.
func (a *admitter) Take(ctx context.Context, s *limit.Subject, waited time.Duration) error {
	if a.uncounted {
		return nil
	}
	for {
		a.mu.Lock()
		switch {
		case a.failTake != nil:
			defer a.mu.Unlock()
			return a.limitError(a.failTake, limit.ScopeUser, limit.Requests, s.User)
		case !a.scarce || a.tokens > 0:
			defer a.mu.Unlock()
			a.tokens--
			a.taken++
			a.waits = append(a.waits, waited)
			return nil
		}
		turn := make(chan struct{})
		a.forToken = append(a.forToken, turn)
		a.mu.Unlock()
		select {
		case <-turn:
		case <-ctx.Done():
			a.mu.Lock()
			defer a.mu.Unlock()
			a.forToken = slices.DeleteFunc(a.forToken, func(w chan struct{}) bool { return w == turn })
			return context.Cause(ctx)
		}
	}
}

// setTokens makes tokens scarce.
func (a *admitter) setTokens(n int, fail error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scarce, a.tokens, a.failTake = true, n, fail
	for _, w := range a.forToken {
		close(w)
	}
	a.forToken = nil
}

// tokensTaken returns the number of tokens taken, and of the requests that wait for one.
func (a *admitter) tokensTaken() (taken, waiting int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.taken, len(a.forToken)
}

// claims are a fake request's.
type claims struct {
	a      *admitter
	holder lease.Holder
	live   atomic.Bool
	half   atomic.Bool // HalfClosed, and not Lasts
	waited time.Duration
}

// Begin counts a request, or waits until another has ended.
func (a *admitter) Begin(ctx context.Context, s *limit.Subject, h lease.Holder, ended Claims) (Claims, error) {
	if a.uncounted {
		return noClaims{}, nil
	}
	start := time.Now()
	for {
		a.mu.Lock()
		if a.failBegin != nil {
			defer a.mu.Unlock()
			return nil, a.limitError(a.failBegin, limit.ScopeClient, limit.Connections, s.Client.Name)
		}
		if most := int(a.inHand.Load()); most == 0 || len(a.requests) < most {
			defer a.mu.Unlock()
			c := &claims{a: a, holder: h}
			if a.beginning != nil || a.inHand.Load() > 0 {
				c.waited = time.Since(start)
			}
			c.live.Store(true)
			a.requests[c] = struct{}{}
			a.subjects = append(a.subjects, *s)
			return c, nil
		}
		turn := make(chan struct{})
		a.beginning = append(a.beginning, turn)
		a.mu.Unlock()
		select {
		case <-turn:
		case <-ctx.Done():
			a.mu.Lock()
			defer a.mu.Unlock()
			a.beginning = slices.DeleteFunc(a.beginning, func(w chan struct{}) bool { return w == turn })
			return nil, context.Cause(ctx)
		}
	}
}

func (c *claims) End() {
	c.a.mu.Lock()
	defer c.a.mu.Unlock()
	if _, held := c.a.requests[c]; !held {
		c.a.misuse = append(c.a.misuse, "End of claims that have ended")
	}
	delete(c.a.requests, c)
	for _, w := range c.a.beginning {
		close(w)
	}
	c.a.beginning = nil
}

func (c *claims) Live() bool { return c.live.Load() }

func (c *claims) Limited() bool { return c.a.inHand.Load() > 0 }

func (c *claims) Held() bool { return true }

func (c *claims) HalfClosed() { c.half.Store(true) }

func (c *claims) Lasts() { c.half.Store(false) }

func (c *claims) Waited() time.Duration { return c.waited }

// noClaims are those of a request under no limit.
type noClaims struct{}

func (noClaims) End()                  {}
func (noClaims) HalfClosed()           {}
func (noClaims) Lasts()                {}
func (noClaims) Live() bool            { return true }
func (noClaims) Limited() bool         { return false }
func (noClaims) Held() bool            { return false }
func (noClaims) Waited() time.Duration { return 0 }

// claimed returns the requests in hand, and how many wait.
func (a *admitter) claimed() (list []*claims, waiting int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.requests {
		list = append(list, c)
	}
	return list, len(a.beginning)
}

// allBegun returns what all requests were under the limits of.
func (a *admitter) allBegun() []limit.Subject {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.subjects)
}

// inHandNow returns the number of requests in hand.
func (a *admitter) inHandNow() int {
	list, _ := a.claimed()
	return len(list)
}

func (a *admitter) Limit(limit.Target) (limit.Limit, bool) {
	n := int64(a.limit)
	if a.blocked.Load() {
		n = 0
	}
	return limit.Limit{Connections: n, Report: a.reports.Load()}, a.limit > 0 || a.blocked.Load()
}

// limitError is err as the lease has it: with the limit, if err is about one.
func (a *admitter) limitError(err error, scope limit.Scope, r limit.Resource, name string) error {
	switch err {
	case lease.ErrOverLimit, lease.ErrQueueFull, lease.ErrQueueTimeout:
	default:
		return err
	}
	e := &lease.LimitError{Key: limit.Key{Scope: scope, Resource: r, Name: name}, Why: err}
	if e.Limit.Connections = int64(a.limit); a.blocked.Load() {
		e.Limit.Connections, e.Why = 0, lease.ErrBlocked
	}
	return e
}

func newAdmitter(n int) *admitter {
	return &admitter{limit: n, held: make(map[*slot]struct{}), requests: make(map[*claims]struct{})}
}

func (a *admitter) Acquire(ctx context.Context, t limit.Target, h lease.Holder) (Slot, error) {
	start := time.Now()
	for {
		a.mu.Lock()
		if a.fail != nil {
			defer a.mu.Unlock()
			return nil, a.limitError(a.fail, limit.ScopeHost, limit.Connections, t.Host)
		}
		if a.limit == 0 || len(a.held) < a.limit {
			s := &slot{a: a, holder: h, key: limit.HostConnections(t.Host), waited: time.Since(start)}
			s.live.Store(true)
			a.held[s] = struct{}{}
			a.acquired++
			a.mu.Unlock()
			return s, nil
		}
		if a.queue < 0 {
			defer a.mu.Unlock()
			return nil, a.limitError(lease.ErrOverLimit, limit.ScopeHost, limit.Connections, t.Host)
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
	key    limit.Key
	waited time.Duration
	live   atomic.Bool
	half   atomic.Bool // HalfClosed, and not Lasts

	uncovered atomic.Bool // a limit that was set since has no room for it

	parked, wanted, closing, released bool
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
	s.closing = true
}

// wasHeld reports whether the slot was kept for a while after the proxy had ended its connection.
func (s *slot) wasHeld() bool {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	return s.closing
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

func (s *slot) Covered() bool { return !s.uncovered.Load() }

func (s *slot) HalfClosed() { s.half.Store(true) }

func (s *slot) Lasts() { s.half.Store(false) }

func (s *slot) Waited() time.Duration { return s.waited }

func (s *slot) Key() limit.Key { return s.key }
