package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/weirproxy/weir/proxy/accesslog"
	"github.com/weirproxy/weir/proxy/proxytest"
	"github.com/weirproxy/weir/proxy/resolve"
	"github.com/weirproxy/weir/proxy/sock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for an event that must happen.
const patience = 10 * time.Second

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}

// resolver is a fake DNS: lists of addresses are known at once, anything else needs a look-up.
type resolver map[string]any // []netip.Addr, error, resolve.Addrs, or a function

func (r resolver) Remembered(host string) (resolve.Addrs, bool) {
	list, ok := r[host].([]netip.Addr)
	if !ok {
		return resolve.Addrs{}, false
	}
	plain := make([]netip.Addr, len(list))
	for i, addr := range list {
		plain[i] = addr.Unmap()
	}
	return resolve.InOrder(plain...), true
}

func (r resolver) Lookup(ctx context.Context, host string) (resolve.Addrs, error) {
	switch v := r[host].(type) {
	case resolve.Addrs:
		return v, nil
	case error:
		return resolve.Addrs{}, v
	case func(context.Context) error:
		return resolve.Addrs{}, v(ctx)
	case func(context.Context) (resolve.Addrs, error):
		return v(ctx)
	}
	return resolve.Addrs{}, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// testPolicy is the policy that a node has by default.
func testPolicy() Policy {
	return Policy{
		Protocols:        HTTP | SOCKS5,
		RejectStatus:     503,
		DialTimeout:      10 * time.Second,
		HeaderTimeout:    10 * time.Second,
		HalfCloseTimeout: 10 * time.Second,
		ResponseTimeout:  15 * time.Minute,
		AllowClients:     []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		DenyDestinations: []netip.Prefix{
			netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"),
			netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::254/128"),
		},
	}
}

// world is a proxy in front of a fake admitter.
type world struct {
	*Server
	t    *testing.T
	adm  *admitter
	addr string
}

// worldOptions are what a world is made with beside its Config.
type worldOptions struct {
	hclog.LoggerOptions
	tls *tls.Config // nil: its clients speak plain HTTP
}

type option func(*Config, *resolver, *worldOptions)

func policy(f func(*Policy)) option {
	return func(c *Config, _ *resolver, _ *worldOptions) { f(&c.Policy) }
}

func names(r resolver) option {
	return func(_ *Config, to *resolver, _ *worldOptions) { *to = r }
}

// newWorld starts a proxy. The test's end closes it and checks that every slot is back.
func newWorld(t *testing.T, limit int, options ...option) *world {
	t.Helper()
	cfg := Config{Node: "n1", Policy: testPolicy()}
	var res resolver
	with := &worldOptions{LoggerOptions: hclog.LoggerOptions{Output: io.Discard, Level: hclog.Trace}}
	for _, o := range options {
		o(&cfg, &res, with)
	}
	cfg.Lines = accesslog.Output{Writer: with.Output, JSON: with.JSONFormat}
	adm := newAdmitter(limit)
	s, err := New(cfg, adm, res, hclog.New(&with.LoggerOptions))
	if err != nil {
		t.Fatal(err)
	}
	lc := net.ListenConfig{Control: Control}
	lc.SetMultipathTCP(false) // as in the agent
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		if with.tls != nil {
			served <- s.ServeTLS(l, with.tls)
		} else {
			served <- s.Serve(l)
		}
	}()
	w := &world{Server: s, t: t, adm: adm, addr: l.Addr().String()}
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		held, waiting, acquired, released := adm.counts()
		if held != 0 || waiting != 0 || acquired != released {
			t.Errorf("after Close: %d slots held, %d waiting, %d acquired, %d released", held, waiting, acquired, released)
		}
		if n := adm.inHandNow(); n != 0 {
			t.Errorf("after Close: %d requests in hand", n)
		}
		for r, s := range adm.supply {
			if len(s.waiting) > 0 || s.meters > 0 {
				t.Errorf("after Close: %d meters for %v, %d wait", s.meters, r, len(s.waiting))
			}
		}
		if len(adm.misuse) > 0 {
			t.Errorf("slots misused: %q", adm.misuse)
		}
		if n := len(s.Connections("")); n != 0 {
			t.Errorf("after Close: %d connections", n)
		}
	})
	return w
}

// sockOf takes over a connection as a sock.
func sockOf(t *testing.T, conn net.Conn) *sock.Conn {
	t.Helper()
	return proxytest.Sock(t, conn.(*net.TCPConn), new(sock.Buffers))
}

// peer is a raw connection to the proxy.
type peer struct {
	*net.TCPConn
	t *testing.T
	r *bufio.Reader
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return &peer{conn.(*net.TCPConn), t, bufio.NewReader(conn)}
}

func (w *world) dial() *peer {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	return newPeer(w.t, conn)
}

// connect opens a tunnel.
func (w *world) connect(target string) *peer {
	w.t.Helper()
	p := w.dial()
	p.send("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n")
	p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
	return p
}

func (p *peer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.TCPConn, s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) expect(want string) {
	p.t.Helper()
	b := make([]byte, len(want))
	n, err := io.ReadFull(p.r, b)
	if got := string(b[:n]); err != nil || got != want {
		p.t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// expectEOF checks that the other side has sent its FIN, and nothing before it.
func (p *peer) expectEOF() {
	p.t.Helper()
	b, err := io.ReadAll(p.r)
	if err != nil || len(b) > 0 {
		p.t.Fatalf("read %q, %v; want EOF", b, err)
	}
}

// expectReset checks that the other side has reset the connection.
func (p *peer) expectReset() {
	p.t.Helper()
	b, err := io.ReadAll(p.r)
	if !sock.IsReset(err) {
		p.t.Fatalf("read %q, %v; want a reset", b, err)
	}
}

func (p *peer) reset() {
	p.SetLinger(0)
	p.TCPConn.Close()
}

// response reads one response to a request with the method.
func (p *peer) response(method string) (*http.Response, string) {
	p.t.Helper()
	resp, err := http.ReadResponse(p.r, &http.Request{Method: method})
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatalf("%s, body %q: %v", resp.Status, b, err)
	}
	return resp, string(b)
}

// refused checks a refusal's status and Proxy-Status.
func (p *peer) refused(method string, status int, code string) *http.Response {
	p.t.Helper()
	resp, body := p.response(method)
	ps := resp.Header.Get("Proxy-Status")
	if resp.StatusCode != status || !strings.HasPrefix(ps, "n1; error="+code+"; details=\"") {
		p.t.Fatalf("got %d, Proxy-Status %q, %q; want %d %s", resp.StatusCode, ps, body, status, code)
	}
	if method != "HEAD" && (strings.Count(body, "\n") != 1 || !strings.HasSuffix(body, "\n")) {
		p.t.Fatalf("the body %q is not one line", body)
	}
	return resp
}

// upstream is a TCP server that counts its connections from accept until its handler has seen the
// end.
type upstream struct {
	t    *testing.T
	l    net.Listener
	addr string
	open atomic.Int64
	peak atomic.Int64
	all  atomic.Int64
	got  chan *peer // without a handler
	wg   sync.WaitGroup
}

// newUpstream serves each connection with handle; if that is nil, accept returns them to the test.
func newUpstream(t *testing.T, handle func(*net.TCPConn)) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{t: t, l: l, addr: l.Addr().String(), got: make(chan *peer, 64)}
	u.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			u.opened()
			if handle == nil {
				u.got <- newPeer(t, conn)
				continue
			}
			u.wg.Go(func() {
				handle(conn.(*net.TCPConn))
				u.open.Add(-1)
				conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		u.wg.Wait()
	})
	return u
}

func (u *upstream) accept() *peer {
	u.t.Helper()
	select {
	case p := <-u.got:
		return p
	case <-time.After(patience):
		u.t.Fatal("no connection reached the upstream")
		return nil
	}
}

// echo sends received bytes back, then closes.
func echo(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// httpUpstream serves HTTP and counts connections.
func httpUpstream(t *testing.T, h http.HandlerFunc) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{t: t, l: l, addr: l.Addr().String()}
	srv := &http.Server{Handler: h}
	u.wg.Go(func() { srv.Serve(countingListener{l, u}) })
	t.Cleanup(func() {
		srv.Close()
		u.wg.Wait()
	})
	return u
}

// countingListener counts a connection until just before its FIN is sent; the server's own hook
// runs later.
type countingListener struct {
	net.Listener
	u *upstream
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.u.opened()
	return &countedConn{Conn: conn, u: l.u}, nil
}

type countedConn struct {
	net.Conn
	u    *upstream
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.u.open.Add(-1) })
	return c.Conn.Close()
}

// opened counts a new connection.
func (u *upstream) opened() {
	u.all.Add(1)
	n := u.open.Add(1)
	for p := u.peak.Load(); n > p && !u.peak.CompareAndSwap(p, n); p = u.peak.Load() {
	}
}

var errTest = errors.New("an error of the test")
