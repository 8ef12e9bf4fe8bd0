package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Requests that net/http refuses by itself, above all malformed ones, never reach a handler.
// net/http answers them in plain text, and does not answer a request that is too slow to arrive.
// The connections here turn such answers into problems: anything that is written while no handler
// runs is such an answer, written at once.
//
// On a listener with TLS, net/http must see the TLS connection itself, so its own answers stay as
// they are.

// problemListener accepts connections on which every refusal is a problem.
type problemListener struct{ net.Listener }

func (l problemListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if _, ok := c.(*tls.Conn); ok {
		return c, nil
	}
	return &problemConn{Conn: c}, nil
}

// problemConn is a connection of a problemListener.
type problemConn struct {
	net.Conn
	phase atomic.Int32
	begun atomic.Bool // a byte of the next request has come
}

// The phases of a connection.
const (
	phaseReading   int32 = iota // anything written is a refusal of net/http's
	phaseAnswering              // a handler writes
	phaseRefused                // a refusal was sent: nothing may follow
)

type connKey struct{}

// connContext gives handlers access to their connection.
func connContext(ctx context.Context, c net.Conn) context.Context {
	return withOrigin(context.WithValue(ctx, connKey{}, c), c)
}

// handling records that a handler answers from here on.
func handling(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*problemConn); ok {
		c.phase.Store(phaseAnswering)
	}
}

// lastUnlessRead makes a request with a body its connection's last, until bodyRead. net/http holds
// back an answer until the body has come or ReadTimeout has passed, unless the connection is to
// close. Callers need no token to be answered without a look at their body, be it that they have
// none.
func lastUnlessRead(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		w.Header().Set("Connection", "close")
	}
}

// bodyRead lets the connection serve further requests: nothing of the body is left.
func bodyRead(w http.ResponseWriter) { w.Header().Del("Connection") }

// giveWay lets another connection have the place of one that closes, but on which net/http still
// waits for the rest of a body.
func (s *Server) giveWay(w http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok && w.Header().Get("Connection") == "close" {
		s.conns.noteState(c, http.StateIdle)
	}
}

// connState records that an answer has been sent, and whether a request is under way.
func (s *Server) connState(conn net.Conn, state http.ConnState) {
	s.conns.noteState(conn, state)
	if c, ok := conn.(*problemConn); ok && state == http.StateIdle {
		c.begun.Store(false)
		c.phase.Store(phaseReading)
	}
}

// Read implements [net.Conn]. A request that has begun but does not arrive in time is answered with
// 408, which net/http omits.
func (c *problemConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.begun.Store(true)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && c.begun.Load() && c.phase.CompareAndSwap(phaseReading, phaseRefused) {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		p := problemf(http.StatusRequestTimeout, "request_timeout", "the request's head has not arrived within %s", headTimeout)
		_, _ = c.Conn.Write(p.message()) // the connection ends in any case
	}
	return n, err
}

// Write implements [net.Conn].
func (c *problemConn) Write(b []byte) (int, error) {
	switch c.phase.Load() {
	case phaseAnswering:
		return c.Conn.Write(b)
	case phaseRefused:
		return len(b), nil
	}
	p, ok := ownAnswer(b)
	if !ok {
		return c.Conn.Write(b)
	}
	c.phase.Store(phaseRefused)
	if _, err := c.Conn.Write(p.message()); err != nil {
		return 0, err
	}
	return len(b), nil
}

// CloseWrite closes the sending side; net/http calls it after a refusal, so that the client can
// read that.
func (c *problemConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// ownAnswer turns a refusal of net/http's into a problem. The status line of such a refusal is
// "HTTP/1.1 400 Bad Request", or that with a colon and the reason.
func ownAnswer(b []byte) (*problem, bool) {
	line, _, _ := bytes.Cut(b, []byte("\r\n"))
	version, rest, _ := strings.Cut(string(line), " ")
	code, text, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if err != nil || !strings.HasPrefix(version, "HTTP/") || status < 400 || status > 599 {
		return nil, false
	}
	_, why, _ := strings.Cut(text, ": ")
	switch status {
	case http.StatusBadRequest:
		if why == "" {
			why = "its first line or one of its headers is malformed"
		}
		return malformed("this is not an HTTP request: %s", why), true
	case http.StatusRequestHeaderFieldsTooLarge:
		return problemf(status, "head_too_large", "the request's head is longer than %d bytes", maxHeader), true
	case http.StatusNotImplemented:
		return problemf(status, "not_implemented", "the request's Transfer-Encoding is not supported: send chunked, or a Content-Length"), true
	case http.StatusHTTPVersionNotSupported:
		return problemf(status, "http_version", "this version of HTTP is not spoken here: use HTTP/1.1"), true
	case http.StatusExpectationFailed:
		return problemf(status, "expectation", "only 100-continue can be expected"), true
	}
	return problemf(status, "refused", "the request was refused: %s", http.StatusText(status)), true
}

// message returns a whole HTTP/1.1 response with the problem, after which the connection closes.
func (p *problem) message() []byte {
	body, _ := json.Marshal(p.Problem) // the type always encodes
	body = append(body, '\n')
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n"+
		"X-Content-Type-Options: nosniff\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", p.Status, p.Title, len(body), body)
}
