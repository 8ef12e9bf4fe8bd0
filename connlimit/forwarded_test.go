package connlimit

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"testing"
)

// TestTrustUnix: behind a proxy on a Unix socket each client has its own limit, but only once the
// socket is trusted; that makes no peer with an address a proxy.
func TestTrustUnix(t *testing.T) {
	for _, test := range []struct {
		trust                   bool
		remote, forwarded, want string
	}{
		{true, "@", "198.51.100.1", "198.51.100.1"},
		{true, "", "203.0.113.9, 198.51.100.1", "198.51.100.1"},
		{true, "/run/a.sock", "198.51.100.1, 10.0.0.1", "198.51.100.1"},
		{true, "@", "198.51.100.1, unknown", "invalid IP"},
		{true, "@", "", "invalid IP"},
		{true, "192.0.2.1:1", "198.51.100.1", "192.0.2.1"},
		{true, "10.0.0.1:1", "198.51.100.1", "198.51.100.1"},
		{false, "@", "198.51.100.1", "invalid IP"},
		{false, "", "198.51.100.1", "invalid IP"},
	} {
		c := Config{TrustUnix: test.trust, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}.withDefaults()
		r := &http.Request{RemoteAddr: test.remote, Header: http.Header{"X-Forwarded-For": {test.forwarded}}}
		if got := c.client(r).String(); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}

	l := newLimiter(t, requests(Limits{PerClient: AtMost(1)}))
	g := newGate()
	s := httptest.NewUnstartedServer(l.Handler(g))
	s.Listener.Close()
	path := filepath.Join(t.TempDir(), "s")
	var err error
	if s.Listener, err = net.Listen("unix", path); err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Close)
	ask := func(client string) int {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer c.Close()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: "+client+"\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if err := l.SetConfig(Config{TrustUnix: true, Requests: Limits{PerClient: AtMost(1)}}); err != nil {
		t.Fatal(err)
	}
	first := make(chan int)
	go func() { first <- ask("198.51.100.1") }()
	<-g.entered
	if status := ask("198.51.100.1"); status != 429 {
		t.Errorf("a client's second request is answered %d; want 429", status)
	}
	other := make(chan int)
	go func() { other <- ask("198.51.100.2") }()
	<-g.entered
	close(g.opened)
	if a, b := <-first, <-other; a != 200 || b != 200 {
		t.Errorf("the first of each client: %d and %d; want 200", a, b)
	}
}
