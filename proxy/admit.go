package proxy

import (
	"context"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
)

// Admitter hands out the right to open upstream connections.
type Admitter interface {
	// Acquire waits for a slot as long as the limit's queue allows, or until ctx ends. The
	// holder may be severed from the moment it has the slot, before Acquire returns.
	Acquire(ctx context.Context, t fsm.Target, h lease.Holder) (Slot, error)
}

// Slot is the right to one upstream connection.
type Slot interface {
	// Release gives the slot back; further calls do nothing.
	Release()
	// Park says that the connection is idle: it may be severed with SeverWanted.
	Park()
	// Unpark takes the connection into use again; false says that it was taken away.
	Unpark() bool
	// Closing says that the connection is coming to its end; Release follows.
	Closing()
	// Live reports whether another byte may be read or written.
	Live() bool
	// Limited reports whether the slot counts against a limit.
	Limited() bool
	// Waited is how long Acquire waited.
	Waited() time.Duration
	// Key is what the slot is counted under.
	Key() fsm.Key
}

// open admits one upstream connection for c and dials it. On failure the slot is given back
// and the refusal says what to answer; it is nil where the client has gone, and nobody is left to be told.
// f is fresh, and already known to c's hang-up handler.
func (f *flow) open(c *client) (ok bool, _ *refusal) {
	s := f.srv
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	if !f.admitting(cancel) {
		return false, refuseCause(f.endCause(), s.policy.Load())
	}
	timer := time.AfterFunc(watchDelay, c.watch)
	defer timer.Stop()

	slot, err := s.admitter.Acquire(ctx, f.target, f)
	if err != nil {
		f.finish(endUnused)
		if cause := f.endCause(); cause != nil {
			return false, refuseCause(cause, s.policy.Load())
		}
		return false, refuseAdmission(err, s.policy.Load().RejectStatus)
	}
	f.admitted(slot)
	start := time.Now()
	conn, err := s.dial(ctx, f.target)
	f.dialTime = time.Since(start)
	if err == nil {
		err = f.connected(conn)
	}
	if err != nil {
		how := endUnconnected
		if ctx.Err() != nil || isTimeout(err) || f.upstream != nil {
			how = endReset // a dial given up half-way may have reached the upstream
		}
		f.finish(how)
		if cause := f.endCause(); cause != nil {
			return false, refuseCause(cause, s.policy.Load())
		}
		s.counters.DialErrors.Add(1)
		return false, refuseDial(err)
	}
	return true, nil
}

// refuseCause maps what ended a flow by force before it was connected.
func refuseCause(cause error, p *Policy) *refusal {
	if cause == errClientGone {
		return nil
	}
	return refuseAdmission(cause, p.RejectStatus)
}
