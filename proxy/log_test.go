package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/proxytest"
	"github.com/weirproxy/weir/proxy/resolve"
)

// journal collects log lines.
type journal struct{ proxytest.Journal }

func TestOneLinePerTunnelAndRequest(t *testing.T) {
	u := newUpstream(t, nil)
	var j journal
	w := newWorld(t, 1, func(_ *Config, _ *resolver, o *worldOptions) {
		o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true
	})
	p := w.connect(u.addr)
	q := u.accept()
	p.send("12345")
	q.expect("12345")
	p.reset()
	q.expectReset()
	eventually(t, "the tunnel's line", func() bool { return len(j.Lines(t, "tunnel ended")) == 1 })
	line := j.Lines(t, "tunnel ended")[0]
	for key, want := range map[string]any{
		"protocol": "connect", "client": p.LocalAddr().String(), "host": "127.0.0.1", "bytes_out": 5.0, "bytes_in": 0.0,
		"end": errClientReset.Error(),
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v: %v", key, line[key], want, line)
		}
	}

	p = w.dial()
	p.send(get(u, "/", ""))
	q = u.accept()
	q.readHead()
	q.send("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
	p.response("GET")
	eventually(t, "the request's line", func() bool { return len(j.Lines(t, "request ended")) == 1 })
	line = j.Lines(t, "request ended")[0]
	for key, want := range map[string]any{"method": "GET", "status": 404.0, "bytes_in": 2.0, "bytes_out": 0.0, "end": "closed", "reused": false} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v: %v", key, line[key], want, line)
		}
	}
	c := w.Counters()
	if c.Tunnels.Load() != 1 || c.Exchanges.Load() != 1 || c.BytesIn.Load() != 5 || c.BytesOut.Load() != 2 {
		t.Errorf("counters: %d tunnels, %d exchanges, %d in, %d out", c.Tunnels.Load(), c.Exchanges.Load(), c.BytesIn.Load(), c.BytesOut.Load())
	}

	// A sample of refusals is logged.
	for range 20 {
		p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		p.refused("GET", 400, "http_request_error")
	}
	if n := len(j.Lines(t, "request refused")); n < 1 || n > 10 {
		t.Errorf("%d lines for 20 refusals", n)
	}
}

// A request that is refused for what its client is names the host that it asked for, if it can be
// parsed.
func TestRefusedRequestsNameTheirHost(t *testing.T) {
	var j journal
	w := newWorld(t, 0, policy(func(p *Policy) { p.Users = testUsers(t) }), func(_ *Config, _ *resolver, o *worldOptions) {
		o.Output, o.Level, o.JSONFormat = &j, hclog.Debug, true
	})
	denied := newWorld(t, 0, policy(func(p *Policy) {
		p.AllowClients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	}), func(_ *Config, _ *resolver, o *worldOptions) { o.Output, o.Level, o.JSONFormat = &j, hclog.Debug, true })
	for i, c := range []struct {
		w        *world
		send     string // a head without its end, or a message of SOCKS5
		answered string // field and value
		host     string
		port     int
	}{
		{w, "CONNECT X.test.:443 HTTP/1.1\r\nHost: y", "status 407", "x.test", 443},
		{w, "CONNECT [2001:DB8::1]:443 HTTP/1.1\r\nHost: y", "status 407", "2001:db8::1", 443},
		{w, "CONNECT x.test HTTP/1.1\r\nHost: y", "status 407", "", 0},
		{w, "CONNECT a..b:443 HTTP/1.1\r\nHost: y", "status 407", "", 0},
		{w, "CONNECT x.test:443 HTTP/1.1\r\nHost: y\r\n" + authorization("ada:wrong")[:len(authorization("ada:wrong"))-2], "status 407", "x.test", 443},
		{w, "GET http://x.test/ HTTP/1.1\r\nHost: y", "status 407", "x.test", 80},
		{w, "GET ws://x.test:81/ HTTP/1.1\r\nHost: y", "status 407", "x.test", 81},
		{w, "GET https://x.test/ HTTP/1.1\r\nHost: y", "status 407", "", 0},
		{w, "GET /x.test HTTP/1.1\r\nHost: y", "status 407", "", 0},
		{denied, "CONNECT x.test:443 HTTP/1.1\r\nHost: y", "status 403", "x.test", 443},
		{denied, "HEAD http://x.test:99/ HTTP/1.1\r\nHost: y", "status 403", "x.test", 99},
		{denied, "CONNECT x.test:443 HTTP/3\r\nHost: y", "status 400", "", 0},
		{denied, "\x05\x01\x00\x05\x01\x00\x03\x06x.test\x01\xbb", "reply 2", "x.test", 443},
		{denied, "\x05\x01\x00\x05\x01\x00\x03\x04a..b\x01\xbb", "reply 2", "", 0},
	} {
		p := c.w.dial()
		if p.send(c.send); c.send[0] != '\x05' {
			p.send("\r\n\r\n")
		}
		eventually(t, "the refusal's line", func() bool { return len(j.Lines(t, "request refused")) == i+1 })
		line := j.Lines(t, "request refused")[i]
		field, value, _ := strings.Cut(c.answered, " ")
		if fmt.Sprint(line[field]) != value || line["host"] != c.host || line["port"] != float64(c.port) {
			t.Errorf("%q: %v", c.send, line)
		}
	}
}

// The look-up time is logged for the connection that waited for it, and for no other.
func TestLookupTimeIsLogged(t *testing.T) {
	u := newUpstream(t, nil)
	at := netip.MustParseAddrPort(u.addr)
	var j journal
	w := newWorld(t, 1, names(resolver{"asked.test": resolve.InOrder(at.Addr()), "known.test": []netip.Addr{at.Addr()}}),
		func(_ *Config, _ *resolver, o *worldOptions) { o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true })
	for i, c := range []struct {
		host   string
		looked bool
	}{{"asked.test", true}, {"known.test", false}, {"127.0.0.1", false}} {
		p := w.connect(fmt.Sprintf("%s:%d", c.host, at.Port()))
		q := u.accept()
		p.reset()
		q.expectReset()
		eventually(t, "the tunnel's line", func() bool { return len(j.Lines(t, "tunnel ended")) == i+1 })
		line := j.Lines(t, "tunnel ended")[i]
		if _, has := line["lookup"]; has != c.looked || line["dial"] == nil {
			t.Errorf("%s: %v", c.host, line)
		}
	}
}

// A look-up whose addresses were not needed, because a kept connection came free meanwhile, is not
// logged for the client's next request.
func TestUnusedLookupIsNotLogged(t *testing.T) {
	u := newUpstream(t, nil)
	at := netip.MustParseAddrPort(u.addr)
	asked, release := make(chan struct{}), make(chan struct{})
	var lookups atomic.Int64
	lookup := func(context.Context) (resolve.Addrs, error) {
		if lookups.Add(1) == 1 {
			close(asked)
			<-release
		}
		return resolve.InOrder(at.Addr()), nil
	}
	var j journal
	w := newWorld(t, 0, names(resolver{"asked.test": lookup}),
		func(_ *Config, _ *resolver, o *worldOptions) { o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true })
	ask := func(p *peer, host string) {
		p.send(fmt.Sprintf("GET http://%s:%d/ HTTP/1.1\r\nHost: x\r\n\r\n", host, at.Port()))
	}
	answer := func(p, q *peer) {
		q.readHead()
		q.send(noContent)
		p.response("GET")
	}
	slow, quick := w.dial(), w.dial()
	ask(slow, "asked.test")
	<-asked
	ask(quick, "asked.test")
	q := u.accept()
	answer(quick, q)
	eventually(t, "the connection is parked", func() bool { return len(w.idle.all()) == 1 && w.idle.all()[0].isParked() })
	close(release)
	answer(slow, q)
	ask(slow, "127.0.0.1")
	answer(slow, u.accept())
	eventually(t, "the requests' lines", func() bool { return len(j.Lines(t, "request ended")) == 3 })
	for i, want := range []struct{ reused, looked bool }{{false, true}, {true, false}, {false, false}} {
		line := j.Lines(t, "request ended")[i]
		if _, looked := line["lookup"]; looked != want.looked || line["reused"] != want.reused {
			t.Errorf("line %d: %v", i, line)
		}
	}
}

// A dial that completes after the slot was withdrawn is reset before the connection is used.
func TestDialThatCompletesAfterASever(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, sever := range []func(*flow, *slot){
		func(f *flow, _ *slot) { f.Sever(lease.SeverFenced) },
		func(_ *flow, s *slot) { s.live.Store(false) },
	} {
		target, err := limit.ParseTarget(u.addr, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := &flow{srv: w.Server, target: target}
		s, err := w.adm.Acquire(t.Context(), target, f)
		if err != nil {
			t.Fatal(err)
		}
		f.admitting()
		f.admitted(s)
		conn, err := net.Dial("tcp", u.addr)
		if err != nil {
			t.Fatal(err)
		}
		up := sockOf(t, conn)
		sever(f, s.(*slot))
		if f.connected(up, netip.AddrFrom4([4]byte{127, 0, 0, 1})) == nil {
			t.Fatal("the connection was taken")
		}
		f.finish(endReset)
		u.accept().expectReset()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

// A storm of one kind leaves few lines and takes none from other kinds; the counters have all.
func TestRefusalsAreSampled(t *testing.T) {
	var j journal
	w := newWorld(t, 0, func(_ *Config, _ *resolver, o *worldOptions) {
		o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true
	})
	const storm = 500
	p := w.dial()
	for range storm {
		p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		p.refused("GET", 400, "http_request_error")
	}
	p.send("GET http://0.0.0.0/ HTTP/1.1\r\nHost: x\r\n\r\n")
	p.refused("GET", 502, "destination_ip_prohibited")
	if n := w.Counters().Refusals[RefusedMalformed].Load(); n != storm {
		t.Errorf("%d refusals are counted", n)
	}
	w.Close()
	lines, left := j.Lines(t, "request refused"), 0.0
	for _, l := range j.Lines(t, "more requests refused, not shown") {
		if l["reason"] != "http_request_error" {
			t.Errorf("left out: %v", l)
		}
		left += l["requests"].(float64)
	}
	if n := len(lines); n > storm/2 || float64(n)+left != storm+1 {
		t.Errorf("%d lines, %v left out", n, left)
	}
	last := lines[len(lines)-1]
	for key, want := range map[string]any{
		"client": p.LocalAddr().String(), "node": "n1", "method": "GET", "host": "0.0.0.0", "port": 80.0, "status": 502.0,
		"error": "destination_ip_prohibited",
	} {
		if last[key] != want {
			t.Errorf("%s is %v, want %v: %v", key, last[key], want, last)
		}
	}
}
