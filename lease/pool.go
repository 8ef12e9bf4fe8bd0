package lease

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/limit"
)

const (
	// idleBuckets of one second make the window in which a slot must have been idle
	// throughout before it goes back: between 3 and 4 s, within the promised 5.
	idleBuckets = 3
	// noTarget stands for "hold as many as you use".
	noTarget int64 = -1
)

// pool is what one node holds of one key.
//
// Its first half is shared with the fast path and guarded by its part's lock, so that admissions to
// different hosts share nothing. Its second half belongs to the node's deciding core and its lock.
// Where both locks are needed, the core's comes first.
type pool struct {
	key  limit.Key
	part // what is not spread

	table  *limit.Table // by which limit was found; another one means: look the key up again
	limit  *limit.Limit // nil: no limit
	direct bool         // counts all connections to the host of its name, whatever the port
	slow   bool         // somebody waits for what comes free: releases go through the core

	rejected uint64
	crowded  int // how often the lock was waited for
	// spread is set while many CPUs contend for this pool: its free slots are divided into parts
	// with a lock each. Taking the pool's lock merges the parts, so code under it sees one count.
	spread    atomic.Pointer[[]part]
	lowBefore int64 // low, before it was spread

	// The core's half.
	era       era    // of the events that concern every pool, those that this one has taken
	marked    uint64 // the stream on which it was marked as dirty last
	busy      bool   // has connections that a parting node waits for
	releasing int64  // out of use, to be said with the next Update
	reported  bool   // the leader knows of a demand
	waiters   waiterList
	target    int64 // come down to this as connections end
	targetSeq uint64
	contended bool
	evict     bool
	ask       uint64 // the newest ask sent
	asking    bool   // it has not been answered yet
	denied    bool   // the last answer refused somebody
	askedAt   time.Duration
	putOff    bool // in the node's list of those that ask later
	refused   [2]int64
	lows      [idleBuckets]int64
	lowAt     int
	index     int // among all
	entry         // in the node's book
}

// part is some of a pool's slots, with a lock. Where a pool is not spread, it is all of them.
type part struct {
	mu       sync.Mutex
	pool     *pool
	index    int   // among the parts
	live     bool  // takes admissions: false once it has been gathered
	granted  int64 // the pool's is written under the core's lock too
	open     int64 // slots in use: the length of the list. Above granted where a limit was set on open connections
	parked   int64 // of these, kept alive without use
	taken    int64 // of these, closing
	low      int64 // the least that was free since the last second began
	head     *Slot
	tail     *Slot
	admitted uint64
	usedAt   time.Duration // when it admitted last

	_ [16]byte // no two parts share a cache line
}

// newPool returns an empty pool.
func newPool(key limit.Key) *pool {
	p := &pool{key: key, target: noTarget}
	p.pool, p.live = p, true
	return p
}

// lock takes the pool's lock, with all that it has in one place.
func (p *pool) lock() {
	p.mu.Lock()
	if parts := p.spread.Load(); parts != nil {
		p.gather(*parts)
	}
}

// free is what may be admitted at once. Needs the part's lock.
func (q *part) free() int64 { return q.granted - q.open }

type verdict uint8

const (
	verdictAdmitted verdict = iota
	verdictStale            // the limits have changed under the caller: look the key up again
	verdictNoLease
	verdictBlocked // a limit of 0
	verdictShort   // no slot in hand
)

// try is the fast path: it admits s if a slot is free, or none is needed. byHost says that the pool
// was found by the host's name alone.
//
// now was read before. The gate is read under the pool's lock: a fence closes the gate first and
// passes through every pool's lock after it, so a slot is either refused here or found by the
// fence.
func (p *pool) try(now time.Duration, s *Slot, table *limit.Table, byHost bool, gate *gate) verdict {
	if parts := p.spread.Load(); parts != nil && trySpread(*parts, now, s, table, byHost, gate) {
		return verdictAdmitted
	}
	if !p.mu.TryLock() {
		p.mu.Lock()
		p.noteCrowd()
	}
	v := verdictStale
	if !byHost || p.direct {
		v = p.tryLocked(now, s, table, gate)
	}
	p.mu.Unlock()
	return v
}

// tryLocked needs the pool's lock.
func (p *pool) tryLocked(now time.Duration, s *Slot, table *limit.Table, gate *gate) verdict {
	switch {
	case p.table != table && !p.follow(table):
		return verdictStale
	case !p.limit.Capped():
	case p.limit.Connections == 0:
		p.rejected++
		return verdictBlocked
	case !gate.admitsAt(now):
		return verdictNoLease
	case p.free() <= 0 || p.waiters.len() > 0 || p.target >= 0 && p.granted > p.target:
		return verdictShort // whoever waits goes first; and above a target nothing new starts
	}
	p.begin(now, s)
	return verdictAdmitted
}

// follow goes by newer limits of the same shape: only numbers have changed, and what counts where
// has not. The core follows. Needs the pool's lock.
func (p *pool) follow(table *limit.Table) bool {
	if p.table == nil || p.table.ShapeIndex != table.ShapeIndex || p.table.Index > table.Index {
		return false
	}
	if parts := p.spread.Load(); parts != nil {
		p.gather(*parts)
	}
	p.table, p.limit = table, table.Governing(p.key)
	return true
}

const (
	// crowdedAfter is how often the lock must have been waited for before a pool is spread.
	crowdedAfter = 64
	// maxParts bounds the parts.
	maxParts = 16
	// sharePerPart is how many free slots each part must get at least: with fewer they run short
	// one by one.
	sharePerPart = 4
)

// noteCrowd counts a wait for the lock, and spreads the pool where they are many. Needs the pool's
// lock.
func (p *pool) noteCrowd() {
	p.crowded++
	if p.crowded < crowdedAfter || p.slow || p.spread.Load() != nil {
		return
	}
	p.crowded = 0
	n := int64(min(2*runtime.GOMAXPROCS(0), maxParts))
	share := int64(0)
	if p.limit.Capped() {
		if share = p.free() / n; share < sharePerPart {
			return
		}
	}
	parts := make([]part, n)
	for i := range parts {
		q := &parts[i]
		q.pool, q.index, q.live, q.granted, q.low = p, i, true, share, share
		p.granted -= share
	}
	p.lowBefore, p.low = p.low, p.free()
	p.spread.Store(&parts)
}

// gather takes back what was spread. Needs the pool's lock.
func (p *pool) gather(parts []part) {
	p.spread.Store(nil)
	low := p.low
	for i := range parts {
		q := &parts[i]
		q.mu.Lock()
		q.live = false
		for s := q.head; s != nil; s = s.next {
			s.part.Store(&p.part)
		}
		p.append(q.head, q.tail)
		p.granted += q.granted
		p.open += q.open
		p.parked += q.parked
		p.taken += q.taken
		p.admitted += q.admitted
		p.usedAt = max(p.usedAt, q.usedAt)
		low += q.low
		q.mu.Unlock()
	}
	p.low = min(p.lowBefore, low)
}

// trySpread admits s to one of the parts: the one where it was last, or any other whose lock is
// free.
func trySpread(parts []part, now time.Duration, s *Slot, table *limit.Table, byHost bool, gate *gate) bool {
	var at int
	if last := s.part.Load(); last != nil {
		at = last.index
	} else {
		at = rand.IntN(len(parts))
	}
	for range parts {
		q := &parts[at%len(parts)]
		at++
		if !q.mu.TryLock() {
			continue
		}
		live, ok := q.live, q.admit(now, s, table, byHost, gate)
		q.mu.Unlock()
		if ok || !live {
			return ok
		}
	}
	return false
}

// admit is tryLocked for a part. What it reads of the pool is written only when no part is live.
// Needs the part's lock.
func (q *part) admit(now time.Duration, s *Slot, table *limit.Table, byHost bool, gate *gate) bool {
	p := q.pool
	if !q.live || p.table != table || byHost && !p.direct || p.limit.Capped() && (q.free() <= 0 || !gate.admitsAt(now)) {
		return false
	}
	q.begin(now, s)
	return true
}

// begin admits a slot. Needs the part's lock.
func (q *part) begin(now time.Duration, s *Slot) {
	s.since, s.use = now, slotBusy
	if s.severed.Load() { // in a former use
		s.severed.Store(false)
	}
	q.link(s)
	q.admitted++
	q.usedAt = now
}

// link counts a slot here. Needs the part's lock.
func (q *part) link(s *Slot) {
	if s.part.Load() != q { // storing costs more than looking
		s.part.Store(q)
	}
	if capped := q.pool.limit.Capped(); s.guarded.Load() != capped {
		s.guarded.Store(capped)
	}
	s.prev, s.next = q.tail, nil
	if q.tail != nil {
		q.tail.next = s
	} else {
		q.head = s
	}
	q.tail = s
	q.open++
	q.count(s.use, 1)
	if f := q.free(); f < q.low {
		q.low = f
	}
}

// unlink counts it here no more. Needs the part's lock.
func (q *part) unlink(s *Slot) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		q.head = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		q.tail = s.prev
	}
	s.prev, s.next = nil, nil
	q.open--
	q.count(s.use, -1)
}

// append takes over another list.
func (q *part) append(head, tail *Slot) {
	switch {
	case head == nil:
		return
	case q.tail == nil:
		q.head = head
	default:
		q.tail.next, head.prev = head, q.tail
	}
	q.tail = tail
}

// setUse changes what a linked slot is used for. Needs the part's lock.
func (q *part) setUse(s *Slot, use slotUse) {
	q.count(s.use, -1)
	s.use = use
	q.count(use, 1)
}

func (q *part) count(use slotUse, by int64) {
	switch use {
	case slotParked:
		q.parked += by
	case slotTaken:
		q.taken += by
	}
}

// lockPart locks the part that a slot is in, which may change until it is locked.
func lockPart(s *Slot) *part {
	for {
		q := s.part.Load()
		q.mu.Lock()
		if s.part.Load() == q {
			return q
		}
		q.mu.Unlock()
	}
}

// Waiter is one request that waits for a slot.
type Waiter struct {
	slot     *Slot
	since    time.Duration
	patience time.Duration // the longest wait; who calls acquire keeps the time
	queued   bool          // the limit has a queue; otherwise it waits for the leader's answer only
	ask      uint64        // the ask that covers it, 0 before it is sent
	pool     *pool         // nil once it has been answered
	// done is called once, under the core's lock, and must not block.
	done func(error)

	prev, next *Waiter
}

// Patience is the longest wait; who calls Acquire keeps the time, and calls Expire.
func (w *Waiter) Patience() time.Duration { return w.patience }

// waiterList is first come first served.
type waiterList struct {
	head, tail *Waiter
	n          int64
	queued     int64
}

func (l *waiterList) len() int64 { return l.n }

func (l *waiterList) push(w *Waiter) {
	w.prev, w.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = w
	} else {
		l.head = w
	}
	l.tail = w
	l.n++
	if w.queued {
		l.queued++
	}
}

func (l *waiterList) remove(w *Waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.tail = w.prev
	}
	w.prev, w.next = nil, nil
	l.n--
	if w.queued {
		l.queued--
	}
}
