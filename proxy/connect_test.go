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

// A client may send its bytes and its FIN together with the head.
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

// While a tunnel is half closed, its slot and its claims are about to be free, but not for long.
func TestHalfClosedTunnelIsAboutToEnd(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.HalfCloseTimeout = 8 * time.Second }))
	p := w.connect(u.addr)
	q := u.accept()
	slot, claims := w.adm.slots()[0], w.adm.only(t)
	p.CloseWrite()
	q.expectEOF()
	eventually(t, "the slot and the claims are about to be free", func() bool { return slot.half.Load() && claims.half.Load() })
	eventually(t, "they are not", func() bool { return !slot.half.Load() && !claims.half.Load() })
	q.send("goes on")
	p.expect("goes on")
	q.Close()
	p.expectEOF()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
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

// A slow reader is not cut off, even when the proxy has nothing left to relay.
func TestHalfCloseTimeoutSparesSlowReaders(t *testing.T) {
	const limit = 200 * time.Millisecond
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.HalfCloseTimeout = limit }))
	// A small receive buffer, set before connecting, is read and acknowledged in small steps.
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
		// The FIN was read before, so only a failing write reveals the reset.
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
	w.SetPolicy(func() Policy { p := testPolicy(); p.HalfCloseTimeout = 100 * time.Millisecond; return p }())
	q.reset()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

// The upstream's own count stays within the limit, however connections end.
func TestUpstreamNeverSeesMoreThanTheLimit(t *testing.T) {
	for _, limit := range []int{1, 3} {
		u := newWitness(t, limit, func(_ *witness, c *witnessed) {
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

func TestDialTimeout(t *testing.T) {
	w := newWorld(t, 1, policy(func(p *Policy) { p.DialTimeout = 100 * time.Millisecond }), names(resolver{"slow.test": func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}))
	p := w.dial()
	p.send("CONNECT slow.test:443 HTTP/1.1\r\n\r\n")
	p.refused("CONNECT", 504, "dns_timeout")

	// A listener with a full backlog answers no SYN.
	full := fullListener(t)
	p = w.dial()
	p.send("CONNECT " + full + " HTTP/1.1\r\n\r\n")
	p.refused("CONNECT", 504, "connection_timeout")
}

// Addresses are tried one after the other, on one slot.
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
