package proxy

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
)

// statusLines matches the status lines of the proxy's own answers.
var statusLines = regexp.MustCompile(`^HTTP/1\.1 [4-5]\d\d weir: [ -~]{1,114}\r\n$`)

// statusLine returns the first line of a refusal.
func statusLine(r *refusal, rejectStatus int, g grounds) string {
	line, _, _ := strings.Cut(string(r.render(nil, r.status(rejectStatus), nil, "n1", g, keepAlive{}, false)), "\n")
	return line + "\n"
}

func TestReasonPhrases(t *testing.T) {
	target := fsm.Target{Host: "api.example.com", Port: 443}
	limit := func(n int64) grounds { return grounds{target, Limit{Name: "api.example.com", Connections: n}} }
	six := fsm.Target{Host: "fd00::1", Addr: netip.MustParseAddr("fd00::1"), Port: 81}
	for _, c := range []struct {
		r            *refusal
		rejectStatus int
		g            grounds
		want         string
	}{
		{refuseAdmission(lease.ErrOverLimit), 503, limit(5), "503 weir: api.example.com is at its limit of 5 connections"},
		{refuseAdmission(lease.ErrOverLimit), 429, limit(1), "429 weir: api.example.com is at its limit of 1 connection"},
		{refuseAdmission(lease.ErrQueueFull), 503, limit(5), "503 weir: api.example.com is at its limit of 5 connections and its queue is full"},
		{refuseAdmission(lease.ErrQueueTimeout), 503, limit(5), "503 weir: api.example.com is at its limit of 5 connections, and none came free in time"},
		{refuseAdmission(lease.ErrOverLimit), 503, grounds{target: target}, "503 weir: api.example.com:443: the host is at its connection limit"}, // it has just been deleted
		{&refuseBlocked, 503, limit(0), "503 weir: api.example.com is blocked by a limit of 0 connections"},
		{&refuseNoLease, 503, limit(5), "503 weir: no lease: this node has no live session with the cluster"},
		{&refuseDraining, 503, grounds{}, "503 weir: this node is draining"},
		{refuseDial(errProhibited), 503, grounds{target: six}, "502 weir: [fd00::1]:81: the destination's address is not allowed"},
		{&refuseClient, 503, grounds{target: target}, "403 weir: client address not allowed"},
		{badRequest("malformed"), 503, grounds{}, "400 weir: malformed"},
		{badRequest("a\r\nSet-Cookie: b\x00\x7fö"), 503, grounds{}, "400 weir: a??Set-Cookie: b????"},
	} {
		if got := statusLine(c.r, c.rejectStatus, c.g); got != "HTTP/1.1 "+c.want+"\r\n" {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// For any name and details, the answer begins with one status line of bounded length, and other
// proxies of the cluster recognise it.
func FuzzReasonPhrase(f *testing.F) {
	f.Add("api.example.com", "details", true)
	f.Add(strings.Repeat("x", 300), strings.Repeat("y", 300), true)
	f.Add("a\r\nX: y", "b\r\n\r\nc", false)
	f.Fuzz(func(t *testing.T, name, details string, limit bool) {
		r := &refusal{reason: reasonDNS, details: details}
		if limit {
			r.reason = reasonOverLimit
		}
		g := grounds{fsm.Target{Host: name, Port: 65535}, Limit{Name: name, Connections: 1_000_000}}
		if line := statusLine(r, 503, g); !statusLines.MatchString(line) {
			t.Fatalf("%q", line)
		}
		mark := newLoopMark(testMark)
		o := opening{loop: mark.tail}
		if err := o.check(r.render(nil, r.status(503), mark.field(), "n1", g, keepAlive{}, false)); err != errProxyGreeted {
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
