package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// A refusal for the sake of a limit says which, wherever it was in the way, and when to come again.
// The log and the counters say of which scope and resource it was.
func TestRefusalsForTheSakeOfALimit(t *testing.T) {
	rate, err := limit.ParseRate("600/m", 0)
	if err != nil {
		t.Fatal(err)
	}
	var j journal
	w := newWorld(t, 0, func(_ *Config, _ *resolver, o *worldOptions) { o.Output, o.Level, o.JSONFormat = &j, hclog.Debug, true })
	set := func(begin, acquire, take error) {
		w.adm.mu.Lock()
		defer w.adm.mu.Unlock()
		w.adm.failBegin, w.adm.fail, w.adm.failTake = begin, acquire, take
	}
	for i, c := range []struct {
		scope       limit.Scope
		resource    limit.Resource
		name        string
		why         error
		after       time.Duration
		want, retry string
	}{
		{limit.ScopeTotal, limit.Connections, "", lease.ErrOverLimit, 0, "503 weir: all workers together are at their limit of 7 connections", "1"},
		{limit.ScopeClient, limit.Connections, "127.0.0.1", lease.ErrQueueTimeout, 0,
			"503 weir: client 127.0.0.1 is at its limit of 7 connections, and none came free in time", "1"},
		{limit.ScopeHost, limit.Connections, "a.test", lease.ErrQueueFull, 0, "503 weir: a.test is at its limit of 7 connections and its queue is full", "1"},
		{limit.ScopeUser, limit.Requests, "nightly", lease.ErrOverLimit, 2001 * time.Millisecond, "503 weir: user nightly is at its limit of 600/m requests", "3"},
		{limit.ScopeHost, limit.Requests, "a.test", lease.ErrOverLimit, time.Millisecond, "503 weir: a.test is at its limit of 600/m requests", "1"},
		{limit.ScopeUser, limit.Connections, "nightly", lease.ErrBlocked, 0, "503 weir: user nightly is blocked by a limit of 0 connections", ""},
	} {
		e := &lease.LimitError{
			Key: limit.Key{Scope: c.scope, Resource: c.resource, Name: c.name}, Limit: limit.Limit{Connections: 7, Requests: rate},
			Why: c.why, RetryAfter: c.after,
		}
		switch {
		case c.resource == limit.Requests:
			set(nil, nil, e)
		case c.scope == limit.ScopeHost:
			set(nil, e, nil)
		default:
			set(e, nil, nil)
		}
		by := LimitRefused{c.scope, c.resource}
		before := w.Counters().RefusedBy(by)
		p := w.dial()
		for _, request := range []string{"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n"} {
			p.send(request)
			resp := p.refused("GET", 503, codeLimit)
			if got := resp.Header.Get("Retry-After"); resp.Status != c.want || got != c.retry {
				t.Errorf("%q, Retry-After %q; want %q, %q", resp.Status, got, c.want, c.retry)
			}
		}
		if n := w.Counters().RefusedBy(by) - before; n != 2 {
			t.Errorf("%v: %d refusals are counted, want 2", by, n)
		}
		lines := j.Lines(t, "request refused")
		if len(lines) != 2*(i+1) || lines[2*i]["scope"] != c.scope.String() || lines[2*i]["resource"] != c.resource.String() {
			t.Errorf("%v is logged as %v", by, lines[min(2*i, len(lines)-1)])
		}
		if n := w.adm.inHandNow() + w.adm.inUse(); n != 0 {
			t.Errorf("%v: %d slots are still held", by, n)
		}
	}
	if n, all := len(LimitsRefused()), int64(0); n != 8 {
		t.Errorf("%d pairs of scope and resource are counted, not 8", n)
	} else {
		for _, l := range LimitsRefused() {
			all += w.Counters().RefusedBy(l)
		}
		if all != w.Counters().Refused.Load() {
			t.Errorf("limits have refused %d of %d", all, w.Counters().Refused.Load())
		}
	}
}

func TestRefusals(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	_, port, _ := net.SplitHostPort(dead.Addr().String())
	local := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	res := resolver{
		"refused.test":    local,
		"zero.test":       []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()},
		"linklocal.test":  []netip.Addr{netip.MustParseAddr("::ffff:169.254.169.254")},
		"mixed.test":      []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("127.0.0.1")},
		"slowdns.test":    &net.DNSError{Err: "i/o timeout", IsTimeout: true},
		"brokendns.test":  &net.DNSError{Err: "server misbehaving"},
		"strangedns.test": errTest,
	}
	cases := []struct {
		name, host string
		acquire    error
		policy     func(*Policy)
		status     int
		code       string
		retry      bool
	}{
		{"over the limit", "refused.test", lease.ErrOverLimit, nil, 503, "connection_limit_reached", true},
		{"queue full", "refused.test", lease.ErrQueueFull, func(p *Policy) { p.RejectStatus = 429 }, 429, "connection_limit_reached", true},
		{"queue timeout", "refused.test", lease.ErrQueueTimeout, nil, 503, "connection_limit_reached", true},
		{"no lease", "refused.test", lease.ErrNoLease, func(p *Policy) { p.RejectStatus = 500 }, 503, "proxy_internal_error", true},
		{"draining", "refused.test", lease.ErrDraining, nil, 503, "proxy_internal_error", true},
		{"strange", "refused.test", errTest, nil, 503, "proxy_internal_error", true},
		{"refused", "refused.test", nil, nil, 502, "connection_refused", false},
		{"not found", "nowhere.test", nil, nil, 502, "dns_error", false},
		{"DNS timeout", "slowdns.test", nil, nil, 504, "dns_timeout", false},
		{"DNS broken", "brokendns.test", nil, nil, 502, "dns_error", false},
		{"DNS strange", "strangedns.test", nil, nil, 502, "dns_error", false},
		{"unspecified", "0.0.0.0", nil, nil, 502, "destination_ip_prohibited", false},
		{"unspecified, short", "0", nil, nil, 502, "destination_ip_prohibited", false},
		{"unspecified v6", "[::]", nil, nil, 502, "destination_ip_prohibited", false},
		{"unspecified, mapped", "[::ffff:0.0.0.0]", nil, nil, 502, "destination_ip_prohibited", false},
		{"unspecified, resolved", "zero.test", nil, nil, 502, "destination_ip_prohibited", false},
		{"denied", "linklocal.test", nil, nil, 502, "destination_ip_prohibited", false},
		{"first denied", "mixed.test", nil, nil, 502, "connection_refused", false},
		{"not allowed", "refused.test", nil, func(p *Policy) {
			p.AllowDestinations = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}, 502, "destination_ip_prohibited", false},
		{"client", "refused.test", nil, func(p *Policy) {
			p.AllowClients = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}, 403, "http_request_denied", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var options []option
			if c.policy != nil {
				options = append(options, policy(c.policy))
			}
			w := newWorld(t, 1, append(options, names(res))...)
			w.adm.refuseWith(c.acquire)
			p := w.dial()
			p.send("GET http://" + c.host + ":" + port + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
			resp := p.refused("GET", c.status, c.code)
			if got := resp.Header.Get("Retry-After"); (got == "1") != c.retry {
				t.Errorf("Retry-After %q", got)
			}
			if resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("Content-Type %q", resp.Header.Get("Content-Type"))
			}
			// The connection goes on after a refused GET, unless the client itself is refused; a
			// refused CONNECT ends it.
			if c.code == "http_request_denied" {
				p.expectEOF()
				p = w.dial()
			}
			p.send("CONNECT " + c.host + ":" + port + " HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp := p.refused("CONNECT", c.status, c.code); !resp.Close {
				t.Error("the connection goes on after a refused CONNECT")
			}
			p.expectEOF()
		})
	}
}
