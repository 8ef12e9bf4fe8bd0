//go:build !portable

package proxy

import (
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"

	"github.com/weirproxy/weir/proxy/sock"
)

// Bulk data goes through pipes, which are given back.
func TestBulkIsSpliced(t *testing.T) {
	w := newWorld(t, 0)
	carryBulk(t, w, func() {
		// A paused reader leaves the pipe full and the source waiting.
		eventually(t, "a pipe is in use", func() bool { made, free := w.pipes.Counts(); return made > free })
	})
	if made, free := w.pipes.Counts(); made == 0 || made != free {
		t.Errorf("%d pipes were made, %d are free", made, free)
	}
}

// An idle tunnel holds no pipe, and carries small pieces as before.
func TestQuietTunnelHoldsNoPipe(t *testing.T) {
	w := newWorld(t, 0)
	u := newUpstream(t, nil)
	p := w.connect(u.addr)
	q := u.accept()
	const much = 2 << 20
	for round := range 3 {
		seed := byte(round)
		go io.Copy(q, noise(seed, much))
		sameBytes(t, "a burst", io.LimitReader(p.r, much), noise(seed, much))
		eventually(t, "the pipe is free", func() bool { made, free := w.pipes.Counts(); return made > 0 && made == free })
		q.send("ping")
		p.expect("ping")
	}
	w.pipes.Close()
	if made, free := w.pipes.Counts(); made != 0 || free != 0 {
		t.Errorf("%d pipes are left, %d of them free", made, free)
	}
}

// If no pipe is available, everything is copied.
func TestBulkWithoutPipes(t *testing.T) {
	w := newWorld(t, 0)
	w.pipes.Exhaust()
	u := newUpstream(t, func(c *net.TCPConn) {
		io.Copy(c, noise(3, 8<<20))
		c.CloseWrite()
		io.Copy(io.Discard, c)
	})
	p := w.connect(u.addr)
	sameBytes(t, "downwards", p.r, noise(3, 8<<20))
	p.CloseWrite()
}

// A stuck splice moves nothing once the slot is not live, and its pipe, which holds bytes, is not
// reused.
func TestSpliceAsksTheSlot(t *testing.T) {
	w := newWorld(t, 1)
	u := newUpstream(t, nil)
	p := w.connect(u.addr)
	q := u.accept()
	go io.Copy(q, rand.NewChaCha8([32]byte{}))
	last, unchanged := uint64(0), 0
	eventually(t, "the client's window is closed", func() bool {
		unchanged++
		if out := w.Connections("")[0].BytesOut; out != last {
			last, unchanged = out, 0
		}
		made, free := w.pipes.Counts()
		return unchanged > 50 && made > free
	})
	w.adm.slots()[0].live.Store(false)
	if _, err := io.Copy(io.Discard, p.r); !sock.IsReset(err) {
		t.Errorf("the client reads to %v, want a reset", err)
	}
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	if made, free := w.pipes.Counts(); made != free {
		t.Errorf("%d pipes are made, %d free", made, free)
	}
}

// Neither end of a splice moves a byte once the claims are not live, though the slots are.
func TestSplicingNeedsLiveClaims(t *testing.T) {
	u := newUpstream(t, nil)
	end := func() (s *sock.Conn, q *peer) {
		conn, err := net.Dial("tcp", u.addr)
		if err != nil {
			t.Fatal(err)
		}
		s, q = sockOf(t, conn), u.accept()
		t.Cleanup(func() { s.Close(); q.Close() })
		return s, q
	}
	src, from := end()
	dst, _ := end()
	from.send("bytes")
	held := new(slot)
	held.live.Store(true)
	var pipes sock.Pipes
	defer pipes.Close()
	var moved atomic.Uint64

	src.Guard(held, new(claims))
	if readErr, _ := sock.Splice(dst, src, &pipes, &moved); readErr != sock.ErrNotLive || src.Unread() != len("bytes") {
		t.Errorf("read: %v, and %d bytes are left", readErr, src.Unread())
	}
	src.Guard(nil, nil)
	dst.Guard(held, new(claims))
	if _, writeErr := sock.Splice(dst, src, &pipes, &moved); writeErr != sock.ErrNotLive || moved.Load() != 0 {
		t.Errorf("write: %v, %d bytes moved", writeErr, moved.Load())
	}
}
