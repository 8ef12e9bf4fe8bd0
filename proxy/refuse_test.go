package proxy

import (
	"net"
	"net/netip"
	"testing"

	"github.com/weirproxy/weir/lease"
)

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
