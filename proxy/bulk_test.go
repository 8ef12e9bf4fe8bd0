package proxy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/sock"
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

// carryBulk sends bulk data in both directions at once, and checks the received bytes and the
// counters. It calls begun before the client reads.
func carryBulk(t *testing.T, w *world, begun func()) {
	t.Helper()
	const up, down = 8 << 20, 12 << 20
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
	begun()
	sameBytes(t, "downwards", p.r, noise(1, down))
	eventually(t, "the tunnel ends", func() bool { return w.adm.inUse() == 0 })
	if in, out := w.Counters().BytesIn.Load(), w.Counters().BytesOut.Load(); in != up || out != down {
		t.Errorf("counted %d up and %d down, want %d and %d", in, out, up, down)
	}
}

// Bulk data in both directions at once arrives unharmed and is counted.
func TestBulk(t *testing.T) {
	carryBulk(t, newWorld(t, 0), func() {})
}

// Bytes that a client sends before its FIN arrive, even at a slow upstream that sent its own FIN
// earlier.
func TestLastBytesBehindBothFINs(t *testing.T) {
	const size = 200 << 10
	w := newWorld(t, 1)
	u := newUpstream(t, nil)
	p := w.connect(u.addr)
	q := u.accept()
	f := w.flows.all()[0]
	f.mu.Lock()
	client, up := f.client.sock, f.upstream
	f.mu.Unlock()
	if err := up.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<10)
	}); err != nil {
		t.Fatal(err)
	}
	q.CloseWrite()
	p.expectEOF()
	go func() {
		io.Copy(p, noise(1, size))
		p.CloseWrite()
	}()
	eventually(t, "both FINs lie behind bytes that nobody takes", func() bool {
		over := false
		client.Control(func(fd uintptr) { over, _ = sock.IsOver(int(fd)) })
		return over && client.Watched()
	})
	if in := f.in.Load(); in == size {
		t.Fatal("the upstream's kernel has taken all: nothing is tested")
	}
	sameBytes(t, "upwards", q.r, noise(1, size))
}
