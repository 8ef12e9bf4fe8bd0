// Package upstream is a server that judges a proxy in front of it: it counts the connections that
// are open at it, now and at most.
//
// A connection counts from its acceptance until the server has seen the peer's end, a FIN or a
// reset, and it stops counting before the server closes its own side. So a peer that opens the next
// connection only once it has seen this server's end never makes the count exceed its own, however
// the two are scheduled, and a peer that does not wait is caught.
//
// Two little protocols share the port, told apart by the first byte. Lines in lower case:
//
//	hold 30ms    answers "held" after that time, then reads the next line
//	close 30ms   answers "closed" after that time and sends FIN; the connection counts until the peer's end
//	echo         sends back all that follows
//	give 1000    sends so many bytes, then reads the next line
//	take         takes all that follows, and notes when how many bytes have come
//
// And HTTP/1.1, with kept-alive connections: GET /hold?ms=30, GET /close?ms=30 (Connection: close),
// GET /give?bytes=1000, POST /take and POST /echo. Each line and each request is noted when its
// first byte has come.
package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Server is a counting upstream. Its methods may be called from any goroutine.
type Server struct {
	ln  net.Listener
	tls *tls.Config

	mu     sync.Mutex
	meter  *meter
	conns  map[*net.TCPConn]struct{}
	next   uint64
	closed bool

	wg sync.WaitGroup
}

// Start listens on addr ("127.0.0.1:0" for any free port) and serves until Close. With a TLS
// configuration every connection begins with a handshake; it counts from acceptance all the same.
func Start(addr string, config *tls.Config) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	s := &Server{ln: ln, tls: config, meter: newMeter(time.Now()), conns: map[*net.TCPConn]struct{}{}}
	s.wg.Go(s.accept)
	return s, nil
}

// Addr is the host:port that the server listens on.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Port is the port of Addr, for tests that reach the server by several names.
func (s *Server) Port() int { return s.ln.Addr().(*net.TCPAddr).Port }

// Stats tells what has been counted since the last Reset.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meter.stats(time.Now())
}

// Reset begins a new period: totals and the mean start at zero, the peak at what is open. It
// returns what was counted in the period that it ends.
func (s *Server) Reset() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	ended := s.meter.stats(now)
	s.meter.restart(now)
	return ended
}

// Timeline returns the openings and ends since the last Reset in order, and how many more did not
// fit.
func (s *Server) Timeline() (events []Event, dropped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Event(nil), s.meter.events...), s.meter.dropped
}

// Asked returns when each line or request since the last Reset has come, in order.
func (s *Server) Asked() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.meter.asked)
}

// Taken returns what "take" has taken since the last Reset, in order.
func (s *Server) Taken() []Chunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.meter.taken)
}

// Close stops listening, resets what is open and waits for every connection's goroutine.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	err := s.ln.Close()
	for c := range s.conns {
		reset(c)
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a connection that was gone before it could be taken
		}
		s.admit(c.(*net.TCPConn))
	}
}

// admit counts a connection in the accepting goroutine, so that none is open uncounted while its
// own is scheduled.
func (s *Server) admit(c *net.TCPConn) {
	peer := c.RemoteAddr().(*net.TCPAddr).IP.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		reset(c)
		return
	}
	s.next++
	id := s.next
	s.conns[c] = struct{}{}
	s.meter.opened(time.Now(), id, peer)
	s.wg.Go(func() {
		l := &listened{TCPConn: c}
		err := converse(l, s.tls, notes{s, id})
		s.mu.Lock()
		s.meter.ended(time.Now(), id, peer, l.heard, errors.Is(err, syscall.ECONNRESET))
		delete(s.conns, c)
		s.mu.Unlock()
		_ = c.Close() // only now does the peer see our end
	})
}

// notes is where a connection's conversation is noted.
type notes struct {
	server *Server
	conn   uint64
}

func (n notes) request() {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	n.server.meter.request(time.Now())
}

// Write notes bytes that have come.
func (n notes) Write(b []byte) (int, error) {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	n.server.meter.took(time.Now(), n.conn, len(b))
	return len(b), nil
}

// listened is a connection that notes when its peer was last heard. Only the goroutine that reads
// may look.
type listened struct {
	*net.TCPConn
	heard time.Time
}

func (l *listened) Read(b []byte) (int, error) {
	n, err := l.TCPConn.Read(b)
	if n > 0 {
		l.heard = time.Now()
	}
	return n, err
}

// WriteTo keeps io.Copy from passing Read by.
func (l *listened) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{l})
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
