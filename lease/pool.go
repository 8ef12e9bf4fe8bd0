package lease

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// idleBuckets of one second make the window in which a slot must have been idle throughout before
// it goes back: between 3 and 4 s, within the promised 5.
const idleBuckets = 3

// pool is what one node holds of one key.
//
// Its first half is shared with the fast path and guarded by its part's lock, so that admissions to
// different hosts share nothing. Its second half belongs to the node's deciding core and its lock;
// what the fast path reads of it (who waits, the target, ghosts, flows) is written under both
// locks. Where both are needed, the core's comes first.
type pool struct {
	key  limit.Key
	part // what is not spread

	table  *limit.Table // by which limit was found; another one means: look the key up again
	limit  *limit.Limit // nil: no limit
	direct bool         // counts all connections to the host of its name, whatever the port
	slow   bool         // somebody waits for what comes free: releases go through the core
	// Of a rate:
	used     bool // a token has been taken since the last grant
	told     bool // the leader knows that somebody waits for more than this grant
	exceeded bool // more was taken than there was, of which the leader has yet to hear: the limit only reports
	recalled bool // units are to go back once nobody waits for what they bring

	rejected    uint64 // by the limit: not for want of a lease
	wouldReject uint64 // by a limit that only reports
	crowded     int    // how often the lock was waited for
	// spread is set while many CPUs contend for this pool: its free slots are divided into parts
	// with a lock each. Taking the pool's lock merges the parts, so code under it sees one count.
	spread    atomic.Pointer[[]part]
	lowBefore int64 // low, before it was spread

	*rateShare        // nil: it is not of a rate
	kept       int64  // of a rate, in the bucket, for those whose turn it is: tokens, or bytes
	lost       uint32 // how often all was lost, what was kept too

	// The core's half.
	contended bool
	asking    bool   // the newest ask has not been answered yet
	denied    bool   // the last answer was of no use to somebody
	putOff    bool   // in the node's list of those that ask later
	busy      bool   // has connections that a parting node waits for
	reported  bool   // the leader knows of a demand
	pinned    bool   // it must stay in the book
	lowAt     uint8  // among the lows
	era       era    // of the events that concern every pool, those that this one has taken
	marked    uint64 // the stream on which it was marked as dirty last
	releasing int64  // out of use, to be said with the next Update
	leaving   int64  // grains that go with it
	waiters   waiterList
	flows     meterList
	ghosts    int64         // of those that wait, slots that have been admitted already: the limit only reports
	dueAt     time.Duration // of a rate: when what waits can go on; 0: nothing waits, or for a grant only
	target    int64         // come down to this as connections end
	targetSeq uint64
	ask       uint64 // the newest ask sent
	askedAt   time.Duration
	refused   [2]int64
	lows      [idleBuckets]int64
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
	var p *pool
	if key.Resource.IsRate() {
		both := new(struct {
			pool  pool
			share rateShare
		})
		p = &both.pool
		p.rateShare = &both.share
	} else { // many names have slots alone
		p = new(pool)
	}
	p.key, p.target = key, leasepb.NoTarget
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

// capped reports whether the key is counted against a number. Needs the pool's lock.
func (p *pool) capped() bool { return p.limit.Caps(p.key.Resource) }

// enforced reports whether the limit refuses anything. Needs the pool's lock.
func (p *pool) enforced() bool { return p.capped() && !p.limit.Report }

// above reports whether nothing new may start because the node holds more than it is to come down
// to, or than a lowered limit allows, of which the leader has yet to say who comes down. Needs the
// pool's lock, and a limit.
func (p *pool) above() bool {
	return p.target >= 0 && p.granted > p.target || p.granted > p.limit.Connections && !p.limit.Report
}

// tryLocked needs the pool's lock.
func (p *pool) tryLocked(now time.Duration, s *Slot, table *limit.Table, gate *gate) verdict {
	switch {
	case p.table != table && !p.follow(now, table):
		return verdictStale
	case !p.limit.Capped():
	case p.limit.Connections == 0 && !p.limit.Report:
		p.rejected++
		return verdictBlocked
	case p.limit.Report && !gate.admitsAt(now):
		return verdictShort
	case !gate.admitsAt(now):
		return verdictNoLease
	case p.free() <= 0 || p.waiters.len() > 0 || p.above():
		return verdictShort // whoever waits goes first
	}
	p.begin(now, s)
	return verdictAdmitted
}

// follow goes by newer limits of the same shape: only numbers have changed, and what counts where
// has not. The core follows. Needs the pool's lock.
func (p *pool) follow(now time.Duration, table *limit.Table) bool {
	if p.table == nil || p.table.ShapeIndex != table.ShapeIndex || p.table.Index > table.Index {
		return false
	}
	if parts := p.spread.Load(); parts != nil {
		p.gather(*parts)
	}
	p.table, p.limit = table, table.Governing(p.key)
	p.resize(now)
	return true
}

// free is what may be admitted at once. Needs the part's lock.
func (q *part) free() int64 { return q.granted - q.open }

// begin admits a slot. Needs the part's lock.
func (q *part) begin(now time.Duration, s *Slot) {
	s.since, s.use, s.after = now, slotBusy, false
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
	if guarded := q.pool.enforced(); s.guarded.Load() != guarded {
		s.guarded.Store(guarded)
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
	if s.moving { // storing costs more than looking
		s.moving = false
	}
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
	case slotTaken, slotHalf:
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
