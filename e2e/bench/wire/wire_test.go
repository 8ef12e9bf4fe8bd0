//go:build linux

package wire

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startUpstream(t *testing.T, ports int) (*Upstream, []netip.AddrPort) {
	t.Helper()
	u, err := StartUpstream(ports)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	var addrs []netip.AddrPort
	for i, port := range u.Ports() {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 3, 0, byte(i + 1)}), port))
	}
	return u, addrs
}

// await waits for a condition.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.Tick(time.Millisecond); !holds(); <-tick {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// drive runs a plan until it has done ops operations, and expects no failure.
func drive(t *testing.T, plan Plan, ops int64) Tally {
	t.Helper()
	d, err := Start(plan)
	if err != nil {
		t.Fatal(err)
	}
	d.Measure()
	await(t, "operations", func() bool { return d.Ops() >= ops || d.failures.Load() > 0 })
	tally, err := d.Close()
	if err != nil || tally.Failures > 0 {
		t.Fatalf("%+v: %v", tally.Failures, err)
	}
	return tally
}

func TestTunnelsAreOpenedAndClosed(t *testing.T) {
	u, addrs := startUpstream(t, 3)
	sources := []netip.Addr{netip.MustParseAddr("127.0.2.1"), netip.MustParseAddr("127.0.2.2")}
	tally := drive(t, Plan{Workers: 8, Dials: addrs, Sources: sources, Send: Ping(), Reply: PingSize}, 500)
	if got := u.Accepted(); got < 500 {
		t.Errorf("the upstream took %d connections; want one for each of 500 operations", got)
	}
	if int64(len(tally.Latencies)) < 500 || tally.Redials != 0 {
		t.Errorf("%d latencies, %d redials", len(tally.Latencies), tally.Redials)
	}
	for _, l := range tally.Latencies {
		if l <= 0 {
			t.Fatalf("a latency of %v", l)
		}
	}
}

// socksServer is a small one, of tunnels to IPv4 addresses.
func socksServer(t *testing.T, reply string) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		served.Wait()
	})
	serve := func(c net.Conn) {
		defer func() { _ = c.Close() }()
		var b [10]byte
		if _, err := io.ReadFull(c, b[:3]); err != nil || string(b[:3]) != "\x05\x01\x00" {
			return
		}
		_, _ = c.Write([]byte("\x05"))
		_, _ = c.Write([]byte("\x00"))
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return
		}
		_, _ = c.Write([]byte(reply))
		up, err := net.Dial("tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), uint16(b[8])<<8|uint16(b[9])).String())
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(c, up); _ = c.Close() }()
		_, _ = io.Copy(up, c)
		_ = up.Close()
	}
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { serve(c) })
		}
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestSOCKS5Tunnels(t *testing.T) {
	u, addrs := startUpstream(t, 2)
	var heads [][]byte
	for _, a := range addrs {
		head := append([]byte("\x05\x01\x00\x01"), a.Addr().AsSlice()...)
		heads = append(heads, append(head, byte(a.Port()>>8), byte(a.Port())))
	}
	proxy := socksServer(t, "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
	plan := Plan{Workers: 4, Dials: []netip.AddrPort{proxy}, Heads: heads, SOCKS5: true, Send: Ping(), Reply: PingSize}
	drive(t, plan, 200)
	atOnce := plan
	atOnce.AtOnce, atOnce.Heads = true, nil
	for _, head := range heads {
		atOnce.Heads = append(atOnce.Heads, append([]byte("\x05\x01\x00"), head...))
	}
	drive(t, atOnce, 200)
	if got := u.Accepted(); got < 400 {
		t.Errorf("the upstream took %d connections; want one for each of 400 operations", got)
	}
	plan.Dials = []netip.AddrPort{socksServer(t, "\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00")}
	d, err := Start(plan)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "failures", func() bool { return d.failures.Load() > 10 })
	if tally, err := d.Close(); err == nil || !strings.Contains(err.Error(), "answered with") || tally.Ops != 0 {
		t.Errorf("refused: %d operations, %v", tally.Ops, err)
	}
}

func TestRequestsKeepTheirConnections(t *testing.T) {
	u, addrs := startUpstream(t, 1)
	heads := [][]byte{[]byte("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"), []byte("GET /b HTTP/1.1\r\nHost: x\r\n\r\n")}
	drive(t, Plan{Workers: 4, Dials: addrs, Heads: heads, Reply: BodySize}, 500)
	if got := u.Accepted(); got != 4 {
		t.Errorf("the upstream took %d connections; want one for each of 4 workers", got)
	}
}

func TestDrainCountsBytes(t *testing.T) {
	_, addrs := startUpstream(t, 1)
	tally := drive(t, Plan{Workers: 1, Dials: addrs, Send: Bulk(), Drain: true}, 64<<20)
	if len(tally.Latencies) > 0 {
		t.Errorf("%d latencies of a reply without end", len(tally.Latencies))
	}
}

// TestDrainAtARate: neither end that holds a reply to a rate is faster than that; that it is
// reached is not judged, since the machine may be busy.
func TestDrainAtARate(t *testing.T) {
	const rate, size = 64 << 20, 8 << 20
	_, addrs := startUpstream(t, 1)
	for name, plan := range map[string]Plan{"the sender": {Send: BulkAt(rate)}, "the reader": {Send: Bulk(), Rate: rate}} {
		plan.Workers, plan.Dials, plan.Drain = 1, addrs, true
		begun := time.Now()
		drive(t, plan, size)
		if took := time.Since(begun); took < size*time.Second/rate/2 { // the kernel lets the first bytes go at once
			t.Errorf("%s: %d bytes in %v, at %d a second", name, size, took, rate)
		}
	}
}

func TestSomeBytesAndNoMore(t *testing.T) {
	const workers = 2 * rampUp
	_, addrs := startUpstream(t, 1)
	d, err := Start(Plan{Workers: workers, Dials: addrs, Send: Some(), Drain: true, Park: true})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for d.Ops() < workers*SomeSize && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	begun := d.Begun()
	tally, err := d.Close()
	if err != nil || tally.Ops != workers*SomeSize || begun != workers {
		t.Errorf("%d bytes by %d workers, %v; want %d by %d", tally.Ops, begun, err, workers*SomeSize, workers)
	}
}

func TestParkedTunnelsStayOpen(t *testing.T) {
	const workers = 3 * rampUp
	u, addrs := startUpstream(t, 1)
	tally := drive(t, Plan{Workers: workers, Dials: addrs, Send: Ping(), Reply: PingSize, Park: true}, workers)
	if tally.Ops != workers || u.Accepted() != workers {
		t.Errorf("%d operations, %d connections; want %d", tally.Ops, u.Accepted(), workers)
	}
}

func TestOnceEndsByItself(t *testing.T) {
	u, addrs := startUpstream(t, 5)
	d, err := Start(Plan{Workers: 2, Dials: addrs, Send: Ping(), Reply: PingSize, Once: true})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.Done():
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
	if _, err := d.Close(); err != nil {
		t.Error(err)
	}
	if got := u.Accepted(); got > 5 {
		t.Errorf("%d connections for 5 addresses", got)
	}
}

// TestNothingIsAllocated: the driver and its upstream cost a proxy no collections beside it.
func TestNothingIsAllocated(t *testing.T) {
	_, addrs := startUpstream(t, 2)
	d, err := Start(Plan{Workers: 4, Dials: addrs, Send: Ping(), Reply: PingSize})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "a beginning", func() bool { return d.Ops() > 200 })
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	d.Measure()
	const ops = 2000
	await(t, "operations", func() bool { return d.Ops() >= ops })
	runtime.ReadMemStats(&after)
	if _, err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if mallocs := after.Mallocs - before.Mallocs; mallocs > ops/10 { // the test's own, and the runtime's
		t.Errorf("%d allocations during %d operations", mallocs, ops)
	}
}

// serveOnce listens, and gives each connection to handle until the test ends.
func serveOnce(t *testing.T, handle func(net.Conn, *bufio.Reader)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { handle(c, bufio.NewReader(c)); _ = c.Close() })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// head reads a request's head.
func head(r *bufio.Reader) bool {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if line == "\r\n" {
			return true
		}
	}
}

func TestFailuresAreCountedAndNamed(t *testing.T) {
	for name, test := range map[string]struct{ answer, want string }{
		"refusal":     {"HTTP/1.1 503 Service Unavailable\r\n\r\n", "503"},
		"silence":     {"", "ended before"},
		"half a head": {"HTTP/1.1 200", "ended before"},
		"too much":    {"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", PingSize+1), "more bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := serveOnce(t, func(c net.Conn, r *bufio.Reader) {
				if head(r) {
					_, _ = io.WriteString(c, test.answer)
				}
			})
			connect := [][]byte{[]byte("CONNECT x:1 HTTP/1.1\r\n\r\n")}
			d, err := Start(Plan{Workers: 1, Dials: []netip.AddrPort{addr}, Heads: connect, Send: Ping(), Reply: PingSize})
			if err != nil {
				t.Fatal(err)
			}
			await(t, "a failure", func() bool { return d.failures.Load() > 0 })
			tally, err := d.Close()
			if tally.Failures == 0 || tally.Ops != 0 || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%d operations, %d failures, %v; want failures, %q", tally.Ops, tally.Failures, err, test.want)
			}
		})
	}
}

// TestRedial: a proxy that ends kept-alive connections after an answer has not failed.
func TestRedial(t *testing.T) {
	addr := serveOnce(t, func(c net.Conn, r *bufio.Reader) {
		if head(r) {
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nok")
		}
	})
	plan := Plan{Workers: 2, Dials: []netip.AddrPort{addr}, Heads: [][]byte{[]byte("GET http://x/ HTTP/1.1\r\n\r\n")}, Reply: 2}
	if tally := drive(t, plan, 50); tally.Redials < 25 {
		t.Errorf("%d redials; want about one for each of %d answers", tally.Redials, tally.Ops)
	}
}

func TestPlansThatCanNotBeDriven(t *testing.T) {
	addr := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}
	for _, plan := range []Plan{{}, {Workers: 1}, {Dials: addr, Send: Ping()}, {Workers: 1, Dials: addr}} {
		if d, err := Start(plan); err == nil {
			_, _ = d.Close()
			t.Errorf("%+v starts", plan)
		}
	}
}

func TestHeadScan(t *testing.T) {
	for text, want := range map[string]int{"a\r\n\r\nb": 5, "\r\r\n\r\n": 5, "\r\n\n\r\n\r\n": 7, "\r\n\r": 0, "": 0} {
		for split := range len(text) + 1 { // the same wherever it is cut
			var s headScan
			n, done := s.next([]byte(text[:split]))
			if !done {
				var more int
				more, done = s.next([]byte(text[split:]))
				n += more
			}
			if done != (want > 0) || done && n != want {
				t.Errorf("%q cut at %d: %d, %v; want %d", text, split, n, done, want)
			}
		}
	}
}
