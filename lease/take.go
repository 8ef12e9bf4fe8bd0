package lease

import (
	"context"
	"time"

	"github.com/weirproxy/weir/limit"
)

// tokenScopes are the scopes in which a request takes a token, in the order in which it does.
var tokenScopes = [...]limit.Scope{limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeHost, limit.ScopeKey}

// rated reports whether any limit on requests may count a subject: without a key none of the limits
// on keys does.
func rated(t *limit.Table, s *limit.Subject) bool {
	return t.CapsAny(limit.Requests) || s.Key != "" && t.Caps(limit.ScopeKey, limit.Requests)
}

// Take takes one token of each limit on requests that the subject is under. It waits for them as
// Acquire does for a slot; a request that has waited for a slot already waits for so much less. It
// ends early when ctx does. On an error nothing has been taken.
func (m *Manager) Take(ctx context.Context, subject *limit.Subject, waited time.Duration) error {
	d := NewDraw(subject)
	for !d.Try(m.node, m.cfg.Clock) {
		w := d.Taker()
		err := m.wait(ctx, func(now time.Duration, done func(error)) (*Waiter, error) {
			return m.node.Take(now, w, waited, done)
		}, func() { w.took.giveBack(m.cfg.Clock.Now(), oneRequest) })
		if err != nil {
			d.GiveBack(m.cfg.Clock.Now())
			return err
		}
		d.Got(w)
	}
	return nil
}

// Draw is the tokens of one request, one of each limit on requests that it is under. All take them
// in one order.
type Draw struct {
	subject *limit.Subject
	next    int // among tokenScopes
	taken   [len(tokenScopes)]receipt
}

// NewDraw returns a draw that has taken nothing yet.
func NewDraw(subject *limit.Subject) Draw { return Draw{subject: subject} }

// Try takes the tokens that are there, up to the first that is not. It reports whether that was
// all: otherwise the next is what Taker waits for.
func (d *Draw) Try(n *Node, clock Clock) bool {
	table := n.table.Load()
	if table == nil || !rated(table, d.subject) {
		return true // whoever had a slot without a table had one of no limited host
	}
	now := clock.Now() // once for all: reading it costs more than a token
	for ; d.next < len(tokenScopes); d.next++ {
		if !table.Caps(tokenScopes[d.next], limit.Requests) {
			continue
		}
		took, v := n.tryTake(now, tokenScopes[d.next], d.subject)
		if v != verdictAdmitted {
			return false
		}
		d.taken[d.next] = took
	}
	return true
}

// Taker is what waits for the token that Try did not get, for [Node.Take].
func (d *Draw) Taker() *Waiter { return &Waiter{scope: tokenScopes[d.next], subject: d.subject} }

// Got notes that the Taker has got its token.
func (d *Draw) Got(w *Waiter) {
	d.taken[d.next] = w.took
	d.next++
}

// Keys are what the tokens that have been taken so far are of, in order. Some may be of no limit
// any more.
func (d *Draw) Keys() (keys []limit.Key) {
	for i := range d.taken {
		if p := d.taken[i].pool; p != nil {
			keys = append(keys, p.key)
		}
	}
	return keys
}

// GiveBack returns what has been taken, as far as the buckets would have had room for it all the
// time.
func (d *Draw) GiveBack(now time.Duration) {
	for i := range d.taken {
		d.taken[i].giveBack(now, oneRequest)
		d.taken[i] = receipt{}
	}
}

// tryTake is the fast path of Take for one scope.
func (n *Node) tryTake(now time.Duration, scope limit.Scope, subject *limit.Subject) (took receipt, v verdict) {
	table := n.table.Load()
	l, name := table.Find(scope, subject)
	if !l.Caps(limit.Requests) {
		return receipt{}, verdictAdmitted
	}
	p := n.lookup(limit.Key{Scope: scope, Resource: limit.Requests, Name: name})
	if p == nil {
		return receipt{}, verdictShort
	}
	p.mu.Lock()
	if v = p.takeLocked(now, oneRequest, table, &n.gate); v == verdictAdmitted {
		took = p.receipt()
	}
	p.mu.Unlock()
	return took, v
}

// Take is the slow path: the request waits, unless a token has come meanwhile. It returns the
// waiter, or, where the answer is known at once, nil and the answer.
func (n *Node) Take(now time.Duration, w *Waiter, waited time.Duration, done func(error)) (*Waiter, error) {
	table := n.table.Load()
	if l, _ := table.Find(w.scope, w.subject); !l.Caps(limit.Requests) {
		return nil, nil
	}
	p := n.pool(now, w.key(table))
	n.lock(p)
	defer p.mu.Unlock()
	v := p.takeLocked(now, oneRequest, table, &n.gate)
	if v == verdictShort && p.limit.Report {
		p.admitted++
		p.usedAt = now
		n.haunt(now, p, &Waiter{scope: w.scope, subject: w.subject})
		return nil, nil
	}
	if v == verdictAdmitted {
		w.took = p.receipt()
	}
	return n.wait(now, p, v, w, waited, done)
}
