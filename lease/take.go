package lease

import (
	"context"
	"time"

	"github.com/weirproxy/weir/limit"
)

// tokenScopes are the scopes in which a request takes a token, in the order in which it does.
var tokenScopes = [...]limit.Scope{limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeHost}

// Take takes one token of each limit on requests that the subject is under. It waits for them as
// Acquire does for a slot; a request that has waited for a slot already waits for so much less. It
// ends early when ctx does. On an error nothing has been taken.
func (m *Manager) Take(ctx context.Context, subject *limit.Subject, waited time.Duration) error {
	table := m.node.Table()
	if table == nil || !table.CapsAny(limit.Requests) {
		return nil // whoever had a slot without a table had one of no limited host
	}
	var taken [len(tokenScopes)]receipt
	now := m.cfg.Clock.Now() // once for all: reading it costs more than a token
	for i, scope := range tokenScopes {
		if !table.Caps(scope, limit.Requests) {
			continue
		}
		took, v := m.node.tryTake(now, scope, subject)
		var err error
		if v != verdictAdmitted {
			took, err = m.waitForToken(ctx, scope, subject, waited)
			now = m.cfg.Clock.Now()
		}
		if err != nil {
			for _, r := range taken[:i] {
				r.giveBack(m.cfg.Clock.Now(), oneRequest)
			}
			return err
		}
		taken[i] = took
	}
	return nil
}

// waitForToken is the slow path of one scope's token; the receipt is empty where none was needed.
func (m *Manager) waitForToken(ctx context.Context, scope limit.Scope, subject *limit.Subject, waited time.Duration) (receipt, error) {
	w := NewTaker(scope, subject)
	err := m.wait(ctx, func(now time.Duration, done func(error)) (*Waiter, error) {
		return m.node.Take(now, w, waited, done)
	}, func() { w.took.giveBack(m.cfg.Clock.Now(), oneRequest) })
	return w.took, err
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

// TryTake is the fast path of one scope's token. Where ok is false, the core must be asked: Take.
func (n *Node) TryTake(scope limit.Scope, subject *limit.Subject, clock Clock) (ok bool) {
	if n.table.Load() == nil {
		return true
	}
	_, v := n.tryTake(clock.Now(), scope, subject)
	return v == verdictAdmitted
}

// NewTaker returns what waits for one scope's token, for [Node.Take].
func NewTaker(scope limit.Scope, subject *limit.Subject) *Waiter {
	return &Waiter{scope: scope, subject: subject}
}

// Take is the slow path: the request waits, unless a token has come meanwhile. It returns the waiter,
// or, where the answer is known at once, nil and the answer.
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
