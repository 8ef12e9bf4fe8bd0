package connlimit

import (
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
)

// A book counts what is open: connections, or requests.
//
// A client belongs to one shard, by the hash of its address. Whoever takes or gives back holds the
// shard's lock and no other, for a few dozen instructions. What several shards share is in quota
// and network.
type book struct {
	rules    atomic.Pointer[rules]
	total    quota
	shards   []shard
	affinity affinity
	queue    queue
	changing sync.Mutex // held by whoever calls setRules
}

type shard struct {
	mu      sync.Mutex
	crowd   crowd
	index   int
	book    *book
	rules   *rules // the book's, as far as this shard knows: they change under all locks
	clients counts
	spare   int64 // units of the total that nobody uses
	tallies Counters

	open  ticket  // the head of the ring of tickets in use
	idle  *ticket // tickets to use again
	idles int
	_     [64]byte // locks of two shards don't share a line
}

// maxIdle bounds the tickets that a shard keeps to use again.
const maxIdle = 256

// A ticket is a unit in use. Tickets are used again: the generation tells of which use a Slot is.
type ticket struct {
	shard      atomic.Pointer[shard] // changes under the locks of both
	generation uint64                // this and the following are guarded by the shard's lock
	key        clientKey
	hash       uint64
	network    *network
	hot        *hot
	addr       netip.Addr
	release    func() // gives back the cluster's slot; nil for none
	next, prev *ticket
}

func newBook(r *rules) *book {
	n := 16
	for n < 16*runtime.GOMAXPROCS(0) && n < 256 {
		n *= 2
	}
	b := &book{shards: make([]shard, n)}
	for i := range b.shards {
		sh := &b.shards[i]
		sh.book, sh.index = b, i
		sh.open.next, sh.open.prev = &sh.open, &sh.open
	}
	b.queue.book = b
	b.setRules(r)
	return b
}

// setRules puts r in force, all at once. What is open is counted anew, because other bits of its
// address may count, and another network may govern it. Needs changing.
func (b *book) setRules(r *rules) {
	b.total.gathering.Lock()
	defer b.total.gathering.Unlock()
	if old := b.rules.Load(); old != nil {
		for _, h := range old.hot {
			h.quota.gathering.Lock()
			defer h.quota.gathering.Unlock()
		}
	}
	var open []*ticket
	for i := range b.shards {
		sh := &b.shards[i]
		sh.mu.Lock()
		defer sh.mu.Unlock()
		for t := sh.open.next; t != &sh.open; t = t.next {
			open = append(open, t)
		}
		sh.open.next, sh.open.prev = &sh.open, &sh.open
		sh.clients = counts{}
		sh.rules, sh.spare = r, 0
	}
	r.reset(len(b.shards))
	for _, t := range open {
		v := r.govern(t.addr)
		sh := b.shard(v.hash)
		sh.link(t)
		t.shard.Store(sh)
		t.key, t.hash, t.network, t.hot = v.key, v.hash, v.network, v.hot
		if v.hot != nil {
			v.hot.parts[sh.index].open++
		} else {
			sh.clients.enter(r, v.hash, v.key)
		}
		if v.network != nil && v.network.Total.capped {
			v.network.state.Add(inUse)
		}
	}
	for _, h := range r.hot {
		h.quota.set(h.limit, h.open(), len(b.shards))
	}
	b.total.set(r.Total, len(open), len(b.shards))
	b.rules.Store(r)
}

func (b *book) shard(hash uint64) *shard { return &b.shards[hash>>32&uint64(len(b.shards)-1)] }

// A wait is what a client may still have to wait for after take, which leaves it to its caller to
// count what comes of that.
type wait uint8

const (
	forTurn    wait = 1 << iota // when take refuses: in the queue
	forCluster                  // when there is a slot: Slot.admit counts it
)

// take takes a slot for the client at addr, or returns an *Error.
func (b *book) take(addr netip.Addr, w wait) (Slot, error) {
	for {
		r := b.rules.Load()
		v := r.govern(addr)
		sh, promote := b.lock(v)
		if sh.rules != r {
			sh.mu.Unlock()
			continue
		}
		slot, scope, done := sh.take(addr, v, w)
		if done && scope != 0 && w&forTurn == 0 {
			sh.tallies.Refused++
		}
		sh.mu.Unlock()
		if promote {
			b.promote(r, v)
		}
		switch {
		case !done:
			b.settle(scope, v)
		case scope != 0:
			return Slot{}, r.refusal(scope, v)
		default:
			return slot, nil
		}
	}
}

// lock locks the client's shard, or, if it is hot, that of this core. promote says that the client
// is to become hot.
func (b *book) lock(v verdict) (sh *shard, promote bool) {
	if v.hot != nil {
		sh = b.affinity.shard(b.shards)
		sh.mu.Lock()
		return sh, false
	}
	sh = b.shard(v.hash)
	if !sh.mu.TryLock() {
		sh.mu.Lock()
		promote = len(sh.rules.hot) < maxHot && sh.crowd.note(v.key)
	}
	return sh, promote
}

// settle does what is needed to tell whether the limit is reached.
func (b *book) settle(scope Scope, v verdict) {
	switch scope {
	case ScopeTotal:
		b.total.gather(b.shards, func(sh *shard) *int64 { return &sh.spare })
	case ScopeClient:
		v.hot.quota.gather(b.shards, func(sh *shard) *int64 { return &v.hot.parts[sh.index].spare })
	default:
		runtime.Gosched() // somebody is about to settle
	}
}

// take returns a slot, or the scope of the limit that refuses; done is false where that can't be
// told yet.
func (sh *shard) take(addr netip.Addr, v verdict, w wait) (slot Slot, scope Scope, done bool) {
	if v.hot == nil {
		if n := sh.clients.find(v.hash, v.key); n >= maxOpen || v.perClient.reached(n) {
			return Slot{}, ScopeClient, true
		}
	} else if got := v.hot.offer(sh); got != taken {
		return Slot{}, ScopeClient, got == refused
	}
	if scope, done = sh.takeShared(v); scope != 0 {
		if v.hot != nil {
			v.hot.decline(sh)
		}
		return Slot{}, scope, done
	}
	if v.hot == nil {
		sh.clients.enter(sh.rules, v.hash, v.key)
	} else {
		v.hot.accept(sh)
	}
	sh.tallies.Open++
	if w&forCluster == 0 {
		sh.tallies.Accepted++
	}
	t := sh.ticket()
	t.key, t.hash, t.network, t.hot, t.addr = v.key, v.hash, v.network, v.hot, addr
	return Slot{t, t.generation}, 0, true
}

// takeShared takes a unit of what the client shares with others: its network, and the total.
func (sh *shard) takeShared(v verdict) (scope Scope, done bool) {
	if ok, unsettled := v.network.take(); !ok {
		return ScopeNetwork, !unsettled
	}
	got := sh.book.total.take(&sh.spare)
	v.network.settle(got == taken)
	if got != taken {
		return ScopeTotal, got == refused
	}
	return 0, true
}

// ticket returns a ticket that is linked.
func (sh *shard) ticket() *ticket {
	t := sh.idle
	if t != nil {
		sh.idle = t.next
		sh.idles--
	} else {
		t = new(ticket)
		t.shard.Store(sh)
	}
	sh.link(t)
	return t
}

func (sh *shard) link(t *ticket) {
	t.next, t.prev = sh.open.next, &sh.open
	t.next.prev, t.prev.next = t, t
}

// lock locks the shard that t is in.
func (t *ticket) lock() *shard {
	for {
		sh := t.shard.Load()
		sh.mu.Lock()
		if t.shard.Load() == sh {
			return sh
		}
		sh.mu.Unlock()
	}
}

// free ends the use of the generation.
func (t *ticket) free(generation uint64) {
	sh := t.lock()
	if t.generation != generation {
		sh.mu.Unlock()
		return
	}
	t.generation++
	if t.hot != nil {
		t.hot.leave(sh)
	} else {
		sh.clients.leave(sh.rules, t.hash, t.key)
	}
	t.network.give()
	book := sh.book
	book.total.give(&sh.spare)
	sh.tallies.Open--
	release := t.release
	t.network, t.hot, t.release = nil, nil, nil
	t.next.prev, t.prev.next = t.prev, t.next
	t.next, t.prev = nil, nil
	if sh.idles < maxIdle {
		t.next, sh.idle = sh.idle, t
		sh.idles++
	}
	sh.mu.Unlock()
	if release != nil {
		release()
	}
	book.queue.serve()
}

// admit counts a slot that waited for the cluster as accepted. Freeing the slot calls release, too,
// if it is not nil. admit is false, and does nothing, if the slot is free already.
func (s Slot) admit(release func()) bool {
	sh := s.ticket.lock()
	defer sh.mu.Unlock()
	if s.ticket.generation != s.generation {
		return false
	}
	sh.tallies.Accepted++
	s.ticket.release = release
	return true
}

// open returns how many the client at addr has open.
func (b *book) open(addr netip.Addr) int {
	for {
		r := b.rules.Load()
		v := r.govern(addr)
		if v.hot != nil {
			if n := v.hot.count(b.shards); b.rules.Load() == r {
				return n
			}
			continue
		}
		sh := b.shard(v.hash)
		sh.mu.Lock()
		same, n := sh.rules == r, sh.clients.find(v.hash, v.key)
		sh.mu.Unlock()
		if same {
			return n
		}
	}
}

// counters adds up the shards', one after the other.
func (b *book) counters() Counters {
	var sum Counters
	for i := range b.shards {
		sh := &b.shards[i]
		sh.mu.Lock()
		sum.Open += sh.tallies.Open
		sum.Accepted += sh.tallies.Accepted
		sum.Refused += sh.tallies.Refused
		sum.Lost += sh.tallies.Lost
		sh.mu.Unlock()
	}
	sum.Waiting = int64(b.queue.waiting.Load())
	return sum
}
