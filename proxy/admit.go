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
	// Limit returns the limit that governs the target, as this node knows it; false says that it
	// has none.
	Limit(t fsm.Target) (Limit, bool)
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

// open resolves the target's name, admits one upstream connection for c and dials it. No slot is
// held while the name is resolved. On failure the slot is given back and the refusal says what to
// answer; it is nil where the client has gone, and nobody is left to be told. f is fresh, and
// already known to c's hang-up handler.
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
		f.finish(endUnconnected) // it was blocked a moment ago, and so not resolved
		return false, &refuseBlocked
	}
	err = f.dial(addrs)
	f.dialTime = time.Since(f.since)
	if err != nil {
		how := endUnconnected
		if f.endCause() != nil || isTimeout(err) {
			how = endReset // a dial given up half-way may have reached the upstream
		}
		return false, f.unreachable(err, how)
	}
	f.noteOpened()
	return true, nil
}

// unreachable finishes a flow that could not be resolved or connected, unless something else has
// ended it.
func (f *flow) unreachable(err error, how ending) *refusal {
	f.finish(how)
	if cause := f.endCause(); cause != nil {
		return f.refuseCause(cause)
	}
	f.srv.counters.DialErrors.Add(1)
	return refuseDial(err)
}

// wait is what only a flow that really has to wait for its slot or its connection needs; guarded by
// the flow's mu.
type wait struct {
	ctx    context.Context // nil until somebody waits by it
	cancel context.CancelCauseFunc
	timer  *time.Timer // until the client is watched for a hang-up
}

// waiting is a flow as the context of its own admission: most are admitted at once, and make none.
type waiting flow

// context is made when first asked for, which is when somebody begins to wait. It ends with the
// flow's abort, and with the server.
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

// watchSoon makes the watcher tell of the client's hang-up, once the wait has lasted for a while.
// The caller holds mu.
func (f *flow) watchSoon() {
	if f.wait.timer == nil && f.client != nil {
		f.wait.timer = time.AfterFunc(watchDelay, f.client.watch)
	}
}

// waited says that there is nothing more to wait for.
func (f *flow) waited() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wait.end(nil)
	f.wait = wait{}
}

// end ends the wait.
func (w *wait) end(cause error) {
	if w.timer != nil {
		w.timer.Stop()
	}
	if w.cancel != nil {
		w.cancel(cause)
	}
}

// refuseCause maps what ended a flow by force before it was connected.
func (f *flow) refuseCause(cause error) *refusal {
	switch cause {
	case errClientGone:
		return nil
	case errClosed:
		return &refuseClosed
	}
	return f.refuseAdmission(cause)
}

// refuseAdmission maps why a flow was not admitted. Behind a limit of 0 it is not told to come
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
