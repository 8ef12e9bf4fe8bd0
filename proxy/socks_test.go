package proxy

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/resolve"
	"github.com/weirproxy/weir/proxy/socks5"
)

const (
	socksHello  = "\x05\x01\x00"
	socksChosen = "\x05\x00"
)

// socksAsk is a request for host:port: with an address where the host is one.
func socksAsk(target string) string {
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		panic(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		panic(err)
	}
	b := []byte{5, 1, 0, 3, byte(len(host))}
	if addr, err := netip.ParseAddr(host); err != nil {
		b = append(b, host...)
	} else if addr.Is4() {
		b = append([]byte{5, 1, 0, 1}, addr.AsSlice()...)
	} else {
		b = append([]byte{5, 1, 0, 4}, addr.AsSlice()...)
	}
	return string(binary.BigEndian.AppendUint16(b, uint16(n)))
}

// socksAskName is a request for host:port, whatever the host is, as a name.
func socksAskName(target string) string {
	host, port, _ := strings.Cut(target, ":")
	n, _ := strconv.Atoi(port)
	b := append([]byte{5, 1, 0, 3, byte(len(host))}, host...)
	return string(binary.BigEndian.AppendUint16(b, uint16(n)))
}

// socksNo is a reply that refuses.
func socksNo(r socks5.Reply) string {
	return "\x05" + string(rune(r)) + "\x00\x01\x00\x00\x00\x00\x00\x00"
}

// opened reads a reply that says that the tunnel is open, and returns the bound address.
func (p *peer) opened() netip.AddrPort {
	p.t.Helper()
	p.expect("\x05\x00\x00\x01")
	var b [6]byte
	if _, err := io.ReadFull(p.r, b[:]); err != nil {
		p.t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:])), binary.BigEndian.Uint16(b[4:]))
}

// socks opens a tunnel, step by step.
func (w *world) socks(target string) *peer {
	w.t.Helper()
	p := w.dial()
	p.send(socksHello)
	p.expect(socksChosen)
	p.send(socksAsk(target))
	p.opened()
	return p
}

func jsonLog(j *journal) option {
	return func(_ *Config, _ *resolver, o *worldOptions) { o.Output, o.Level, o.JSONFormat = j, hclog.Info, true }
}

// A name and its addresses in every type lead to the same upstream. The reply says from where the
// proxy has connected; the tunnel is shown, counted and logged as any other.
func TestSOCKSTunnel(t *testing.T) {
	u := newUpstream(t, nil)
	_, port, _ := net.SplitHostPort(u.addr)
	for host, counted := range map[string]string{
		"api.test": "api.test", "API.Test.": "api.test", "127.0.0.1": "127.0.0.1", "::ffff:127.0.0.1": "127.0.0.1",
	} {
		t.Run(host, func(t *testing.T) {
			var j journal
			w := newWorld(t, 1, jsonLog(&j), names(resolver{"api.test": []netip.Addr{netip.MustParseAddr("127.0.0.1")}}))
			p := w.dial()
			p.send(socksHello)
			p.expect(socksChosen)
			p.send(socksAsk(net.JoinHostPort(host, port)))
			bound := p.opened()
			q := u.accept()
			if bound.String() != q.RemoteAddr().String() {
				t.Errorf("the reply says %v, the upstream sees %v", bound, q.RemoteAddr())
			}
			if list := w.Connections(counted); len(list) != 1 || list[0].Kind != KindSOCKS5 || list[0].Client != p.LocalAddr().String() || !list[0].Limited {
				t.Errorf("connections to %s: %+v", counted, list)
			}
			p.send("up")
			q.expect("up")
			p.CloseWrite()
			q.expectEOF()
			q.send("still open this way")
			p.expect("still open this way")
			q.Close()
			p.expectEOF()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
			eventually(t, "the log line", func() bool { return len(j.Lines(t, "tunnel ended")) == 1 })
			line := j.Lines(t, "tunnel ended")[0]
			if line["protocol"] != "socks5" || line["host"] != counted || line["port"] != mustNumber(t, port) || line["bytes_out"] != 2.0 || line["end"] != "closed" {
				t.Errorf("the log says %v", line)
			}
			if c := w.Counters(); c.Requests.Load() != 1 || c.Tunnels.Load() != 1 || c.Refused.Load() != 0 {
				t.Errorf("%d requests, %d tunnels, %d refusals are counted", c.Requests.Load(), c.Tunnels.Load(), c.Refused.Load())
			}
		})
	}
}

func mustNumber(t *testing.T, s string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Destinations are normalised as those of a CONNECT.
func TestSOCKSDestinations(t *testing.T) {
	for _, host := range []string{"a.test", "A.TEST.", "127.1", "0x7f000001", "::ffff:10.0.0.1", "2001:DB8::1", "bücher.test", "1.2.3.4"} {
		want, err := limit.ParseHost(host)
		if err != nil {
			t.Fatal(err)
		}
		want.Port = 443
		got, refusal := destination(&socks5.Request{Name: []byte(host), Port: 443})
		if refusal != nil || got != want {
			t.Errorf("%s becomes %+v, %v; want %+v", host, got, refusal, want)
		}
		if addr, err := netip.ParseAddr(host); err == nil {
			if got, refusal := destination(&socks5.Request{Addr: addr, Port: 443}); refusal != nil || got != want {
				t.Errorf("the address %s becomes %+v, %v; want %+v", host, got, refusal, want)
			}
		}
	}
}

// Messages may come in any pieces, also together with bytes for the tunnel and the client's end.
func TestSOCKSPieces(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 1)
	for name, send := range map[string]func(p *peer, all string){
		"byte by byte": func(p *peer, all string) {
			for i := range len(all) {
				p.send(all[i : i+1])
			}
		},
		"at once": func(p *peer, all string) { p.send(all) },
		"in two":  func(p *peer, all string) { p.send(all[:5]); p.expect("\x05"); p.r.UnreadByte(); p.send(all[5:]) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, early := range []string{"", "e", "early"} {
				p := w.dial()
				send(p, socksHello+socksAsk(u.addr)+early)
				p.CloseWrite()
				p.expect(socksChosen)
				p.opened()
				p.expect(early)
				p.expectEOF()
				eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
			}
		})
	}
	early := strings.Repeat("early", 30_000)
	p := w.dial()
	go p.Write([]byte(socksHello + socksAsk(u.addr) + early))
	p.expect(socksChosen)
	p.opened()
	p.expect(early)
}

// peek looks for bytes that have come, without waiting.
func (p *peer) peek() (n int, err error) {
	p.t.Helper()
	raw, failure := p.SyscallConn()
	if failure == nil {
		failure = raw.Control(func(fd uintptr) {
			n, _, err = unix.Recvfrom(int(fd), make([]byte, 64), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		})
	}
	if failure != nil {
		p.t.Fatal(failure)
	}
	return n, err
}

// A client that says everything at once is answered at once: nothing goes out while the node
// resolves and dials, and then all answers in one piece.
func TestSOCKSAtOnce(t *testing.T) {
	u := newUpstream(t, nil)
	for name, c := range map[string]struct {
		begin, answers string
		users          []User
	}{
		"without a password": {socksHello, socksChosen, nil},
		"with a password":    {"\x05\x01\x02" + login("ada", "lovelace"), "\x05\x02\x01\x00", testUsers(t)},
	} {
		t.Run(name, func(t *testing.T) {
			asked, known := make(chan struct{}), make(chan struct{})
			w := newWorld(t, 1, policy(func(p *Policy) { p.Users = c.users }), names(resolver{
				"api.test": func(context.Context) (resolve.Addrs, error) {
					close(asked)
					<-known
					return resolve.InOrder(netip.MustParseAddr("127.0.0.1")), nil
				},
			}))
			p := w.dial()
			p.send(c.begin + socksAskName("api.test:"+portOf(u.addr)))
			<-asked
			if n, err := p.peek(); err != unix.EAGAIN {
				t.Errorf("%d bytes have come before the name is known, %v", n, err)
			}
			close(known)
			want := c.answers + "\x05\x00\x00\x01" // and where the proxy has connected from
			b := make([]byte, 64)
			n, err := p.TCPConn.Read(b)
			if err != nil || n != len(want)+6 || string(b[:len(want)]) != want {
				t.Errorf("one read gives % x, %v", b[:n], err)
			}
			q := u.accept()
			q.Close()
			p.expectEOF()
		})
	}
}

// Each cause has its reply, after which the connection ends. It is counted and logged as for HTTP.
func TestSOCKSReplies(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	deadName := strings.Replace(dead.Addr().String(), "127.0.0.1", "refused.test", 1)
	res := resolver{
		"refused.test":   []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		"slowdns.test":   &net.DNSError{Err: "i/o timeout", IsTimeout: true},
		"brokendns.test": &net.DNSError{Err: "server misbehaving"},
	}
	full := fullListener(t)
	elsewhere := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, c := range []struct {
		name, request string
		acquire       error
		policy        func(*Policy)
		reply         socks5.Reply
		counted       Refusal
	}{
		{"over the limit", socksAsk(deadName), lease.ErrOverLimit, nil, socks5.GeneralFailure, RefusedLimit},
		{"queue full", socksAsk(deadName), lease.ErrQueueFull, nil, socks5.GeneralFailure, RefusedQueueFull},
		{"queue timeout", socksAsk(deadName), lease.ErrQueueTimeout, nil, socks5.GeneralFailure, RefusedQueueTimeout},
		{"blocked", socksAsk(deadName), lease.ErrOverLimit, nil, socks5.NotAllowed, RefusedLimit},
		{"no lease", socksAsk(deadName), lease.ErrNoLease, nil, socks5.GeneralFailure, RefusedNoLease},
		{"draining", socksAsk(deadName), lease.ErrDraining, nil, socks5.GeneralFailure, RefusedDraining},
		{"strange", socksAsk(deadName), errTest, nil, socks5.GeneralFailure, RefusedOther},
		{"refused", socksAsk(deadName), nil, nil, socks5.ConnectionRefused, RefusedConnectionRefused},
		{"refused, by address", socksAsk(dead.Addr().String()), nil, nil, socks5.ConnectionRefused, RefusedConnectionRefused},
		{"timed out", socksAsk(full), nil, func(p *Policy) { p.DialTimeout = 50 * time.Millisecond },
			socks5.TTLExpired, RefusedConnectionTimeout},
		{"not found", socksAsk("nowhere.test:1"), nil, nil, socks5.HostUnreachable, RefusedDNS},
		{"DNS timeout", socksAsk("slowdns.test:1"), nil, nil, socks5.HostUnreachable, RefusedDNSTimeout},
		{"DNS broken", socksAsk("brokendns.test:1"), nil, nil, socks5.HostUnreachable, RefusedDNS},
		{"unspecified", socksAsk("0.0.0.0:80"), nil, nil, socks5.NotAllowed, RefusedProhibited},
		{"link-local", socksAsk("[fe80::1]:80"), nil, nil, socks5.NotAllowed, RefusedProhibited},
		{"destination", socksAsk(deadName), nil, func(p *Policy) { p.AllowDestinations = elsewhere }, socks5.NotAllowed, RefusedProhibited},
		{"client", socksAsk(deadName), nil, func(p *Policy) { p.AllowClients = elsewhere }, socks5.NotAllowed, RefusedDenied},
		{"names only", socksAsk(dead.Addr().String()), nil, func(p *Policy) { p.NamesOnly = true }, socks5.NotAllowed, RefusedProhibited},
		{"names only, written as a name", socksAskName("127.1:80"), nil, func(p *Policy) { p.NamesOnly = true }, socks5.NotAllowed, RefusedProhibited},
		{"names only, a name", socksAsk(deadName), nil, func(p *Policy) { p.NamesOnly = true }, socks5.ConnectionRefused, RefusedConnectionRefused},
		{"BIND", "\x05\x02" + socksAsk(deadName)[2:], nil, nil, socks5.CommandNotSupported, RefusedMalformed},
		{"UDP ASSOCIATE", "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", nil, nil, socks5.CommandNotSupported, RefusedMalformed},
		{"no command", "\x05\x00" + socksAsk(deadName)[2:], nil, nil, socks5.CommandNotSupported, RefusedMalformed},
		{"address type", "\x05\x01\x00\x02", nil, nil, socks5.AddressTypeNotSupported, RefusedMalformed},
		{"another version", "\x04\x01", nil, nil, socks5.GeneralFailure, RefusedMalformed},
		{"HTTP behind the greeting", "GET ", nil, nil, socks5.GeneralFailure, RefusedMalformed},
		{"no name", socksAskName(":80"), nil, nil, socks5.GeneralFailure, RefusedMalformed},
		{"a name that is none", socksAskName("a..b:80"), nil, nil, socks5.GeneralFailure, RefusedMalformed},
		{"a port in the name", "\x05\x01\x00\x03\x03a:1\x00\x50", nil, nil, socks5.GeneralFailure, RefusedMalformed},
		{"port 0", socksAsk("refused.test:0"), nil, nil, socks5.GeneralFailure, RefusedMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			var j journal
			options := []option{names(res), jsonLog(&j)}
			if c.policy != nil {
				options = append(options, policy(c.policy))
			}
			w := newWorld(t, 1, options...)
			w.adm.blocked.Store(c.name == "blocked")
			w.adm.refuseWith(c.acquire)
			for _, early := range []string{"", "early"} {
				p := w.dial()
				p.send(socksHello + c.request + early)
				p.expect(socksChosen + socksNo(c.reply))
				p.CloseWrite()
				p.expectEOF()
			}
			if n := w.Counters().Refusals[c.counted].Load(); n != 2 {
				t.Errorf("%d refusals are counted as %v", n, c.counted)
			}
			lines := j.Lines(t, "request refused")
			if len(lines) != 2 || lines[0]["method"] != "SOCKS5" || lines[0]["reply"] != float64(c.reply) || lines[0]["details"] == "" {
				t.Errorf("the log says %v", lines)
			}
		})
	}
}

// No reason becomes a success.
func TestEveryReasonHasAReply(t *testing.T) {
	for r, reply := range socksReplies {
		if reply == socks5.Succeeded {
			t.Errorf("reason %d has no reply", r)
		}
	}
	if r := refuseDial(unix.ENETUNREACH).reason; socksReplies[r] != socks5.NetworkUnreachable {
		t.Errorf("no route: %d", socksReplies[r])
	}
}

// A client whose protocol the policy leaves out is told so.
func TestProtocols(t *testing.T) {
	var j journal
	w := newWorld(t, 0, jsonLog(&j), policy(func(p *Policy) { p.Protocols = SOCKS5 }))
	p := w.dial()
	p.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n")
	resp, body := p.response("GET")
	if resp.StatusCode != 400 || !strings.Contains(body, "this port speaks SOCKS5 only: use socks5h://") || strings.Contains(body, "HTTP_PROXY") {
		t.Errorf("%s, %q", resp.Status, body)
	}
	p.expectEOF()
	u := newUpstream(t, echo)
	tunnel := w.socks(u.addr)

	if err := w.SetPolicy(func() Policy { p := testPolicy(); p.Protocols = HTTP; return p }()); err != nil {
		t.Fatal(err)
	}
	tunnel.send("still open")
	tunnel.expect("still open")
	p = w.dial()
	p.send(socksHello)
	p.expect("\x05\xff")
	p.CloseWrite()
	p.expectEOF()
	w.connect(u.addr)
	lines := j.Lines(t, "request refused")
	if len(lines) != 2 || !strings.Contains(fmt.Sprint(lines[1]["details"]), "proxy.protocols") {
		t.Errorf("the log says %v", lines)
	}
	if err := w.SetPolicy(Policy{}); err == nil || !strings.Contains(err.Error(), "protocols") {
		t.Errorf("a policy without a protocol: %v", err)
	}
}

// A client that stops in the middle is closed in time, and logged; one that leaves is not.
func TestSOCKSHandshakeTimeout(t *testing.T) {
	var j journal
	w := newWorld(t, 1, jsonLog(&j), policy(func(p *Policy) { p.HeaderTimeout = 100 * time.Millisecond }))
	for i, begin := range []string{"\x05", socksHello, socksHello + "\x05\x01"} {
		p := w.dial()
		p.send(begin)
		if i > 0 {
			p.expect(socksChosen)
		}
		p.expectEOF()
		left := w.dial()
		left.send(begin)
		left.Close()
	}
	eventually(t, "no client is left", func() bool { return w.Counters().Clients.Load() == 0 })
	lines := j.Lines(t, "request refused")
	if len(lines) != 3 || lines[0]["details"] != refuseSlow.details {
		t.Errorf("the log says %v", lines)
	}
}

// Clients that ask for addresses are noted where limits count names, once.
func TestSOCKSAddressesAreNoted(t *testing.T) {
	const message = "a SOCKS5 client asks for an address, where limits count names: if it resolves names itself, they don't hold for it"
	u := newUpstream(t, echo)
	_, port, _ := net.SplitHostPort(u.addr)
	for _, counts := range []bool{false, true} {
		var j journal
		w := newWorld(t, 0, jsonLog(&j), names(resolver{"api.test": []netip.Addr{netip.MustParseAddr("127.0.0.1")}}))
		w.adm.names.Store(counts)
		for range 3 {
			w.socks(u.addr).Close()
		}
		w.socks("api.test:" + port).Close()
		w.connect(u.addr).Close()
		list, lines, counted := w.ResolvingClients(), j.Lines(t, message), w.Counters().Addresses.Load()
		if !counts {
			if len(list)+len(lines) != 0 || counted != 0 {
				t.Errorf("noted, though no limit counts names: %v, %v, %d", list, lines, counted)
			}
			continue
		}
		if len(list) != 1 || list[0].Client.String() != "127.0.0.1" || list[0].Requests != 3 || list[0].Destination != u.addr || counted != 3 {
			t.Errorf("noted: %+v, %d", list, counted)
		}
		if len(lines) != 1 || lines[0]["destination"] != u.addr {
			t.Errorf("the log says %v", lines)
		}
	}
}
