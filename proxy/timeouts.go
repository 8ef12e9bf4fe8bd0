package proxy

import "time"

// stallTimer detects that nothing moves on a flow: for half_close_timeout after a FIN, or for
// tunnel_idle_timeout before one. It samples the byte counts instead of being reset for each byte,
// so that relaying costs nothing; a stall is noticed up to an eighth of the limit late. Guarded by
// the flow's mu.
type stallTimer struct {
	timer    *time.Timer
	armed    bool // the timer runs
	limit    time.Duration
	half     bool // after a FIN; limit is half_close_timeout
	watching bool
	lasts    bool      // longer than most half-closed tunnels
	moved    uint64    // the last sample
	since    time.Time // when moved last changed
}

func (t *stallTimer) reset(d time.Duration, tick func()) {
	t.armed = true
	if t.timer == nil {
		t.timer = time.AfterFunc(d, tick)
		return
	}
	t.timer.Reset(d)
}

// stop ends the watch and clears the samples.
func (t *stallTimer) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.armed = false
	t.forget()
}

// forget clears the samples but leaves the timer running: a kept-alive connection is used and
// parked thousands of times before the timer fires. tick then finds nothing to do, or waits for the
// rest of the idle time.
func (t *stallTimer) forget() { t.limit, t.half, t.watching, t.lasts = 0, false, false, false }

// interval returns the time between two samples.
func (t *stallTimer) interval() time.Duration { return max(t.limit/8, time.Millisecond) }

// watchIdle starts a tunnel's idle timeout; 0 is none.
func (f *flow) watchIdle(limit time.Duration) {
	if limit <= 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != phaseBusy || f.stall.half {
		return
	}
	f.stall.limit, f.stall.since, f.stall.moved = limit, time.Now(), f.moved()
	f.stall.reset(f.stall.interval(), f.tick)
}

// halfClosed starts the half-close timeout: one side has sent its FIN, or can't be written to any
// more. For a while requests without a queue wait for the other side's end, which mostly follows: a
// client that has closed its tunnel opens the next one at once.
func (f *flow) halfClosed() {
	f.mu.Lock()
	if f.phase != phaseBusy || f.stall.half {
		f.mu.Unlock()
		return
	}
	slot, claims := f.slot, f.claims
	f.stall.half, f.stall.limit = true, f.srv.policy.Load().HalfCloseTimeout
	f.stall.since, f.stall.moved = time.Now(), 0
	f.stall.reset(watchDelay, f.tick) // most tunnels are over before
	f.mu.Unlock()
	if Kind(f.kind.Load()) == KindHTTP {
		return
	}
	slot.HalfClosed()
	if claims != nil {
		claims.HalfClosed()
	}
}

// tick checks the flow when its timer fires.
func (f *flow) tick() {
	f.mu.Lock()
	phase, t := f.phase, &f.stall
	t.armed = false
	lasts := phase == phaseBusy && t.half && t.watching && !t.lasts && Kind(f.kind.Load()) != KindHTTP
	t.lasts = t.lasts || lasts
	if phase == phaseBusy && t.half && !t.watching {
		t.watching = true
		f.watchPeers(f.client)
	}
	now := time.Now()
	var cause error
	overdue := false
	switch {
	case phase == phaseParked:
		if overdue = !now.Before(f.idleUntil); !overdue {
			t.reset(f.idleUntil.Sub(now), f.tick)
		}
	case phase == phaseBusy && t.limit > 0:
		if moved := f.moved(); moved != t.moved || f.slumber.starved != 0 { // a paced tunnel is alive
			t.moved, t.since = moved, now
		}
		switch {
		case now.Sub(t.since) < t.limit:
			t.reset(t.interval(), f.tick)
		case t.half:
			cause = errHalfClose
		default:
			cause = errIdle
		}
	}
	slot, claims := f.slot, f.claims
	f.mu.Unlock()
	if lasts {
		slot.Lasts()
		if claims != nil {
			claims.Lasts()
		}
	}
	switch {
	case cause != nil:
		f.abort(cause)
	case overdue:
		f.retire()
	}
}

// moved grows with every byte relayed. After a FIN it also grows with every byte that a peer
// acknowledges, so that a slow reader of the last megabyte is not taken for a dead one.
func (f *flow) moved() uint64 {
	sum := f.in.Load() + f.out.Load()
	if f.stall.half {
		sum += f.upstream.Acked()
		if f.client != nil {
			sum += f.client.sock.Acked()
		}
	}
	return sum
}

// Blocked implements [sock.Tunnel]. It is called when a write has to wait: meanwhile nothing reads
// the other side, whose end must be noticed.
func (f *flow) Blocked() {
	f.mu.Lock()
	c := f.client
	f.mu.Unlock()
	f.watchPeers(c)
}

// watchPeers starts watching both ends for hang-ups; a second call does nothing.
func (f *flow) watchPeers(c *conn) {
	if c != nil {
		c.watch()
	}
	if !f.upstream.Watched() {
		f.srv.hangups.Add(f.upstream, f.upstreamHungUp)
	}
}
