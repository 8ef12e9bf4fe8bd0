package proxy

import (
	"context"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/resolve"
	"github.com/weirproxy/weir/proxy/sock"
)

// Admitter hands out the right to serve requests and to open upstream connections.
type Admitter interface {
	// Begin counts a request in hand under the limits on connections of scope total, client and
	// user. It waits for its slots as Acquire does. The holder may be severed as soon as it has them,
	// even before Begin returns. On an error nothing is held. Errors for the sake of a limit, also of
	// Acquire and Take, are a [*lease.LimitError]. ended are claims of an earlier Begin that have
	// ended and have held no slot, whose memory may be used again; nil: none.
	Begin(ctx context.Context, s *limit.Subject, h lease.Holder, ended Claims) (Claims, error)
	// Acquire waits for a slot for as long as the limit's queue allows, or until ctx ends. The
	// holder may be severed as soon as it has the slot, even before Acquire returns.
	Acquire(ctx context.Context, t limit.Target, h lease.Holder) (Slot, error)
	// Take takes a token of each limit on requests that the subject is under, whatever its scope, and
	// waits for them. waited is how long the request has waited already. It refuses a request whose
	// bytes could not move, because a limit on bandwidth counts them and the node has no lease. On an
	// error nothing has been taken.
	Take(ctx context.Context, s *limit.Subject, waited time.Duration) error
	// Meter returns what paces the bytes of one connection in one direction: [limit.Upload] is from
	// the worker to the upstream. It is never nil; limits that are set later hold, too. The subject
	// stays as it is as long as the meter is used. former is the one before of the same direction
	// of the same connection, which has ended: what it took of the connection's own bandwidth stays
	// taken. nil: none.
	Meter(s *limit.Subject, r limit.Resource, w lease.Waker, former Meter) Meter
	// Paces reports whether any limit caps the bandwidth of a direction, as far as this node knows.
	Paces(direction limit.Resource) bool
	// Limit returns the limit on connections of scope host that governs the target, as far as this
	// node knows; false means that there is none.
	Limit(t limit.Target) (limit.Limit, bool)
	// CountsNames reports whether a limit of scope host counts names apart from their addresses, as
	// far as this node knows.
	CountsNames() bool
}

// Meter paces the bytes of one connection in one direction; see [sock.Meter].
type Meter = sock.Meter

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
	// HalfClosed announces that the connection may be about to end: one side has. Release will
	// follow, or Lasts, which takes it back.
	HalfClosed()
	Lasts()
	// Live reports whether another byte may be read or written.
	Live() bool
	// Covered reports whether a connection that has waited for something else since Acquire may be
	// opened. If not, a limit that was set meanwhile has no room for it: release the slot, and
	// acquire another.
	Covered() bool
	// Limited reports whether the slot counts against a limit.
	Limited() bool
	// Waited is how long Acquire waited.
	Waited() time.Duration
	// Key is the name under which the slot is counted.
	Key() limit.Key
}

// open opens the upstream connection of a CONNECT, whose request is r: it resolves the target's
// name, begins the request, acquires a slot, takes the request's token and dials. Nothing is held
// while the name is resolved; whoever waits for one of the others holds those before it. On failure
// the refusal to answer with is returned, which is nil if the client has gone; everything is given
// back then. f must be new, and already be its client's flow (see use).
func (f *flow) open(r *request) (ok bool, _ *refusal) {
	r.serve(f)
	if !f.admitting() {
		return false, f.refuseCause(f.endCause())
	}
	defer f.waited()
	addrs, err := f.resolve(r)
	if err != nil {
		return false, f.unreachable(err, endUnused)
	}
	if err := r.begin(f); err != nil {
		return false, f.unadmitted(err, endUnused)
	}
	return f.connectFor(r, addrs)
}

// connectFor acquires a slot, takes the request's token and dials, for a request that has its
// claims. The flow must be in its admission.
func (f *flow) connectFor(r *request, addrs resolve.Addrs) (ok bool, _ *refusal) {
	f.setClaims(r.claims)
	slot, err := f.srv.admitter.Acquire((*waiting)(f), f.target, f)
	if err != nil {
		return false, f.unadmitted(err, endUnused)
	}
	f.admitted(slot)
	r.waited += slot.Waited()
	if addrs.Len() == 0 && !f.target.Addr.IsValid() {
		l, _ := f.srv.admitter.Limit(f.target)
		f.finish(endUnconnected) // its limit was 0 when resolve looked, so it was not resolved
		return false, refuseLimit(&lease.LimitError{Key: slot.Key(), Limit: l, Why: lease.ErrBlocked})
	}
	if err := f.takeTokens(r); err != nil {
		return false, f.unadmitted(err, endUnconnected)
	}
	began := f.since
	if r.tokenWait > 0 {
		began = time.Now()
	}
	ports := f.srv.forbidden.Load()
	err = f.dial(addrs, began)
	f.dialTime = time.Since(began)
	if err != nil {
		how := endUnconnected
		if f.endCause() != nil || isTimeout(err) {
			how = endReset // an abandoned dial may have reached the upstream
		}
		return false, f.unreachable(err, how)
	}
	if err := f.forbiddenSince(ports); err != nil { // SetForbidden passes over who has no connection yet
		return false, f.unreachable(err, endReset)
	}
	f.noteOpened(r)
	return true, nil
}

// takeTokens takes the tokens of a request that has all else. If a limit on the host, set while it
// waited for them, has no room for the connection, the request asks for a slot as if it had none;
// tokens it then takes anew, because all are for the moment at which it begins.
func (f *flow) takeTokens(r *request) error {
	for {
		if err := r.take(f); err != nil || r.tokenWait == 0 || f.slot.Covered() {
			return err
		}
		f.slot.Release()
		f.waited()
		slot, err := f.srv.admitter.Acquire((*waiting)(f), f.target, f)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.slot = slot
		f.mu.Unlock()
		r.waited += r.tokenWait + slot.Waited()
		r.taken = false
	}
}

// unadmitted finishes a flow without a connection, because of an error of Begin, Acquire or Take.
func (f *flow) unadmitted(err error, how ending) *refusal {
	f.finish(how)
	if cause := f.endCause(); cause != nil {
		return f.refuseCause(cause)
	}
	return refuseAdmission(err)
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
	since  time.Time       // when it was
	cancel context.CancelCauseFunc
	timer  *time.Timer // watches the client for a hang-up
	// suspects is how long the timer waits until it fires again.
	suspects time.Duration
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
		f.wait.since = time.Now()
		f.waits.Store(true)
		f.watchSoon()
		if f.cause.Load() != nil {
			f.wait.cancel(f.endCause())
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
		f.wait.timer = time.AfterFunc(watchDelay, f.suspect)
	}
}

// waited releases the state of the wait, which is over.
func (f *flow) waited() {
	if !f.waits.Load() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wait.end(nil)
	f.wait = wait{}
	f.waits.Store(false)
}

// waitedFor returns how long the wait has lasted since waited was called, or 0 if there was none.
func (f *flow) waitedFor() time.Duration {
	if !f.waits.Load() {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.wait.since)
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
	l, limited := f.srv.admitter.Limit(f.target)
	if limited && !l.Report && cause == errEvicted && f.slot != nil {
		why := lease.ErrOverLimit
		if l.Connections == 0 {
			why = lease.ErrBlocked
		}
		return refuseLimit(&lease.LimitError{Key: f.slot.Key(), Limit: l, Why: why})
	}
	return refuseAdmission(cause)
}

// blocks reports whether the target's limit is 0 and enforced.
func (s *Server) blocks(t limit.Target) bool {
	l, limited := s.admitter.Limit(t)
	return limited && l.Connections == 0 && !l.Report
}
