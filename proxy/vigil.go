package proxy

import (
	"sync/atomic"
	"time"
)

// An exchange has one bound: response_timeout without a byte in either direction.
// docs/architecture.md lists its states and how each ends. Reads and writes pay nothing for it: the
// kernel's byte counts of lasting exchanges are sampled.

// vigil detects exchanges that last, and those in which nothing moves, without setting a timer for
// each: one timer per client fires now and then, as long as there are exchanges. If it finds the
// same exchange twice, it starts watching the client for a hang-up. An exchange that has carried
// nothing for response_timeout is given up.
//
// docs/architecture.md ("Who waits for whom") lists the states in which one side of an exchange
// waits for another, and how each ends.
type vigil struct {
	timer *time.Timer
	turn  atomic.Uint32 // incremented at each begin and end: odd during an exchange
	armed atomic.Bool   // the timer runs

	// Used by the timer's goroutine only.
	seen    uint32    // the turn when the timer last fired
	carried uint64    // bytes on both connections then
	since   time.Time // when carried last changed
}

// vigilEvery bounds the time between two checks of a lasting exchange. It is also the time until a
// changed response_timeout takes effect.
const vigilEvery = 5 * time.Second

// beginVigil begins to observe an exchange.
func (x *exchange) beginVigil() {
	v := &x.vigil
	v.turn.Add(1)
	if !v.armed.Load() && !v.armed.Swap(true) {
		v.timer.Reset(x.nextLook())
	}
}

func (v *vigil) end() { v.turn.Add(1) }

// nextLook returns the time to the next check. It is short until the client is watched.
func (x *exchange) nextLook() time.Duration {
	if !x.c.sock.Watched() {
		return watchDelay
	}
	limit := x.c.srv.policy.Load().ResponseTimeout
	if limit <= 0 {
		return vigilEvery
	}
	return min(max(limit/8, time.Millisecond), vigilEvery)
}

// look is called when the timer fires.
func (x *exchange) look() {
	v := &x.vigil
	turn := v.turn.Load()
	switch {
	case turn%2 == 0:
		v.armed.Store(false)
		if v.turn.Load() != turn && !v.armed.Swap(true) { // an exchange began just now and saw the timer armed
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

// lookStalled gives the exchange up if nothing has moved for too long.
func (x *exchange) lookStalled(now time.Time) {
	c, v := x.c, &x.vigil
	c.mu.Lock()
	f := c.flow
	c.mu.Unlock()
	if f == nil || !f.isBusy() {
		v.since = now
		return
	}
	stuck := c.sock.IsStuck()
	if stuck {
		f.watchPeers(c) // meanwhile nothing reads the upstream
	}
	paced := c.sock.AwaitsMeter() || f.upstream.AwaitsMeter() // such an exchange is alive
	if carried := f.upstream.Carried() + c.sock.Carried(); carried != v.carried || paced {
		v.carried, v.since = carried, now
	}
	limit := c.srv.policy.Load().ResponseTimeout
	switch {
	case stuck && f.endCause() != nil:
		c.sock.Reset() // given up already, but this write still waits
	case limit <= 0 || now.Sub(v.since) < limit:
	case stuck:
		f.abort(errClientStalled)
	case !x.read.Load() && !f.upstream.IsStuck():
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

// giveUp ends a plain exchange of c by force, and leaves the answer to the owner if none has begun.
// It returns false if f is not such an exchange. It doesn't block.
func (f *flow) giveUp(c *conn, cause error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c == nil || f.phase != phaseBusy || f.client != c || Kind(f.kind.Load()) != KindHTTP || f.cause.Load() != nil {
		return false
	}
	f.endFor(cause)
	f.client = nil
	go f.resetUpstream()
	return true
}
