package connlimit

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestListener: what is over the limit is closed, what is closed makes room, and a change of the
// limit holds.
func TestListener(t *testing.T) {
	l := newLimiter(t, perClient(2))
	inner := listen(t)
	greet(t, l.Listener(inner))
	first, second := dial(t, inner.Addr()), dial(t, inner.Addr())
	for _, c := range []net.Conn{first, second} {
		if err := greeted(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := greeted(dial(t, inner.Addr())); err == nil {
		t.Error("a third connection is served; the limit is 2")
	}
	if err := l.SetConfig(perClient(3)); err != nil {
		t.Fatal(err)
	}
	if err := greeted(dial(t, inner.Addr())); err != nil {
		t.Errorf("with a limit of 3: %v", err)
	}
	first.Close()
	second.Close()
	eventually(t, "two are freed", func() bool { return l.Stats().Connections.Open == 1 })
	if err := greeted(dial(t, inner.Addr())); err != nil {
		t.Errorf("after two were closed: %v", err)
	}
}

// TestServerOutlivesRefusals: a client that is over the limit does not end a server's Serve, as it
// does where Accept returns the refusal.
func TestServerOutlivesRefusals(t *testing.T) {
	l := newLimiter(t, perClient(1))
	g := newGate()
	s := serve(t, "http", g.ServeHTTP, func(s *httptest.Server) { s.Listener = l.Listener(s.Listener) })
	client := newClient(t, s)
	done := make(chan struct{})
	go func() { defer close(done); get(t, client, s.URL) }()
	<-g.entered
	for range 20 {
		if resp, err := client.Get(s.URL); err == nil {
			resp.Body.Close()
			t.Fatalf("%s; want the connection closed", resp.Status)
		}
	}
	close(g.opened)
	<-done
	eventually(t, "the first is freed", func() bool { return l.Stats().Connections.Open == 0 })
	if status, _, _ := get(t, client, s.URL); status != 200 {
		t.Errorf("status %d after refusals; want 200", status)
	}
}

// TestCloseUnblocksAccept, also while the limit is reached.
func TestCloseUnblocksAccept(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Hour} {
		config := total(1)
		config.Connections.Wait = wait
		l := newLimiter(t, config)
		inner := listen(t)
		ln := l.Listener(inner)
		dial(t, inner.Addr())
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		waiting := dial(t, inner.Addr())
		failed := make(chan error)
		go func() { _, err := ln.Accept(); failed <- err }()
		if wait > 0 {
			eventually(t, "the second waits", func() bool { return l.Stats().Connections.Waiting == 1 })
		}
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept returned %v; want net.ErrClosed", err)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a later Accept returned %v; want net.ErrClosed", err)
		}
		if _, err := waiting.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the waiting connection: %v; want it closed", err)
		}
		// What was accepted is not the listener's to close.
		if n := l.Stats().Connections.Open; n != 1 {
			t.Errorf("%d are open; want 1", n)
		}
		c.Close()
		if s := l.Stats().Connections; s.Open != 0 || s.Waiting != 0 {
			t.Errorf("at the end: %+v", s)
		}
	}
}

// pipes is a listener over pipes, for virtual time.
type pipes struct {
	conns chan net.Conn
	errs  chan error
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), errs: make(chan error), done: make(chan struct{})}
}
func (p *pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }
func (*pipes) Addr() net.Addr { return textAddr("pipes") }
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.errs:
		return nil, err
	case <-p.done:
		return nil, net.ErrClosed
	}
}

type pipeConn struct {
	net.Conn
	remote net.Addr
}

func (p pipeConn) RemoteAddr() net.Addr { return p.remote }

// dial returns the client's end of a connection from addr.
func (p *pipes) dial(addr string) net.Conn {
	client, server := net.Pipe()
	p.conns <- pipeConn{server, from(addr).RemoteAddr()}
	return client
}

// acceptAll accepts connections until ln is closed.
func acceptAll(ln net.Listener) <-chan net.Conn {
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	return accepted
}

// TestAhead: while the server accepts nothing, the listener stops accepting, also where each
// connection has a goroutine because of the cluster; and nothing is lost.
func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, clustered(&fleet{slots: 100}, Limits{}))
		inner := newPipes()
		ln := l.Listener(inner)
		defer ln.Close()
		go inner.dial("192.0.2.1")
		if _, err := ln.Accept(); err != nil {
			t.Fatal(err)
		}
		var dialled atomic.Int32
		for range 10 {
			go func() { inner.dial("192.0.2.1"); dialled.Add(1) }()
			synctest.Wait()
		}
		if n := dialled.Load(); n != 2 {
			t.Errorf("%d of 10 were taken from inner while the server accepted none; want 2", n)
		}
		for range 10 {
			if _, err := ln.Accept(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestWaiting: what is over a limit waits for its turn, first come, first served; others, which are
// under no limit, go past it. Too many, or for too long, are closed.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := perClient(1)
		config.Connections.Wait, config.Connections.MaxWaiting = time.Minute, 3
		l := newLimiter(t, config)
		inner := newPipes()
		ln := l.Listener(inner)
		accepted := acceptAll(ln)
		inner.dial("192.0.2.1")
		first := <-accepted
		for range 3 {
			inner.dial("192.0.2.1")
			synctest.Wait()
		}
		if n := l.Stats().Connections.Waiting; n != 3 {
			t.Fatalf("%d wait; want 3", n)
		}
		fourth := inner.dial("192.0.2.1")
		if _, err := fourth.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the fourth: %v; want it closed, since three wait", err)
		}
		if err := l.SetConfig(func() Config { c := config; c.Connections.MaxWaiting = 10; return c }()); err != nil {
			t.Fatal(err)
		}
		inner.dial("192.0.2.2") // another client need not wait
		other := <-accepted
		if a := netAddr(other.RemoteAddr()).String(); a != "192.0.2.2" {
			t.Errorf("%s came next; want 192.0.2.2", a)
		}
		first.Close()
		second := <-accepted
		if n := l.NumOpen(second.RemoteAddr()); n != 1 {
			t.Errorf("%d open; want 1", n)
		}
		last := inner.dial("192.0.2.1")
		start := time.Now()
		if _, err := last.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the last: %v; want it closed", err)
		}
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("it waited %v; want 1m", waited)
		}
		synctest.Wait()
		if got := l.Stats().Connections; got.Refused != 4 || got.Waiting != 0 {
			t.Errorf("%+v; want 4 refused: one for the queue's size, three for the time", got)
		}
		second.Close()
		other.Close()
		ln.Close()
	})
}

type temporary struct{ error }

// TestAcceptErrorsPass, those that may pass and those that don't, as they are.
func TestAcceptErrorsPass(t *testing.T) {
	l := newLimiter(t, Config{})
	inner := newPipes()
	ln := l.Listener(inner)
	defer ln.Close()
	want := temporary{errors.New("too many open files")}
	for range 3 {
		go func() { inner.errs <- want }()
		if _, err := ln.Accept(); err != error(want) {
			t.Errorf("%v; want %v", err, want)
		}
	}
	go inner.dial("192.0.2.1")
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// slowCloser notes what is counted while it is being closed.
type slowCloser struct {
	net.Conn
	closing func()
}

func (s slowCloser) Close() error { s.closing(); return s.Conn.Close() }

// TestClosedThenFreed: a connection is counted until it is closed: one that is freed first is one
// more than the limit for a while.
func TestClosedThenFreed(t *testing.T) {
	l := newLimiter(t, total(1))
	inner := newPipes()
	ln := l.Listener(inner)
	defer ln.Close()
	_, server := net.Pipe()
	during := int64(-1)
	note := sync.OnceFunc(func() { during = l.Stats().Connections.Open })
	go func() { inner.conns <- slowCloser{server, note} }()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Close()
	if after := l.Stats().Connections.Open; during != 1 || after != 0 {
		t.Errorf("%d are counted while it closes, %d after; want 1 and 0", during, after)
	}
	// The same of Wrap, whose free is called once.
	calls := 0
	w := Wrap(slowCloser{server, sync.OnceFunc(func() { during = int64(calls) })}, func() { calls++ })
	w.Close()
	w.Close()
	if during != 0 || calls != 1 {
		t.Errorf("free was called %d times before the end, %d in all; want 0 and 1", during, calls)
	}
}

// TestWrapped: a connection that is wrapped already can be limited again.
func TestWrapped(t *testing.T) {
	parent, child := newLimiter(t, perClient(5)), newLimiter(t, perClient(3))
	c := from("192.0.2.1")
	free, err := parent.Accept(c)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := Wrap(c, free)
	freeChild, err := child.Accept(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	freeChild()
	wrapped.Close()
	if n := parent.Stats().Connections.Open; n != 0 {
		t.Errorf("%d open; want 0", n)
	}
}

// TestConnShowsWhatItWraps: its type, its half-closes, its socket, and the fast ways to send.
func TestConnShowsWhatItWraps(t *testing.T) {
	l := newLimiter(t, Config{})
	inner := listen(t)
	ln := l.Listener(inner)
	defer ln.Close()
	client := dial(t, inner.Addr())
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	c := accepted.(*Conn)
	if _, ok := c.NetConn().(*net.TCPConn); !ok {
		t.Errorf("NetConn is %T; want *net.TCPConn", c.NetConn())
	}
	if raw, err := c.SyscallConn(); err != nil || raw.Control(func(uintptr) {}) != nil {
		t.Errorf("no socket: %v", err)
	}
	if _, err := io.Copy(c, strings.NewReader("hello")); err != nil {
		t.Error(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(client); string(got) != "hello" || err != nil {
		t.Errorf("the client read %q, %v", got, err)
	}
	io.WriteString(client, "bye")
	client.(*net.TCPConn).CloseWrite()
	var got bytes.Buffer
	if _, err := io.Copy(&got, c); err != nil || got.String() != "bye" {
		t.Errorf("read %q, %v", &got, err)
	}
	if err := c.CloseRead(); errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	var _ interface {
		io.ReaderFrom
		io.WriterTo
		syscall.Conn
	} = c

	bare := &Conn{Conn: from("192.0.2.1")}
	if _, err := bare.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SyscallConn: %v", err)
	}
	if bare.CloseRead() == nil || bare.CloseWrite() == nil {
		t.Error("half-closes of a connection that has none")
	}
	a, b := net.Pipe()
	go func() { io.Copy(&Conn{Conn: a}, strings.NewReader("hello")); a.Close() }()
	got.Reset()
	if _, err := io.Copy(&got, &Conn{Conn: b}); err != nil || got.String() != "hello" {
		t.Errorf("over a pipe: %q, %v", &got, err)
	}
}

// TestRefusedCloseTheirWrappers: a connection that a Listener refuses is closed with all that wraps
// its socket, such as the connection of another Limiter, which counts it until then.
func TestRefusedCloseTheirWrappers(t *testing.T) {
	waits, answers, one := total(1), total(1), total(1)
	waits.Connections.Wait = 10 * time.Millisecond
	answers.Answer = func(c net.Conn, err error) { io.WriteString(c, "no") }
	one.Answer, one.MaxAnswers = func(net.Conn, error) { time.Sleep(50 * time.Millisecond) }, 1
	for name, config := range map[string]Config{
		"at once": total(1), "after a wait": waits, "with an answer": answers, "one with an answer": one,
		"by the cluster": clustered(&fleet{slots: 1}, Limits{}),
	} {
		for _, secure := range []bool{false, true} {
			below := newLimiter(t, Config{})
			raw := listen(t)
			inner := below.Listener(raw)
			if secure {
				inner = tls.NewListener(inner, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
			}
			ln := newLimiter(t, config).Listener(inner)
			accepted := acceptAll(ln)
			dial(t, raw.Addr())
			first := <-accepted
			for range 3 {
				c := dial(t, raw.Addr())
				if secure {
					c = insecure(c)
				}
				io.WriteString(c, "hello")
				c.Close()
			}
			eventually(t, name+": only one is left", func() bool {
				s := below.Stats().Connections
				return s.Accepted == 4 && s.Open == 1
			})
			ln.Close()
			first.Close()
		}
	}
}

// TestTLSAround: over the Listener, TLS is an http.Server's own, HTTP/2 included. Under it, the
// server takes the connection for a plain one, as the comment of Listener says.
func TestTLSAround(t *testing.T) {
	serve := func(around bool, protocol string) (string, error) {
		l, raw := newLimiter(t, total(1)), listen(t)
		config := &tls.Config{Certificates: []tls.Certificate{certificate(t)}, NextProtos: []string{"h2", "http/1.1"}}
		ln := l.Listener(tls.NewListener(raw, config))
		if around {
			ln = tls.NewListener(l.Listener(raw), config)
		}
		server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Proto, " secure ", r.TLS != nil, " open ", l.Stats().Connections.Open)
		})}
		go server.Serve(ln)
		defer server.Close()
		transport := &http.Transport{ForceAttemptHTTP2: protocol == "h2",
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Get("https://" + raw.Addr().String())
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	for _, c := range []struct {
		around   bool
		protocol string
		want     string
	}{
		{true, "h2", "HTTP/2.0 secure true open 1"},
		{true, "http/1.1", "HTTP/1.1 secure true open 1"},
		{false, "http/1.1", "HTTP/1.1 secure false open 1"},
		{false, "h2", ""},
	} {
		got, err := serve(c.around, c.protocol)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("around %v, %s: %q, %v; want %q", c.around, c.protocol, got, err, c.want)
		}
	}
}
