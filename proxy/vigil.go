package proxy

import (
	"sync/atomic"
	"time"
)

// vigil finds out that an exchange lasts, and that nothing moves in it, without setting a timer for
// each: one that runs out every now and then, as long as there are exchanges. An exchange that it
// finds twice has the hang-up watcher told of the client's end, for good; one that has carried
// nothing for response_timeout is given up.
//
// docs/architecture.md ("Who waits for whom") lists the states of an exchange in which one side
// waits for another, and the way out of each.
type vigil struct {
	timer *time.Timer
	turn  atomic.Uint32 // odd while an exchange is under way
	armed atomic.Bool   // the timer runs

	// The timer's alone.
	seen    uint32    // the turn when it ran out last
	carried uint64    // by both connections, then
	since   time.Time // it has been so
}

// vigilEvery bounds the time between two looks at an exchange that lasts: a response_timeout that
// is changed counts after it.
const vigilEvery = 5 * time.Second

// beginVigil says that an exchange begins.
func (x *exchange) beginVigil() {
	v := &x.vigil
	v.turn.Add(1)
	if !v.armed.Load() && !v.armed.Swap(true) {
		v.timer.Reset(x.nextLook())
	}
}

func (v *vigil) end() { v.turn.Add(1) }

// nextLook is the time until the timer runs out: short until the client is watched.
func (x *exchange) nextLook() time.Duration {
	if !x.c.sock.watch.on() {
		return watchDelay
	}
	limit := x.c.srv.policy.Load().ResponseTimeout
	if limit <= 0 {
		return vigilEvery
	}
	return min(max(limit/8, time.Millisecond), vigilEvery)
}

// look is called when the timer has run out.
func (x *exchange) look() {
	v := &x.vigil
	turn := v.turn.Load()
	switch {
	case turn%2 == 0:
		v.armed.Store(false)
		if v.turn.Load() != turn && !v.armed.Swap(true) { // begun just now, and found the timer armed
			v.timer.Reset(x.nextLook())
		}
		return
	case turn != v.seen:
		v.seen, v.since = turn, time.Now()
	default:
		x.c.watch()
		x.lookStalled(time.Now())
	}
	v.timer.Reset(x.nextLook())
}

// lookStalled gives an exchange up in which nothing has moved for too long.
func (x *exchange) lookStalled(now time.Time) {
	c, v := x.c, &x.vigil
	c.mu.Lock()
	f := c.flow
	c.mu.Unlock()
	if f == nil || !f.isBusy() {
		v.since = now
		return
	}
	stuck := c.sock.stuck.Load()
	if stuck {
		f.watchPeers(c) // nobody reads the upstream
	}
	if carried := f.upstream.carried() + c.sock.carried(); carried != v.carried {
		v.carried, v.since = carried, now
	}
	limit := c.srv.policy.Load().ResponseTimeout
	switch {
	case stuck && f.endCause() != nil:
		c.sock.reset() // it was given up just before
	case limit <= 0 || now.Sub(v.since) < limit:
	case stuck:
		f.abort(errClientStalled)
	case !x.read.Load() && !f.upstream.stuck.Load():
		f.giveUp(c, errClientStalled)
	default:
		f.giveUp(c, errUpstreamStalled)
	}
}

// isBusy reports whether a client uses the connection.
func (f *flow) isBusy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phase == phaseBusy
}

// giveUp ends a plain exchange of c's by force, and leaves it to its owner to answer where no
// answer has begun. It reports whether there was one, and doesn't block.
func (f *flow) giveUp(c *client, cause error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c == nil || f.phase != phaseBusy || f.client != c || Kind(f.kind.Load()) != KindHTTP || f.cause != nil {
		return false
	}
	f.cause, f.client = cause, nil
	go f.resetUpstream()
	return true
}
