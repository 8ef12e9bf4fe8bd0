package proxy

import (
	"errors"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
)

// How a flow may end by force, beside the errors of refuse.go.
var (
	errClientReset   = errors.New("reset by the client")
	errUpstreamReset = errors.New("reset by the upstream")
	errHalfClose     = errors.New("nothing moved after a half-close")
	errIdle          = errors.New("idle for too long")
	errMessage       = errors.New("the message could not be completed")

	errClientStalled   = errors.New("stalled by the client")
	errUpstreamStalled = errors.New("stalled by the upstream")
)

// phase is where a flow stands. It only ever goes forward, but for busy and parked, which
// alternate.
type phase uint8

const (
	phaseNew       phase = iota
	phaseAdmitting       // in the queue or dialling: ending its wait ends it
	phaseBusy            // a client uses the connection: resetting the sockets ends it
	phaseParked          // kept for reuse: nobody runs, whoever changes the phase must end it
	phaseEnding          // its owner waits for the upstream's end
	phaseEnded           // the slot is released, or about to be
)

// ending says what the upstream knows when a flow finishes.
type ending uint8

const (
	endUnused        ending = iota // there never was a slot
	endUnconnected                 // there never was an upstream connection
	endClean                       // the upstream has seen the end
	endReset                       // a RST is on its way to it
	endUpstreamReset               // it was the upstream that reset
)

// flow is one slot and the upstream connection that it allows: the slot's [lease.Holder].
//
// One goroutine owns it at a time: the client's that opened or reused it, or, once it leaves
// phaseParked for phaseEnding, the one that closes it. The owner alone calls finish, which is where
// the slot is given back. All others (the lease, the hang-up watcher, timers, the API) only push:
// abort and retire make what the owner waits for fail or end.
type flow struct {
	srv    *Server
	target fsm.Target
	// in counts bytes from the client to the upstream, out the other way.
	in, out atomic.Uint64
	kind    atomic.Uint32
	// fins are the directions whose FIN has been passed on: finUp, finDown.
	fins atomic.Uint32

	// Written by the owner before others know the flow, or under mu.
	id         uint64
	lasts      bool  // guarded by the registry
	noted      Bytes // so is this: what is in its sum
	since      time.Time
	dialTime   time.Duration
	lookupTime time.Duration // of a name that was not remembered
	upstream   *sock
	addr       netip.Addr // that the upstream was found at
	reused     bool
	spoilt     bool   // what the upstream has sent may be followed by bytes that belong to no answer: it is not kept
	owner      owner  // whose requests it has carried
	head       *head  // of the response; nil in a CONNECT's flow
	reader     inbuf  // the upstream's bytes, read but not relayed
	writer     outbuf // what waits to be written to the upstream
	idle       idleLinks

	mu           sync.Mutex
	phase        phase
	slot         Slot
	wait         wait  // of admission and dialling
	dialling     *sock // that is being waited for
	client       *client
	upstreamGone bool
	cause        error // the first reason to end by force
	idleUntil    time.Time
	stall        stallTimer

	resetOnce sync.Once
	rtt       time.Duration // before the reset

	// Of a tunnel.
	pumps   atomic.Int32  // directions that have not ended
	done    chan struct{} // closed at its end; nil where nobody waits
	opening opening       // of the upstream's bytes
	asleep  uint32        // directions that doze; guarded by mu, as are
	dozed   uint32        // those that ever have, and
	drowsed bool          // that either was told to
	rest    rest          // guarded by the registry
}

const (
	finUp   = 1 << iota // client to upstream
	finDown             // upstream to client
)

// Sever implements [lease.Holder].
func (f *flow) Sever(r lease.Reason) {
	switch r {
	case lease.SeverWanted:
		f.retire()
	case lease.SeverEvicted:
		f.abort(errEvicted)
	default:
		f.abort(errFenced)
	}
}

// admitting enters the queue; false says that the flow was aborted before.
func (f *flow) admitting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.phase = phaseAdmitting
	return f.cause == nil
}

// admitted takes over the slot; from here on finish gives it back.
func (f *flow) admitted(slot Slot) {
	f.srv.work.Add(1)
	f.mu.Lock()
	f.slot = slot
	f.since = time.Now()
	f.mu.Unlock()
	f.srv.flows.add(f)
	if f.srv.upstreams.Add(1) > int64(cap(f.srv.places)) {
		f.srv.idle.giveWay(1) // there is an upstream connection for each place, kept ones included
	}
	if f.srv.ctx.Err() != nil { // whoever aborts all flows may have looked before
		f.abort(errShutdown)
	}
}

// connected takes over the upstream connection, to addr; an error says that it came too late.
func (f *flow) connected(up *sock, addr netip.Addr) error {
	f.addr = addr
	f.reader.sock, f.writer.sock = up, up
	f.mu.Lock()
	defer f.mu.Unlock()
	up.slot = f.slot
	f.upstream = up
	if f.cause == nil && !f.slot.Live() {
		f.cause = errFenced
	}
	if f.cause != nil {
		return errSevered
	}
	f.phase = phaseBusy
	return nil
}

// keepAlive makes the kernel find out when the upstream goes away without a word.
func (f *flow) keepAlive() {
	f.mu.Lock()
	up := f.upstream
	f.mu.Unlock()
	if up != nil {
		up.keepAlive()
	}
}

// endCause is why the flow was ended by force, or nil.
func (f *flow) endCause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cause
}

// abort ends the flow by force, from any phase. It doesn't block.
func (f *flow) abort(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause != nil || f.phase == phaseEnded {
		return
	}
	f.cause = cause
	switch f.phase {
	case phaseNew, phaseAdmitting:
		f.wait.end(cause)
		if f.dialling != nil {
			f.dialling.conn.SetWriteDeadline(time.Unix(1, 0))
		}
	case phaseParked:
		f.phase = phaseEnding
		go func() {
			f.srv.idle.remove(f)
			f.finish(endReset)
		}()
	default:
		if cause == errClientReset && f.fins.Load()&finDown != 0 {
			go f.followUpstream(f.client)
			return
		}
		go f.reset(f.client)
	}
}

// followUpstream ends a flow whose client has reset after the upstream had said that it was done: a
// FIN is all that the upstream waits for, if anything, and unlike a RST it is acknowledged.
// (Clients that close with a last TLS alert unread reset every connection like this.)
func (f *flow) followUpstream(c *client) {
	if c != nil {
		c.sock.reset()
	}
	if f.upstream.closeWrite() != nil {
		f.resetUpstream()
	}
	f.wake(finUp | finDown)
}

// fail ends the flow by force, but leaves the client's connection, and its answer, to the owner.
func (f *flow) fail(cause error) {
	f.mu.Lock()
	if f.cause == nil {
		f.cause = cause
	}
	f.client = nil
	f.mu.Unlock()
	f.resetUpstream()
}

// reset resets both sides: the upstream's first, as it is the one that counts.
func (f *flow) reset(c *client) {
	f.resetUpstream()
	if c != nil {
		c.sock.reset()
	}
	f.wake(finUp | finDown)
}

func (f *flow) resetUpstream() {
	f.resetOnce.Do(func() {
		if f.upstream != nil {
			f.rtt = f.upstream.rtt()
			f.srv.resets.add(f.upstream.local(), time.Now())
			f.upstream.reset()
		}
	})
}

// finish ends the flow and releases the slot once the upstream has seen the end.
func (f *flow) finish(how ending) {
	f.mu.Lock()
	if f.phase == phaseEnded {
		f.mu.Unlock()
		return
	}
	f.phase, f.client = phaseEnded, nil
	f.stall.stop()
	slot := f.slot
	f.mu.Unlock()
	f.reader.release()
	f.writer.release()
	if slot == nil {
		return
	}
	var hold time.Duration
	switch how {
	case endUnconnected:
	case endClean:
		f.upstream.close()
	case endUpstreamReset:
		f.resetUpstream()
	default:
		f.resetUpstream()
		hold = max(2*f.rtt, minResetHold)
	}
	if hold == 0 {
		f.release(slot)
		return
	}
	slot.Closing()
	time.AfterFunc(hold, func() { f.release(slot) })
}

func (f *flow) release(slot Slot) {
	f.srv.flows.remove(f)
	f.srv.upstreams.Add(-1)
	slot.Release()
	f.srv.work.Done()
}

// clientHungUp is told of the client's end while something else than a read of the client is waited
// for.
func (f *flow) clientHungUp(kind hangup) {
	f.mu.Lock()
	phase, client := f.phase, f.client
	f.mu.Unlock()
	waits := phase == phaseAdmitting || phase == phaseNew
	switch {
	case client == nil:
	case kind == hangupFIN && (waits || phase == phaseBusy && Kind(f.kind.Load()) == KindHTTP):
		client.ask()
	case waits:
		f.abort(errClientGone)
	case phase == phaseBusy && kind == hangupFIN:
		f.halfClosed()
	case phase == phaseBusy && f.fins.Load() != finUp|finDown:
		f.abort(errClientReset)
	}
}

// upstreamHungUp is told of the upstream's end.
func (f *flow) upstreamHungUp(kind hangup) {
	f.mu.Lock()
	f.upstreamGone = true
	phase := f.phase
	f.mu.Unlock()
	switch {
	case phase == phaseParked:
		f.retire()
	case phase == phaseBusy && kind == hangupReset:
		// What it sent before is still relayed, as long as that moves.
		f.halfClosed()
	}
}

// retire closes a parked connection gracefully; it does nothing to any other. It doesn't block.
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

// closeSoon closes a connection that its owner, the caller, has no more use for, without keeping it
// waiting.
func (f *flow) closeSoon() {
	f.leave()
	go f.closeIdle()
}

// closeNow is closeSoon for who waits for the slot.
func (f *flow) closeNow() {
	f.leave()
	f.closeIdle()
}

// leave parts the flow from its client.
func (f *flow) leave() {
	f.mu.Lock()
	f.phase, f.client = phaseEnding, nil
	f.stall.stop()
	f.mu.Unlock()
	f.slot.Closing()
}

// closeIdle sends a FIN and finishes once the upstream has answered with its own. Where too many do
// so, it resets: an upstream that takes its time must not cost the descriptors that clients need.
// The flow is in phaseEnding.
func (f *flow) closeIdle() {
	closings := &f.srv.closings
	defer closings.Add(-1)
	if closings.Add(1) > int64(cap(f.srv.places)/closingShare+1) {
		f.finish(endReset)
		return
	}
	up := f.upstream
	timeout := min(f.srv.policy.Load().HalfCloseTimeout, lingerTimeout)
	if up.closeWrite() != nil || !drained(up, timeout) || !up.awaitClosed(timeout) {
		f.finish(endReset)
		return
	}
	f.finish(endClean)
}

// drained reads and drops what still comes, and reports whether the peer's FIN came in time.
func drained(s *sock, timeout time.Duration) bool { return drainedWhile(s, timeout, timeout) }

// drainedWhile is drained for as long as bytes come, quiet apart at most, up to a whole time.
func drainedWhile(s *sock, quiet, whole time.Duration) bool {
	end := time.Now().Add(whole)
	for {
		next := time.Now().Add(quiet)
		if next.After(end) {
			next = end
		}
		s.conn.SetReadDeadline(next)
		buf, _, err := s.read(nil)
		if err != nil {
			return err == io.EOF
		}
		s.pool.put(buf)
	}
}

// park keeps the connection for reuse, from now on; false says that it can't be, and is still the
// caller's.
func (f *flow) park(now time.Time) bool {
	s := f.srv
	f.mu.Lock()
	if f.cause != nil || f.upstreamGone || s.draining.Load() {
		f.mu.Unlock()
		return false
	}
	f.phase, f.client = phaseParked, nil
	f.idleUntil = now.Add(upstreamIdleTimeout)
	f.stall.rest()
	if !f.stall.armed {
		f.stall.reset(upstreamIdleTimeout, f.tick)
	}
	f.mu.Unlock()

	// First the lease may want it, then others may take it: not the other way round, or a
	// connection in use would be parked. It may be gone before it is in the pool.
	f.slot.Park()
	f.kind.Store(uint32(KindIdle)) // who sees it idle may count on its slot
	kept := s.idle.put(f)
	if !f.upstream.watch.on() {
		s.hangups.add(f.upstream, f.upstreamHungUp)
	}
	switch {
	case !kept || s.draining.Load() || f.forbidden() != nil:
		f.retire() // also what was decided before the connection could be found in the pool
	case !f.isParked():
		s.idle.remove(f)
	}
	return true
}

// forbidden returns why the connection would not be made any more, or nil.
func (f *flow) forbidden() error {
	return f.srv.forbids(f.srv.policy.Load(), netip.AddrPortFrom(f.addr, f.target.Port))
}

// avoid ends the connection if it leads to one of the ports. It doesn't block.
func (f *flow) avoid(ports *forbidden) {
	f.mu.Lock()
	phase := f.phase
	if phase != phaseBusy && phase != phaseParked {
		f.mu.Unlock()
		return
	}
	addr := netip.AddrPortFrom(f.addr, f.target.Port) // of an upstream connection, in these phases
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

// unpark takes the connection into use for c; false says that it is of no use any more. A request
// that can't be repeated takes none that has been idle for long. Whether the upstream is quiet is
// for the caller to find out.
func (f *flow) unpark(c *client, repeatable bool, now time.Time) bool {
	f.mu.Lock()
	if f.phase != phaseParked {
		f.mu.Unlock()
		return false
	}
	f.phase, f.client = phaseBusy, c
	f.reused = true
	gone := f.upstreamGone || !repeatable && f.idleUntil.Sub(now) < upstreamIdleTimeout-unsafeIdle
	f.mu.Unlock()
	switch {
	case !f.slot.Unpark() || f.forbidden() != nil:
		f.closeSoon()
	case gone || !f.slot.Live():
		f.closeNow() // its slot is what the caller needs next
	default:
		f.kind.Store(uint32(KindHTTP))
		return true
	}
	return false
}

// describe is the flow as the API shows it.
func (f *flow) describe() Connection {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := Connection{
		ID:       strconv.FormatUint(f.id, 10),
		Host:     f.target.Host,
		Port:     f.target.Port,
		Kind:     Kind(f.kind.Load()),
		Since:    f.since,
		BytesIn:  f.in.Load(),
		BytesOut: f.out.Load(),
		Limited:  f.slot != nil && f.slot.Limited(),
	}
	if f.client != nil {
		d.Client, d.User = f.client.addr.String(), f.client.user
	}
	return d
}
