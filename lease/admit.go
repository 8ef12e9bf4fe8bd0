package lease

import (
	"time"

	"github.com/weirproxy/weir/limit"
)

// TryAcquire is the fast path of an admission: it admits s where the node holds a free slot, or the
// host has no limit. Where ok is false and err is nil, the core must be asked: Acquire.
func (n *Node) TryAcquire(s *Slot, clock Clock) (ok bool, err error) {
	table := n.table.Load()
	if table == nil {
		return false, ErrNoLease
	}
	return n.tryAcquire(clock.Now(), s, table)
}

// tryAcquire is TryAcquire at a time that has been read.
func (n *Node) tryAcquire(now time.Duration, s *Slot, table *limit.Table) (ok bool, err error) {
	if s.request == nil {
		if p := n.hosts.find(s.target.Host); p != nil {
			if v := p.try(now, s, table, true, &n.gate); v != verdictStale {
				return v == verdictAdmitted, p.blocked(v)
			}
		}
	}
	_, key := s.match(table)
	p := n.pools.of(key).find(key.Name)
	if p == nil {
		return false, nil
	}
	v := p.try(now, s, table, false, &n.gate)
	return v == verdictAdmitted, p.blocked(v)
}

// blocked is the answer that needs nobody else's word.
func (p *pool) blocked(v verdict) error {
	if v != verdictBlocked {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusal(0, ErrBlocked)
}

// TryRelease is the fast path of a release. Where it reports false, the core must hear of it:
// Release.
func (n *Node) TryRelease(s *Slot) bool {
	q := lockPart(s)
	done := s.use == slotReleased
	if !done && !q.pool.slow {
		q.unlink(s)
		s.use = slotReleased
		done = true
	}
	q.mu.Unlock()
	return done
}

// Park marks a slot's connection as kept alive without use. Where it reports true, somebody waits,
// and the core must hear of it: Parked.
func (n *Node) Park(s *Slot) (wanted bool) { return n.use(s, slotBusy, slotParked) }

// Closing marks a slot's connection as about to end. Where it reports true, the core must hear of
// it: Parked.
func (n *Node) Closing(s *Slot) (wanted bool) { return n.use(s, slotBusy, slotTaken) }

// HalfClosed marks a slot's connection as one that may be about to end, as [Slot.HalfClosed] says.
// Where it reports true, the core must hear of it: Parked.
func (n *Node) HalfClosed(s *Slot) (wanted bool) {
	return s.part.Load() != nil && n.use(s, slotBusy, slotHalf)
}

// Lasts takes back HalfClosed. Where it reports true, the core must hear of it: Parked.
func (n *Node) Lasts(s *Slot) (wanted bool) {
	return s.part.Load() != nil && n.use(s, slotHalf, slotBusy)
}

func (n *Node) use(s *Slot, from, to slotUse) (wanted bool) {
	q := lockPart(s)
	defer q.mu.Unlock()
	if s.use != from {
		return false
	}
	q.setUse(s, to)
	return q.pool.slow
}

// Unpark takes a parked slot back into use, as [Slot.Unpark] says.
func (n *Node) Unpark(s *Slot, clock Clock) bool {
	if s.severed.Load() || s.guarded.Load() && !n.gate.admits(clock) {
		return false // reuse is new work, also where an expired lease lets connections end by themselves
	}
	q := lockPart(s)
	defer q.mu.Unlock()
	if s.use != slotParked {
		return false
	}
	q.setUse(s, slotBusy)
	return true
}

// targetsWithin is how long after new limits a node may not know yet what it is to come down to by
// them.
const targetsWithin = time.Second

// Covered reports whether a slot that has not been used yet may be, as [Slot.Covered] says.
func (n *Node) Covered(s *Slot) bool {
	q := lockPart(s)
	defer q.mu.Unlock()
	p := q.pool
	if !p.enforced() || !s.after && s.since >= time.Duration(n.limitsAt.Load())+targetsWithin {
		return true
	}
	return q.open <= q.granted && q.open <= p.limit.Connections && (p.target < 0 || q.open <= p.target)
}

// Live reports whether a slot's connection may be used at this moment, as [Slot.Live] says.
func (n *Node) Live(s *Slot, clock Clock) bool {
	if s.severed.Load() {
		return false
	}
	return !s.guarded.Load() || n.expiry != ExpiryClose || n.gate.admits(clock)
}
