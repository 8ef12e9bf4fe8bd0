package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease"
	"golang.org/x/sys/unix"
)

func TestConnectRelaysBothWays(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 1)
	p := w.connect(u.addr)
	p.send("hello")
	p.expect("hello")
	conns := w.Connections("127.0.0.1")
	if len(conns) != 1 || conns[0].Kind != KindConnect || conns[0].Client != p.LocalAddr().String() || !conns[0].Limited {
		t.Fatalf("connections: %+v", conns)
	}
	eventually(t, "the bytes are counted", func() bool {
		c := w.Connections("")[0]
		return c.BytesIn == 5 && c.BytesOut == 5
	})
	if other := w.Connections("other"); len(other) != 0 {
		t.Fatalf("connections of another host: %+v", other)
	}
	p.CloseWrite()
	p.expectEOF()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

func TestConnectForwardsBytesBehindTheHead(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 1)
	for _, early := range []string{"x", strings.Repeat("early", 30_000)} {
		p := w.dial()
		go p.Write([]byte("CONNECT " + u.addr + " HTTP/1.0\r\n\r\n" + early))
		p.expect("HTTP/1.1 200 Connection established\r\n\r\n" + early)
		p.Close()
	}
}

// Bytes and a FIN right behind the head are those of a client that has said all it had to say.
func TestConnectEarlyHalfClose(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 1)
	p := w.dial()
	p.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\nquestion")
	p.CloseWrite()
	p.expect("HTTP/1.1 200 Connection established\r\n\r\nquestion")
	p.expectEOF()
}

func TestConnectBulk(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 1)
	p := w.connect(u.addr)
	data := make([]byte, 8<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	go func() {
		p.Write(data)
		p.CloseWrite()
	}()
	got, err := io.ReadAll(p.r)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
		t.Fatalf("%d of %d bytes came back, or others: %v", len(got), len(data), err)
	}
}

func TestHalfCloseIsPassedOnAndSlotWaitsForTheEnd(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, clientFirst := range []bool{true, false} {
		p := w.connect(u.addr)
		q := u.accept()
		first, second := p, q
		if !clientFirst {
			first, second = q, p
		}
		first.CloseWrite()
		second.expectEOF()
		second.send("still open this way")
		first.expect("still open this way")
		if w.adm.inUse() != 1 {
			t.Fatal("the slot was released before the upstream's end")
		}
		second.CloseWrite()
		first.expectEOF()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

func TestHalfCloseTimeoutResetsBothSides(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.HalfCloseTimeout = 150 * time.Millisecond }))
	for _, clientFirst := range []bool{true, false} {
		p := w.connect(u.addr)
		q := u.accept()
		if !clientFirst {
			p, q = q, p
		}
		start := time.Now()
		p.CloseWrite()
		q.expectEOF()
		if d := time.Since(start); d > 140*time.Millisecond {
			t.Fatalf("the FIN took %v", d)
		}
		p.expectReset()
		if d := time.Since(start); d < 150*time.Millisecond {
			t.Fatalf("reset after %v", d)
		}
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

// A reader that is slow, but reads, is not cut off, though the proxy itself has nothing left to
// relay.
func TestHalfCloseTimeoutSparesSlowReaders(t *testing.T) {
	const limit = 200 * time.Millisecond
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.HalfCloseTimeout = limit }))
	// A small receive buffer, set before the connection: it is drained, and acknowledged, in small
	// steps.
	small := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 256<<10) })
	}}
	conn, err := small.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, conn)
	p.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
	p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
	q := u.accept()
	data := bytes.Repeat([]byte("x"), 8<<20)
	go func() {
		q.Write(data)
		q.CloseWrite()
	}()
	start := time.Now()
	got := 0
	buf := make([]byte, 64<<10)
	tick := time.NewTicker(4 * time.Millisecond) // the reader's pace
	defer tick.Stop()
	for got < len(data) {
		<-tick.C
		n, err := p.r.Read(buf)
		got += n
		if err != nil {
			t.Fatalf("after %d bytes and %v: %v", got, time.Since(start), err)
		}
	}
	if time.Since(start) < 2*limit {
		t.Fatalf("the transfer took only %v: it proves nothing", time.Since(start))
	}
	p.CloseWrite()
	q.expectEOF()
}

func TestTunnelIdleTimeout(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.TunnelIdleTimeout = 100 * time.Millisecond }))
	p := w.connect(u.addr)
	q := u.accept()
	q.expectReset()
	p.expectReset()
}

func TestClientResetEndsTheTunnel(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	t.Run("quiet", func(t *testing.T) {
		p := w.connect(u.addr)
		q := u.accept()
		p.reset()
		q.expectReset()
	})
	t.Run("after its FIN", func(t *testing.T) {
		p := w.connect(u.addr)
		q := u.accept()
		p.CloseWrite()
		q.expectEOF()
		p.reset()
		// Its end was read already: only a failing write shows the reset.
		eventually(t, "the upstream is reset", func() bool {
			_, err := q.Write([]byte("x"))
			return err != nil
		})
	})
	t.Run("while the upstream takes nothing", func(t *testing.T) {
		p := w.connect(u.addr)
		q := u.accept()
		p.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		io.Copy(p.TCPConn, zeros{}) // until the window closes
		p.reset()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		q.Close()
	})
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestUpstreamResetEndsTheTunnel(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.connect(u.addr)
	q := u.accept()
	q.reset()
	p.expectReset()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })

	// A client that doesn't read must not keep the slot.
	w.connect(u.addr)
	q = u.accept()
	q.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	io.Copy(q.TCPConn, zeros{})
	w.SetPolicy(func() Policy { p := DefaultPolicy(); p.HalfCloseTimeout = 100 * time.Millisecond; return p }())
	q.reset()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

// The upstream's own count stays within the limit, though connections end in every way.
func TestUpstreamNeverSeesMoreThanTheLimit(t *testing.T) {
	for _, limit := range []int{1, 3} {
		u := newUpstream(t, func(c *net.TCPConn) {
			buf := make([]byte, 1)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
				switch buf[0] {
				case 'e':
					c.Write(buf)
				case 'c':
					return
				case 'r':
					c.SetLinger(0)
					return
				}
			}
		})
		w := newWorld(t, limit)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(limit), uint64(i)))
				for range 15 {
					p := w.connect(u.addr)
					p.send("e")
					p.expect("e")
					switch rng.IntN(5) {
					case 0:
						p.Close()
					case 1:
						p.reset()
					case 2:
						p.send("c")
						p.expectEOF()
						p.Close()
					case 3:
						p.send("r")
						p.expectReset()
					case 4:
						p.CloseWrite()
						p.expectEOF()
					}
				}
			})
		}
		wg.Wait()
		if peak := u.peak.Load(); peak > int64(limit) {
			t.Errorf("limit %d: the upstream saw %d at once", limit, peak)
		}
	}
}

func TestClientThatLeavesTheQueueGivesItsPlaceBack(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	w.connect(u.addr)
	u.accept()
	head := "CONNECT " + u.addr + " HTTP/1.1\r\n\r\n"
	plain := "GET http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		send  string
		leave func(*peer)
	}{
		"FIN":              {head, func(p *peer) { p.Close() }},
		"RST":              {head, (*peer).reset},
		"plain, FIN":       {plain, func(p *peer) { p.Close() }},
		"RST behind bytes": {head + "bytes for the tunnel", (*peer).reset},
		"FIN behind bytes": {head + "bytes for the tunnel", func(p *peer) { p.Close() }},
		"a body":           {"POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", func(p *peer) { p.Close() }},
		"HTTP/1.0, a body": {"POST http://" + u.addr + "/ HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody", func(p *peer) { p.Close() }},
		"half a body":      {"POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbody", func(p *peer) { p.Close() }},
		"another request":  {plain + plain, func(p *peer) { p.Close() }},
	} {
		t.Run(name, func(t *testing.T) {
			p := w.dial()
			p.send(c.send)
			eventually(t, "the client waits", func() bool { return w.adm.queued() == 1 })
			c.leave(p)
			eventually(t, "its place is free", func() bool { return w.adm.queued() == 0 })
		})
	}
	if n := u.all.Load(); n != 1 {
		t.Fatalf("the upstream saw %d connections, want 1", n)
	}
}

func TestClientThatLeavesDuringTheDialGivesItsSlotBack(t *testing.T) {
	w := newWorld(t, 1)
	p := w.dial()
	p.send("CONNECT " + fullListener(t) + " HTTP/1.1\r\n\r\n")
	eventually(t, "the dial has begun", func() bool { return w.adm.inUse() == 1 })
	p.Close()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

func TestSever(t *testing.T) {
	u := newUpstream(t, nil)
	for _, reason := range []lease.Reason{lease.SeverFenced, lease.SeverEvicted} {
		w := newWorld(t, 1)
		t.Run("tunnel", func(t *testing.T) {
			p := w.connect(u.addr)
			q := u.accept()
			w.adm.slots()[0].holder.Sever(reason)
			q.expectReset()
			p.expectReset()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		})
		t.Run("half-closed", func(t *testing.T) {
			p := w.connect(u.addr)
			q := u.accept()
			p.CloseWrite()
			q.expectEOF()
			w.adm.slots()[0].holder.Sever(reason)
			p.expectReset()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		})
		t.Run("wanted, but busy", func(t *testing.T) {
			p := w.connect(u.addr)
			q := u.accept()
			w.adm.slots()[0].holder.Sever(lease.SeverWanted)
			q.send("unharmed")
			p.expect("unharmed")
			p.Close()
			q.Close()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		})
	}
}

func TestSeverWhileDialling(t *testing.T) {
	for _, c := range []struct {
		reason lease.Reason
		status int
		code   string
	}{
		{lease.SeverFenced, 503, "proxy_internal_error"},
		{lease.SeverEvicted, 429, "connection_limit_reached"},
	} {
		w := newWorld(t, 1, policy(func(p *Policy) { p.RejectStatus = 429 }))
		p := w.dial()
		p.send("CONNECT " + fullListener(t) + " HTTP/1.1\r\n\r\n")
		eventually(t, "the dial has begun", func() bool { return len(w.flows.all()) == 1 && isDialling(w.flows.all()[0]) })
		w.adm.slots()[0].holder.Sever(c.reason)
		p.refused("CONNECT", c.status, c.code)
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

// A process that wakes up after its lease has run out reads nothing further, fence or no fence.
func TestNothingIsRelayedPastTheDeadline(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, fromClient := range []bool{true, false} {
		p := w.connect(u.addr)
		q := u.accept()
		w.adm.slots()[0].live.Store(false)
		from, to := p, q
		if !fromClient {
			from, to = q, p
		}
		_, _ = from.Write([]byte("too late")) // a look at the quiet tunnel may have come first, and have reset it
		to.expectReset()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

func isDialling(f *flow) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dialling != nil
}

func TestCloseConnection(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	p := w.connect(u.addr)
	q := u.accept()
	if w.CloseConnection("no number") || w.CloseConnection("999999") {
		t.Fatal("closed what isn't there")
	}
	c := w.Connections("")[0]
	if c.Limited {
		t.Error("an unlimited connection is called limited")
	}
	if !w.CloseConnection(c.ID) {
		t.Fatal("not closed")
	}
	q.expectReset()
	p.expectReset()
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
			// The same connection goes on after a refused GET, unless the client is refused; a
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

func TestDialTimeout(t *testing.T) {
	w := newWorld(t, 1, policy(func(p *Policy) { p.DialTimeout = 100 * time.Millisecond }), names(resolver{"slow.test": func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}))
	p := w.dial()
	p.send("CONNECT slow.test:443 HTTP/1.1\r\n\r\n")
	p.refused("CONNECT", 504, "dns_timeout")

	// A listener whose backlog is full answers no SYN.
	full := fullListener(t)
	p = w.dial()
	p.send("CONNECT " + full + " HTTP/1.1\r\n\r\n")
	p.refused("CONNECT", 504, "connection_timeout")
}

// Addresses are tried one after the other, within one slot.
func TestDialTriesTheNextAddress(t *testing.T) {
	u := newUpstream(t, echo)
	_, port, _ := net.SplitHostPort(u.addr)
	w := newWorld(t, 1, names(resolver{"two.test": []netip.Addr{
		netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("::ffff:127.0.0.1")}}))
	p := w.connect("TWO.test.:" + port)
	p.send("hello")
	p.expect("hello")
	if _, _, acquired, _ := w.adm.counts(); acquired != 1 || u.all.Load() != 1 {
		t.Errorf("%d slots, %d connections", acquired, u.all.Load())
	}
	if c := w.Connections("two.test"); len(c) != 1 {
		t.Errorf("connections: %+v", w.Connections(""))
	}
}

func TestDrain(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	p := w.connect(u.addr)
	q := u.accept()
	idle := w.dial()
	idle.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.refused("GET", 400, "http_request_error")

	w.SetDraining(true)
	idle.expectEOF()
	late := w.dial()
	late.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
	if late.refused("CONNECT", 503, "proxy_internal_error").Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.SetDraining(false)
	again := w.connect(u.addr)
	q2 := u.accept()
	again.Close()
	q2.expectEOF()
	q2.Close()

	drained := make(chan error, 1)
	go func() { drained <- w.Drain(context.Background()) }()
	eventually(t, "the listener is closed", func() bool {
		c, err := net.Dial("tcp", w.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	q.send("tunnels go on")
	p.expect("tunnels go on")
	p.Close()
	q.expectEOF()
	q.Close()
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
}

func TestDrainResetsTheRestAtItsEnd(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.connect(u.addr)
	q := u.accept()
	waiting := w.dial()
	waiting.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
	eventually(t, "a client waits", func() bool { return w.adm.queued() == 1 })
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errTest)
	if err := w.Drain(ctx); err != errTest {
		t.Fatalf("Drain: %v", err)
	}
	p.expectReset()
	q.expectReset()
	if w.adm.inUse() != 0 {
		t.Fatal("a slot is held after Drain")
	}
}
