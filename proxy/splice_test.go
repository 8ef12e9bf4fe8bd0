package proxy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// noise is reproducible content.
func noise(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

// sameBytes reads r to its end and compares it with what want yields.
func sameBytes(t *testing.T, what string, r, want io.Reader) {
	t.Helper()
	got, err1 := io.ReadAll(r)
	expected, err2 := io.ReadAll(want)
	if err1 != nil || err2 != nil || !bytes.Equal(got, expected) {
		t.Errorf("%s: %d bytes, want %d, or others: %v, %v", what, len(got), len(expected), err1, err2)
	}
}

func (p *pipePool) counts() (made, free int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made, len(p.free)
}

// Both directions carry much at once, unharmed and counted, through pipes that are given back.
func TestBulkIsSpliced(t *testing.T) {
	const up, down = 8 << 20, 12 << 20
	w := newWorld(t, 0)
	u := newUpstream(t, func(c *net.TCPConn) {
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			io.Copy(c, noise(1, down))
			c.CloseWrite()
		}()
		sameBytes(t, "upwards", c, noise(2, up))
		<-sent
	})
	p := w.connect(u.addr)
	go func() {
		io.Copy(p, noise(2, up))
		p.CloseWrite()
	}()
	// A reader that pauses leaves the pipe full and the source waiting.
	eventually(t, "a pipe is in use", func() bool { made, free := w.pipes.counts(); return made > free })
	sameBytes(t, "downwards", p.r, noise(1, down))
	eventually(t, "the tunnel ends", func() bool { return w.adm.inUse() == 0 })
	if made, free := w.pipes.counts(); made == 0 || made != free {
		t.Errorf("%d pipes were made, %d are free", made, free)
	}
	if in, out := w.Counters().BytesIn.Load(), w.Counters().BytesOut.Load(); in != up || out != down {
		t.Errorf("counted %d up and %d down, want %d and %d", in, out, up, down)
	}
}

// A tunnel that has gone quiet holds no pipe, and carries small pieces as before.
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
		eventually(t, "the pipe is free", func() bool { made, free := w.pipes.counts(); return made > 0 && made == free })
		q.send("ping")
		p.expect("ping")
	}
	w.pipes.close()
	if made, free := w.pipes.counts(); made != 0 || free != 0 {
		t.Errorf("%d pipes are left, %d of them free", made, free)
	}
}

// Where no pipe is to be had, everything is copied.
func TestBulkWithoutPipes(t *testing.T) {
	w := newWorld(t, 0)
	w.pipes.mu.Lock()
	w.pipes.made = maxPipes
	w.pipes.mu.Unlock()
	u := newUpstream(t, func(c *net.TCPConn) {
		io.Copy(c, noise(3, 8<<20))
		c.CloseWrite()
		io.Copy(io.Discard, c)
	})
	p := w.connect(u.addr)
	sameBytes(t, "downwards", p.r, noise(3, 8<<20))
	p.CloseWrite()
}

// A splice that is stuck moves nothing more once the slot is not live, and its pipe, with bytes in it, is not used again.
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
		made, free := w.pipes.counts()
		return unchanged > 50 && made > free
	})
	w.adm.slots()[0].live.Store(false)
	if _, err := io.Copy(io.Discard, p.r); !isReset(err) {
		t.Errorf("the client reads to %v, want a reset", err)
	}
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	if made, free := w.pipes.counts(); made != free {
		t.Errorf("%d pipes are made, %d free", made, free)
	}
}
