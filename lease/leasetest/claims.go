package leasetest

import (
	"errors"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// claimedScopes are the scopes in which a connection, or a request on it, holds a claim.
var claimedScopes = [claimScopes]limit.Scope{limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeHost}

const (
	claimScopes = 4
	hostClaim   = claimScopes - 1
)

// claim is what a connection holds in one scope.
type claim struct {
	place   int    // in the upstream's list
	has     bool   // it holds it
	needed  bool   // it needed a slot
	late    bool   // nothing limited it when the request began: a limit that is set later counts it
	table   uint64 // index of the limits that it was admitted by
	session uint64 // by which it was admitted; 0: without one
}

// ask begins the first request.
func (c *conn) ask(s limit.Subject) {
	c.x.Now()
	c.since = c.w.now
	c.subject = s
	c.slot = lease.NewSlot(s.Host, c)
	for i, scope := range claimedScopes {
		c.claims[i].place = noPlace
		if scope == limit.ScopeHost {
			c.claims[i].place = c.host
		} else if c.w.scoped {
			c.claims[i].place = c.w.up.placeOf(scope, &c.subject)
		}
	}
	c.place = len(c.x.conns)
	c.x.conns = append(c.x.conns, c)
	c.w.up.asks(c)
	c.begin()
	c.goOn()
	c.x.after()
}

// begin takes a request in hand.
func (c *conn) begin() {
	c.uses++
	c.draw, c.tokens, c.waited = nil, nil, 0
	c.swapped = c.w.rule == RuleOtherOrder && c.x.dice.one(2)
	if !c.w.scoped || c.reuses && c.w.rule == RuleReusedFree {
		return
	}
	c.request = lease.NewRequest(&c.subject, c)
	c.x.node.Enter(c.request)
	table := c.x.node.Table()
	for i := range c.claims[:hostClaim] {
		c.note(i)
		c.claims[i].late = true
		if table != nil {
			l, _ := table.Find(claimedScopes[i], &c.subject)
			c.claims[i].late = !l.Caps(limit.Connections)
		}
	}
}

// note keeps by which limits and session a claim is admitted.
func (c *conn) note(i int) {
	x, cl := c.x, &c.claims[i]
	cl.table = 0
	if t := x.node.Table(); t != nil {
		cl.table = t.Index
	}
	cl.session = x.node.Session(x.clock()).ID
	// Where a node goes on without a lease, it does so in each pool until its next session's walk has
	// come there: that is no other than to have been admitted a moment before.
	late := c.w.expiry == lease.ExpiryKeep && x.node.Walking()
	if late || x.outlived && c.w.expiry != lease.ExpiryClose {
		cl.session = forgotten
	}
}

// next is the next slot that is to be acquired, and in which scope; nil: none.
func (c *conn) next() (s *lease.Slot, i int) {
	hostNext := !c.claims[hostClaim].has
	if hostNext && c.swapped {
		return c.slot, hostClaim
	}
	if c.request != nil {
		if s := c.request.Next(); s != nil {
			return s, c.scopeOf(s)
		}
	}
	if hostNext {
		return c.slot, hostClaim
	}
	return nil, 0
}

// scopeOf is the scope of one of the request's slots: the core takes them in the order of the
// scopes.
func (c *conn) scopeOf(s *lease.Slot) int {
	for i, scope := range claimedScopes[:hostClaim] {
		if s.Scope() == scope {
			return i
		}
	}
	return hostClaim
}

// got notes that a slot is there.
func (c *conn) got(s *lease.Slot, i int) {
	if i != hostClaim {
		c.request.Got(s)
	}
	c.note(i)
	c.claims[i].has = true
	c.claims[i].needed = s.Limited()
	if at := c.claims[i].place; at != noPlace {
		c.w.up.keys[c.w.up.hosts[at].key].idleGrants = 0
	}
	c.w.up.watch(c.claims[i].place)
}

// goOn takes what the request needs, in order, up to what it must wait for.
func (c *conn) goOn() {
	x := c.x
	for s, i := c.next(); s != nil; s, i = c.next() {
		ok, err := x.node.TryAcquire(s, x)
		if !ok && err == nil {
			var w *lease.Waiter
			w, err = x.node.Acquire(x.Now(), s, c.answer)
			if w != nil {
				c.waitFor(w, c.w.up.keyIn(c.claims[i].place))
				return
			}
		}
		if err != nil {
			c.fail(err)
			return
		}
		c.got(s, i)
	}
	if c.draw == nil && !x.node.TryTake(&c.subject, c.tokenClock()) {
		c.draw = lease.NewDraw(&c.subject, c.waited)
	}
	for c.draw != nil && !c.draw.Taken() {
		w, err := x.node.Take(c.tokenClock().Now(), c.draw, c.answer)
		if w != nil {
			c.drawing = true
			c.waitFor(w, w.Key(x.node.Table()))
			return
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
	if c.draw != nil && !c.reuses && !x.node.Covered(c.slot) { // a limit was set while it waited
		c.giveBack(c.slot)
		c.claims[hostClaim].has = false
		c.w.up.freed(c.claims[hostClaim].place)
		c.slot, c.draw = lease.NewSlot(c.subject.Host, c), nil
		c.goOn()
		return
	}
	c.tokens = c.tokenKeys()
	if c.draw != nil && len(c.tokens) > 1 && c.w.rule == RuleTokensEarly {
		x.at(x.dice.upTo(2*second), false, c, evBegins, c.uses)
		return
	}
	c.countTokens()
	c.admitted()
}

// tokenKeys is of what a request that begins has tokens, by the limits that its node enforces.
func (c *conn) tokenKeys() []limit.Key {
	return tokenKeys(c.x.node.Table(), &c.subject)
}

// tokenKeys is of what a request needs tokens by some limits.
func tokenKeys(table *limit.Table, s *limit.Subject) (keys []limit.Key) {
	for _, scope := range claimedScopes {
		if l, name := table.Find(scope, s); l.Caps(limit.Requests) && !l.Report {
			keys = append(keys, limit.Key{Scope: scope, Resource: limit.Requests, Name: name})
		}
	}
	return keys
}

// beginLate begins a request long after it has taken its tokens, where that rule is broken.
func (c *conn) beginLate() {
	if c.state != connWaits && !c.reuses {
		return
	}
	c.countTokens()
	c.admitted()
	c.x.after()
}

// waitFor notes that the request waits.
func (c *conn) waitFor(w *lease.Waiter, key limit.Key) {
	c.waiter, c.key, c.asked = w, key, c.w.now
	c.w.up.waits(c)
	expires := func(left time.Duration) {
		c.waits++ // an event planned before is void
		c.x.at(left, true, c, evExpire, c.waits)
	}
	expires(w.Patience(c.x.clock()))
	w.Retime(expires)
}

// answer is called by the core, which must not be called back.
func (c *conn) answer(err error) {
	c.err = err
	c.waiter = nil
	c.w.up.unwait(c)
	if !c.drawing {
		c.waited += c.w.now - c.asked
		if err == nil {
			s, i := c.next()
			c.got(s, i)
		}
	}
	c.drawing = false
	c.x.at(0, false, c, evAnswered, c.uses)
}

func (c *conn) answered() {
	switch {
	case c.state == connGone || c.state == connEnds || c.waiter != nil:
	case c.state != connWaits && !c.reuses:
	case c.err != nil:
		c.fail(c.err)
		c.x.after()
	default:
		c.goOn()
		c.x.after()
	}
}

// fail ends a request that was refused: all that it holds goes back.
func (c *conn) fail(err error) {
	c.err = err
	c.w.up.refused(c)
	if c.reuses {
		c.end()
		return
	}
	c.forsake()
	if c.w.rule != RuleKeepsClaims {
		c.releaseClaims()
	}
	c.over(false)
}

// leave ends a request that waits, for a worker that went away, or whose claims were severed.
func (c *conn) leave() {
	switch {
	case c.state != connWaits:
		return
	case c.waiter == nil:
		return // the answer is on its way, and it will see for itself before it dials
	case !c.x.node.Cancel(c.x.clock(), c.waiter):
		return
	}
	c.w.up.left(c)
	c.waiter, c.drawing = nil, false
	c.forsake()
	c.releaseClaims()
	c.over(false)
	c.x.after()
}

// giveUp ends the wait of a request on a connection that ends.
func (c *conn) giveUp() {
	if c.reuses {
		if c.waiter != nil {
			c.x.node.Cancel(c.x.clock(), c.waiter)
			c.waiter, c.drawing = nil, false
			c.w.up.unwait(c)
		}
		c.forsake()
	}
}

// admitted goes on once all is there.
func (c *conn) admitted() {
	if c.reuses {
		c.resume()
		return
	}
	c.state = connDials
	c.serves = true
	c.since = c.w.now
	c.w.up.dials(c)
	c.dial()
}

// lives reports whether the connection, and the request on it, may go on.
func (c *conn) lives() bool {
	return c.x.node.Live(c.slot, c.x) && (c.request == nil || c.x.node.Serves(c.request, c.x))
}

func (c *conn) dial() {
	x := c.x
	if !c.lives() {
		c.drop()
		return
	}
	if c.onDial != nil {
		c.onDial(c)
	}
	c.opensAt = c.w.now + x.dice.upTo(c.w.plan.Upstream.D())
	c.w.at(c.opensAt-c.w.now, c, evOpens, 0)
	x.at(c.opensAt-c.w.now+c.w.delay(x), false, c, evOpened, 0)
}

// endRequest gives back what the request holds, and the connection keeps its own.
func (c *conn) endRequest() {
	c.serves = false
	if c.request == nil {
		return
	}
	for _, s := range c.request.Leave() {
		if s != nil {
			c.giveBack(s)
		}
	}
	c.request = nil
	for i := range c.claims[:hostClaim] {
		if cl := &c.claims[i]; cl.has || cl.late {
			cl.has, cl.late = false, false
			if cl.place != noPlace {
				c.w.up.freed(cl.place)
			}
		}
	}
}

func (c *conn) releaseClaims() {
	c.endRequest()
	if cl := &c.claims[hostClaim]; cl.has {
		c.giveBack(c.slot)
		cl.has = false
		c.w.up.freed(cl.place)
	}
}

func (c *conn) giveBack(s *lease.Slot) {
	if !c.x.node.TryRelease(s) {
		c.x.node.Release(c.x.clock(), s)
	}
}

// unlist takes it out of its process's list.
func (c *conn) unlist() {
	x := c.x
	last := len(x.conns) - 1
	x.conns[c.place] = x.conns[last]
	x.conns[c.place].place = c.place
	x.conns[last] = nil
	x.conns = x.conns[:last]
}

// countTokens lets the upstream count the tokens of a request that begins.
func (c *conn) countTokens() {
	for _, key := range c.tokens {
		c.w.up.took(c, key)
	}
	c.tokens = nil
}

// forsake gives up what is kept for a request that does not go on.
func (c *conn) forsake() {
	if c.draw != nil {
		c.x.node.Forsake(c.x.clock(), c.draw)
	}
}

// tokenClock is the clock that tokens are taken by.
func (c *conn) tokenClock() lease.Clock {
	if c.w.rule == RuleTokensLate {
		return lastTick{c.x}
	}
	return c.x
}

// lastTick is a clock that stands still between a process's looks at its own.
type lastTick struct{ *process }

// Now implements [lease.Clock].
func (t lastTick) Now() (now time.Duration) { return t.looked }

// isLimit reports whether an error says which limit was in the way.
func isLimit(err error) (e *lease.LimitError, ok bool) {
	ok = errors.As(err, &e)
	return e, ok
}
