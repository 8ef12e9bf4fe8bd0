package server

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// someProxies is a cluster's proxies.
type someProxies struct {
	off     bool
	dialled atomic.Pointer[netip.AddrPort]
	asked   atomic.Int32
	named   atomic.Int32 // names in Via
}

func (p *someProxies) Proxied() bool { return !p.off }

func (p *someProxies) Dialled(client, _ netip.AddrPort) bool {
	p.asked.Add(1)
	at := p.dialled.Load()
	return at != nil && *at == client
}

func (p *someProxies) NamesProxy(names []string) bool {
	p.named.Add(int32(len(names)))
	return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, "a") })
}

// A request that names one of the cluster's proxies in Via is refused, whatever its token.
func TestRequestsThroughProxies(t *testing.T) {
	for _, c := range []struct {
		via    string
		off    bool
		status int
	}{
		{"", false, 200}, {"1.1 a", false, 403}, {"1.1 A", false, 403}, {"HTTP/1.1 a (comment)", false, 403}, {"1.1 cdn, 1.1 a", false, 403},
		{"1.1 a,1.1 cdn", false, 403}, {"1.1 b", false, 200}, {"1.1 ab", false, 200}, {"a", false, 200}, {",, ,", false, 200}, {"1.1 cdn (a)", false, 200},
		{"1.1 a", true, 200},
	} {
		a := newBench(t, Config{Token: "secret"}, "a").nodes["a"]
		a.server.deps.Proxies = &someProxies{off: c.off}
		for _, path := range []string{"/v1/limits", "/healthz"} {
			w := a.serve(a.server.Handler(), try{method: "GET", path: path, header: map[string]string{"Authorization": "Bearer secret", "Via": c.via}})
			if w.Code != c.status || c.status == 403 && !strings.Contains(w.Body.String(), "through_proxy") {
				t.Errorf("%s with Via %q: %d %s", path, c.via, w.Code, w.Body)
			}
		}
	}
}

// A long Via costs no more than a short one, and hides no proxy: that adds its name at the end.
func TestLongVia(t *testing.T) {
	long := strings.Repeat("1.1 x,", 16_000)
	for _, c := range []struct {
		via    []string
		status int
	}{
		{[]string{long + "1.1 a"}, 403}, {[]string{long, "1.1 a"}, 403}, {[]string{"1.1 x", long + "1.1 a, 1.1 cdn"}, 403},
		{[]string{long}, 401}, {[]string{strings.Repeat(",", 50_000)}, 401}, {slices.Repeat([]string{"1.1 x"}, 5_000), 401},
	} {
		a := newBench(t, Config{Token: "secret"}, "a").nodes["a"]
		proxies := new(someProxies)
		a.server.deps.Proxies = proxies
		r := httptest.NewRequest("GET", "http://localhost/v1/limits", nil)
		r.Header["Via"] = c.via
		w := httptest.NewRecorder()
		a.server.Handler().ServeHTTP(w, r)
		if w.Code != c.status || proxies.named.Load() > maxVia {
			t.Errorf("Via of %d lines, %.20q: %d, after %d names; want %d after at most %d", len(c.via), c.via[0], w.Code, proxies.named.Load(), c.status, maxVia)
		}
	}
}

// A connection that the node's own proxy has made is refused at each request, and the proxy is
// asked once.
func TestConnectionsOfTheProxy(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	proxies := new(someProxies)
	a.server.deps.Proxies = proxies
	addr := a.listen(t)
	for i, ours := range []bool{false, true} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if ours { // the proxy knows it before anything is sent, but not before it is accepted
			at := conn.LocalAddr().(*net.TCPAddr).AddrPort()
			proxies.dialled.Store(&at)
		}
		r := bufio.NewReader(conn)
		for range 3 {
			fmt.Fprintf(conn, "GET /v1/limits HTTP/1.1\r\nHost: localhost\r\n\r\n")
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body := new(strings.Builder)
			_ = resp.Write(body)
			if resp.StatusCode == 403 != ours || ours != strings.Contains(body.String(), "through_proxy") {
				t.Errorf("a connection of the proxy's: %v, but: %s", ours, body)
			}
		}
		if n := proxies.asked.Load(); int(n) != i+1 {
			t.Errorf("the proxy was asked %d times for %d connections", n, i+1)
		}
	}
}
