package lease

import (
	"sync"
	"time"

	"github.com/weirproxy/weir/fsm"
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
// Its first half is shared with the fast path and guarded by its own lock, so that admissions to
// different hosts share nothing. Its second half belongs to the node's deciding core and its
// lock. Where both locks are needed, the core's comes first.
type pool struct {
	key fsm.Key

	mu       sync.Mutex
	table    *fsm.Table // by which limit was found; another one means: look the key up again
	limit    *fsm.Limit // nil: no limit
	slow     bool       // somebody waits for what comes free: releases go through the core
	granted  int64      // written under both locks
	open     int64      // slots in use: the length of the list. Above granted where a limit was set on open connections
	parked   int64      // of these, kept alive without use
	taken    int64      // of these, closing
	low      int64      // the least that was free since the last second began
	head     *Slot      // oldest
	tail     *Slot      // newest
	admitted uint64
	rejected uint64

	// The core's half.
	dirty     bool  // the leader has yet to be told
	releasing int64 // out of use, to be said with the next Update
	reported  bool  // the leader knows of a demand
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
	idleFor   int // seconds without any use
	index     int // in the node's list
}

// free is what may be admitted at once. Needs the pool's lock.
func (p *pool) free() int64 { return p.granted - p.open }

type verdict uint8

const (
	verdictAdmitted verdict = iota
	verdictStale            // the limits have changed under the caller: look the key up again
	verdictNoLease
	verdictBlocked // a limit of 0
	verdictShort   // no slot in hand
)

// try is the fast path: it admits s if a slot is free, or none is needed.
//
// The gate is read under the pool's lock. A fence closes the gate first and passes through every
// pool's lock after it, so a slot is either refused here or found by the fence.
func (p *pool) try(s *Slot, table *fsm.Table, gate *gate, clock Clock) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tryLocked(s, table, gate, clock)
}

func (p *pool) tryLocked(s *Slot, table *fsm.Table, gate *gate, clock Clock) verdict {
	if p.table != table {
		return verdictStale
	}
	if !p.limit.Capped() {
		p.link(s)
		p.admitted++
		return verdictAdmitted
	}
	if p.limit.Connections == 0 {
		p.rejected++
		return verdictBlocked
	}
	if !gate.admits(clock) {
		return verdictNoLease
	}
	// Whoever waits goes first; and above a target nothing new starts.
	if p.free() <= 0 || p.waiters.len() > 0 || (p.target >= 0 && p.granted > p.target) {
		return verdictShort
	}
	p.link(s)
	p.admitted++
	return verdictAdmitted
}

// link takes a slot into use. Needs the pool's lock.
func (p *pool) link(s *Slot) {
	s.pool.Store(p)
	s.guarded.Store(p.limit.Capped())
	s.prev, s.next = p.tail, nil
	if p.tail != nil {
		p.tail.next = s
	} else {
		p.head = s
	}
	p.tail = s
	p.open++
	p.count(s.use, 1)
	if f := p.free(); f < p.low {
		p.low = f
	}
}

// unlink takes it out of use. Needs the pool's lock.
func (p *pool) unlink(s *Slot) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		p.head = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		p.tail = s.prev
	}
	s.prev, s.next = nil, nil
	p.open--
	p.count(s.use, -1)
}

// setUse changes what a linked slot is used for. Needs the pool's lock.
func (p *pool) setUse(s *Slot, use slotUse) {
	p.count(s.use, -1)
	s.use = use
	p.count(use, 1)
}

func (p *pool) count(use slotUse, by int64) {
	switch use {
	case slotParked:
		p.parked += by
	case slotTaken:
		p.taken += by
	}
}

// lockOf locks the pool that a slot is in, which may change until it is locked.
func lockOf(s *Slot) *pool {
	for {
		p := s.pool.Load()
		p.mu.Lock()
		if s.pool.Load() == p {
			return p
		}
		p.mu.Unlock()
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
