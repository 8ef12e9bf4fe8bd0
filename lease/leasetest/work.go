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
	target limit.Target
	host   int // in the upstream's list
}

// The events of a worker.
const evAsk uint8 = iota

func (k *worker) act(uint8, int64) {
	if !k.x.idle {
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
		k.target = x.w.up.hosts[k.host].target
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
	c.ask(k.target)
	if k.Leave > 0 && c.state == connWaits {
		k.x.at(k.dice.upTo(k.Leave.D()), true, c, evLeave, 0)
	}
}

// conn is one connection of a worker, from the request to the release of its slot.
type conn struct {
	w    *world
	x    *process
	k    *worker // nil: of a test
	host int
	slot *lease.Slot
	hold time.Duration
	done func(c *conn, served bool)
	// onDial, if not nil, is told when the slot is there.
	onDial func(*conn)

	waiter  *lease.Waiter
	err     error // of the request
	state   connState
	served  bool
	since   time.Duration // it waits, or was admitted
	table   uint64        // index of the limits that it was admitted by
	session uint64        // by which it was admitted; 0: without one
	held    bool          // it needed a slot
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
	evReuse
	evEnds // at the upstream
	evReleased
)

func (c *conn) act(kind uint8, _ int64) {
	switch kind {
	case evAnswered:
		c.answered()
	case evExpire:
		if c.state == connWaits && c.waiter != nil {
			c.x.node.Expire(c.x.clock(), c.waiter)
			c.x.after()
		}
	case evLeave:
		if c.state == connWaits && c.waiter != nil && c.x.node.Cancel(c.waiter) {
			c.waiter = nil
			c.over(false)
			c.x.after()
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
		}
	case evHeld:
		c.holdOver()
	case evReuse:
		c.reuse()
	case evEnds:
		c.w.up.ended(c)
	case evReleased:
		c.release()
	}
}

func (c *conn) ask(target limit.Target) {
	x := c.x
	now := x.Now()
	c.since = c.w.now
	c.slot = lease.NewSlot(target, c)
	if ok, err := x.node.TryAcquire(c.slot, x); ok || err != nil {
		c.err = err
		c.admitted()
		return
	}
	waiter, err := x.node.Acquire(now, c.slot, c.answer)
	switch {
	case waiter != nil:
		c.waiter = waiter
		c.w.up.waits(c)
		x.at(waiter.Patience(), true, c, evExpire, 0)
	default:
		c.err = err
		c.admitted()
	}
	x.after()
}

// answer is called by the core, which must not be called back.
func (c *conn) answer(err error) {
	c.err = err
	c.waiter = nil
	if err == nil {
		c.note()
	}
	c.x.at(0, false, c, evAnswered, 0)
}

func (c *conn) answered() {
	switch {
	case c.state == connGone:
	case c.err != nil:
		c.w.up.refused(c)
		c.over(false)
	default:
		c.dial()
	}
}

// note keeps by which limits and session the connection was admitted.
func (c *conn) note() {
	x := c.x
	if t := x.node.Table(); t != nil {
		c.table = t.Index
	}
	c.session = x.node.Session(x.clock()).ID
	if x.outlived && c.w.expiry != lease.ExpiryClose {
		c.session = forgotten
	}
	c.held = c.slot.Limited()
	c.state = connDials
	c.since = c.w.now
	c.w.up.dials(c)
	c.place = len(x.conns)
	x.conns = append(x.conns, c)
}

// admitted goes on with the answer.
func (c *conn) admitted() {
	if c.err != nil {
		c.w.up.refused(c)
		c.over(false)
		return
	}
	c.note()
	c.dial()
}

func (c *conn) dial() {
	x := c.x
	if c.state != connDials || !x.node.Live(c.slot, x) {
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

// delay is what a connection's end takes to the upstream, or back.
func (w *world) delay(x *process) time.Duration {
	return w.plan.Upstream.D()/8 + x.dice.upTo(w.plan.Upstream.D()*7/8)
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
	c.state = connParked
	x.at(c.k.dice.upTo(c.k.Keep.D()), false, c, evReuse, 0)
	if x.node.Park(c.slot) {
		x.node.Parked(x.clock(), c.slot)
		x.after()
	}
}

// reuse takes the connection back into use, or closes it.
func (c *conn) reuse() {
	if c.state != connParked {
		return
	}
	x := c.x
	if x.idle || c.k.dice.one(3) || !x.node.Unpark(c.slot, x) {
		c.end()
		return
	}
	c.state = connOpen
	c.moveBytes()
	x.at(c.k.dice.upTo(c.hold), false, c, evHeld, 0)
}

// moveBytes is a byte on its way to the upstream.
func (c *conn) moveBytes() {
	if !c.visible || c.state == connEnds || c.state == connGone {
		return
	}
	if c.x.node.Live(c.slot, c.x) || c.w.rule == RuleBytesAfter {
		c.w.up.byte(c)
	}
}

// end closes the connection; the slot is free once the upstream has seen that and said so.
func (c *conn) end() {
	x, w := c.x, c.w
	if c.state >= connEnds {
		return
	}
	c.state = connEnds
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

// drop gives a slot back that was never used.
func (c *conn) drop() {
	c.w.up.forget(c)
	c.release()
}

func (c *conn) release() {
	x := c.x
	if c.state == connGone {
		return
	}
	last := len(x.conns) - 1
	x.conns[c.place] = x.conns[last]
	x.conns[c.place].place = c.place
	x.conns[last] = nil
	x.conns = x.conns[:last]
	if !x.node.TryRelease(c.slot) {
		x.node.Release(x.clock(), c.slot)
	}
	c.over(c.served)
	x.after()
}

func (c *conn) over(served bool) {
	c.state = connGone
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
	w.up.over(c)
}

// Sever implements [lease.Holder].
func (c *conn) Sever(why lease.Reason) {
	if c.w.rule == RuleSeverIgnored && why == lease.SeverFenced {
		return
	}
	switch c.state {
	case connWaits:
	case connDials:
		if c.opensAt == 0 {
			return // it will see for itself before it dials
		}
		c.end()
	default:
		c.end()
	}
}
