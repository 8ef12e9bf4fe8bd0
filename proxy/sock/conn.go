package sock

import (
	"cmp"
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotLive ends reads and writes of a flow whose slot, or whose claims, are no longer live.
var ErrNotLive = errors.New("the session of the slot or the claims has passed its deadline")

// BufferSize is the size of pooled buffers, and the most that one read takes.
const BufferSize = 32 << 10

// Buffers holds buffers of BufferSize between reads.
type Buffers struct{ pool sync.Pool }

// Get returns a buffer.
func (p *Buffers) Get() []byte {
	if b, ok := p.pool.Get().(*[BufferSize]byte); ok {
		return b[:]
	}
	return new([BufferSize]byte)[:]
}

// Put takes back a buffer from Get. A buffer that was grown meanwhile is left to the garbage
// collector.
func (p *Buffers) Put(b []byte) {
	if cap(b) == BufferSize {
		p.pool.Put((*[BufferSize]byte)(b[:BufferSize]))
	}
}

// Live is a right to use a connection, which may end at any time.
type Live interface {
	// Live reports whether another byte may be read or written.
	Live() bool
}

// Tunnel is what a connection is part of whose other end waits as well.
type Tunnel interface {
	// Blocked is called when a write has to wait. It must not block.
	Blocked()
}

// Front stands between the peer and one end of a socket pair, and the socket is the other end: it
// terminates the peer's TLS. What is asked of the peer's connection is asked of the front.
type Front interface {
	// Broken reports whether the peer's connection was reset.
	Broken() bool
	// Reset resets the peer's connection.
	Reset()
	// Closed says that the socket was closed. What was written is still delivered.
	Closed()
	// Wire is the peer's connection.
	Wire() *Conn
}

// Conn is one TCP connection, the client's or the upstream's.
//
// Every read and write first waits for readiness, then asks the slot whether it is still live, and
// then makes one non-blocking system call. So a process that was frozen past its lease notices
// before it touches another byte. One goroutine may read and one may write at a time; reset and
// close may be called from anywhere.
type Conn struct {
	// conn is the descriptor, registered with the runtime's poller. Unlike package net, it makes no
	// system calls for addresses and default options.
	conn *os.File
	raw  syscall.RawConn
	pool *Buffers
	// slot and claims, if not nil, must be live for every read and write. They are changed only
	// while neither is in progress. There are no claims without a slot.
	slot   Live
	claims Live
	// meter, if not nil, paces the bytes that are read. It belongs to the goroutine that reads.
	meter   Meter
	waiting meterWait // for the meter of a plain message
	// stuck is set while a write waits for the peer's window.
	stuck atomic.Bool
	// front, if not nil, is what stands between the peer and a socket pair.
	front Front
	// tunnel, if not nil, is told when the peer's window is full.
	tunnel Tunnel
	// Stall bounds a write without progress; 0 is no bound.
	Stall time.Duration
	// watch is the registration with the hang-up watcher.
	watch   watch
	reading reading
	writing writing
	// The callbacks are made once, because a method value is an allocation.
	tryReadFunc, tryWriteFunc func(fd uintptr) bool
}

// reading is the read in progress.
type reading struct {
	buf []byte
	n   int
	err error
}

// writing is the write in progress.
type writing struct {
	parts [3][]byte
	err   error
	armed bool // a write deadline is set

	// slowStart is set while Nagle's algorithm is on, which does not delay a first write. The
	// second write turns it off; many connections have none. Accepted sockets inherit the option
	// from their listener.
	slowStart, written bool
}

// New takes over a non-blocking TCP socket.
func New(fd int, pool *Buffers) *Conn {
	s := &Conn{conn: os.NewFile(uintptr(fd), ""), pool: pool}
	s.raw, _ = s.conn.SyscallConn() // never fails for an open file
	s.tryReadFunc, s.tryWriteFunc = s.tryRead, s.tryWrite
	return s
}

// FinishConnect waits until the connection to peer is established, has failed, or the write
// deadline has passed. own is as for [Dial].
func (s *Conn) FinishConnect(peer unix.Sockaddr, addr netip.AddrPort, own *netip.AddrPort) error {
	var failure error
	err := s.raw.Write(func(fd uintptr) bool {
		failure = notItself(int(fd), addr, own, connectOn(int(fd), peer))
		return !isConnecting(failure)
	})
	return cmp.Or(err, failure)
}

// Guard sets what must be live for every read and write.
func (s *Conn) Guard(slot, claims Live) { s.slot, s.claims = slot, claims }

// Read fills b with the bytes of one system call. If b is nil, a buffer is taken from the pool once
// there is something to read; unless err is set, it belongs to the caller.
func (s *Conn) Read(b []byte) ([]byte, int, error) { return s.readBy(b, s.tryReadFunc) }

// readBy reads with try, which is tryRead or calls it.
func (s *Conn) readBy(b []byte, try func(fd uintptr) bool) ([]byte, int, error) {
	r := &s.reading
	r.buf, r.n, r.err = b, 0, nil
	err := s.raw.Read(try)
	if r.err != nil {
		err = r.err
	}
	if err != nil {
		if b == nil && r.buf != nil {
			s.pool.Put(r.buf)
		}
		r.buf = nil
		return b, 0, err
	}
	b, r.buf = r.buf, nil
	return b, r.n, nil
}

// tryRead makes one read; false means that there is nothing to read yet. Of a socket with a meter,
// it reads at most what that gives.
func (s *Conn) tryRead(fd uintptr) bool {
	r := &s.reading
	if s.slot != nil && (!s.slot.Live() || s.claims != nil && !s.claims.Live()) {
		r.err = ErrNotLive
		return true
	}
	pooled := r.buf == nil
	most := BufferSize
	if !pooled {
		most = len(r.buf)
	}
	if s.meter != nil {
		if most = s.meter.Take(most); most == 0 {
			r.err = ErrStarved
			return true
		}
	}
	if pooled {
		r.buf = s.pool.Get()
	}
	for {
		n, err := readNow(int(fd), r.buf[:most])
		if err == unix.EINTR {
			continue
		}
		if s.meter != nil {
			s.meter.Put(most - max(n, 0))
		}
		switch {
		case err == unix.EAGAIN:
			if pooled {
				s.pool.Put(r.buf)
				r.buf = nil
			}
			return false
		case err != nil:
			r.err = err
		case n == 0:
			r.err = s.end()
		default:
			r.n = n
		}
		return true
	}
}

// end returns the error for an end of file: the peer's FIN, or the reset of a TLS client's
// connection.
func (s *Conn) end() error {
	if s.front != nil && s.front.Broken() {
		return unix.ECONNRESET
	}
	return io.EOF
}

// Write writes all of a, b and c, in one system call if the window allows it.
func (s *Conn) Write(a, b, c []byte) error {
	w := &s.writing
	w.parts, w.err = [3][]byte{a, b, c}, nil
	err := s.raw.Write(s.tryWriteFunc)
	w.parts = [3][]byte{}
	if w.armed {
		w.armed = false
		s.conn.SetWriteDeadline(time.Time{})
	}
	if s.stuck.Load() {
		s.stuck.Store(false)
	}
	if w.err != nil {
		return w.err
	}
	return err
}

// tryWrite writes; false means that the peer's window is full.
func (s *Conn) tryWrite(fd uintptr) bool {
	w := &s.writing
	for {
		first, rest := w.first()
		if first < 0 {
			return true
		}
		if s.slot != nil && (!s.slot.Live() || s.claims != nil && !s.claims.Live()) {
			w.err = ErrNotLive
			return true
		}
		s.pushSmall(fd)
		var n int
		var err error
		if rest {
			n, err = unix.Writev(int(fd), w.parts[first:])
		} else {
			n, err = writeNow(int(fd), w.parts[first])
		}
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			s.writeBlocked()
			return false
		case err != nil:
			w.err = err
			return true
		default:
			s.wrote(n)
		}
	}
}

// pushSmall turns off Nagle's algorithm before a second write.
func (s *Conn) pushSmall(fd uintptr) {
	if s.writing.slowStart && s.writing.written {
		s.writing.slowStart = false
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	s.writing.written = true
}

// first returns the index of the first part with bytes left, or -1, and whether another such part
// follows.
func (w *writing) first() (first int, rest bool) {
	first = -1
	for i, p := range w.parts {
		switch {
		case len(p) == 0:
		case first < 0:
			first = i
		default:
			return first, true
		}
	}
	return first, false
}

// wrote removes n written bytes from the parts.
func (s *Conn) wrote(n int) {
	for i, p := range s.writing.parts {
		k := min(n, len(p))
		s.writing.parts[i] = p[k:]
		n -= k
	}
}

func (s *Conn) writeBlocked() {
	s.stuck.Store(true)
	if s.Stall > 0 {
		s.writing.armed = true
		s.conn.SetWriteDeadline(time.Now().Add(s.Stall))
	}
	if s.tunnel != nil {
		s.tunnel.Blocked()
	}
}

// Offer writes as much of b as the window allows, without regard to writes in progress, and returns
// the number of bytes written.
func (s *Conn) Offer(b string) (n int) {
	s.raw.Control(func(fd uintptr) {
		if wrote, err := unix.Write(int(fd), []byte(b)); err == nil {
			n = wrote
		}
	})
	return n
}

// Quiet reports whether the connection has neither bytes to read nor an end.
func (s *Conn) Quiet() bool {
	quiet := false
	err := s.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
	})
	return err == nil && quiet
}

// Unread returns the number of received bytes that have not been read.
func (s *Conn) Unread() (n int) {
	s.raw.Control(func(fd uintptr) { n = received(int(fd)) })
	return n
}

// Reset ends the connection at once, with a RST, and wakes goroutines that read or write it.
func (s *Conn) Reset() {
	if s.front != nil {
		s.front.Reset()
	}
	s.raw.Control(func(fd uintptr) {
		unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	s.Close()
}

// Close ends the connection; written bytes are still delivered.
func (s *Conn) Close() {
	s.conn.Close()
	s.watch.forget() // afterwards: a concurrent registration finds the socket closed, or is undone here
	if s.front != nil {
		s.front.Closed()
	}
}

// CloseWrite sends a FIN after the written bytes.
func (s *Conn) CloseWrite() error { return s.shutdown(unix.SHUT_WR) }

// CloseRead makes reads end as if a FIN had come. The peer does not notice.
func (s *Conn) CloseRead() error { return s.shutdown(unix.SHUT_RD) }

func (s *Conn) shutdown(how int) error {
	var err error
	if closed := s.raw.Control(func(fd uintptr) { err = shutdownNow(int(fd), how) }); closed != nil {
		return closed
	}
	return err
}

// keepAliveOptions make the kernel detect a peer that vanished silently: it is probed after 15 s of
// silence and has two minutes to answer.
var keepAliveOptions = [...]struct{ level, name, value int }{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{unix.IPPROTO_TCP, tcpKeepIdle, 15},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
}

// setKeepAlive sets the options on a socket; accepted sockets inherit them from their listener.
func setKeepAlive(fd uintptr) error {
	for _, o := range keepAliveOptions {
		if err := unix.SetsockoptInt(int(fd), o.level, o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

// KeepAlive makes the kernel probe a silent peer.
func (s *Conn) KeepAlive() {
	s.raw.Control(func(fd uintptr) { _ = setKeepAlive(fd) })
}

// RTT returns the kernel's smoothed round-trip time, or 0 for a closed connection.
func (s *Conn) RTT() (d time.Duration) {
	s.raw.Control(func(fd uintptr) { d = roundTrip(int(fd)) })
	return d
}

// Acked returns a number that changes with each byte that the peer's kernel acknowledges.
func (s *Conn) Acked() (n uint64) {
	if s.front != nil {
		return s.front.Wire().Acked()
	}
	s.raw.Control(func(fd uintptr) { n = taken(int(fd)) })
	return n
}

// Carried returns a number that changes with each byte received, and with each byte that the peer's
// kernel acknowledges.
func (s *Conn) Carried() (n uint64) {
	if s.front != nil {
		return s.front.Wire().Carried()
	}
	s.raw.Control(func(fd uintptr) { n = carried(int(fd)) })
	return n
}

// IsReset reports whether err means that the peer, or the network, has ended the connection.
func IsReset(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) ||
		errors.Is(err, unix.ETIMEDOUT) || errors.Is(err, unix.ENOTCONN)
}

// SetFront puts a front before the socket.
func (s *Conn) SetFront(f Front) { s.front = f }

// SetTunnel makes the socket part of a tunnel, which has no bound for a stalled write.
func (s *Conn) SetTunnel(t Tunnel) { s.Stall, s.tunnel = 0, t }

// SetMeter makes m pace the bytes that are read; nil ends that.
func (s *Conn) SetMeter(m Meter) { s.meter = m }

// IsStuck reports whether a write waits for the peer's window.
func (s *Conn) IsStuck() bool { return s.stuck.Load() }

// Control calls f with the descriptor; an error means that the socket is closed.
func (s *Conn) Control(f func(fd uintptr)) error { return s.raw.Control(f) }

// SetDeadline sets the time at which reads and writes fail; zero is none.
func (s *Conn) SetDeadline(t time.Time) error { return s.conn.SetDeadline(t) }

// SetReadDeadline sets the time at which reads fail; zero is none.
func (s *Conn) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// SetWriteDeadline sets the time at which writes fail; zero is none.
func (s *Conn) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

// Recycle gives back a buffer that Read has taken from the pool.
func (s *Conn) Recycle(b []byte) { s.pool.Put(b) }
