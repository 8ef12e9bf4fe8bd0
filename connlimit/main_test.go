package connlimit

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually waits for a condition that real sockets bring about.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 seconds: %s", what)
		}
	}
}

// serve starts an HTTP server that prepare has set up.
func serve(t *testing.T, kind string, handler http.HandlerFunc, prepare func(*httptest.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if prepare != nil {
		prepare(s)
	}
	switch kind {
	case "http":
		s.Start()
	case "https":
		s.StartTLS()
	case "h2":
		s.EnableHTTP2 = true
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s
}

// gate is a handler that holds each request until it is opened.
type gate struct {
	entered chan struct{}
	opened  chan struct{}
}

func newGate() *gate { return &gate{make(chan struct{}, 1000), make(chan struct{})} }

func (g *gate) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	g.entered <- struct{}{}
	<-g.opened
	io.WriteString(w, "hello")
}

// newClient returns a client of s with connections of its own, none of which is used again.
func newClient(t *testing.T, s *httptest.Server) *http.Client {
	t.Helper()
	transport := s.Client().Transport.(*http.Transport).Clone()
	transport.DisableKeepAlives = !s.EnableHTTP2
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// get returns the status, Retry-After and body.
func get(t *testing.T, c *http.Client, url string) (status int, retryAfter, body string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Error(err)
		return 0, "", ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, resp.Header.Get("Retry-After"), string(b)
}

func dial(t *testing.T, l net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(l.Network(), l.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// greet accepts, says hello to each connection, and closes it when its client does.
func greet(t *testing.T, l net.Listener) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				continue
			}
			go func() {
				defer c.Close()
				io.WriteString(c, "Hello")
				io.Copy(io.Discard, c)
			}()
		}
	}()
}

// greeted reads the greeting; what is refused ends without one.
func greeted(c net.Conn) error {
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != "Hello" {
		return fmt.Errorf("greeted with %q", b)
	}
	return nil
}

func refusedBy(t *testing.T, err error, want Scope) *Error {
	t.Helper()
	e := &Error{}
	if !errors.As(err, &e) || e.Scope != want || !errors.Is(err, ErrLimit) {
		t.Errorf("%v; want a refusal by %v", err, want)
	}
	return e
}

// answered sends a request on c and returns the answer.
func answered(t *testing.T, c net.Conn) *http.Response {
	t.Helper()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

func insecure(c net.Conn) *tls.Conn {
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
}
