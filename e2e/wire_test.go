package e2e

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// wireWithin bounds every wait for something to come over a wire.
const wireWithin = 5 * time.Second

// wire is one end of a connection on which a test says every byte. It takes what comes as soon as
// it comes, and notes how the other side ends.
type wire struct {
	net.Conn
	done chan struct{} // closed after the end

	mu  sync.Mutex
	got []byte
	err error // how it ended: io.EOF, or the error of the read
	// reset is what a write found: the kernel tells of a reset once, and then of an end.
	reset error
}

// newWire takes a connection over. It is closed when the test ends.
func newWire(t testing.TB, conn net.Conn) *wire {
	w := &wire{Conn: conn, done: make(chan struct{})}
	go w.take()
	t.Cleanup(func() {
		_ = conn.Close()
		<-w.done
	})
	return w
}

func (w *wire) take() {
	defer close(w.done)
	buf := make([]byte, 32<<10)
	for {
		n, err := w.Read(buf)
		w.mu.Lock()
		w.got = append(w.got, buf[:n]...)
		w.err = err
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// say writes all of text.
func (w *wire) say(t testing.TB, text string) {
	t.Helper()
	if err := w.SetWriteDeadline(time.Now().Add(wireWithin)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatalf("write %d bytes: %v", len(text), err)
	}
}

// heard is all that has come so far.
func (w *wire) heard() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got[:len(w.got):len(w.got)]
}

// awaitText waits until text has come.
func (w *wire) awaitText(t testing.TB, text string) {
	t.Helper()
	eventually(t, wireWithin, fmt.Sprintf("%.40q arrives", text), func() error {
		if got := w.heard(); !bytes.Contains(got, []byte(text)) {
			return fmt.Errorf("so far: %d bytes: %.200q", len(got), got)
		}
		return nil
	})
}

// Write is the connection's, and remembers a reset.
func (w *wire) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if errors.Is(err, syscall.ECONNRESET) {
		w.mu.Lock()
		w.reset = err
		w.mu.Unlock()
	}
	return n, err
}

// awaitEnd waits until the other side has ended, and tells how: io.EOF, or an error.
func (w *wire) awaitEnd(t testing.TB) error {
	t.Helper()
	eventually(t, wireWithin, "the end", func() error {
		select {
		case <-w.done:
			return nil
		default:
			return errors.New("the connection is open")
		}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	return cmp.Or(w.reset, w.err)
}

// wireHost is an upstream that says what the test says, at an address of its own, where a counting
// one listens too: one host to the limits.
type wireHost struct {
	host
	wires string // host:port where the test answers
	ln    net.Listener
}

// wireHost listens until the test ends.
func (c *cluster) wireHost(t testing.TB) *wireHost {
	t.Helper()
	h := &wireHost{host: c.upstream(t)}
	var err error
	if h.ln, err = net.Listen("tcp", net.JoinHostPort(h.name, "0")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.ln.Close() })
	h.wires = net.JoinHostPort(h.name, strconv.Itoa(h.ln.Addr().(*net.TCPAddr).Port))
	return h
}

// accept takes the next connection.
func (h *wireHost) accept(t testing.TB) *wire {
	t.Helper()
	if err := h.ln.(*net.TCPListener).SetDeadline(time.Now().Add(wireWithin)); err != nil {
		t.Fatal(err)
	}
	conn, err := h.ln.Accept()
	if err != nil {
		t.Fatalf("no connection reaches the upstream: %v", err)
	}
	return newWire(t, conn)
}

// dialWire connects to a node's proxy port.
func (n *node) dialWire(t testing.TB) *wire {
	t.Helper()
	conn, err := net.DialTimeout("tcp", n.proxy, wireWithin)
	if err != nil {
		t.Fatal(err)
	}
	return newWire(t, conn)
}
