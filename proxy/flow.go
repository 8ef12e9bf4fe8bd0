package proxy

import (
	"errors"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/sock"
)

// Causes of a flow's end by force, beside the errors of refuse.go.
var (
	errClientReset   = errors.New("reset by the client")
	errUpstreamReset = errors.New("reset by the upstream")
	errRelay         = errors.New("the bytes could not be passed on")
	errHalfClose     = errors.New("nothing moved after a half-close")
	errIdle          = errors.New("idle for too long")
	errMessage       = errors.New("the message could not be completed")
	errUnasked       = errors.New("the answer came before the request was sent")

	errClientStalled   = errors.New("stalled by the client")
	errUpstreamStalled = errors.New("stalled by the upstream")
)

// phase is the state of a flow. It only moves forward, except that busy and parked alternate.
type phase uint8

const (
	phaseNew       phase = iota
	phaseAdmitting       // in the queue or dialling; aborted by ending the wait
	phaseBusy            // used by a client; aborted by resetting the sockets
	phaseParked          // kept for reuse, without a goroutine: changing the phase means taking over
	phaseEnding          // the owner waits for the upstream's FIN
	phaseEnded           // the slot is released, or about to be
)

// ending says how much the upstream knows when a flow finishes.
type ending uint8

const (
	endUnused        ending = iota // there was no slot
	endUnconnected                 // there was no upstream connection
	endClean                       // the upstream has seen the end
	endReset                       // a RST is on its way
	endUpstreamReset               // the upstream has reset
)

// flow is one slot and the upstream connection that it allows. It is the slot's [lease.Holder]; the
// [request] that it serves holds the other claims.
//
// A flow has one owner at a time: the goroutine of the client that opened or reused it or, when it
// leaves phaseParked for phaseEnding, the goroutine that closes it. Only the owner calls finish,
// which gives the slot back. Everything else (the lease, the hang-up watcher, timers, the API)
// calls abort or retire, which make the owner's current wait fail or end.
type flow struct {
	srv    *Server
	target limit.Target
	// in counts bytes from the client to the upstream, out those from the upstream to the client.
	in, out atomic.Uint64
	kind    atomic.Uint32
	// fins has the directions whose FIN has been passed on: finUp, finDown.
	fins  atomic.Uint32
	pumps atomic.Int32 // a tunnel's running or sleeping directions
	// waits says that wait is in use, so that the many admissions without a wait need not lock mu.
	waits atomic.Bool

	// Written by the owner before others know the flow, or under mu.
	id         uint64
	noted      Bytes // guarded by the registry: what its sum includes
	since      time.Time
	dialTime   time.Duration
	lookupTime time.Duration // 0 if the name's addresses were known
	upstream   *sock.Conn
	addr       netip.Addr  // the upstream's
	reader     sock.Reader // the upstream's bytes, read but not relayed
	plain      *exchanges  // nil: a tunnel from the start

	lasts        bool // guarded by the registry
	mu           sync.Mutex
	phase        phase
	upstreamGone bool
	toldToSleep  bool // putToSleep was called for the tunnel
	slot         Slot
	claims       Claims     // of the request that it serves, which alone sets them; nil: none
	wait         wait       // of admission and dialling
	dialling     *sock.Conn // the connection under way
	client       *conn
	cause        atomic.Pointer[error] // the first reason to end by force; nil: none. Read also without mu
	idleUntil    time.Time
	stall        stallTimer

	resetOnce sync.Once
	rtt       time.Duration // before the reset

	own request // of a CONNECT; others belong to the exchange

	// Of a tunnel.
	request    *request      // that it serves
	done       chan struct{} // closed at the tunnel's end; may be nil
	opening    opening       // of the upstream's bytes
	slumber    slumber       // guarded by mu
	sleepState sleepState    // guarded by the registry
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

// admitting begins the wait for the slot; false means that the flow was aborted before.
func (f *flow) admitting() bool {
	if f.phase != phaseAdmitting { // as a spare one is; nobody but the owner changes it now
		f.mu.Lock()
		f.phase = phaseAdmitting
		f.mu.Unlock()
	}
	return f.cause.Load() == nil
}

// admitted takes over the slot. From here on finish must be called, to give the slot back.
func (f *flow) admitted(slot Slot) {
	f.srv.work.Add(1)
	f.mu.Lock()
	f.slot = slot
	f.since = time.Now()
	f.mu.Unlock()
	f.srv.flows.add(f)
	if f.srv.upstreams.Add(1) > int64(cap(f.srv.places)) {
		f.srv.idle.giveWay(1) // at most one upstream connection for each place, kept ones included
	}
	if f.srv.ctx.Err() != nil { // abortAll may have run before the flow was registered
		f.abort(errShutdown)
	}
}

// connected takes over the upstream connection. An error means that the slot is already lost.
func (f *flow) connected(up *sock.Conn, addr netip.Addr) error {
	f.addr = addr
	f.reader.Conn = up
	if f.plain != nil {
		f.plain.writer.Conn = up
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	up.Guard(f.slot, f.claims)
	f.upstream = up
	if err := f.checkLive(); err != nil {
		return err
	}
	f.phase = phaseBusy
	return nil
}

// checkLive returns errSevered, and ends the flow by force, unless its slot and claims are live.
// The caller holds mu.
func (f *flow) checkLive() error {
	if f.cause.Load() == nil && (!f.slot.Live() || f.claims != nil && !f.claims.Live()) {
		f.endFor(errFenced)
	}
	if f.cause.Load() != nil {
		return errSevered
	}
	return nil
}

// keepAlive makes the kernel detect an upstream that vanishes silently.
func (f *flow) keepAlive() {
	f.mu.Lock()
	up := f.upstream
	f.mu.Unlock()
	if up != nil {
		up.KeepAlive()
	}
}

// endCause returns the cause of the flow's end by force, or nil.
func (f *flow) endCause() error {
	if cause := f.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// endFor sets the cause. The caller holds mu.
func (f *flow) endFor(cause error) { f.cause.Store(&cause) }

// abort ends the flow by force, from any phase. It doesn't block.
func (f *flow) abort(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(cause)
}

// abortOf is abort on behalf of c: it does nothing if the flow is no longer c's.
func (f *flow) abortOf(c *conn, cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.client == c {
		f.end(cause)
	}
}

// end needs mu.
func (f *flow) end(cause error) {
	if f.cause.Load() != nil || f.phase == phaseEnded {
		return
	}
	f.endFor(cause)
	switch f.phase {
	case phaseNew, phaseAdmitting:
		f.wait.end(cause)
		if f.dialling != nil {
			f.dialling.SetWriteDeadline(time.Unix(1, 0))
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

// followUpstream ends a flow whose client has reset after the upstream's FIN. The upstream gets a
// FIN and not a RST: it has nothing more to say, and a FIN is acknowledged. (Clients that close
// while a last TLS alert is unread reset every connection like this.)
func (f *flow) followUpstream(c *conn) {
	if c != nil {
		c.sock.Reset()
	}
	if f.upstream.CloseWrite() != nil {
		f.resetUpstream()
	}
	f.wake(finUp | finDown)
}

// fail ends the flow by force, but leaves the client's connection and the answer to the owner.
func (f *flow) fail(cause error) {
	f.mu.Lock()
	if f.cause.Load() == nil {
		f.endFor(cause)
	}
	f.client = nil
	f.mu.Unlock()
	f.resetUpstream()
}

// reset resets both sides, the upstream's first: the slot depends on it.
func (f *flow) reset(c *conn) {
	f.resetUpstream()
	if c != nil {
		c.sock.Reset()
	}
	f.wake(finUp | finDown)
}

func (f *flow) resetUpstream() {
	f.resetOnce.Do(func() {
		if f.upstream != nil {
			f.rtt = f.upstream.RTT()
			f.srv.resets.add(f.upstream.Local(), time.Now())
			f.upstream.Reset()
		}
	})
}

// finish ends the flow and releases the slot: at once if the upstream has seen the end, or else
// after the time that a reset takes to arrive. A CONNECT ends with its flow.
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
	f.own.end()
	if f.plain != nil {
		f.plain.end()
	}
	f.reader.Release()
	if slot == nil {
		return
	}
	var hold time.Duration
	switch how {
	case endUnconnected:
	case endClean:
		f.upstream.Close()
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

// clientHungUp handles an end of the client that no read has found.
func (f *flow) clientHungUp(of *conn, kind sock.Hangup) {
	f.mu.Lock()
	phase, client := f.phase, f.client
	f.mu.Unlock()
	waits := phase == phaseAdmitting || phase == phaseNew
	switch {
	case client != of: // nil, or another client's by now
	case kind == sock.HangupFIN && (waits || phase == phaseBusy && Kind(f.kind.Load()) == KindHTTP):
		client.ask(true)
	case waits:
		f.abortOf(of, errClientGone)
	case phase == phaseBusy && kind == sock.HangupFIN:
		f.halfClosed()
	case phase == phaseBusy && f.fins.Load() != finUp|finDown:
		f.abortOf(of, errClientReset)
	}
}

// upstreamHungUp handles an end of the upstream that no read has found.
func (f *flow) upstreamHungUp(kind sock.Hangup) {
	f.mu.Lock()
	f.upstreamGone = true
	phase := f.phase
	f.mu.Unlock()
	switch {
	case phase == phaseParked:
		f.retire()
	case phase == phaseBusy && kind == sock.HangupReset:
		// Bytes that it sent before are still relayed, as long as they move.
		f.halfClosed()
	}
}

// describe returns the flow as the API shows it.
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
		Limited:  f.slot != nil && f.slot.Limited() || f.claims != nil && f.claims.Limited(),
	}
	if f.client != nil {
		d.Client, d.User = f.client.addr.String(), f.client.subject.User
	}
	return d
}
