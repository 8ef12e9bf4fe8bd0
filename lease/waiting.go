package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirproxy/weir/limit"
)

// refusedWindow is how long a refusal counts as demand: whoever was refused tends to come again.
const refusedWindow = 250 * time.Millisecond

// Waiter is one request that waits for a slot, or for a token.
type Waiter struct {
	slot   *Slot // nil: it waits for a token
	draw   *Draw // of which that is one
	at     int   // among the draw's
	since  time.Duration
	until  time.Duration // the longest wait; who calls acquire keeps the time
	queued bool          // the limit has a queue; otherwise it waits for the leader's answer only
	over   bool          // the queue was full when it came: see wait
	told   bool          // it is queued, and the leader has said that nothing is free
	ask    uint64        // the ask that covers it, 0 before it is sent
	pool   *pool         // nil once it has been answered
	ghost  bool          // it has been admitted: the limit only reports
	// returns: it has had its turn here before, and then another limit had no token.
	returns bool
	// done is called once, under the core's lock, and must not block.
	done   func(error)
	retime func(left time.Duration) // see Retime

	prev, next *Waiter
}

// key is what the waiter waits for by a table.
func (w *Waiter) key(t *limit.Table) limit.Key {
	if w.slot != nil {
		_, key := w.slot.match(t)
		return key
	}
	scope := tokenScopes[w.at]
	_, name := t.Find(scope, w.draw.subject)
	return limit.Key{Scope: scope, Resource: limit.Requests, Name: name}
}

// Key is what the waiter waits for by a table.
func (w *Waiter) Key(t *limit.Table) limit.Key { return w.key(t) }

// Patience is the longest wait from now on; who calls Acquire keeps the time, and calls Expire.
func (w *Waiter) Patience(now time.Duration) time.Duration { return max(w.until-now, 0) }

// Retime lets f know, under the core's lock, where new limits have changed how long is left.
func (w *Waiter) Retime(f func(left time.Duration)) { w.retime = f }

// goBy lets a waiter go by a queue, from when it began to wait, be it for other units of the same
// request. Without a queue it waits for the leader's answer only, as a request that comes now. It
// must not be counted in a list.
func (w *Waiter) goBy(now time.Duration, q limit.Queue) {
	until := w.until
	switch {
	case q.Enabled():
		w.over = !w.queued
		until = w.since + q.Timeout
		if w.draw != nil {
			until -= w.draw.waited
		}
	case w.queued || w.over || until == 0:
		w.queued, w.over, w.told = false, false, false
		until = now + askTimeout
	}
	if until == w.until {
		return
	}
	w.until = until
	if w.retime != nil {
		w.retime(w.Patience(now))
	}
}

// waiterList is first come first served.
type waiterList struct {
	head, tail *Waiter
	n          int64
	queued     int64
	told       int64
	over       int32 // as ghosts: with more in it, a pool would take more than 0.5 KB
	ghosts     int32
}

func (l *waiterList) len() int64 { return l.n }

// push lists a waiter behind those who came before it. It is the last, or one that has waited
// elsewhere before: then it is near the head.
func (l *waiterList) push(w *Waiter) {
	w.prev, w.next = l.tail, nil
	if l.tail != nil && l.tail.since > w.since {
		w.next = l.head
		for w.next.since <= w.since {
			w.next = w.next.next
		}
		w.prev = w.next.prev
	}
	if w.prev != nil {
		w.prev.next = w
	} else {
		l.head = w
	}
	if w.next != nil {
		w.next.prev = w
	} else {
		l.tail = w
	}
	l.count(w, 1)
}

func (l *waiterList) count(w *Waiter, by int64) {
	l.n += by
	if w.queued {
		l.queued += by
	}
	if w.over {
		l.over += int32(by)
	}
	if w.told {
		l.told += by
	}
	if w.ghost {
		l.ghosts += int32(by)
	}
}

// tell notes that nothing is free for a waiter, which stays in the queue, or goes to a place there.
func (l *waiterList) tell(w *Waiter) {
	l.count(w, -1)
	w.queued, w.over, w.told, w.ask = true, false, true, 0
	l.count(w, 1)
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
	l.count(w, -1)
}

// Acquire is the slow path: the request waits, unless a slot has come free since the fast path
// looked. It returns the waiter, or, where the answer is known at once, nil and the answer.
func (n *Node) Acquire(now time.Duration, s *Slot, done func(error)) (*Waiter, error) {
	table := n.table.Load()
	if table == nil {
		return nil, ErrNoLease
	}
	n.reach(now, s)
	_, key := s.match(table)
	p := n.pool(now, key)
	n.lock(p)
	defer p.mu.Unlock()
	n.settleTable(now, p, table)
	v := p.tryLocked(now, s, table, &n.gate)
	if v == verdictShort && p.limit.Report {
		n.admitGhost(now, p, s)
		return nil, nil
	}
	return n.wait(now, p, v, &Waiter{slot: s}, done)
}

// wait lets a request wait for what it did not get at once, unless the answer is known. Needs the
// pool's lock.
//
// The places of a queue are for requests over the limit. Those in them may not be: until the leader
// has answered, slots may be free for them and for others. So a request that finds no place waits
// for that answer, as without a queue. Then it has its slot, or a place that came free, or is
// refused.
//
// A request that returns from the queue of another limit needs no place that others have left: it
// came before them. So a queue may hold more than its size, by those that return.
func (n *Node) wait(now time.Duration, p *pool, v verdict, w *Waiter, done func(error)) (*Waiter, error) {
	switch v {
	case verdictAdmitted:
		return nil, nil
	case verdictBlocked:
		return nil, p.refusal(now, ErrBlocked)
	case verdictNoLease:
		return nil, n.shut()
	}
	if w.slot != nil {
		w.since = now
	}
	w.queued, w.done = p.limit.Queue.Enabled(), func(error) {}
	w.goBy(now, p.limit.Queue)
	if w.queued && !w.returns && !n.hasPlace(p) {
		if n.inQueue(p, func(l *waiterList) int64 { return l.told }) >= int64(p.limit.Queue.Size) {
			err := p.refusal(now, ErrQueueFull)
			n.noteRefused(now, p)
			return nil, err
		}
		w.queued, w.over = false, true
	}
	if !w.queued && p.waiters.len()-p.waiters.queued >= maxAsking {
		return nil, ErrNoLease
	}
	n.enqueue(p, w)
	n.settle(now, p)
	if w.pool == nil {
		return nil, nil // settled at once
	}
	w.done = done
	return w, nil
}

// requeue lets those who wait go by the limit as it is now. Whoever is in the queue stays there,
// however small it has become. Needs the pool's lock.
func (n *Node) requeue(now time.Duration, p *pool) {
	for w := p.waiters.head; w != nil && p.enforced(); w = w.next {
		if !w.ghost {
			p.waiters.count(w, -1)
			w.goBy(now, p.limit.Queue)
			p.waiters.count(w, 1)
		}
	}
}

// shut is the error of a request that a closed gate keeps out. It says nothing of the limit.
func (n *Node) shut() error {
	if n.parting() {
		return ErrDraining
	}
	return ErrNoLease
}

// hasPlace reports whether a pool's limit has a queue with room for one more. Needs the pool's lock.
func (n *Node) hasPlace(p *pool) bool {
	return p.limit.Queue.Enabled() && n.inQueue(p, func(l *waiterList) int64 { return l.queued }) < int64(p.limit.Queue.Size)
}

// inQueue counts requests in the queue of a pool's limit: it is one for slots and tokens.
func (n *Node) inQueue(p *pool, count func(*waiterList) int64) int64 {
	other := p.key
	if other.Resource = limit.Requests; p.key.Resource == limit.Requests {
		other.Resource = limit.Connections
	}
	waiting := count(&p.waiters)
	if q := n.lookup(other); q != nil { // the waiters are the core's, which holds its lock
		waiting += count(&q.waiters)
	}
	return waiting
}

// refusal is the error of a request for which a limit is in the way. Needs the pool's lock.
func (p *pool) refusal(now time.Duration, why error) error {
	e := &LimitError{Key: p.key, Why: why}
	if p.limit != nil {
		e.Limit = *p.limit
	}
	if p.key.Resource.IsRate() {
		e.RetryAfter = p.nextToken(now)
	}
	return e
}

func (n *Node) enqueue(p *pool, w *Waiter) {
	w.pool = p
	p.waiters.push(w)
	n.noteSlow(p)
	n.mark(p)
}

// answer ends a wait. Needs the pool's lock.
func (n *Node) answer(p *pool, w *Waiter, err error) {
	p.waiters.remove(w)
	w.pool = nil
	if w.ghost {
		n.endGhost(p, w, err)
		return
	}
	w.done(err)
}

// Cancel ends the wait of somebody who went away. It reports false where the answer has come
// already.
func (n *Node) Cancel(now time.Duration, w *Waiter) bool {
	p := w.pool
	if p == nil {
		return false
	}
	n.lock(p)
	defer p.mu.Unlock()
	if w.pool == nil {
		return false // a fence or the end answered it just now
	}
	p.waiters.remove(w)
	w.pool = nil
	if p.key.Resource.IsRate() {
		n.noteWanted(now, p) // units that go to and fro with every client that leaves fill up nowhere
	}
	n.settle(now, p) // what the leader asked for stayed for it
	n.mark(p)
	return true
}

// Expire ends a wait that has lasted long enough, with the reason.
func (n *Node) Expire(now time.Duration, w *Waiter) {
	p := w.pool
	if p == nil {
		return
	}
	n.lock(p)
	defer p.mu.Unlock()
	if w.pool == nil {
		return
	}
	if err := n.overdue(now, p, w); err != nil {
		n.answer(p, w, err)
		n.noteRefused(now, p)
	} else { // nobody could be asked, or nobody has answered: the limit need not be reached
		n.answer(p, w, ErrNoLease)
		n.noteWanted(now, p)
	}
	n.settle(now, p)
}

// overdue is the refusal of a wait that has lasted too long; nil: no limit need be in the way.
// Needs the pool's lock.
func (n *Node) overdue(now time.Duration, p *pool, w *Waiter) error {
	switch {
	case !n.welcomed():
	case w.queued:
		return p.refusal(now, ErrQueueTimeout)
	case w.over:
		return p.refusal(now, ErrQueueFull)
	}
	return nil
}

// Overdue is the error of a wait that a context ends, with its error ended: beside a deadline, the
// limit that was in the way.
func (n *Node) Overdue(now time.Duration, w *Waiter, ended error) error {
	p := w.pool
	if p == nil || !errors.Is(ended, context.DeadlineExceeded) {
		return ended
	}
	n.lock(p)
	defer p.mu.Unlock()
	if err := n.overdue(now, p, w); err != nil && w.pool != nil {
		return fmt.Errorf("%w: %w", err, ended)
	}
	return ended
}

// noteRefused counts a refusal, and as demand for a while. Needs the pool's lock.
func (n *Node) noteRefused(now time.Duration, p *pool) {
	p.rejected++
	n.noteWanted(now, p)
}

// noteWanted counts as demand for a while what there was not. Needs the pool's lock.
func (n *Node) noteWanted(now time.Duration, p *pool) {
	if p.refused[0] == 0 && p.refused[1] == 0 {
		if len(n.hot) == 0 {
			n.nextQuarter = now + refusedWindow
		}
		n.hot = append(n.hot, p)
	}
	p.refused[0]++
	n.mark(p)
}

// quarter ages the refusals.
func (n *Node) quarter(now time.Duration) {
	n.nextQuarter = now + refusedWindow
	keep := n.hot[:0]
	for _, p := range n.hot {
		n.lock(p)
		p.refused[0], p.refused[1] = 0, p.refused[0]
		if p.refused[1] > 0 {
			keep = append(keep, p)
		} else {
			n.settle(now, p)
			n.mark(p)
		}
		p.mu.Unlock()
	}
	n.hot = keep
}
