package proxy

import (
	"net/netip"
	"time"

	"github.com/weirproxy/weir/proxy/sock"
)

// retire closes a parked connection gracefully; in other phases it does nothing. It doesn't block.
func (f *flow) retire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != phaseParked {
		return
	}
	f.phase = phaseEnding
	go func() {
		f.srv.idle.remove(f)
		f.closeIdle()
	}()
}

// closeSoon closes a connection that its owner no longer needs. It doesn't block.
func (f *flow) closeSoon() {
	f.leave()
	go f.closeIdle()
}

// closeNow is closeSoon for a caller that needs the slot: it waits until the connection is closed.
func (f *flow) closeNow() {
	f.leave()
	f.closeIdle()
}

// leave detaches the flow from its client.
func (f *flow) leave() {
	f.mu.Lock()
	f.phase, f.client = phaseEnding, nil
	f.stall.stop()
	f.mu.Unlock()
	f.slot.Closing()
}

// closeIdle sends a FIN and finishes once the upstream has sent its own. If too many connections
// are waiting like this, it resets instead: slow upstreams must not use up the descriptors that
// clients need. The flow is in phaseEnding.
func (f *flow) closeIdle() {
	closings := &f.srv.closings
	defer closings.Add(-1)
	if closings.Add(1) > int64(cap(f.srv.places)/closingShare+1) {
		f.finish(endReset)
		return
	}
	up := f.upstream
	timeout := min(f.srv.policy.Load().HalfCloseTimeout, lingerTimeout)
	if up.CloseWrite() != nil || !sock.Drained(up, timeout) || !up.AwaitClosed(timeout) {
		f.finish(endReset)
		return
	}
	f.finish(endClean)
}

// park makes the connection available for reuse; false means that it can't be kept, and that the
// caller still owns it.
func (f *flow) park(now time.Time) bool {
	s := f.srv
	f.mu.Lock()
	if f.cause.Load() != nil || f.upstreamGone || s.draining.Load() {
		f.mu.Unlock()
		return false
	}
	f.phase, f.client = phaseParked, nil
	f.idleUntil = now.Add(upstreamIdleTimeout)
	f.stall.forget()
	if !f.stall.armed {
		f.stall.reset(upstreamIdleTimeout, f.tick)
	}
	f.mu.Unlock()

	// Tell the lease first and publish the connection afterwards: in the other order a connection
	// could be taken into use and then be marked as parked. The lease may have retired it before it
	// is in the pool.
	f.slot.Park()
	f.kind.Store(uint32(KindIdle)) // stored after Park: a connection shown as idle can be withdrawn
	put := s.idle.put(f)
	if !f.upstream.Watched() {
		s.hangups.Add(f.upstream, f.upstreamHungUp)
	}
	switch {
	case put == 0 || s.draining.Load() || f.forbidden() != nil:
		f.retire() // the decision may have come before the pool had the connection
	case !f.isParked():
		s.idle.withdraw(f, put) // it was retired before; or another request has it, or has parked it again
	}
	return true
}

// forbidden returns the reason why the connection, which carries plain requests, would not be
// allowed any more, or nil. What allowed it before is not asked again.
func (f *flow) forbidden() error {
	if p := f.srv.policy.Load(); f.plain.allowedBy.Load() != p {
		if !p.allowsDestination(f.addr) {
			return errProhibited
		}
		f.plain.allowedBy.Store(p)
	}
	if ports := f.srv.forbidden.Load(); f.plain.avoids.Load() != ports {
		if why := ports.check(netip.AddrPortFrom(f.addr, f.target.Port)); why != nil {
			return why
		}
		f.plain.avoids.Store(ports)
	}
	return nil
}

// forbiddenSince returns the reason why the connection, which has just been made, would not have
// been begun, if the forbidden ports are others than they were.
func (f *flow) forbiddenSince(then *forbidden) error {
	if now := f.srv.forbidden.Load(); now != then {
		return now.check(netip.AddrPortFrom(f.addr, f.target.Port))
	}
	return nil
}

// avoid ends the connection if it leads to one of the ports. It doesn't block.
func (f *flow) avoid(ports *forbidden) {
	f.mu.Lock()
	phase := f.phase
	if phase != phaseBusy && phase != phaseParked {
		f.mu.Unlock()
		return
	}
	addr := netip.AddrPortFrom(f.addr, f.target.Port) // set in these phases
	f.mu.Unlock()
	why := ports.check(addr)
	switch {
	case why == nil:
	case phase == phaseParked:
		f.retire()
	default:
		f.abort(why)
	}
}

func (f *flow) isParked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phase == phaseParked
}

// unpark takes the connection out of the idle phase; false means that it could not and is being
// closed. A request that can't be repeated takes no connection that has been idle for longer than
// unsafeIdle. The connection has no client until occupy; the caller must check that the upstream
// has sent nothing meanwhile.
func (f *flow) unpark(repeatable bool, now time.Time) bool {
	f.mu.Lock()
	if f.phase != phaseParked {
		f.mu.Unlock()
		return false
	}
	f.phase = phaseBusy
	f.plain.reused = true
	gone := f.upstreamGone || f.idleTooLong(repeatable, now)
	f.mu.Unlock()
	switch {
	case !f.slot.Unpark() || f.forbidden() != nil:
		f.closeSoon()
	case gone || !f.slot.Live():
		f.closeNow() // the caller needs its slot next
	default:
		f.kind.Store(uint32(KindHTTP))
		return true
	}
	return false
}

// idleTooLong reports whether the request must not take the connection, because the upstream may be
// about to close it.
func (f *flow) idleTooLong(repeatable bool, now time.Time) bool {
	return !repeatable && f.idleUntil.Sub(now) < upstreamIdleTimeout-unsafeIdle
}

// occupy gives an unparked connection to c, for the request that has the claims; false means that it
// has been ended by force, and must be finished.
func (f *flow) occupy(c *conn, claims Claims) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause.Load() != nil {
		return false
	}
	f.client, f.claims = c, claims
	return true
}

// parkAgain parks an unparked connection that was not used. It stays idle since it was parked
// first.
func (f *flow) parkAgain() {
	if f.endCause() != nil {
		f.finish(endReset)
	} else if !f.park(f.idleUntil.Add(-upstreamIdleTimeout)) {
		f.closeSoon()
	}
}
