package proxy

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

// errNotLive ends reads and writes of a flow whose slot, or whose claims, are no longer live.
var errNotLive = errors.New("the session of the slot or the claims has passed its deadline")

// bufSize is the size of pooled buffers, and the most that one read takes.
const bufSize = 32 << 10

// bufferPool holds buffers of bufSize between reads.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) get() []byte {
	if b, ok := p.pool.Get().(*[bufSize]byte); ok {
		return b[:]
	}
	return new([bufSize]byte)[:]
}

// put takes back a buffer from get. A buffer that was grown meanwhile is left to the garbage
// collector.
func (p *bufferPool) put(b []byte) {
	if cap(b) == bufSize {
		p.pool.Put((*[bufSize]byte)(b[:bufSize]))
	}
}

// sock is one TCP connection, the client's or the upstream's.
//
// Every read and write first waits for readiness, then asks the slot whether it is still live, and
// then makes one non-blocking system call. So a process that was frozen past its lease notices
// before it touches another byte. One goroutine may read and one may write at a time; reset and
// close may be called from anywhere.
type sock struct {
	// conn is the descriptor, registered with the runtime's poller. Unlike package net, it makes no
	// system calls for addresses and default options.
	conn *os.File
	raw  syscall.RawConn
	pool *bufferPool
	// slot and claims, if not nil, must be live for every read and write. They are changed only
	// while neither is in progress. There are no claims without a slot.
	slot   Slot
	claims Claims
	// meter, if not nil, paces the bytes that are read. It belongs to the goroutine that reads.
	meter   Meter
	waiting meterWait // for the meter of a plain message
	// front, if not nil, is the client's TLS, at the other end of the socket pair.
	front *front
	// tunnel, if not nil, is the flow whose blocked is called when the peer's window is full.
	tunnel *flow
	// stall bounds a write without progress; 0 is no bound.
	stall time.Duration
	// stuck is set while a write waits for the peer's window.
	stuck atomic.Bool
	// watch is the registration with the hang-up watcher.
	watch watch
	// slowStart is set while Nagle's algorithm is on, which does not delay a first write. The
	// second write turns it off; many connections have none. Accepted sockets inherit the option
	// from their listener.
	slowStart, written bool

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
}

// newSock takes over a non-blocking TCP socket.
func newSock(fd int, pool *bufferPool) *sock {
	s := &sock{conn: os.NewFile(uintptr(fd), ""), pool: pool}
	s.raw, _ = s.conn.SyscallConn() // never fails for an open file
	s.tryReadFunc, s.tryWriteFunc = s.tryRead, s.tryWrite
	return s
}

// finishConnect waits until the connection to peer is established, has failed, or the write
// deadline has passed. own is as for dialSock.
func (s *sock) finishConnect(peer unix.Sockaddr, addr netip.AddrPort, own *netip.AddrPort) error {
	var failure error
	err := s.raw.Write(func(fd uintptr) bool {
		failure = notItself(int(fd), addr, own, connectOn(int(fd), peer))
		return !isConnecting(failure)
	})
	return cmp.Or(err, failure)
}

// guard sets what must be live for every read and write.
func (s *sock) guard(slot Slot, claims Claims) { s.slot, s.claims = slot, claims }

// read fills b with the bytes of one system call. If b is nil, a buffer is taken from the pool once
// there is something to read; unless err is set, it belongs to the caller.
func (s *sock) read(b []byte) ([]byte, int, error) { return s.readBy(b, s.tryReadFunc) }

// readBy reads with try, which is tryRead or calls it.
func (s *sock) readBy(b []byte, try func(fd uintptr) bool) ([]byte, int, error) {
	r := &s.reading
	r.buf, r.n, r.err = b, 0, nil
	err := s.raw.Read(try)
	if r.err != nil {
		err = r.err
	}
	if err != nil {
		if b == nil && r.buf != nil {
			s.pool.put(r.buf)
		}
		r.buf = nil
		return b, 0, err
	}
	b, r.buf = r.buf, nil
	return b, r.n, nil
}

// tryRead makes one read; false means that there is nothing to read yet. Of a socket with a meter,
// it reads at most what that gives.
func (s *sock) tryRead(fd uintptr) bool {
	r := &s.reading
	if s.slot != nil && (!s.slot.Live() || s.claims != nil && !s.claims.Live()) {
		r.err = errNotLive
		return true
	}
	pooled := r.buf == nil
	most := bufSize
	if !pooled {
		most = len(r.buf)
	}
	if s.meter != nil {
		if most = s.meter.Take(most); most == 0 {
			r.err = errStarved
			return true
		}
	}
	if pooled {
		r.buf = s.pool.get()
	}
	for {
		n, err := unix.Read(int(fd), r.buf[:most])
		if err == unix.EINTR {
			continue
		}
		if s.meter != nil {
			s.meter.Put(most - max(n, 0))
		}
		switch {
		case err == unix.EAGAIN:
			if pooled {
				s.pool.put(r.buf)
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
func (s *sock) end() error {
	if s.front != nil && s.front.broken.Load() {
		return unix.ECONNRESET
	}
	return io.EOF
}

// write writes all of a, b and c, in one system call if the window allows it.
func (s *sock) write(a, b, c []byte) error {
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
func (s *sock) tryWrite(fd uintptr) bool {
	w := &s.writing
	for {
		first, rest := w.first()
		if first < 0 {
			return true
		}
		if s.slot != nil && (!s.slot.Live() || s.claims != nil && !s.claims.Live()) {
			w.err = errNotLive
			return true
		}
		s.pushSmall(fd)
		var n int
		var err error
		if rest {
			n, err = unix.Writev(int(fd), w.parts[first:])
		} else {
			n, err = unix.Write(int(fd), w.parts[first])
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
func (s *sock) pushSmall(fd uintptr) {
	if s.slowStart && s.written {
		s.slowStart = false
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	s.written = true
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
func (s *sock) wrote(n int) {
	for i, p := range s.writing.parts {
		k := min(n, len(p))
		s.writing.parts[i] = p[k:]
		n -= k
	}
}

func (s *sock) writeBlocked() {
	s.stuck.Store(true)
	if s.stall > 0 {
		s.writing.armed = true
		s.conn.SetWriteDeadline(time.Now().Add(s.stall))
	}
	if s.tunnel != nil {
		s.tunnel.blocked()
	}
}

// offer writes as much of b as the window allows, without regard to writes in progress, and returns
// the number of bytes written.
func (s *sock) offer(b string) (n int) {
	s.raw.Control(func(fd uintptr) {
		if wrote, err := unix.Write(int(fd), []byte(b)); err == nil {
			n = wrote
		}
	})
	return n
}

// quiet reports whether the connection has neither bytes to read nor an end.
func (s *sock) quiet() bool {
	quiet := false
	err := s.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = err == unix.EAGAIN
	})
	return err == nil && quiet
}

// unread returns the number of received bytes that have not been read.
func (s *sock) unread() (n int) {
	s.raw.Control(func(fd uintptr) { n = received(int(fd)) })
	return n
}

// reset ends the connection at once, with a RST, and wakes goroutines that read or write it.
func (s *sock) reset() {
	if s.front != nil {
		s.front.clientReset()
	}
	s.raw.Control(func(fd uintptr) {
		unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	s.close()
}

// close ends the connection; written bytes are still delivered.
func (s *sock) close() {
	s.conn.Close()
	s.watch.forget() // afterwards: a concurrent registration finds the socket closed, or is undone here
	if s.front != nil {
		s.front.clientClosed()
	}
}

// closeWrite sends a FIN after the written bytes.
func (s *sock) closeWrite() error { return s.shutdown(unix.SHUT_WR) }

// closeRead makes reads end as if a FIN had come. The peer does not notice.
func (s *sock) closeRead() error { return s.shutdown(unix.SHUT_RD) }

func (s *sock) shutdown(how int) error {
	var err error
	if closed := s.raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), how) }); closed != nil {
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

// keepAlive makes the kernel probe a silent peer.
func (s *sock) keepAlive() {
	s.raw.Control(func(fd uintptr) { _ = setKeepAlive(fd) })
}

// rtt returns the kernel's smoothed round-trip time, or 0 for a closed connection.
func (s *sock) rtt() (d time.Duration) {
	s.raw.Control(func(fd uintptr) { d = roundTrip(int(fd)) })
	return d
}

// acked returns a number that changes with each byte that the peer's kernel acknowledges.
func (s *sock) acked() (n uint64) {
	if s.front != nil {
		return s.front.wire.acked()
	}
	s.raw.Control(func(fd uintptr) { n = taken(int(fd)) })
	return n
}

// carried returns a number that changes with each byte received, and with each byte that the peer's
// kernel acknowledges.
func (s *sock) carried() (n uint64) {
	if s.front != nil {
		return s.front.wire.carried()
	}
	s.raw.Control(func(fd uintptr) { n = carried(int(fd)) })
	return n
}

// isReset reports whether err means that the peer, or the network, has ended the connection.
func isReset(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) ||
		errors.Is(err, unix.ETIMEDOUT) || errors.Is(err, unix.ENOTCONN)
}
