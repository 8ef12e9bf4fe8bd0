package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/proxy/proxytest"
)

// A client of another protocol is refused in that protocol, the log names it, and the connection
// ends with a FIN.
func TestForeignProtocols(t *testing.T) {
	cert := proxytest.Certificate(t)
	for _, c := range []struct {
		name, send, answer, details string
		tls                         bool
		logged                      string // method, field and value
	}{
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "HTTP/1.1 400 weir: the client began with TLS", "the client began with TLS", false, " status 400"},
		{"SOCKS5", "\x05\x01\x00", "\x05\xff", "the client began with SOCKS5", false, "SOCKS5 choice 255"},
		{"SOCKS4", "\x04\x01\x01\xbb\x00\x00\x00\x01u\x00a.test\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00", "the client began with SOCKS4", false, "SOCKS4 reply 91"},
		{"PROXY 1", "PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\nGET http://u.test/ HTTP/1.1\r\n\r\n", "HTTP/1.1 400 weir: the client began with a PROXY protocol header", "the client began with a PROXY protocol header", false, " status 400"},
		{"PROXY 2", proxyBlock(0x21, 0x11, balanced4), "HTTP/1.1 400 weir: the client began with a PROXY protocol header", "the client began with a PROXY protocol header", false, " status 400"},
		{"else", "\x00\x01", "HTTP/1.1 400 weir: not an HTTP/1.1 message", "not an HTTP/1.1 message", false, " status 400"},
		{"SOCKS5 where TLS is spoken", "\x05\x01\x00", "\x05\xff", "the client began with SOCKS", true, "SOCKS5 choice 255"},
		{"SOCKS4 where TLS is spoken", "\x04\x01", "\x00\x5b\x00\x00\x00\x00\x00\x00", "the client began with SOCKS", true, "SOCKS4 reply 91"},
		{"PROXY 1 where TLS is spoken", "PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\n\x16\x03\x01", "HTTP/1.1 400 weir: the client began with a PROXY protocol header", "the client began with a PROXY protocol header: list its address in proxy.proxy_protocol_from, or let it send none", true, " status 400"},
		{"PROXY 2 where TLS is spoken", proxyBlock(0x21, 0x11, balanced4) + "\x16\x03\x01", "HTTP/1.1 400 weir: the client began with a PROXY protocol header", "the client began with a PROXY protocol header: list its address in proxy.proxy_protocol_from, or let it send none", true, " status 400"},
		{"HTTP where TLS is spoken", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 weir: the client began with plain HTTP", "the client began with plain HTTP", true, " status 400"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var j journal
			options := []option{func(_ *Config, _ *resolver, o *worldOptions) { o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true }}
			if c.name == "SOCKS5" {
				options = append(options, policy(func(p *Policy) { p.Protocols = HTTP }))
			}
			if c.tls {
				options = append(options, speakTLS(cert))
			}
			w := newWorld(t, 1, options...)
			p := w.dial()
			p.send(c.send)
			p.expect(c.answer)
			p.CloseWrite()
			if _, err := p.r.WriteTo(new(strings.Builder)); err != nil {
				t.Errorf("the connection ends with %v", err)
			}
			lines := j.Lines(t, "request refused")
			if len(lines) != 1 || !strings.HasPrefix(fmt.Sprint(lines[0]["details"]), c.details) {
				t.Fatalf("the log says %v", lines)
			}
			logged := strings.Split(c.logged, " ")
			if method, field, value := logged[0], logged[1], logged[2]; lines[0]["method"] != method || fmt.Sprint(lines[0][field]) != value {
				t.Errorf("the log says %v; want method %q, and %s %s", lines[0], method, field, value)
			}
			if _, ok := lines[0]["status"]; ok != (logged[1] == "status") {
				t.Errorf("the log has a status that was not sent: %v", lines[0])
			}
			if n := w.Counters().Refusals[RefusedMalformed].Load(); n != 1 {
				t.Errorf("%d refusals", n)
			}
		})
	}
}
