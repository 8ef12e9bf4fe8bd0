package proxy

import (
	"errors"
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
	pumps       atomic.Int32  // directions that have not ended
	done        chan struct{} // closed at its end; nil where nobody waits
	opening     opening       // of the upstream's bytes
	asleep      uint32        // directions that sleep; guarded by mu, as are
	hasSlept    uint32        // those that ever have, and
	toldToSleep bool          // that either was told to
	sleepState  sleepState    // guarded by the registry
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
