package lease

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// takeLimits takes a table that the leader sent.
func (n *Node) takeLimits(now time.Duration, m *leasepb.Limits) error {
	table, err := m.Table()
	if err != nil {
		return err
	}
	switch old := n.table.Load(); {
	case old != nil && !n.welcomed() && (!n.sess.live() || table.Index < old.Index):
		// A first limit counts open connections. While the gate is closed they could move nothing, and
		// would end; the welcome opens it. Older limits than ours need a leader that has been verified.
		n.stream.due = table
	case old == nil || old.Index != table.Index:
		n.setLimits(now, table)
	}
	n.stream.ackDue = len(n.regoverning) == 0
	return nil
}

// setLimits installs new limits, and moves the connections that are counted elsewhere now. Every
// pool has the new limits before anything moves: no request may be admitted by a limit that its new
// count no longer has.
//
// Where only numbers have changed, nothing moves: the fast path follows by itself, and the core
// follows some pools at a time (regovernSome), so that nothing waits for a hundred thousand of
// them.
func (n *Node) setLimits(now time.Duration, table *limit.Table) {
	old := n.table.Load()
	n.limitsAt.Store(int64(now))
	n.table.Store(table)
	if old != nil && old.ShapeIndex == table.ShapeIndex && old.Index < table.Index {
		n.regoverning = append(slices.Clone(n.all), n.awaitedAlone()...)
		n.regovernSome(now)
		return
	}
	n.regoverning = nil
	all := slices.Clone(n.all) // moving may add more, which have the new limits already
	moved := make([]moving, len(all))
	for i, p := range all {
		moved[i] = n.applyTable(now, p, table)
	}
	for i, p := range all {
		n.moveSlots(now, p, moved[i].slots, table)
	}
	for _, m := range moved {
		n.moveWaiters(now, m.waiters, table)
	}
	for _, p := range slices.Clone(n.all) { // those too that were added
		n.lock(p)
		n.regovern(now, p)
		p.mu.Unlock()
	}
	for _, p := range n.awaitedAlone() {
		n.wakeAlone(now, p)
	}
	n.claimRequests(now, table)
	n.stream.ackDue = true
}

// awaitedAlone lists the pools of single connections whose flows wait. They are in no book; without
// this, such a flow would hear of new limits only when the piece has come that the old one owes it.
func (n *Node) awaitedAlone() (alone []*pool) {
	for _, p := range n.dues {
		if !p.leased() {
			alone = append(alone, p)
		}
	}
	return alone
}

// wakeAlone lets the flow of a single connection look at new limits.
func (n *Node) wakeAlone(now time.Duration, p *pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n.wakeFlows(p)
	n.noteDue(now, p)
}

// regovernAtOnce bounds the pools that the core lets follow new limits before others have their
// turn.
const regovernAtOnce = 512

// regovernSome lets the next pools follow the limits. The limits are acknowledged when all have.
func (n *Node) regovernSome(now time.Duration) {
	table := n.table.Load()
	k := min(len(n.regoverning), regovernAtOnce)
	for _, p := range n.regoverning[:k] {
		if !p.leased() {
			n.wakeAlone(now, p)
			continue
		}
		n.lock(p)
		if p.table != nil && p.table != table {
			p.follow(now, table)
		}
		n.regovern(now, p)
		p.mu.Unlock()
	}
	if n.regoverning = n.regoverning[k:]; len(n.regoverning) == 0 {
		n.regoverning = nil
		n.stream.ackDue = true
	}
}

// moving is what new limits count elsewhere.
type moving struct {
	slots   []*Slot
	waiters []*Waiter
}

// moveSlots moves connections to the pools that count them now. Any of them may have been given
// back since they were listed, and its memory may be another request's by now: only of one that has
// stayed in the pool, and with the pool's lock, may anything but moving be read.
func (n *Node) moveSlots(now time.Duration, p *pool, slots []*Slot, table *limit.Table) {
	for _, s := range slots {
		n.lock(p)
		if !s.moving {
			p.mu.Unlock()
			continue
		}
		_, key := s.match(table)
		p.mu.Unlock()
		q := n.pool(now, key)
		n.lock(p)
		if !s.moving {
			p.mu.Unlock()
			continue
		}
		n.lock(q)
		p.unlink(s)
		q.link(s)
		s.after = q.enforced()
		n.noteSlow(q)
		n.mark(q)
		q.mu.Unlock()
		p.mu.Unlock()
	}
}

// moveWaiters lets those who wait go on waiting where their connections will be counted.
func (n *Node) moveWaiters(now time.Duration, waiters []*Waiter, table *limit.Table) {
	for _, w := range waiters {
		q := n.pool(now, w.key(table))
		n.lock(q)
		w.ask, w.told = 0, false
		n.enqueue(q, w)
		n.settle(now, q)
		q.mu.Unlock()
	}
}

// regovern draws the consequences of a pool's new limit. Needs the pool's lock.
func (n *Node) regovern(now time.Duration, p *pool) {
	if !p.capped() {
		n.giveBack(now, p, p.granted) // what the leader told stays: it tells only what changes
	}
	if p.enforced() && p.limit.Capacity(p.key.Resource) == 0 {
		for w := p.waiters.head; w != nil; w = p.waiters.head {
			n.answer(p, w, p.refusal(now, ErrBlocked))
			n.noteRefused(now, p)
		}
	}
	n.requeue(now, p)
	n.settle(now, p)
	if p.open > 0 || p.granted > 0 || p.reported || p.waiters.len() > 0 {
		n.mark(p)
	}
}

// applyTable installs a table in a pool and returns what has to move to another.
func (n *Node) applyTable(now time.Duration, p *pool, table *limit.Table) (m moving) {
	n.lock(p)
	defer p.mu.Unlock()
	n.govern(now, p, table)
	for s := p.head; s != nil; s = s.next {
		if _, key := s.match(table); key != p.key {
			s.moving = true
			m.slots = append(m.slots, s)
		} else {
			s.after = s.after || p.enforced() && !s.guarded.Load()
			s.guarded.Store(p.enforced())
		}
	}
	var next *Waiter
	for w := p.waiters.head; w != nil; w = next {
		next = w.next
		switch {
		case w.key(table) == p.key && (!w.ghost || p.capped() && p.limit.Report):
		case w.ghost:
			n.answer(p, w, nil) // what it exceeds from here on was there before the limit
		case w.draw != nil:
			n.answer(p, w, nil) // it tries again, under the new limits
		default:
			p.waiters.remove(w)
			m.waiters = append(m.waiters, w)
		}
	}
	n.wakeFlows(p) // they look where they are counted now
	n.noteSlow(p)
	return m
}
