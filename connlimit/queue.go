package connlimit

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A queue holds what waits for a slot, the longest waiting first. The goroutine that frees a slot
// serves it, so it needs none of its own.
type queue struct {
	book    *book
	waiting atomic.Int32
	again   atomic.Bool // something has changed since the last look began
	mu      sync.Mutex
	rules   *rules // of the last look
	waiters []*waiter
}

type waiter struct {
	addr   netip.Addr
	then   wait // beyond its turn
	slot   Slot
	why    error         // the last refusal; nil with a slot
	served chan struct{} // closed once there is a slot, or never will be one
}

// acquire takes a slot, and waits for it as the rules allow; then is what the client waits for
// afterwards. Behind a limit of 0 nothing waits.
func (b *book) acquire(ctx context.Context, addr netip.Addr, then wait) (Slot, error) {
	r := b.rules.Load()
	if r.Wait <= 0 {
		return b.take(addr, then)
	}
	if b.queue.waiting.Load() == 0 {
		if slot, err := b.take(addr, then|forTurn); err == nil {
			return slot, nil
		}
	}
	if err := r.blocks(addr); err != nil {
		b.countRefusal(addr)
		return Slot{}, err
	}
	return b.queue.wait(ctx, addr, r, then)
}

func (q *queue) wait(ctx context.Context, addr netip.Addr, r *rules, then wait) (Slot, error) {
	w := &waiter{addr: addr, then: then, served: make(chan struct{})}
	if !q.join(w, r.MaxWaiting) {
		return q.book.take(addr, then) // refuses, unless a slot has come free just now
	}

	timer := time.NewTimer(r.Wait)
	defer timer.Stop()
	select {
	case <-w.served:
		return w.outcome(q.book)
	case <-ctx.Done():
		if !q.leave(w) {
			w.slot.Free()
		}
		return Slot{}, context.Cause(ctx)
	case <-timer.C:
		if q.leave(w) && w.why == nil { // nobody has looked yet
			return q.book.take(addr, then)
		}
		return w.outcome(q.book)
	}
}

// outcome is what a waiter that has left the queue gets.
func (w *waiter) outcome(b *book) (Slot, error) {
	if w.why != nil {
		b.countRefusal(w.addr)
	}
	return w.slot, w.why
}

// join puts w at the end of the queue, unless it is full.
func (q *queue) join(w *waiter, most int) bool {
	q.mu.Lock()
	room := len(q.waiters) < most
	if room {
		q.waiters = append(q.waiters, w)
		q.waiting.Add(1)
		q.again.Store(true)
	}
	q.unlock()
	return room
}

// leave takes w out of the queue. It is false if w has been served.
func (q *queue) leave(w *waiter) bool {
	q.mu.Lock()
	i := slices.Index(q.waiters, w)
	if i >= 0 {
		q.waiters = slices.Delete(q.waiters, i, i+1)
		q.waiting.Add(-1)
	}
	q.unlock()
	return i >= 0
}

// unlock serves on behalf of goroutines that found the lock held.
func (q *queue) unlock() {
	q.mu.Unlock()
	if q.again.Load() {
		q.serve()
	}
}

// serve gives slots to waiters, if there are any. It is called after each change that may let one
// in. If another goroutine is serving already, that one looks again.
func (q *queue) serve() {
	if q.waiting.Load() == 0 {
		return
	}
	q.again.Store(true)
	for q.again.Load() && q.mu.TryLock() {
		q.again.Store(false)
		q.look()
		q.mu.Unlock()
	}
}

// look tries each in turn. Behind one that the total refuses, all are refused. Those that a limit
// of 0 blocks since the rules have changed are sent away.
func (q *queue) look() {
	r := q.book.rules.Load()
	changed := r != q.rules
	q.rules = r
	kept, full := q.waiters[:0], error(nil)
	for _, w := range q.waiters {
		var blocked error
		if changed || w.why == nil {
			blocked = r.blocks(w.addr)
		}
		switch {
		case blocked != nil:
			w.why = blocked
		case full == nil:
			w.slot, w.why = q.book.take(w.addr, w.then|forTurn)
			if w.why != nil && w.why.(*Error).Scope == ScopeTotal {
				full = w.why
			}
		case changed || w.why == nil:
			w.why = full
		}
		if blocked != nil || w.why == nil {
			q.waiting.Add(-1)
			close(w.served)
			continue
		}
		kept = append(kept, w)
	}
	clear(q.waiters[len(kept):])
	q.waiters = kept
}

func (b *book) countRefusal(addr netip.Addr) {
	b.tally(addr, func(c *Counters) { c.Refused++ })
}

// tally changes the counters of the shard of addr.
func (b *book) tally(addr netip.Addr, change func(*Counters)) {
	sh := b.shard(b.rules.Load().govern(addr).hash)
	sh.mu.Lock()
	change(&sh.tallies)
	sh.mu.Unlock()
}
