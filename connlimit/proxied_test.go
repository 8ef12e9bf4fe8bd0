package connlimit

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
)

// proxied is a listener whose connections begin with a line that says from where they are, as with
// the PROXY protocol. RemoteAddr and Read wait for it.
type proxied struct {
	net.Listener
	asked chan struct{} // by RemoteAddr, if not nil
}

type proxiedConn struct {
	net.Conn
	reader *bufio.Reader
	once   sync.Once
	from   net.Addr
	asked  chan struct{}
}

func (p proxied) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &proxiedConn{Conn: c, reader: bufio.NewReader(c), asked: p.asked}, nil
}

func (c *proxiedConn) header() {
	line, err := c.reader.ReadString('\n')
	if c.from = c.Conn.RemoteAddr(); err == nil {
		c.from = textAddr(strings.TrimSpace(line))
	}
}

func (c *proxiedConn) RemoteAddr() net.Addr {
	if c.asked != nil {
		c.asked <- struct{}{}
	}
	c.once.Do(c.header)
	return c.from
}

func (c *proxiedConn) Read(b []byte) (int, error) {
	c.once.Do(c.header)
	return c.reader.Read(b)
}

// TestSilentBehindProxy: a client from which the proxy's header does not come holds up nobody; once
// it comes, the limits hold for the client that it names.
func TestSilentBehindProxy(t *testing.T) {
	for name, prepare := range map[string]func(*Limiter, *httptest.Server){
		"Listener": func(l *Limiter, s *httptest.Server) { s.Listener = l.Listener(s.Listener) },
		"Guard":    func(l *Limiter, s *httptest.Server) { l.Guard(s.Config) },
	} {
		for _, kind := range []string{"http", "https"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				l := newLimiter(t, perClient(1))
				s := serve(t, kind, func(http.ResponseWriter, *http.Request) {}, func(s *httptest.Server) {
					s.Listener = proxied{Listener: s.Listener}
					prepare(l, s)
				})
				introduce := func(c net.Conn, client string) net.Conn {
					io.WriteString(c, client+"\n")
					if kind == "https" {
						return insecure(c)
					}
					return c
				}
				silent := dial(t, s.Listener.Addr())
				if resp := answered(t, introduce(dial(t, s.Listener.Addr()), "192.0.2.1")); resp.StatusCode != 200 {
					t.Errorf("a client after one that says nothing: %s; want 200", resp.Status)
				}
				second := introduce(dial(t, s.Listener.Addr()), "192.0.2.1")
				if name == "Guard" {
					if resp := answered(t, second); resp.StatusCode != 429 {
						t.Errorf("its second connection: %s; want 429", resp.Status)
					}
				} else if _, err := second.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("its second connection: %v; want it closed", err)
				}
				if resp := answered(t, introduce(silent, "192.0.2.2")); resp.StatusCode != 200 {
					t.Errorf("the silent one, once it has spoken: %s; want 200", resp.Status)
				}
				for _, client := range []string{"192.0.2.1", "192.0.2.2"} {
					if n := l.NumOpen(textAddr(client)); n != 1 {
						t.Errorf("%d are open of %s; want 1", n, client)
					}
				}
			})
		}
	}
}

// TestCloseEndsTheSilent: a connection whose address is not known yet ends with its listener.
func TestCloseEndsTheSilent(t *testing.T) {
	asked := make(chan struct{}, 1)
	l := newLimiter(t, perClient(1))
	ln := l.Listener(proxied{listen(t), asked})
	greet(t, ln)
	silent := dial(t, ln.Addr())
	<-asked
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v; want the connection closed", err)
	}
	eventually(t, "nothing is open", func() bool { return l.Stats().Connections.Open == 0 })
}

// TestKnowsAddr: only of what is surely no wrapper that reads first is the address at hand.
func TestKnowsAddr(t *testing.T) {
	tcp, unknown := new(net.TCPConn), from("192.0.2.1")
	for _, test := range []struct {
		conn net.Conn
		want bool
	}{
		{tcp, true},
		{new(net.UnixConn), true},
		{Wrap(tcp, func() {}), true},
		{Wrap(tls.Server(Wrap(tcp, func() {}), nil), func() {}), true},
		{unknown, false},
		{tls.Server(unknown, nil), false},
		{Wrap(unknown, func() {}), false},
		{&proxiedConn{Conn: tcp}, false},
	} {
		if got := knowsAddr(test.conn); got != test.want {
			t.Errorf("%T: %v; want %v", test.conn, got, test.want)
		}
	}
}
