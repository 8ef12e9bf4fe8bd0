//go:build linux && !race && !portable

package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/sock"
)

// clockAdmitter's slots read the clock in frames as deep as a lease's.
type clockAdmitter struct {
	*admitter
	clock *lease.SystemClock
}

type clockSlot struct {
	Slot
	clock *lease.SystemClock
}

func (a clockAdmitter) Acquire(ctx context.Context, t limit.Target, h lease.Holder) (Slot, error) {
	s, err := a.admitter.Acquire(ctx, t, h)
	return &clockSlot{s, a.clock}, err
}

// clockClaims read it one frame deeper: a request asks its slots.
type clockClaims struct {
	Claims
	slot clockSlot
}

func (a clockAdmitter) Begin(ctx context.Context, s *limit.Subject, h lease.Holder, ended Claims) (Claims, error) {
	c, err := a.admitter.Begin(ctx, s, h, ended)
	held := new(slot)
	held.live.Store(true)
	return &clockClaims{c, clockSlot{held, a.clock}}, err
}

//go:noinline
func (c *clockClaims) Live() bool {
	var frame [32]byte
	frame[c.slot.clock.Now()&7] = 1
	return frame[0] <= 1 && c.slot.Live()
}

// clockMeter looks for limits in frames as deep as a lease's.
type clockMeter struct {
	noMeter
	clock *lease.SystemClock
}

func (a clockAdmitter) Meter(*limit.Subject, limit.Resource, lease.Waker, sock.Meter) sock.Meter {
	return clockMeter{clock: a.clock}
}

func (a clockAdmitter) Paces(limit.Resource) bool { return true }

//go:noinline
func (m clockMeter) Take(n int) int {
	var frame [72]byte
	frame[m.clock.Now()&7] = 1
	return n + int(frame[8])
}

//go:noinline
func (s *clockSlot) Live() bool { return s.Slot.Live() && s.started() }

//go:noinline
func (s *clockSlot) started() bool {
	var frame [24]byte
	frame[s.clock.Now()&7] = 1
	return frame[0] <= 1
}

// The stacks of a tunnel's two goroutines keep the smallest size (2 KiB). Growing one costs a
// connection more than its admission. The race detector enlarges frames, so the test runs without
// it.
func TestStackOfATunnel(t *testing.T) {
	const tunnels, each, slack = 64, 2 * 2048, 64 << 10
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would shrink stacks
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	s, err := New(Config{Node: "n1", NodeGreeting: testGreeting, Policy: testPolicy()},
		clockAdmitter{newAdmitter(0), lease.NewSystemClock()}, resolver{"api.test": []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	s.SetLoopMark("a-mark")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	defer s.Close()

	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(up.Addr().String())
	exchange := func(from, to net.Conn, text string) {
		t.Helper()
		to.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(from, text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(to, make([]byte, len(text))); err != nil {
			t.Fatal(err)
		}
	}
	// This goroutine does everything, so that only the proxy's are new.
	tunnel := func(i int) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		host := []string{"127.0.0.1", "api.test"}[i%2]
		fmt.Fprintf(c, "CONNECT %s:%s HTTP/1.1\r\nHost: x\r\n\r\n", host, port)
		u, err := up.Accept()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, u)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadFull(c, make([]byte, len(s.loop.Load().answer()))); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			exchange(c, u, "ping")
			exchange(u, c, "pong")
		}
	}
	for i := range 4 { // the first rounds also start goroutines of the proxy itself
		tunnel(i)
	}
	stacks := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.StackInuse
	}
	before, began := stacks(), time.Now()
	for i := range tunnels {
		tunnel(i)
	}
	grown := stacks() - before
	t.Logf("%d B of stacks for each tunnel, after %v", grown/tunnels, time.Since(began).Round(time.Millisecond))
	if grown > tunnels*each+slack {
		t.Errorf("%d tunnels have %d B of stacks; want at most %d", tunnels, grown, tunnels*each+slack)
	}
}
