package lease

import (
	"context"
	"time"

	"github.com/weirproxy/weir/limit"
)

// tokenScopes are the scopes in which a request takes a token, in the order in which it is refused
// or waits. The tokens themselves are all taken at one moment, that at which the request begins. A
// token that was taken while the request had yet to wait for another one would let requests begin
// together that waited apart, and windows of time hold more of them than the rate allows.
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
	if m.node.TryTake(subject, m.cfg.Clock) {
		return nil
	}
	return m.waitForTokens(ctx, subject, waited)
}

// waitForTokens is the slow path of Take: the request waits where a token is lacking, tries again
// when it is its turn there, and so on.
func (m *Manager) waitForTokens(ctx context.Context, subject *limit.Subject, waited time.Duration) error {
	d := NewDraw(subject, waited)
	for !d.Taken() {
		err := m.wait(ctx, func(now time.Duration, done func(error)) (*Waiter, error) {
			return m.node.Take(now, d, done)
		}, func() {})
		if err != nil {
			m.do(func(now time.Duration) { m.node.Forsake(now, d) })
			return err
		}
	}
	return nil
}

// tokenPools are the pools from which one request takes its tokens, by the order of tokenScopes;
// nil where it needs none.
type tokenPools [len(tokenScopes)]*pool

// lock locks all of them, the narrowest first: that of all requests is locked for the shortest
// time. Nobody else holds the locks of two pools of requests.
func (ps *tokenPools) lock() {
	for i := len(ps) - 1; i >= 0; i-- {
		if ps[i] != nil {
			ps[i].mu.Lock()
		}
	}
}

func (ps *tokenPools) unlock() {
	for _, p := range ps {
		if p != nil {
			p.mu.Unlock()
		}
	}
}

// TryTake is the fast path of Take: it takes all tokens that the subject needs, or none. Where it
// reports false, the core must be asked: Take.
func (n *Node) TryTake(s *limit.Subject, clock Clock) bool {
	table := n.table.Load()
	if table == nil {
		return false // anything may be limited
	}
	if !rated(table, s) {
		return true
	}
	var ps tokenPools
	some := false
	for i, scope := range tokenScopes {
		if !table.Caps(scope, limit.Requests) {
			continue
		}
		l, name := table.Find(scope, s)
		if !l.Caps(limit.Requests) {
			continue
		}
		if ps[i] = n.pools[scope][limit.Requests].find(name); ps[i] == nil {
			return false
		}
		some = true
	}
	if !some {
		return true
	}
	now := clock.Now() // once for all: reading it costs more than a token
	_, v := n.takeAll(now, table, &ps, nil)
	return v == verdictAdmitted
}

// takeAll takes a token from each pool, or none; then it says which is the first that is short. d
// is nil on the fast path.
//
// now was read before, and the gate is read under the pools' locks, as for slots: no token is taken
// past the deadline.
func (n *Node) takeAll(now time.Duration, table *limit.Table, ps *tokenPools, d *Draw) (short int, v verdict) {
	ps.lock()
	for i, p := range ps {
		if p == nil {
			continue
		}
		if v = p.mayTake(now, table, &n.gate, d, i); v == verdictAdmitted {
			continue
		}
		if v == verdictShort && d != nil && p.limit.Report {
			d.exceeds[i] = true
			v = verdictAdmitted
			continue
		}
		ps.unlock()
		return i, v
	}
	for i, p := range ps {
		if p != nil {
			p.takeToken(now, d, i)
		}
	}
	ps.unlock()
	return 0, verdictAdmitted
}

// mayTake reports whether there is a token that nobody else is to have. Needs the pool's lock.
func (p *pool) mayTake(now time.Duration, table *limit.Table, gate *gate, d *Draw, i int) verdict {
	switch {
	case p.table != table && !p.follow(now, table):
		return verdictStale
	case !p.capped():
		return verdictAdmitted
	case !gate.admitsAt(now):
		if p.limit.Report {
			return verdictShort
		}
		return verdictNoLease
	}
	kept := p.kept
	if d != nil && d.keeps[i].holds(p) {
		kept--
	} else if first := p.waiters.head; first != nil && (d == nil || first.since <= d.since) {
		return verdictShort // whoever waits goes first
	}
	if !p.bucket.has(now, oneRequest*float64(1+kept)) {
		return verdictShort
	}
	return verdictAdmitted
}

// takeToken takes a token for a request, if it needs one here. Needs the pool's lock.
func (p *pool) takeToken(now time.Duration, d *Draw, i int) {
	switch {
	case !p.capped():
	case d != nil && d.exceeds[i]:
		p.draws.exceed(now, oneRequest)
	default:
		p.bucket.level -= oneRequest
		p.drawn(now, oneRequest)
	}
	if d != nil && d.keeps[i].holds(p) {
		p.kept--
		d.keeps[i] = keep{}
	}
	p.admitted++
	p.usedAt = now
}

// Draw is the tokens of one request that did not get them at once. It waits in one pool at a time,
// in the order in which such requests came. When it is its turn, the token there is kept for it: it
// stays in the bucket, and others leave it alone. Then all tokens are taken at one moment; or one
// is lacking elsewhere, and the request goes on waiting there.
//
// Meanwhile it leaves to others what was kept for it, so that a slow limit holds up nobody who is
// not under it; else several requests could take each other's turns away for ever. So where it has
// been before, and only waits for those who came earlier, it keeps the tokens of slower limits. As
// all keep those of slower limits while they wait for faster ones, nobody waits in a circle.
type Draw struct {
	subject *limit.Subject
	waited  time.Duration // for slots, before
	since   time.Duration // when it began to wait
	begun   bool          // to wait
	taken   bool
	keeps   [len(tokenScopes)]keep
	met     [len(tokenScopes)]*pool // where it has waited before
	exceeds [len(tokenScopes)]bool  // a limit that only reports: it has no token
}

// hasMet reports whether the request has waited in a pool before: in this one, or in one of the
// same key, which its node has forgotten since.
func (d *Draw) hasMet(p *pool, i int) bool { return d.met[i] != nil && d.met[i].key == p.key }

// keep is one token that is kept for a request.
type keep struct {
	pool *pool
	lost uint32 // of the pool then
}

// holds reports whether it is of a pool, and still kept there. Needs the pool's lock.
func (k keep) holds(p *pool) bool { return k.pool == p && k.lost == p.lost }

// NewDraw returns a draw that has taken nothing yet. It has waited already for a while.
func NewDraw(subject *limit.Subject, waited time.Duration) *Draw {
	return &Draw{subject: subject, waited: waited}
}

// Taken reports whether all tokens have been taken.
func (d *Draw) Taken() bool { return d.taken }

// Take is the slow path: the request takes all its tokens, or waits where one is lacking. It
// returns the waiter; where that is nil without an error, and Taken does not say that all is there,
// and also when the waiter has got its answer, Take is to be called again. After an error, or where
// nobody calls it again, Forsake must follow.
func (n *Node) Take(now time.Duration, d *Draw, done func(error)) (*Waiter, error) {
	if !d.begun {
		d.begun, d.since = true, now
	}
	table := n.table.Load()
	if table == nil {
		return nil, ErrNoLease
	}
	ps := n.tokenPools(now, table, d.subject)
	defer ps.unpin()
	d.exceeds = [len(tokenScopes)]bool{}
	short, v := n.takeAll(now, table, &ps, d)
	if v == verdictAdmitted {
		n.took(now, &ps, d)
		return nil, nil
	}
	p := ps[short]
	returns := d.hasMet(p, short)
	for i := range d.keeps {
		if d.keeps[i].pool != nil && !(returns && ps[i] != nil && slower(table, ps[i], p)) {
			n.unkeep(now, d, i)
		}
	}
	n.lock(p)
	defer p.mu.Unlock()
	d.met[short] = p
	return n.wait(now, p, v, &Waiter{draw: d, at: short, since: d.since, returns: returns}, done)
}

// tokenPools finds or makes the pools of a subject, and lets them take all events that concern
// them. They stay in the book until they are unpinned.
func (n *Node) tokenPools(now time.Duration, table *limit.Table, s *limit.Subject) (ps tokenPools) {
	for i, scope := range tokenScopes {
		if l, name := table.Find(scope, s); l.Caps(limit.Requests) {
			ps[i] = n.pool(now, limit.Key{Scope: scope, Resource: limit.Requests, Name: name})
			n.lock(ps[i])
			n.settleTable(now, ps[i], table)
			ps[i].pinned = true
			ps[i].mu.Unlock()
		}
	}
	return ps
}

func (ps *tokenPools) unpin() {
	for _, p := range ps {
		if p != nil {
			p.pinned = false
		}
	}
}

// slower reports whether p's tokens come more slowly than q's.
func slower(t *limit.Table, p, q *pool) bool {
	x, y := t.Governing(p.key).PerSecond(limit.Requests), t.Governing(q.key).PerSecond(limit.Requests)
	return x < y || x == y && p.key.Scope < q.key.Scope
}

// took follows up what takeAll has taken.
func (n *Node) took(now time.Duration, ps *tokenPools, d *Draw) {
	d.taken = true
	for i := range d.keeps {
		n.unkeep(now, d, i) // of limits that it is under no more
	}
	for i, p := range ps {
		if p == nil {
			continue
		}
		n.lock(p)
		if d.exceeds[i] {
			n.haunt(now, p, &Waiter{draw: d, at: i})
		}
		if d.met[i] != nil {
			n.mark(p)
		}
		if p.slow {
			n.settle(now, p)
		}
		p.mu.Unlock()
	}
}

// unkeep leaves a token to others that was kept for a request.
func (n *Node) unkeep(now time.Duration, d *Draw, i int) {
	p := d.keeps[i].pool
	if p == nil {
		return
	}
	n.lock(p)
	defer p.mu.Unlock()
	if d.keeps[i].holds(p) {
		p.kept--
		n.settle(now, p)
	}
	d.keeps[i] = keep{}
}

// Forsake leaves all to others that was kept for a request that does not go on.
func (n *Node) Forsake(now time.Duration, d *Draw) {
	for i := range d.keeps {
		n.unkeep(now, d, i)
	}
}
