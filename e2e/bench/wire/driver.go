//go:build linux

package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Plan says what a driver's workers do, all the same, one operation after another.
type Plan struct {
	Workers int
	Dials   []netip.AddrPort // IPv4 addresses to connect to, in turn: the proxy, or the upstream itself
	Sources []netip.Addr     // IPv4 addresses to connect from, in turn; none leaves it to the kernel
	Heads   [][]byte         // requests, in turn: CONNECT, or GET in any form; none where the upstream is dialled for tunnels
	// SOCKS5 says that Heads are requests of SOCKS5. Each follows a greeting, once that is
	// answered; the bound address in the reply is an IPv4 one. With AtOnce, Heads have the greeting
	// too, and nothing is waited for.
	SOCKS5, AtOnce bool
	Once           bool // end after the last of Heads, or of Dials where there are no Heads

	// Send makes tunnels of the connections: it is sent once a head is answered with 200, and
	// answered with Reply bytes. Without it the heads are requests whose answers have a body of
	// Reply bytes, on kept-alive connections.
	Send  []byte
	Reply int

	Park  bool // an operation is a tunnel that stays open, as it is after its first answer, until Close; Workers in all
	Drain bool // Reply is without end: the bytes that come are the operations. With Park, a few are begun at once
	Rate  int  // with Drain and one worker: bytes a second that it reads, in pieces of rateStep; 0: all that come
}

// rateStep is how much time's bytes a worker reads at once that reads at a rate.
const rateStep = 20 * time.Millisecond

// Tally is what a driver has done since Measure.
type Tally struct {
	Ops       int64 // operations completed
	Failures  int64 // operations that were refused, broken or not understood
	Redials   int64 // kept-alive connections that the proxy ended between two requests
	Latencies []time.Duration
}

// maxSamples bounds the latencies kept, in order of their coming.
const maxSamples = 1 << 20

// rampUp is how many tunnels are under way at once where they are to stay.
const rampUp = 32

// maxFailures ends a driver: something is wrong, and would be measured in place of what is right.
const maxFailures = 10_000

// Driver is a running load. Its methods may be called from any goroutine.
type Driver struct {
	plan    Plan
	poll    *poller
	workers []worker
	dials   []unix.SockaddrInet4
	sources []unix.SockaddrInet4
	turn    int // connections and requests begun
	started int // workers
	buf     []byte
	ahead   int       // bytes read since readAt
	readAt  time.Time // when the last step of a plan with a Rate was due

	ops, failures, redials atomic.Int64
	samples                []int64 // nanoseconds
	count                  atomic.Int64
	begun                  atomic.Int64 // workers
	measuring              atomic.Bool

	stop atomic.Bool
	done chan struct{}
	end  sync.Once
	err  error // the first failure
	over bool  // Once has come to its end
}

// maxQuote bounds what an error says of an answer, in bytes.
const maxQuote = 300

// stage is where a worker's operation stands.
type stage uint8

const (
	stageIdle       stage = iota // none begun, or parked
	stageConnecting              // until the socket can be written to
	stageGreeting                // until the SOCKS5 greeting is answered
	stageHead                    // until the head of the answer is complete
	stageReply                   // until Reply bytes have come
)

// worker is one client.
type worker struct {
	fd         int
	generation int32
	stage      stage
	reused     bool // the connection has answered before
	scan       headScan
	status     [12]byte // "HTTP/1.1 200", or a SOCKS5 answer
	seen       int      // bytes of the head
	left       int      // of Reply
	head       []byte   // of this operation
	begun      time.Time
}

// Start checks the plan and starts the driver. The caller must Close it.
func Start(plan Plan) (*Driver, error) {
	switch {
	case plan.Workers < 1, len(plan.Dials) == 0:
		return nil, errors.New("a plan needs workers, and something to dial")
	case len(plan.Heads) == 0 && plan.Send == nil:
		return nil, errors.New("a plan without heads needs something to send")
	case plan.SOCKS5 && (len(plan.Heads) == 0 || plan.Send == nil):
		return nil, errors.New("a plan of SOCKS5 tunnels needs heads, and something to send")
	}
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	d := &Driver{
		plan: plan, poll: poll, workers: make([]worker, plan.Workers), buf: make([]byte, 1<<20),
		samples: make([]int64, maxSamples), done: make(chan struct{}),
	}
	for _, a := range plan.Dials {
		d.dials = append(d.dials, unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()})
	}
	for _, a := range plan.Sources {
		d.sources = append(d.sources, unix.SockaddrInet4{Addr: a.As4()})
	}
	go d.run()
	return d, nil
}

// Measure forgets what has been done so far; what is done from now on counts.
func (d *Driver) Measure() {
	d.measuring.Store(false)
	d.ops.Store(0)
	d.failures.Store(0)
	d.redials.Store(0)
	d.count.Store(0)
	d.measuring.Store(true)
}

// Begun is the number of workers that have begun: with Park, a few more than have had an answer.
func (d *Driver) Begun() int { return int(d.begun.Load()) }

// Ops is the number of operations completed since Measure; bytes for a plan with Drain.
func (d *Driver) Ops() int64 { return d.ops.Load() }

// Done is closed when the driver has ended by itself: at the end of Once, or after too many
// failures.
func (d *Driver) Done() <-chan struct{} { return d.done }

// Close ends the driver, closes its connections, and tells what it has done. The error is the first
// failure's.
func (d *Driver) Close() (Tally, error) {
	d.stop.Store(true)
	<-d.done
	d.end.Do(func() {
		for i := range d.workers {
			d.hangUp(&d.workers[i])
		}
		d.poll.close()
	})
	tally := Tally{Ops: d.ops.Load(), Failures: d.failures.Load(), Redials: d.redials.Load()}
	for _, ns := range d.samples[:min(d.count.Load(), maxSamples)] {
		tally.Latencies = append(tally.Latencies, time.Duration(ns))
	}
	return tally, d.err
}

func (d *Driver) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(d.done)
	for i := range d.workers {
		d.workers[i].fd = -1
	}
	first := len(d.workers)
	if d.plan.Park {
		first = min(first, rampUp)
	}
	for range first {
		d.startOne()
	}
	for !d.stop.Load() && !d.over {
		events, err := d.poll.wait()
		if err != nil {
			d.fail(err)
			return
		}
		for i := range events {
			e := &events[i]
			if w := &d.workers[e.Fd]; w.generation == e.Pad && w.fd >= 0 {
				d.step(int(e.Fd), w, e.Events)
			}
		}
		if d.failures.Load() > maxFailures {
			return
		}
	}
}

// startOne puts the next worker to work.
func (d *Driver) startOne() {
	if d.started < len(d.workers) {
		d.started++
		d.begun.Store(int64(d.started))
		d.begin(d.started - 1)
	}
}

// begin starts worker i's next operation.
func (d *Driver) begin(i int) {
	w := &d.workers[i]
	turns := max(len(d.plan.Heads), 1)
	if len(d.plan.Heads) == 0 {
		turns = len(d.dials)
	}
	if d.plan.Once && d.turn >= turns {
		d.over = true
		return
	}
	if len(d.plan.Heads) > 0 {
		w.head = d.plan.Heads[d.turn%len(d.plan.Heads)]
	}
	d.turn++
	w.begun = time.Now()
	if w.fd >= 0 {
		d.ask(i, w)
		return
	}
	d.connect(i, w)
}

// connect opens a fresh connection, over which the operation goes on once it can be written to.
func (d *Driver) connect(i int, w *worker) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		d.fail(fmt.Errorf("make a socket: %w", err))
		return
	}
	w.fd, w.stage, w.reused = fd, stageConnecting, false
	w.generation++
	if len(d.sources) > 0 {
		// The port is chosen by connect, which may use one again that is in use towards another
		// address.
		if err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err == nil {
			err = unix.Bind(fd, &d.sources[d.turn%len(d.sources)])
		}
	}
	if err == nil {
		if err = unix.Connect(fd, &d.dials[d.turn%len(d.dials)]); err == unix.EINPROGRESS {
			err = nil
		}
	}
	if err == nil {
		err = d.poll.add(fd, int32(i), w.generation)
	}
	if err != nil {
		d.fail(fmt.Errorf("connect: %w", err))
		d.hangUp(w)
	}
}

// step goes on with worker i's operation after an event.
func (d *Driver) step(i int, w *worker, events uint32) {
	if w.stage == stageConnecting && events&unix.EPOLLOUT != 0 {
		d.ask(i, w)
	}
	if w.fd < 0 || w.stage == stageConnecting && !ended(events) || !readable(events) {
		return
	}
	generation := w.generation
	for w.fd >= 0 && w.generation == generation && !d.stop.Load() {
		n, err := d.receive(w)
		if err == unix.EAGAIN {
			return
		}
		if err != nil || n == 0 {
			d.broken(i, w, err)
			return
		}
		if !d.take(i, w, d.buf[:n]) || n < len(d.buf) && !ended(events) {
			return
		}
	}
}

// receive reads; a reply without end is dropped by the kernel.
func (d *Driver) receive(w *worker) (int, error) {
	if !d.plan.Drain || w.stage != stageReply {
		return unix.Read(w.fd, d.buf)
	}
	// Not unix.Recvfrom, which allocates the peer's address.
	n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(w.fd), 0, uintptr(len(d.buf)), unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// ask sends the head, or without one what goes into the tunnel.
func (d *Driver) ask(i int, w *worker) {
	if w.head == nil {
		d.sendInto(i, w)
		return
	}
	w.stage, w.scan, w.seen, w.left = stageHead, 0, 0, d.plan.Reply
	first := w.head
	if d.plan.SOCKS5 && !d.plan.AtOnce {
		w.stage, first = stageGreeting, socksGreeting
	}
	if !send(w.fd, first) {
		d.broken(i, w, unix.EPIPE)
	}
}

func (d *Driver) sendInto(i int, w *worker) {
	w.stage, w.left = stageReply, d.plan.Reply
	if !send(w.fd, d.plan.Send) {
		d.broken(i, w, unix.EPIPE)
	}
}

// take goes through what was received; false says that this connection has nothing more to read
// now.
func (d *Driver) take(i int, w *worker, b []byte) bool {
	if d.plan.SOCKS5 && w.stage < stageReply {
		return d.takeAnswer(i, w, b)
	}
	all := b
	if w.stage == stageHead {
		w.seen += copy(w.status[min(w.seen, len(w.status)):], b)
		n, complete := w.scan.next(b)
		b = b[n:]
		if !complete {
			return true
		}
		if w.seen < len(w.status) || string(w.status[9:]) != "200" {
			d.broken(i, w, fmt.Errorf("answered with %q", all[:min(len(all), maxQuote)]))
			return false
		}
		w.stage = stageReply
		if d.plan.Send != nil {
			d.sendInto(i, w)
		}
		if len(b) == 0 && w.left > 0 {
			return w.stage == stageReply
		}
	}
	if d.plan.Drain {
		d.ops.Add(int64(len(b)))
		d.pace(len(b))
		if d.plan.Park && !w.reused {
			w.reused = true
			d.startOne()
		}
		return true
	}
	if w.left -= len(b); w.stage != stageReply || w.left < 0 {
		d.broken(i, w, errors.New("more bytes than were asked for"))
		return false
	}
	if w.left > 0 {
		return true
	}
	d.complete(i, w)
	return false
}

// What a SOCKS5 client without a user sends first, and the beginnings of the answers to it and to a
// request.
var socksGreeting = []byte("\x05\x01\x00")

const (
	socksChoice = "\x05\x00"
	socksOpen   = "\x05\x00\x00\x01"
	socksReply  = 10 // the length of a reply with an IPv4 address
)

// takeAnswer is take for the answers to a greeting and to a request. The upstream does not speak
// first, so nothing may follow them.
func (d *Driver) takeAnswer(i int, w *worker, b []byte) bool {
	want, size := socksChoice, len(socksChoice)
	if w.stage == stageHead {
		want, size = socksOpen, socksReply
		if d.plan.AtOnce {
			want, size = socksChoice+socksOpen, len(socksChoice)+socksReply
		}
	}
	n := copy(w.status[w.seen:size], b)
	w.seen += n
	switch {
	case n < len(b):
		d.broken(i, w, errors.New("more bytes than were asked for"))
		return false
	case w.seen < size:
		return true
	case string(w.status[:len(want)]) != want:
		d.broken(i, w, fmt.Errorf("answered with %q", w.status[:size]))
		return false
	case w.stage == stageHead:
		d.sendInto(i, w)
		return true
	}
	w.stage, w.seen = stageHead, 0
	if !send(w.fd, w.head) {
		d.broken(i, w, unix.EPIPE)
	}
	return true
}

// pace waits where more was read than the plan's rate allows. What was missed is not caught up.
func (d *Driver) pace(n int) {
	if d.plan.Rate == 0 {
		return
	}
	step := d.plan.Rate / int(time.Second/rateStep)
	for d.ahead += n; d.ahead >= step; d.ahead -= step {
		d.readAt = d.readAt.Add(rateStep)
		if wait := time.Until(d.readAt); wait > 0 {
			time.Sleep(wait)
		} else {
			d.readAt = time.Now()
		}
	}
}

// complete counts an operation and begins the next.
func (d *Driver) complete(i int, w *worker) {
	d.ops.Add(1)
	if d.measuring.Load() {
		if n := d.count.Add(1); n <= maxSamples {
			d.samples[n-1] = int64(time.Since(w.begun))
		}
	}
	w.stage, w.reused = stageIdle, true
	switch {
	case d.plan.Park:
		d.startOne()
		return
	case d.plan.Send != nil:
		d.hangUp(w)
	}
	d.begin(i)
}

// broken deals with a connection that ended too early. One that was kept alive and ends before a
// byte of the answer, or between two requests, is opened anew, as HTTP has it.
func (d *Driver) broken(i int, w *worker, err error) {
	redial := w.reused && (w.stage == stageIdle || w.stage == stageHead && w.seen == 0)
	if redial && !d.plan.Park {
		d.hangUp(w)
		d.redials.Add(1)
		d.connect(i, w)
		return
	}
	if err == nil {
		err = errors.New("ended before the answer was complete")
	}
	d.fail(err)
	d.hangUp(w)
	if d.plan.Park || d.stop.Load() {
		return
	}
	d.begin(i)
}

func (d *Driver) hangUp(w *worker) {
	if w.fd >= 0 {
		_ = unix.Close(w.fd)
		w.fd, w.stage = -1, stageIdle
	}
}

// fail counts a failure.
func (d *Driver) fail(err error) {
	d.failures.Add(1)
	if d.err == nil {
		d.err = err
	}
}
