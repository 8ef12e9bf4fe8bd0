package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/auth"
	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/sock"
)

// Clients that connect with TLS.
//
// A front terminates a client's TLS and carries its bytes to and from one end of a socket pair. To
// the rest of the package the other end is the client's socket, subject to the same rules as
// without TLS. Ends are carried too: close_notify becomes a FIN on the pair, and the reverse; a
// broken connection or TLS session becomes a reset. Many clients close without close_notify; their
// FIN counts as a close.
//
// The cost is two goroutines, three descriptors and one more copy for each client.

const (
	// frontBuffer is the size of the buffer in which a front waits for the client's bytes. While
	// they come in large pieces, it uses a pooled buffer instead.
	frontBuffer = 1 << 10
	// frontGrace is how long the last bytes may take to reach the client after its other side has
	// closed.
	frontGrace = 60 * time.Second
	// stuckEvery is how often a front checks, after the client's FIN, whether the bytes before the
	// FIN still move.
	stuckEvery = 100 * time.Millisecond
)

// refusePlain is for clients that speak HTTP where TLS is expected.
var refusePlain = badRequest("the client began with plain HTTP, and this port speaks TLS: use https:// in the proxy's URL")

// errForeign means that the client speaks neither TLS nor HTTP, but a protocol that is recognised.
var errForeign = errors.New("the client speaks another protocol than TLS")

// front is one client's TLS.
type front struct {
	srv    *Server
	addr   netip.AddrPort // the client's
	wire   *sock.Conn     // to the client
	in     sock.Reader    // bytes read from wire, but not yet by tls
	tls    *tls.Conn
	inner  *sock.Conn // our end of the pair
	client *conn

	balanced bool // the connection must begin with a PROXY header
	since    time.Time
	places   chan struct{} // holds the client's place until all descriptors are closed

	broken atomic.Bool   // the client's connection was reset
	moved  atomic.Uint64 // bytes from the client
	pumps  atomic.Int32  // directions that have not ended

	mu     sync.Mutex
	done   bool // everything has been sent to the client
	closed bool // the other end of the pair is closed
	stuck  *time.Timer
	seen   uint64
}

// greet starts a front for a connection to a listener with TLS.
func (s *Server) greet(fd int, addr netip.AddrPort, balanced bool, places chan struct{}) {
	f := &front{srv: s, addr: addr, balanced: balanced, since: time.Now(), places: places, wire: sock.New(fd, &s.buffers)}
	f.in.Conn = f.wire
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		f.wire.Close()
		<-places
		return
	}
	s.fronts[f] = struct{}{}
	s.work.Add(1)
	s.mu.Unlock()
	go f.run()
}

// dropGreetings resets the connections that have not completed their handshake.
func (s *Server) dropGreetings() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.fronts {
		f.wire.Reset()
	}
}

// greeted removes a front whose handshake has completed or failed.
func (s *Server) greeted(f *front) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fronts, f)
}

// run serves one connection from accept to its end.
func (f *front) run() {
	s := f.srv
	defer s.work.Done()
	c, err := f.open()
	s.greeted(f)
	if err != nil {
		f.refuse(err)
		f.in.Release()
		f.wire.Close()
		<-f.places
		return
	}
	f.pumps.Store(2)
	s.work.Add(1)
	go f.pumpDown()
	s.hangups.Add(f.wire, f.hungUp)
	s.start(c)
	f.pumpUp()
}

// open does everything before the first request, within header_timeout: the PROXY header, the
// handshake, the socket pair.
func (f *front) open() (*conn, error) {
	s := f.srv
	timeout := s.policy.Load().HeaderTimeout
	stranger := f.places == s.strangers
	if stranger {
		timeout = min(timeout, strangerTimeout)
	}
	if err := f.wire.SetDeadline(f.since.Add(timeout)); err != nil {
		return nil, err
	}
	if f.balanced {
		client, err := readProxyHeader(&f.in)
		if err != nil {
			return nil, err
		}
		if client.IsValid() {
			f.addr = client
		}
	}
	if err := f.checkFirst(); err != nil {
		return nil, err
	}
	f.tls = tls.Server(wireConn{f}, s.tls)
	if err := f.tls.Handshake(); err != nil {
		return nil, err
	}
	if err := f.wire.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	ours, theirs, err := sock.NewPair()
	if err != nil {
		return nil, err
	}
	f.inner = sock.New(ours, &s.buffers)
	f.client = newConn(s, theirs, f.addr)
	f.client.stranger = stranger
	f.client.sock.SetFront(f)
	return f.client, nil
}

// checkFirst recognises SOCKS by the first byte: its first message is shorter than what the TLS
// handshake waits for.
func (f *front) checkFirst() error {
	if f.in.Len() == 0 {
		if err := f.in.Fill(); err != nil {
			return err
		}
	}
	if foreignOf(f.in.Bytes()[0]).overTLS != nil {
		return errForeign
	}
	return nil
}

// refuse answers a connection whose start failed, if its client can understand an answer.
func (f *front) refuse(err error) {
	s := f.srv
	var header tls.RecordHeaderError
	var syntax auth.HeaderError
	switch {
	case err == errForeign:
		p := foreignOf(f.in.Bytes()[0])
		f.answer(p.overTLS, p.answer)
	case errors.As(err, &syntax):
		(&conn{srv: s, addr: f.addr}).noteRefusal(badRequest(string(syntax)))
	case errors.As(err, &header) && header.Conn != nil && looksLikeHTTP(header.RecordHeader):
		f.answer(refusePlain, refusePlain.render(nil, refusePlain.status(0), s.loop.Load().field(), s.status, limit.Target{}, http1.KeepAlive{}, false))
	case err == io.EOF, sock.IsReset(err), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
		// A health check, a scan, or the end of the server.
	default:
		if s.handshakes.Show() {
			s.log.Warn("a client's TLS handshake failed", "client", f.addr, "error", err)
		}
	}
}

// answer sends a refusal without TLS to a client that does not speak it.
func (f *front) answer(r *refusal, b []byte) {
	(&conn{srv: f.srv, addr: f.addr}).noteRefusal(r)
	f.in.Release()
	if f.wire.Write(b, nil, nil) == nil && f.wire.CloseWrite() == nil {
		sock.Drained(f.wire, lingerTimeout)
	}
}

// looksLikeHTTP reports whether the header of the first record could be the beginning of a request.
func looksLikeHTTP(header [5]byte) bool {
	method, _, _ := bytes.Cut(header[:], []byte(" "))
	return http1.IsToken(method)
}

// pumpUp carries the client's bytes to the pair.
func (f *front) pumpUp() {
	defer f.pumped()
	small := make([]byte, frontBuffer)
	buf := small
	for {
		n, err := f.tls.Read(buf)
		if n > 0 {
			if f.inner.Write(buf[:n], nil, nil) != nil {
				break // the pair is closed: Closed or Reset has seen to the client
			}
			f.moved.Add(uint64(n))
		}
		switch {
		case err == io.EOF:
			_ = f.inner.CloseWrite() // fails where the other end is closed
		case err != nil:
			f.breakOff()
		case n == len(small) && len(buf) == len(small):
			buf = f.srv.buffers.Get()
			continue
		case n < len(small) && len(buf) > len(small):
			f.srv.buffers.Put(buf)
			buf = small
			continue
		default:
			continue
		}
		break
	}
	if len(buf) > len(small) {
		f.srv.buffers.Put(buf)
	}
}

// pumpDown carries the pair's bytes to the client.
func (f *front) pumpDown() {
	defer f.srv.work.Done()
	defer f.pumped()
	for {
		buf, n, err := f.inner.Read(nil)
		if err == nil {
			_, err = f.tls.Write(buf[:n])
			f.srv.buffers.Put(buf)
		} else if err == io.EOF {
			if err = f.tls.CloseWrite(); err == nil {
				err = f.wire.CloseWrite()
			}
			if err == nil {
				f.sent()
				return
			}
		}
		if err != nil {
			f.breakOff()
			return
		}
	}
}

// pumped is called at the end of each direction; the second call closes everything.
func (f *front) pumped() {
	if f.pumps.Add(-1) > 0 {
		return
	}
	f.mu.Lock()
	if f.stuck != nil {
		f.stuck.Stop()
	}
	f.mu.Unlock()
	f.in.Release()
	f.wire.Close()
	f.inner.Close()
	<-f.places
}

// sent records that the client has been sent its last byte. The connection is closed once the other
// end of the pair has been closed too.
func (f *front) sent() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = true
	if f.closed {
		f.wire.Close()
	}
}

// Closed implements [sock.Front]: it is called when the client's end of the pair is closed.
func (f *front) Closed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.done {
		f.wire.Close()
		return
	}
	_ = f.wire.SetWriteDeadline(time.Now().Add(frontGrace)) // fails if it is closed
}

// Reset implements [sock.Front]: it is called when the client's end of the pair is reset.
func (f *front) Reset() { f.wire.Reset() }

// Broken implements [sock.Front].
func (f *front) Broken() bool { return f.broken.Load() }

// Wire implements [sock.Front].
func (f *front) Wire() *sock.Conn { return f.wire }

// breakOff turns the client's reset, or broken TLS, into a reset of its end of the pair.
func (f *front) breakOff() {
	if f.broken.Swap(true) {
		return
	}
	f.wire.Reset()
	_ = f.inner.CloseWrite() // these fail if it is closed
	_ = f.inner.CloseRead()
	f.client.hungUp(sock.HangupReset)
}

// hungUp is called by the hang-up watcher at the end of the client's connection.
func (f *front) hungUp(kind sock.Hangup) {
	if kind == sock.HangupReset {
		f.breakOff()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stuck == nil {
		f.seen = f.moved.Load()
		f.stuck = time.AfterFunc(stuckEvery, f.lookStuck)
	}
}

// lookStuck reports a client's FIN that cannot be forwarded because the bytes before it are not
// being read.
func (f *front) lookStuck() {
	moved, unread := f.moved.Load(), f.client.sock.Unread()
	f.mu.Lock()
	stuck := moved == f.seen && unread > 0
	if f.seen = moved; !stuck && f.pumps.Load() == 2 {
		f.stuck.Reset(stuckEvery)
	}
	f.mu.Unlock()
	if stuck {
		f.client.hungUp(sock.HangupFIN)
	}
}

// wireConn is the client's connection as crypto/tls uses it. Only the front sets deadlines: those
// of crypto/tls are too short for slow clients.
type wireConn struct{ f *front }

// Read implements [net.Conn].
func (w wireConn) Read(b []byte) (int, error) {
	if in := &w.f.in; in.Len() > 0 {
		n := copy(b, in.Bytes())
		in.Skip(n)
		return n, nil
	}
	_, n, err := w.f.wire.Read(b)
	return n, err
}

// Write implements [net.Conn].
func (w wireConn) Write(b []byte) (int, error) {
	if err := w.f.wire.Write(b, nil, nil); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements [net.Conn].
func (w wireConn) Close() error {
	w.f.wire.Close()
	return nil
}

// LocalAddr implements [net.Conn]; it is never used.
func (w wireConn) LocalAddr() net.Addr { return &net.TCPAddr{} }

// RemoteAddr implements [net.Conn].
func (w wireConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(w.f.addr) }

// SetDeadline implements [net.Conn] and does nothing, like the other two.
func (wireConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements [net.Conn].
func (wireConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements [net.Conn].
func (wireConn) SetWriteDeadline(time.Time) error { return nil }
