package lease

import "time"

// A ghost is a request under a limit that only reports (mode = "report"): it has been admitted, and
// still waits for what it would need, as a request without a queue does. If it gets that, the limit
// would have admitted it. If the leader answers that nothing is free, it would have been refused,
// and is counted; it then goes on above what is granted, as connections do that were open before
// their limit.

// admitGhost admits s above a limit that only reports. Needs the pool's lock.
func (n *Node) admitGhost(now time.Duration, p *pool, s *Slot) {
	p.begin(now, s)
	n.haunt(now, p, &Waiter{slot: s})
}

// haunt lets an admitted request wait on. Needs the pool's lock.
func (n *Node) haunt(now time.Duration, p *pool, w *Waiter) {
	if !n.welcomed() || p.waiters.len() >= maxAsking || p.limit.Capacity(p.key.Resource) == 0 {
		n.exceed(p)
		n.noteSlow(p)
		n.mark(p)
		return
	}
	w.since, w.done = now, func(error) {}
	n.become(p, w)
	n.enqueue(p, w)
	n.settle(now, p)
}

// become makes a waiter a ghost. Needs the pool's lock.
func (n *Node) become(p *pool, w *Waiter) {
	w.ghost = true
	if w.draw != nil { // the request goes on, and its connection may serve another one
		s := *w.draw.subject
		w.draw = &Draw{subject: &s}
	}
	if w.slot != nil {
		w.slot.ghost = w
		p.ghosts++
	}
}

// admitAsGhosts admits those who wait where the limit only reports from now on. Needs the pool's
// lock.
func (n *Node) admitAsGhosts(now time.Duration, p *pool) {
	var next *Waiter
	for w := p.waiters.head; w != nil; w = next {
		next = w.next
		if w.ghost {
			continue
		}
		if w.draw != nil {
			n.answer(p, w, nil) // it tries again, and goes on
			continue
		}
		p.waiters.remove(w)
		done := w.done
		w.queued, w.over, w.told, w.ask, w.done = false, false, false, 0, func(error) {}
		w.pool = p
		w.slot.waited = now - w.since
		p.begin(now, w.slot)
		ghost := &Waiter{slot: w.slot, since: now, done: func(error) {}}
		w.pool = nil
		n.become(p, ghost)
		ghost.pool = p
		p.waiters.push(ghost)
		done(nil)
	}
}

// endGhost takes the answer for a ghost. Needs the pool's lock.
func (n *Node) endGhost(p *pool, w *Waiter, err error) {
	if w.slot != nil {
		w.slot.ghost = nil
		p.ghosts--
	}
	if _, over := err.(*LimitError); over {
		n.exceed(p)
	}
}

// exceed counts a request that the limit would have refused. Needs the pool's lock.
func (n *Node) exceed(p *pool) {
	p.wouldReject++
	n.exceeded.note(p.key)
}

// dropGhost forgets the ghost of a slot that is given back. Needs the pool's lock.
func (n *Node) dropGhost(p *pool, s *Slot) {
	if w := s.ghost; w != nil {
		n.answer(p, w, nil)
	}
}

// free is what may be admitted at once: who has been admitted as a ghost still waits for it. A limit
// that only reports has no idle connection closed, but would: it takes them for closed. Needs the
// pool's lock.
func (p *pool) free() int64 {
	if p.limit == nil || !p.limit.Report {
		return p.part.free() + p.ghosts
	}
	return p.granted - max(p.open-p.ghosts-p.parked-p.taken, 0) // a ghost may be idle already
}
