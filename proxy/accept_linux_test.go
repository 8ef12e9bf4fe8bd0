package proxy

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/proxy/accesslog"
)

// dialFrom connects to the proxy from another loopback address.
func (w *world) dialFrom(from string) *peer {
	w.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(w.t.Context(), "tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return newPeer(w.t, c)
}

func onlyLoopback1(p *Policy) {
	p.AllowClients = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
}

// Refused clients take no place of allowed ones, however many and however silent they are.
func TestRefusedClientsTakeNoPlace(t *testing.T) {
	var j journal
	w := newWorld(t, 0, policy(onlyLoopback1), func(c *Config, _ *resolver, o *worldOptions) {
		c.MaxClients = 1
		o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true
	})
	const strangers = 3 * maxStrangers
	for range strangers {
		w.dialFrom("127.0.0.2")
	}
	p := w.dial()
	p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	p.refused("GET", 400, "http_request_error")

	eventually(t, "each one is refused or waited for", func() bool {
		return int(w.Counters().Refusals[RefusedDenied].Load())+len(w.strangers) >= strangers
	})
	if n := len(j.Lines(t, "request refused")); n == 0 || n > 2*accesslog.Shown {
		t.Errorf("%d lines about %d refused clients", n, strangers)
	}
}

// A refused client gets a 403, and its connection ends with the answer.
func TestRefusedClientIsAnsweredOnce(t *testing.T) {
	w := newWorld(t, 0, policy(onlyLoopback1))
	p := w.dialFrom("127.0.0.2")
	p.send("GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n")
	p.refused("GET", 403, "http_request_denied")
	if b, err := io.ReadAll(p.r); len(b) > 0 || err != nil {
		t.Errorf("then: %q, %v", b, err)
	}
	p.Close()
	eventually(t, "its place is free", func() bool { return len(w.strangers) == 0 })
}
