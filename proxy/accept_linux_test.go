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

// A client that may not use the proxy, and leaves before it has said what it wants, is refused: its
// greeting is enough.
func TestSOCKSStrangerLeaves(t *testing.T) {
	for name, stay := range map[string]func(*peer){
		"in its greeting": func(p *peer) { p.send(socksHello[:1]) },
		"after it":        func(p *peer) { p.send(socksHello); p.expect(socksChosen) },
	} {
		t.Run(name, func(t *testing.T) {
			var j journal
			w := newWorld(t, 0, jsonLog(&j), policy(onlyLoopback1))
			allowed := w.dial()
			stay(allowed)
			allowed.CloseWrite()
			allowed.expectEOF()
			p := w.dialFrom("127.0.0.2")
			stay(p)
			p.CloseWrite()
			p.expectEOF()
			eventually(t, "both are gone", func() bool { return w.Counters().Clients.Load() == 0 && len(w.strangers) == 0 })
			if n := w.Counters().Refusals[RefusedDenied].Load(); n != 1 || w.Counters().Refused.Load() != 1 {
				t.Errorf("%d refusals are counted, %d of them as denied; want 1", w.Counters().Refused.Load(), n)
			}
			lines := j.Lines(t, "request refused")
			if len(lines) != 1 || lines[0]["method"] != "SOCKS5" || lines[0]["details"] != refuseClient.details {
				t.Errorf("the log says %v", lines)
			}
		})
	}
}
