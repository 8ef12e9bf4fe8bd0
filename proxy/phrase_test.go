package proxy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/http1"
)

// statusLines matches the status lines of the proxy's own answers.
var statusLines = regexp.MustCompile(`^HTTP/1\.1 [4-5]\d\d weir: [ -~]{1,114}\r\n$`)

// statusLine returns the first line of a refusal.
func statusLine(r *refusal, rejectStatus int, target limit.Target) string {
	line, _, _ := strings.Cut(string(r.render(nil, r.status(rejectStatus), nil, "n1", target, http1.KeepAlive{}, false)), "\n")
	return line + "\n"
}

func TestReasonPhrases(t *testing.T) {
	target := limit.Target{Host: "api.example.com", Port: 443}
	six := limit.Target{Host: "fd00::1", Addr: netip.MustParseAddr("fd00::1"), Port: 81}
	of := func(why error, s limit.Scope, name string, n int64) *refusal {
		return refuseLimit(&lease.LimitError{Key: limit.Key{Scope: s, Resource: limit.Connections, Name: name}, Limit: limit.Limit{Connections: n}, Why: why})
	}
	rate := func(why error, s limit.Scope, name, per string) *refusal {
		r, err := limit.ParseRate(per, 0)
		if err != nil {
			t.Fatal(err)
		}
		return refuseLimit(&lease.LimitError{Key: limit.Key{Scope: s, Resource: limit.Requests, Name: name}, Limit: limit.Limit{Connections: -1, Requests: r}, Why: why})
	}
	together := func(why error, s limit.Scope, pattern string, n int64) *refusal {
		return refuseLimit(&lease.LimitError{
			Key: limit.Key{Scope: s, Resource: limit.Connections, Name: pattern}, Limit: limit.Limit{Connections: n, Shared: true}, Why: why,
		})
	}
	const host, client, user, total = limit.ScopeHost, limit.ScopeClient, limit.ScopeUser, limit.ScopeTotal
	api := target.Host
	for _, c := range []struct {
		r             *refusal
		rejectStatus  int
		target        limit.Target
		want, details string // "": not looked at
	}{
		{of(lease.ErrOverLimit, host, api, 5), 503, target,
			"503 weir: api.example.com is at its limit of 5 connections", "the host is at its limit of connections"},
		{of(lease.ErrOverLimit, host, api, 1), 429, target, "429 weir: api.example.com is at its limit of 1 connection", ""},
		{of(lease.ErrQueueFull, host, api, 5), 503, target, "503 weir: api.example.com is at its limit of 5 connections and its queue is full",
			"the host is at its limit of connections, and the queue is full"},
		{of(lease.ErrQueueTimeout, host, api, 5), 503, target, "503 weir: api.example.com is at its limit of 5 connections, and none came free in time",
			"the host is at its limit of connections, and no slot came free within the queue's timeout"},
		{of(lease.ErrBlocked, host, api, 0), 503, target, "503 weir: api.example.com is blocked by a limit of 0 connections", "blocked"},
		{of(lease.ErrOverLimit, client, "10.0.0.7", 200), 503, target,
			"503 weir: client 10.0.0.7 is at its limit of 200 connections", "the client is at its limit of connections"},
		{together(lease.ErrOverLimit, client, "*", 200), 503, target,
			"503 weir: all clients together are at their limit of 200 connections", "the clients that share a limit are at their limit of connections"},
		{together(lease.ErrBlocked, client, "10.0.0.0/8", 0), 503, target,
			"503 weir: all clients of 10.0.0.0/8 together are blocked by a limit of 0 connections", "blocked"},
		{together(lease.ErrOverLimit, host, "*", 5), 503, target,
			"503 weir: all hosts together are at their limit of 5 connections", "the hosts that share a limit are at their limit of connections"},
		{together(lease.ErrQueueFull, host, "*.example.com:443", 1), 503, target,
			"503 weir: all hosts of *.example.com:443 together are at their limit of 1 connection and their queue is full",
			"the hosts that share a limit are at their limit of connections, and the queue is full"},
		{together(lease.ErrOverLimit, host, "*."+strings.Repeat("x", 60), 1_000_000), 503, target,
			"503 weir: all hosts of *." + strings.Repeat("x", 39) + "... together are at their limit of 1000000 connections", ""},
		{together(lease.ErrOverLimit, user, "*", 5), 503, target, "503 weir: all users together are at their limit of 5 connections", ""},
		{of(lease.ErrOverLimit, user, "*", 5), 503, target, "503 weir: user * is at its limit of 5 connections", ""}, // who is called so
		{of(lease.ErrQueueFull, user, "nightly", 50), 503, target,
			"503 weir: user nightly is at its limit of 50 connections and its queue is full", "the user is at its limit of connections, and the queue is full"},
		{of(lease.ErrOverLimit, total, "", 20_000), 503, target, "503 weir: all workers together are at their limit of 20000 connections",
			"the total of all workers is at its limit of connections"},
		{of(lease.ErrQueueFull, total, "", 20_000), 503, target, "503 weir: all workers together are at their limit of 20000 connections and their queue is full", ""},
		{of(lease.ErrBlocked, total, "", 0), 503, target, "503 weir: all workers together are blocked by a limit of 0 connections", ""},
		{rate(lease.ErrOverLimit, user, "nightly", "600/m"), 503, target,
			"503 weir: user nightly is at its limit of 600/m requests", "the user is at its limit of requests"},
		{rate(lease.ErrQueueTimeout, host, api, "0.5/s"), 503, target, "503 weir: api.example.com is at its limit of 0.5/s requests, and no token came in time",
			"the host is at its limit of requests, and no token came within the queue's timeout"},
		{&refuseEvicted, 503, target, "503 weir: api.example.com:443: the host is at its limit of connections", ""}, // the limit has just been deleted
		{&refuseNoLease, 503, target, "503 weir: no lease: this node has no live session with the cluster", ""},
		{&refuseDraining, 503, limit.Target{}, "503 weir: this node is draining", ""},
		{refuseDial(errProhibited), 503, six, "502 weir: [fd00::1]:81: the destination's address is not allowed", ""},
		{&refuseClient, 503, target, "403 weir: client address not allowed", ""},
		{badRequest("malformed"), 503, limit.Target{}, "400 weir: malformed", ""},
		{badRequest("a\r\nSet-Cookie: b\x00\x7fö"), 503, limit.Target{}, "400 weir: a??Set-Cookie: b????", ""},
	} {
		if got := statusLine(c.r, c.rejectStatus, c.target); got != "HTTP/1.1 "+c.want+"\r\n" {
			t.Errorf("%q, want %q", got, c.want)
		}
		if c.details != "" && c.r.details != c.details {
			t.Errorf("%s: details %q, want %q", c.want, c.r.details, c.details)
		}
	}
}

// A program tells limits apart by the contract's words for scope and resource, in details.
func TestDetailsNameScopeAndResource(t *testing.T) {
	for _, scope := range []limit.Scope{limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeHost} {
		for _, resource := range []limit.Resource{limit.Connections, limit.Requests} {
			for _, why := range []error{lease.ErrOverLimit, lease.ErrQueueFull, lease.ErrQueueTimeout} {
				for _, shared := range []bool{false, true} {
					r := refuseLimit(&lease.LimitError{Key: limit.Key{Scope: scope, Resource: resource, Name: "x"}, Limit: limit.Limit{Shared: shared}, Why: why})
					if !strings.Contains(r.details, scope.String()) || !strings.Contains(r.details, resource.String()) {
						t.Errorf("scope %s, resource %s: %q", scope, resource, r.details)
					}
				}
			}
		}
	}
}

// For any name and details, the answer begins with one status line of bounded length, and other
// proxies of the cluster recognise it.
func FuzzReasonPhrase(f *testing.F) {
	f.Add("api.example.com", "details", true)
	f.Add(strings.Repeat("x", 300), strings.Repeat("y", 300), true)
	f.Add("a\r\nX: y", "b\r\n\r\nc", false)
	f.Fuzz(func(t *testing.T, name, details string, limited bool) {
		r := &refusal{reason: reasonDNS, details: details}
		if limited {
			r = refuseLimit(&lease.LimitError{Key: limit.HostConnections(name), Limit: limit.Limit{Connections: 1_000_000}, Why: lease.ErrQueueTimeout})
		}
		target := limit.Target{Host: name, Port: 65535}
		if line := statusLine(r, 503, target); !statusLines.MatchString(line) {
			t.Fatalf("%q", line)
		}
		mark := newLoopMark(testMark)
		o := opening{loop: mark.tail}
		if err := o.check(r.render(nil, r.status(503), mark.field(), "n1", target, http1.KeepAlive{}, false)); err != errProxyGreeted {
			t.Fatalf("%q, %q: not known as the proxy's own: %v", name, details, err)
		}
	})
}

// Most clients show only the reason phrase of a refused CONNECT.
func TestRefusedConnectSaysWhy(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 2)
	w.connect(u.addr)
	w.connect(u.addr)
	w.adm.refuseWith(lease.ErrOverLimit)
	for _, c := range []struct {
		blocked bool
		want    string
	}{{false, "503 weir: 127.0.0.1 is at its limit of 2 connections"}, {true, "503 weir: 127.0.0.1 is blocked by a limit of 0 connections"}} {
		w.adm.blocked.Store(c.blocked)
		p := w.dial()
		p.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
		resp := p.refused("CONNECT", 503, codeLimit)
		if resp.Status != c.want || (resp.Header.Get("Retry-After") == "") != c.blocked {
			t.Errorf("%q, Retry-After %q; want %q", resp.Status, resp.Header.Get("Retry-After"), c.want)
		}
		p = w.dial()
		p.send(fmt.Sprintf("GET http://%s/ HTTP/1.1\r\nHost: x\r\n\r\n", u.addr))
		if resp := p.refused("GET", 503, codeLimit); resp.Status != c.want {
			t.Errorf("%q, want %q", resp.Status, c.want)
		}
	}
}
