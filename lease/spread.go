package lease

import (
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/weirproxy/weir/limit"
)

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
		if share = p.free() / n; share < sharePerPart || p.above() {
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
