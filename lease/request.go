package lease

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/limit"
)

// requestScopes are the scopes in which a request in hand counts, in the order in which its slots
// are taken. All take them in one order, and the upstream connection's slot after them, so nobody
// waits in a circle. Only what a program asks for by name has a key.
var requestScopes = [...]limit.Scope{limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeKey}

// Request is one request in hand: a tunnel from its CONNECT to its end, a plain request to the end
// of its response, or a program's permit. It holds a slot of each limit on connections in the
// scopes total, client, user and key that it is under. A limit that is set while it runs counts it
// from then on.
type Request struct {
	manager *Manager
	subject *limit.Subject
	holder  Holder
	slots   atomic.Pointer[[len(requestScopes)]Slot] // nil until one is needed: most requests need none
	had     [len(requestScopes)]bool                 // the slots that Begin has got
	order   uint64                                   // among all of the node's, as they began

	// Guarded by the shard's lock.
	shard      *requestShard // nil: it is not in hand
	prev, next *Request
	needed     [len(requestScopes)]bool // the slots that Begin gets
	late       [len(requestScopes)]bool // those that a later limit has made it hold
	waitsFor   int                      // the place of the slot that Begin waits for, from 1 on; 0: none
}

// requestShards is how many lists there are: more make it rarer that two requests want one at once.
const requestShards = 16

// requestShard is some of a node's requests in hand. They are found when a limit is set on what had
// none; which shard one is in is chance, so that requests share no lock.
type requestShard struct {
	mu   sync.Mutex
	head *Request
	_    [64 - 16]byte // no two share a cache line
}

// counter numbers what many CPUs do, on a cache line of its own.
type counter struct {
	_ [64]byte
	atomic.Uint64
	_ [64 - 8]byte
}

// Begin makes r a request in hand of subject, which h will serve. It waits, as Acquire does, for
// the slots that it needs. It ends early when ctx does. On an error r holds nothing, and may be
// used again.
//
// The memory is the caller's: r is new, or ended, and must not be copied afterwards; the subject
// stays as it is until r ends.
func (m *Manager) Begin(ctx context.Context, r *Request, subject *limit.Subject, h Holder) error {
	if m.node.table.Load() == nil {
		return ErrNoLease // anything may be limited
	}
	r.manager, r.subject, r.holder = m, subject, h
	m.node.Enter(r)
	var now time.Duration // read once for all: that costs as much as a slot
	for s := r.Next(); s != nil; s = r.Next() {
		if now == 0 {
			now = m.cfg.Clock.Now()
		}
		ok, err := m.node.tryAcquire(now, s, m.node.table.Load())
		if !ok && err == nil {
			err, now = m.waitForSlot(ctx, s), 0
		}
		if err != nil {
			r.forget(&r.had)
			r.End()
			return err
		}
		r.Got(s)
	}
	return nil
}

// NewRequest returns a request for [Node.Enter]; its subject stays as it is. It has no [Manager]:
// End, Live and Waited must not be called.
func NewRequest(subject *limit.Subject, h Holder) *Request {
	return &Request{subject: subject, holder: h}
}

// Enter lists a request, and notes which slots it needs by the limits of this moment. A limit that
// is set later finds it in the list. Then each slot that Next names is to be acquired, until there
// is none; whatever becomes of that, Leave must follow.
func (n *Node) Enter(r *Request) {
	if slots := r.slots.Load(); slots != nil { // what a former use left
		for i := range slots {
			s := &slots[i]
			s.waited = 0
			if s.severed.Load() {
				s.severed.Store(false)
			}
		}
	}
	r.order = n.begun.Add(1)
	shard := &n.requests[r.order%uint64(max(n.bounds.Requests, 1))]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	r.shard, r.prev, r.next = shard, nil, shard.head
	if r.next != nil {
		r.next.prev = r
	}
	shard.head = r
	r.needed, r.late, r.waitsFor = [len(requestScopes)]bool{}, [len(requestScopes)]bool{}, 0
	if table := n.table.Load(); table != nil {
		for i, scope := range requestScopes {
			if table.Caps(scope, limit.Connections) {
				l, _ := table.Find(scope, r.subject)
				r.needed[i] = l.Caps(limit.Connections)
			}
		}
	}
	r.forget(&r.needed)
}

// forget clears what a former use left in the slots that do not count.
func (r *Request) forget(counting *[len(requestScopes)]bool) {
	slots := r.slots.Load()
	if slots == nil {
		return
	}
	for i := range slots {
		if s := &slots[i]; !counting[i] && s.guarded.Load() { // storing costs more than looking
			s.guarded.Store(false)
		}
	}
}

// Next is the slot that the request must get next, nil where it has all.
func (r *Request) Next() *Slot {
	for i := range requestScopes {
		if r.needed[i] && !r.had[i] {
			return r.slot(i)
		}
	}
	return nil
}

// slot prepares one of the request's slots. Either Next names it, or, under the shard's lock, a
// limit that is set later needs it: never both.
func (r *Request) slot(i int) *Slot {
	slots := r.slots.Load()
	if slots == nil {
		slots = new([len(requestScopes)]Slot)
		if !r.slots.CompareAndSwap(nil, slots) {
			slots = r.slots.Load()
		}
	}
	s := &slots[i]
	s.manager, s.scope, s.request, s.holder = r.manager, requestScopes[i], r, r.holder
	return s
}

// Got notes that Next's slot has been acquired.
func (r *Request) Got(s *Slot) {
	slots := r.slots.Load()
	for i := range slots {
		if s == &slots[i] {
			r.had[i] = true
		}
	}
	if r.waitsFor > 0 { // which only whoever waits sets
		r.shard.mu.Lock()
		r.waitsFor = 0
		r.shard.mu.Unlock()
	}
}

// reach notes for which slot a request is about to wait. Those behind it in the order come in their
// turn, also where a limit that was set meanwhile has made the request hold them: else it would
// wait with a slot for which the holder of this one may wait.
func (n *Node) reach(now time.Duration, s *Slot) {
	r := s.request
	if r == nil || r.shard == nil {
		return
	}
	var ahead [len(requestScopes)]bool
	r.shard.mu.Lock()
	r.waitsFor = slices.Index(requestScopes[:], s.scope) + 1
	for i := r.waitsFor; i < len(requestScopes); i++ {
		if r.late[i] {
			r.late[i], r.needed[i], ahead[i] = false, true, true
		}
	}
	r.shard.mu.Unlock()
	for i, held := range ahead {
		if held {
			n.Release(now, &r.slots.Load()[i])
		}
	}
}

// Leave takes the request out of the list. It returns the slots that it holds, which are to be
// released: in no order, and nil where it holds none.
func (r *Request) Leave() (held [len(requestScopes)]*Slot) {
	shard := r.shard
	if shard == nil {
		return held
	}
	shard.mu.Lock()
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		shard.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.shard, r.prev, r.next = nil, nil, nil
	late := r.late
	shard.mu.Unlock()
	for i := range requestScopes {
		if r.had[i] || late[i] {
			held[i] = &r.slots.Load()[i]
			r.had[i] = false
		}
	}
	return held
}

// End gives back what the request holds. A second call does nothing.
func (r *Request) End() {
	for _, s := range r.Leave() {
		if s != nil {
			r.manager.release(s)
		}
	}
}

// HalfClosed says that the request's connection is half closed, as [Slot.HalfClosed] does.
func (r *Request) HalfClosed() { r.Each((*Slot).HalfClosed) }

// Lasts takes back HalfClosed.
func (r *Request) Lasts() { r.Each((*Slot).Lasts) }

// Each calls a function with each slot that the request holds.
func (r *Request) Each(f func(*Slot)) {
	if slots := r.slots.Load(); slots != nil {
		for i := range slots {
			if s := &slots[i]; s.part.Load() != nil {
				f(s)
			}
		}
	}
}

// Live reports whether the request may be served at this moment, as [Slot.Live] does.
func (r *Request) Live() bool {
	return r.slots.Load() == nil || r.manager.node.Serves(r, r.manager.cfg.Clock)
}

// Serves reports whether a request may be served at this moment, as [Slot.Live] does.
func (n *Node) Serves(r *Request, clock Clock) bool {
	slots := r.slots.Load()
	if slots == nil {
		return true
	}
	for i := range slots {
		if s := &slots[i]; (s.severed.Load() || s.guarded.Load()) && !n.Live(s, clock) {
			return false
		}
	}
	return true
}

// Limited reports whether the request counts against a limit.
func (r *Request) Limited() bool {
	if slots := r.slots.Load(); slots != nil {
		for i := range slots {
			if slots[i].guarded.Load() {
				return true
			}
		}
	}
	return false
}

// Held reports whether the request holds, or has held, a slot. Then a Sever may still be on its way
// to the holder, also after End.
func (r *Request) Held() bool { return r.slots.Load() != nil }

// Waited is how long Begin waited.
func (r *Request) Waited() (sum time.Duration) {
	if slots := r.slots.Load(); slots != nil {
		for i := range slots {
			sum += slots[i].waited
		}
	}
	return sum
}

// claimRequests lets the requests in hand count under limits that they were not under before.
func (n *Node) claimRequests(now time.Duration, table *limit.Table) {
	if !slices.ContainsFunc(requestScopes[:], func(s limit.Scope) bool { return table.Caps(s, limit.Connections) }) {
		return
	}
	for i := range n.requests {
		shard := &n.requests[i]
		shard.mu.Lock()
		for r := shard.head; r != nil; r = r.next {
			n.claim(now, r, table)
		}
		shard.mu.Unlock()
	}
}

// claim needs the lock of the request's shard.
func (n *Node) claim(now time.Duration, r *Request, table *limit.Table) {
	for i, scope := range requestScopes {
		if r.needed[i] || r.late[i] {
			continue
		}
		l, name := table.Find(scope, r.subject)
		if !l.Caps(limit.Connections) {
			continue
		}
		if r.waitsFor > 0 && i >= r.waitsFor {
			r.needed[i] = true // it has yet to come to it
			continue
		}
		r.late[i] = true
		s := r.slot(i)
		key := limit.Key{Scope: scope, Resource: limit.Connections, Name: name}
		p := n.pool(now, key)
		n.lock(p)
		s.use = slotBusy
		s.severed.Store(false)
		p.link(s)
		n.noteSlow(p)
		n.mark(p)
		p.mu.Unlock()
	}
}
