package leasetest

import (
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// worker is one client of one process.
type worker struct {
	x    *process
	dice dice
	Worker
	subject limit.Subject
	host    int // in the upstream's list
}

// The events of a worker.
const evAsk uint8 = iota

func (k *worker) act(uint8, int64) {
	if !k.x.idle && !k.x.w.silent(k.x, &k.dice, k, evAsk, 0) {
		k.ask()
	}
}

func (x *process) startWorkers() {
	for i, plan := range x.w.plan.Workers {
		if plan.Node != x.index || x.twin && i >= 2*len(x.w.plan.Workers)/3 {
			continue
		}
		k := &worker{x: x, Worker: plan, dice: newDice(x.w.plan.Seed, 4, uint64(i), uint64(x.life))}
		k.host = x.w.up.hostOf(plan.Host)
		k.subject, _ = plan.subject()
		x.at(k.dice.upTo(plan.Pause.D()), false, k, evAsk, 0)
	}
}

// again asks once more after a while.
func (k *worker) again(served bool) {
	wait := k.Pause.D()
	if served {
		wait /= 10
	}
	k.x.at(wait/2+k.dice.upTo(wait), false, k, evAsk, 0)
}

func (k *worker) ask() {
	c := &conn{x: k.x, w: k.x.w, k: k, host: k.host, hold: k.Hold.D()/2 + k.dice.upTo(k.Hold.D())}
	c.done = func(_ *conn, served bool) { k.again(served) }
	c.ask(k.subject)
	if k.Leave > 0 && c.state == connWaits {
		k.x.at(k.dice.upTo(k.Leave.D()), true, c, evLeave, c.uses)
	}
}

// conn is one connection of a worker, from the request to the release of its slot, and whatever
// requests are served on it.
type conn struct {
	w    *world
	x    *process
	k    *worker // nil: of a test
	host int
	hold time.Duration
	done func(c *conn, served bool)
	// onDial, if not nil, is told when all is there that the request needs.
	onDial func(*conn)

	subject limit.Subject
	slot    *lease.Slot
	request *lease.Request // in hand; nil: none, or the plan has no limit that would count it
	draw    *lease.Draw    // of its tokens; nil: it needs none, or got them at once
	tokens  []limit.Key    // that it has taken, and the upstream has yet to count
	claims  [claimScopes]claim
	swapped bool // it takes its claims in another order, where that rule is broken

	waiter  *lease.Waiter
	drawing bool          // it waits for a token
	waits   int64         // how often it has waited
	uses    int64         // how many requests it has served, or tried to
	key     limit.Key     // what it waits for, or waited for last
	waited  time.Duration // for claims
	asked   time.Duration // when it began to wait
	err     error         // of the request
	state   connState
	reuses  bool // it is parked, and a request waits that would use it
	serves  bool // a request, from the moment that it has all it needs to its end
	served  bool
	since   time.Duration // it waits, or was admitted
	opensAt time.Duration // at the upstream
	visible bool          // at the upstream
	listed  bool          // by the upstream, from the dial to the end
	place   int           // in the process's list
	excused bool          // its process was killed while it could not close it
}

type connState uint8

const (
	connWaits connState = iota
	connDials
	connOpen
	connParked
	connEnds
	connGone
)

// The events of a connection.
const (
	evAnswered uint8 = iota
	evExpire
	evLeave
	evOpens // at the upstream
	evOpened
	evHeld
	evHalf
	evLasts
	evReuse
	evBegins
	evEnds // at the upstream
	evReleased
)

func (c *conn) act(kind uint8, n int64) {
	switch kind {
	case evAnswered:
		c.answered()
	case evExpire:
		if c.waiter != nil && c.waits == n {
			c.x.node.Expire(c.x.clock(), c.waiter)
			c.x.after()
		}
	case evLeave:
		if c.uses == n {
			c.leave()
		}
	case evOpens:
		c.w.up.opened(c)
	case evOpened:
		if c.state == connDials {
			c.state = connOpen
			if c.x.idle {
				c.hold = 0
			}
			c.x.at(c.hold, false, c, evHeld, 0)
			if c.k != nil && c.k.Half > 0 {
				c.x.at(max(0, c.hold-c.k.dice.upTo(c.k.Half.D())), false, c, evHalf, 0)
			}
		}
	case evHeld:
		c.holdOver()
	case evHalf:
		c.halfClosed()
	case evLasts:
		c.changeUse((*lease.Node).Lasts)
	case evReuse:
		c.reuse()
	case evBegins:
		if c.uses == n {
			c.beginLate()
		}
	case evEnds:
		c.w.up.ended(c)
	case evReleased:
		c.release()
	}
}

// delay is what a connection's end takes to the upstream, or back.
func (w *world) delay(x *process) time.Duration {
	return w.plan.Upstream.D()/8 + x.dice.upTo(w.plan.Upstream.D()*7/8)
}

// halfClosed is that one side has ended. The other follows, and mostly at once.
func (c *conn) halfClosed() {
	c.changeUse((*lease.Node).HalfClosed)
	if c.k.dice.one(2) {
		c.x.at(c.k.dice.upTo(c.k.Half.D()), false, c, evLasts, 0)
	}
}

// changeUse tells the node what its slots are used for now.
func (c *conn) changeUse(change func(*lease.Node, *lease.Slot) (wanted bool)) {
	if c.state != connOpen {
		return
	}
	x := c.x
	told := func(s *lease.Slot) {
		if change(x.node, s) {
			x.node.Parked(x.clock(), s)
		}
	}
	told(c.slot)
	if c.request != nil {
		c.request.Each(told)
	}
	x.after()
}

func (c *conn) holdOver() {
	if c.state != connOpen {
		return
	}
	x := c.x
	c.moveBytes()
	c.served = true
	if c.k == nil || c.k.Keep == 0 || x.idle {
		c.end()
		return
	}
	c.endRequest()
	c.state = connParked
	x.at(c.k.dice.upTo(c.k.Keep.D()), false, c, evReuse, 0)
	if x.node.Park(c.slot) {
		x.node.Parked(x.clock(), c.slot)
	}
	x.after()
}

// reuse begins another request on the connection, or closes it.
func (c *conn) reuse() {
	if c.state != connParked {
		return
	}
	x := c.x
	if x.idle || c.k.dice.one(3) {
		c.end()
		return
	}
	c.reuses = true
	c.begin()
	c.goOn()
	x.after()
}

// resume takes the connection back into use, for a request that has all else.
func (c *conn) resume() {
	x := c.x
	if !c.reuses || c.state != connParked || !c.lives() || !x.node.Unpark(c.slot, x) {
		c.end()
		return
	}
	c.reuses = false
	c.state = connOpen
	c.serves = true
	c.w.up.serves(c)
	c.moveBytes()
	x.at(c.k.dice.upTo(c.hold), false, c, evHeld, 0)
}

// moveBytes is a byte on its way to the upstream.
func (c *conn) moveBytes() {
	if !c.visible || c.state == connEnds || c.state == connGone {
		return
	}
	if c.lives() || c.w.rule == RuleBytesAfter {
		c.w.up.byte(c)
	}
}

// end closes the connection; the slot is free once the upstream has seen that and said so.
func (c *conn) end() {
	x, w := c.x, c.w
	if c.state >= connEnds {
		return
	}
	c.giveUp()
	c.state = connEnds
	c.serves, c.reuses = false, false
	if w.rule == RuleReleaseEarly {
		c.release()
		w.at(w.endDelay(c), c, evEnds, 0)
		return
	}
	if x.node.Closing(c.slot) {
		x.node.Parked(x.clock(), c.slot)
	}
	at := w.endDelay(c)
	w.at(at, c, evEnds, 0)
	x.at(at+w.delay(x), false, c, evReleased, 0)
	x.after()
}

func (w *world) endDelay(c *conn) time.Duration {
	return max(w.delay(c.x), c.opensAt-w.now)
}

// drop gives back what was never used.
func (c *conn) drop() {
	c.w.up.forget(c)
	c.release()
}

func (c *conn) release() {
	if c.state == connGone {
		return
	}
	c.releaseClaims()
	c.over(c.served)
	c.x.after()
}

func (c *conn) over(served bool) {
	c.state = connGone
	c.serves = false
	c.unlist()
	c.w.up.over(c)
	if served {
		c.w.out.Connections++
		c.x.served[c.host]++
	}
	if c.done != nil {
		c.done(c, served)
	}
}

// die is the kernel closing a dead process's socket; the upstream may be busy for a moment. What
// was made up to excused could not be closed in time.
func (c *conn) die(excused time.Duration) {
	w := c.w
	c.excused = c.since <= excused
	if c.listed && c.state < connEnds && c.opensAt != 0 {
		last := rest*1_000_000/(1_000_000+70_000) - 5*ms
		if len(w.plan.Drift) == 0 {
			last = rest - 5*ms
		}
		at := c.x.dice.upTo(last)
		w.at(max(at, c.opensAt-w.now), c, evEnds, 0)
	} else if c.opensAt == 0 {
		w.up.forget(c)
	}
	c.state = connGone
	c.serves = false
	w.up.over(c)
}

// Sever implements [lease.Holder].
func (c *conn) Sever(why lease.Reason) {
	if c.w.rule == RuleSeverIgnored && why == lease.SeverFenced {
		return
	}
	switch c.state {
	case connWaits:
		c.x.at(0, false, c, evLeave, c.uses)
	case connDials:
		if c.opensAt == 0 {
			return // it will see for itself before it dials
		}
		c.end()
	default:
		c.end()
	}
}
