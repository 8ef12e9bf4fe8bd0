package proxy

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/auth"
	"github.com/weirproxy/weir/proxy/clienttls"
	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/sock"
)

// TLS belongs to the listener, and ends in front of a socket pair: this package sees the pair's
// other end as the client's socket. So ends, resets and hang-ups have one implementation. Package
// clienttls has the cost; nothing is spliced to such a client.

// newcomer is a client's connection to a listener with TLS. Once the handshake is complete, it has
// a [conn], whose socket package clienttls gives. The newcomer may outlive that: the last bytes may
// still be on their way when the proxy is done with the client.
type newcomer struct {
	srv  *Server
	tls  *clienttls.Terminator
	addr netip.AddrPort // the client's
	wire *sock.Conn     // to the client
	in   sock.Reader    // of wire

	balanced bool // the connection must begin with a PROXY header
	greeted  bool // the handshake has completed or failed; guarded by the server's mu
	since    time.Time
	places   chan struct{} // holds the client's place until all descriptors are closed
}

// receiveTLS makes a newcomer of an accepted connection, which has one of the given places.
func (s *Server) receiveTLS(fd int, addr netip.AddrPort, tls *clienttls.Terminator, balanced bool, places chan struct{}) {
	n := &newcomer{srv: s, tls: tls, addr: addr, balanced: balanced, since: time.Now(), places: places, wire: sock.New(fd, &s.buffers)}
	n.in.Conn = n.wire
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		n.wire.Close()
		<-places
		return
	}
	s.newcomers[n] = struct{}{}
	s.work.Add(1)
	s.mu.Unlock()
	go n.run()
}

// dropNewcomers resets the connections that have not completed their handshake.
func (s *Server) dropNewcomers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.newcomers {
		if !n.greeted {
			n.wire.Reset()
		}
	}
}

// greet notes that a newcomer's handshake has completed or failed: from now on only the client that
// it has become can be idle.
func (s *Server) greet(n *newcomer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.greeted = true
}

// forget removes a newcomer whose descriptors are closed.
func (s *Server) forget(n *newcomer) {
	s.mu.Lock()
	delete(s.newcomers, n)
	s.mu.Unlock()
	<-n.places
	s.work.Done()
}

// run serves one connection from accept to its end.
func (n *newcomer) run() {
	s := n.srv
	front, err := n.open()
	s.greet(n)
	if err != nil {
		n.refuse(err)
		n.in.Release()
		n.wire.Close()
		s.forget(n)
		return
	}
	c := newConn(s, front.Socket(), n.addr)
	c.stranger = n.places == s.strangers
	front.Begin(c.hungUp, func() { s.forget(n) })
	s.start(c)
	front.Carry()
}

// open does everything before the first request, within header_timeout: the PROXY header, the first
// byte, the handshake.
func (n *newcomer) open() (*clienttls.Conn, error) {
	timeout := n.srv.policy.Load().HeaderTimeout
	if n.places == n.srv.strangers {
		timeout = min(timeout, strangerTimeout)
	}
	deadline := n.since.Add(timeout)
	if err := n.wire.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if n.balanced {
		client, err := readProxyHeader(&n.in)
		if err != nil {
			return nil, err
		}
		if client.IsValid() {
			n.addr = client
		}
	}
	if err := expectTLS(&n.in); err != nil {
		return nil, err
	}
	return n.tls.Handshake(&n.in, n.addr, deadline)
}

// refuse answers a connection whose start failed, if its client can understand an answer.
func (n *newcomer) refuse(err error) {
	s := n.srv
	var notTLS *clienttls.NotTLSError
	var syntax auth.HeaderError
	switch {
	case err == errForeign:
		p := foreignOf(n.in.Bytes()[0])
		(&conn{srv: s, addr: n.addr}).noteForeign(p, p.overTLS)
		n.answer(p.answer)
	case errors.As(err, &syntax):
		(&conn{srv: s, addr: n.addr}).noteRefusal(badRequest(string(syntax)))
	case errors.As(err, &notTLS) && !n.balanced && looksLikeProxyHeader(notTLS.Start):
		n.answerHTTP(&refuseBalancer)
	case errors.As(err, &notTLS) && looksLikeHTTP(notTLS.Start):
		n.answerHTTP(refusePlain)
	case err == io.EOF, sock.IsReset(err), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, os.ErrClosed):
		// A health check, a scan, or the end of the server.
	default:
		if s.handshakes.Show() {
			s.log.Warn("a client's TLS handshake failed", "client", n.addr, "error", err)
		}
	}
}

// answerHTTP is answer for a client that speaks HTTP, or a protocol without an answer of its own.
func (n *newcomer) answerHTTP(r *refusal) {
	s := n.srv
	status := (&conn{srv: s, addr: n.addr}).noteRefusal(r)
	n.answer(r.render(nil, status, s.loop.Load().field(), s.status, limit.Target{}, http1.KeepAlive{}, false))
}

// answer sends a refusal without TLS to a client that does not speak it.
func (n *newcomer) answer(b []byte) {
	n.in.Release()
	if n.wire.Write(b, nil, nil) == nil && n.wire.CloseWrite() == nil {
		sock.Drained(n.wire, lingerTimeout)
	}
}
