package proxy

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/proxy/proxytest"
	"github.com/weirproxy/weir/proxy/sock"
)

// proxyBlock builds a header of version 2.
func proxyBlock(command, kind byte, content string) string {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(content)))
	return string(b) + content
}

const (
	// From 192.0.2.1:258 to 192.0.2.2:443, and the same in 2001:db8::/32.
	balanced4 = "\xc0\x00\x02\x01\xc0\x00\x02\x02\x01\x02\x01\xbb"
	balanced6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x01\x02\x01\xbb"
)

// balanced makes all of loopback a load balancer.
func balanced(p *Policy) { p.ProxyProtocolFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

func TestProxyProtocol(t *testing.T) {
	u := httpUpstream(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	var j journal
	w := newWorld(t, 0, policy(balanced), policy(func(p *Policy) {
		p.AllowClients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	}), func(_ *Config, _ *resolver, o *worldOptions) { o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true })
	lines := 0
	for header, want := range map[string]string{
		"PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\n":     "192.0.2.1:258",
		proxyBlock(0x21, 0x21, balanced6):                "[2001:db8::1]:258",
		"PROXY TCP4 198.51.100.1 192.0.2.2 258 443\r\n":  "", // not allowed
		"PROXY UNKNOWN\r\n":                              "", // the balancer is no allowed client either
		proxyBlock(0x20, 0x00, ""):                       "",
		"PROXY TCP6 2001:db9::1 2001:db8::2 258 443\r\n": "",
	} {
		p := w.dial()
		for i := range len(header) { // in pieces
			p.send(header[i : i+1])
		}
		for range 2 {
			p.send(get(u, "/", ""))
			if want == "" {
				p.refused("GET", 403, "http_request_denied")
				p.expectEOF() // a refused client's connection ends with the answer
				break
			}
			if resp, body := p.response("GET"); resp.StatusCode != 200 || body != "ok" {
				t.Fatalf("%q: %s %q", header, resp.Status, body)
			}
			lines++
			eventually(t, "a line", func() bool { return len(j.Lines(t, "request ended")) == lines })
			if got := j.Lines(t, "request ended")[lines-1]["client"]; got != want {
				t.Errorf("%q: the client is %v", header, got)
			}
		}
	}
}

// A connection without the required header is refused, and so is one with a header from another
// address.
func TestProxyProtocolIsNotGuessed(t *testing.T) {
	const request = "GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n"
	w := newWorld(t, 0, policy(balanced))
	for _, start := range []string{request, "\x16\x03\x01", "PROXY TCP4 nonsense\r\n", proxyBlock(0x21, 0x11, "") + request} {
		p := w.dial()
		p.send(start)
		p.refused("GET", 400, "http_request_error")
		p.expectEOF()
	}
	w = newWorld(t, 0)
	for _, header := range []string{"PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\n", proxyBlock(0x21, 0x11, balanced4)} {
		p := w.dial()
		p.send(header + request)
		p.refused("GET", 400, "http_request_error")
		p.expectEOF()
	}
}

// A health check leaves no log line, and a balancer that sends nothing is closed soon.
func TestProxyProtocolHealthChecks(t *testing.T) {
	const timeout = time.Second // in which the half header must come: a machine that is busy takes its time
	var j journal
	w := newWorld(t, 0, policy(balanced), policy(func(p *Policy) { p.HeaderTimeout = timeout }), func(_ *Config, _ *resolver, o *worldOptions) {
		o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true
	})
	w.dial().Close()
	w.dial().reset()
	p := w.dial()
	p.send(proxyBlock(0x20, 0x00, ""))
	p.CloseWrite()
	p.expectEOF()
	w.dial().expectEOF()
	p = w.dial()
	p.send("PROXY TCP4 ")
	p.refused("GET", 408, "http_request_error")
	if n := w.Counters().Refused.Load(); n != 1 {
		t.Errorf("%d refusals", n)
	}
	eventually(t, "no client is left", func() bool { return w.Counters().Clients.Load() == 0 })
	w.Close()
	if lines := j.Lines(t, "request refused"); len(lines) != 1 { // the half header
		t.Errorf("lines: %v", lines)
	}
}

// The header comes before TLS.
func TestProxyProtocolBeforeTLS(t *testing.T) {
	u := newUpstream(t, echo)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 0, speakTLS(cert), policy(balanced))
	p := w.dialTLSAfter("PROXY TCP4 127.0.0.9 127.0.0.1 258 443\r\n", cert)
	p.connect(u.addr)
	p.send("hello")
	p.expect("hello")
	if list := w.Connections(""); len(list) != 1 || list[0].Client != "127.0.0.9:258" {
		t.Errorf("connections: %+v", list)
	}
	silent := w.dial()
	silent.send("\x16\x03\x01\x00\x05hello")
	if b, err := io.ReadAll(silent.r); len(b) > 0 || err != nil && !sock.IsReset(err) {
		t.Errorf("%q %v", b, err)
	}
	if n := w.Counters().Refusals[RefusedMalformed].Load(); n != 1 {
		t.Errorf("%d refusals", n)
	}
}
