package proxy

import (
	"context"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
)

// Admitter hands out the right to open upstream connections.
type Admitter interface {
	// Acquire waits for a slot for as long as the limit's queue allows, or until ctx ends. The
	// holder may be severed as soon as it has the slot, even before Acquire returns.
	Acquire(ctx context.Context, t fsm.Target, h lease.Holder) (Slot, error)
	// Limit returns the limit that governs the target, as far as this node knows; false means that
	// there is none.
	Limit(t fsm.Target) (Limit, bool)
}

// Slot is the right to one upstream connection.
type Slot interface {
	// Release gives the slot back; further calls do nothing.
	Release()
	// Park marks the connection as idle: from now on it may be severed with SeverWanted.
	Park()
	// Unpark takes the connection into use again; false means that the slot was withdrawn.
	Unpark() bool
	// Closing announces that the connection is about to end and that Release will follow.
	Closing()
	// Live reports whether another byte may be read or written.
	Live() bool
	// Limited reports whether the slot counts against a limit.
	Limited() bool
	// Waited is how long Acquire waited.
	Waited() time.Duration
	// Key is the name under which the slot is counted.
	Key() fsm.Key
}

// open resolves the target's name, acquires a slot for c and dials. No slot is held while the name
// is resolved. On failure it gives the slot back and returns the refusal to answer with, which is
// nil if the client has gone. f must be new, and already be c's flow (see use).
func (f *flow) open(c *client) (ok bool, _ *refusal) {
	s := f.srv
	if !f.admitting() {
		return false, f.refuseCause(f.endCause())
	}
	defer f.waited()

	addrs, err := f.resolve()
	if err != nil {
		return false, f.unreachable(err, endUnused)
	}
	slot, err := s.admitter.Acquire((*waiting)(f), f.target, f)
	if err != nil {
		f.finish(endUnused)
		if cause := f.endCause(); cause != nil {
			return false, f.refuseCause(cause)
		}
		return false, f.refuseAdmission(err)
	}
	f.admitted(slot)
	if addrs.Len() == 0 && !f.target.Addr.IsValid() {
		f.finish(endUnconnected) // its limit was 0 when resolve looked, so it was not resolved
		return false, &refuseBlocked
	}
	err = f.dial(addrs)
	f.dialTime = time.Since(f.since)
	if err != nil {
		how := endUnconnected
		if f.endCause() != nil || isTimeout(err) {
			how = endReset // an abandoned dial may have reached the upstream
		}
		return false, f.unreachable(err, how)
	}
	f.noteOpened()
	return true, nil
}

// unreachable finishes a flow whose target could not be resolved or connected to. If the flow was
// aborted, the refusal is for the abort's cause.
func (f *flow) unreachable(err error, how ending) *refusal {
	f.finish(how)
	if cause := f.endCause(); cause != nil {
		return f.refuseCause(cause)
	}
	f.srv.counters.DialErrors.Add(1)
	return refuseDial(err)
}

// wait holds the state of a wait for the slot or the connection. Guarded by the flow's mu.
type wait struct {
	ctx    context.Context // nil until it is asked for
	cancel context.CancelCauseFunc
	timer  *time.Timer // starts watching the client for a hang-up
}

// waiting is a flow as the [context.Context] of its own admission. Most flows are admitted at once;
// for those no context is allocated.
type waiting flow

// context makes the context when it is first asked for, which is when a wait begins. The context
// ends when the flow is aborted or the server stops.
func (w *waiting) context() context.Context {
	f := (*flow)(w)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wait.ctx == nil {
		f.wait.ctx, f.wait.cancel = context.WithCancelCause(f.srv.ctx)
		f.watchSoon()
		if f.cause != nil {
			f.wait.cancel(f.cause)
		}
	}
	return f.wait.ctx
}

// Deadline implements [context.Context].
func (w *waiting) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements [context.Context].
func (w *waiting) Done() <-chan struct{} { return w.context().Done() }

// Err implements [context.Context].
func (w *waiting) Err() error { return w.context().Err() }

// Value implements [context.Context].
func (w *waiting) Value(key any) any { return w.context().Value(key) }

// watchSoon starts watching the client for a hang-up, once the wait has lasted for watchDelay. The
// caller holds mu.
func (f *flow) watchSoon() {
	if f.wait.timer == nil && f.client != nil {
		f.wait.timer = time.AfterFunc(watchDelay, f.client.watch)
	}
}

// waited releases the state of the wait, which is over.
func (f *flow) waited() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wait.end(nil)
	f.wait = wait{}
}

// end ends the wait. The caller holds the flow's mu.
func (w *wait) end(cause error) {
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.cancel != nil {
		w.cancel(cause)
	}
}

// refuseCause maps the cause of an abort before the flow was connected; nil if the client has gone.
func (f *flow) refuseCause(cause error) *refusal {
	switch cause {
	case errClientGone:
		return nil
	case errClosed:
		return &refuseClosed
	}
	return f.refuseAdmission(cause)
}

// refuseAdmission maps an error of Acquire. If the limit is 0, the client is not asked to try
// again.
func (f *flow) refuseAdmission(err error) *refusal {
	r := refuseAdmission(err)
	if r.reason.limited() && f.srv.blocks(f.target) {
		return &refuseBlocked
	}
	return r
}

// blocks reports whether the target's limit is 0.
func (s *Server) blocks(t fsm.Target) bool {
	limit, limited := s.admitter.Limit(t)
	return limited && limit.Connections == 0
}
