package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/proxy/proxytest"
	"github.com/weirproxy/weir/proxy/sock"
)

// Slots are severed for every reason, and connections end in every way and phase: the upstream
// never sees more than the limit, and in the end every slot is back. WEIR_SEED repeats a run's
// choices.
func TestChaos(t *testing.T) {
	chaos(t, func(addr string) (halfCloser, error) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return nil, err
		}
		return conn.(*net.TCPConn), nil
	})
}

// The same with TLS clients.
func TestChaosTLS(t *testing.T) {
	cert := proxytest.Certificate(t)
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	chaos(t, func(addr string) (halfCloser, error) {
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
		if err != nil {
			return nil, err
		}
		return tlsChaos{conn}, nil
	}, speakTLS(cert))
}

// halfCloser is a client's connection, plain or TLS.
type halfCloser interface {
	net.Conn
	CloseWrite() error
	SetLinger(int) error
}

// tlsChaos is one with TLS. Like many clients, it closes without close_notify.
type tlsChaos struct{ *tls.Conn }

func (c tlsChaos) SetLinger(n int) error { return c.NetConn().(*net.TCPConn).SetLinger(n) }

func (c tlsChaos) Close() error { return c.NetConn().Close() }

func chaos(t *testing.T, dial func(addr string) (halfCloser, error), options ...option) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("WEIR_SEED=%d", seed)
	const limit, workers, rounds = 4, 12, 40
	u := newWitness(t, limit, answering(1<<(seed%20)))
	w := newWorld(t, limit, append(options, policy(func(p *Policy) { p.HalfCloseTimeout = 50 * time.Millisecond }))...)

	done := make(chan struct{})
	var severing, working sync.WaitGroup
	severing.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 0))
		tick := time.NewTicker(500 * time.Microsecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for _, s := range w.adm.slots() {
				if rng.IntN(8) == 0 {
					w.adm.sever(s, lease.Reason(1+rng.IntN(3)))
				}
			}
			if c := w.Connections(""); len(c) > 0 && rng.IntN(8) == 0 {
				w.CloseConnection(c[rng.IntN(len(c))].ID)
			}
		}
	})
	for i := range workers {
		working.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i+1)))
			for range rounds {
				conn, err := dial(w.addr)
				if err != nil {
					t.Error(err)
					return
				}
				visit(t, conn, u.addr, rng)
			}
		})
	}
	working.Wait()
	close(done)
	severing.Wait()
	if n := w.Counters().Requests.Load(); n < workers*rounds/2 {
		t.Errorf("only %d requests came through: it proves little", n)
	}
}

// sever acts like a lease: SeverWanted is only for parked slots.
func (a *admitter) sever(s *slot, r lease.Reason) {
	a.mu.Lock()
	if r == lease.SeverWanted {
		if !s.parked || s.wanted {
			a.mu.Unlock()
			return
		}
		s.wanted = true
	}
	a.mu.Unlock()
	s.holder.Sever(r)
}

// visit sends a few requests of a random kind, and leaves in a random way.
func visit(t *testing.T, conn halfCloser, up string, rng *rand.Rand) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	switch rng.IntN(3) {
	case 0:
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", up)
	case 1:
		for range 3 {
			fmt.Fprintf(conn, "GET http://%s/ HTTP/1.1\r\nHost: x\r\n\r\n", up)
		}
	case 2:
		fmt.Fprintf(conn, "POST http://%s/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", up)
		if rng.IntN(2) == 0 {
			fmt.Fprint(conn, "0\r\n\r\n")
		}
	}
	// A reset, a refusal and an answer are all acceptable.
	buf := make([]byte, 1<<rng.IntN(16))
	conn.Read(buf)
	switch rng.IntN(3) {
	case 0:
		conn.SetLinger(0)
	case 1:
		conn.CloseWrite()
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Errorf("a half-closed connection never ended")
		}
	}
}

// witness is an upstream that counts its connections and judges the limit. A connection counts from
// accept until its goroutine, which reads all the time, sees a reset, or sees the FIN and closes.
type witness struct {
	l    net.Listener
	addr string
	wg   sync.WaitGroup

	mu   sync.Mutex
	open map[*witnessed]struct{}
	peak int
}

// witnessed is one connection.
type witnessed struct {
	*net.TCPConn
	raw syscall.RawConn
}

// newWitness starts a witness, which serves each connection with serve and then closes it. At the
// test's end, after the proxy is closed, it waits for the last connection and reports.
func newWitness(t *testing.T, limit int, serve func(*witness, *witnessed)) *witness {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{l: l, addr: l.Addr().String(), open: make(map[*witnessed]struct{})}
	w.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c := &witnessed{TCPConn: conn.(*net.TCPConn)}
			if c.raw, err = c.SyscallConn(); err != nil {
				t.Error(err)
				return
			}
			w.opened(c)
			w.wg.Go(func() {
				defer c.Close()
				defer w.ended(c)
				serve(w, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.wg.Wait()
		if w.peak > limit || len(w.open) > 0 {
			t.Errorf("the upstream saw %d connections at once, and at the end %d", w.peak, len(w.open))
		}
	})
	return w
}

// opened counts a connection that was just accepted. Another connection may have been reset before,
// while its goroutine has not run yet to notice; so opened checks the others itself.
func (w *witness) opened(c *witnessed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for other := range w.open {
		if other.isReset() {
			delete(w.open, other)
		}
	}
	w.open[c] = struct{}{}
	w.peak = max(w.peak, len(w.open))
}

// ended stops counting a connection.
func (w *witness) ended(c *witnessed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, c)
}

// isReset reports whether a read of the connection has failed, or would fail now.
func (c *witnessed) isReset() bool {
	reset := false
	err := c.raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // errors are always reported
		n, err := unix.Poll(p, 0)
		reset = err == nil && n > 0 && p[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
	})
	return err == nil && reset
}

// answering answers each request with so many bytes of content. One goroutine reads to the end,
// however long the other takes to write.
func answering(content int) func(*witness, *witnessed) {
	return func(w *witness, c *witnessed) {
		requests := make(chan struct{}, 64)
		written := make(chan struct{})
		go func() {
			defer close(written)
			for range requests {
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", content)
				if _, err := io.CopyN(c, zeros{}, int64(content)); err != nil {
					return
				}
			}
		}()
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err == nil {
				_, err = io.Copy(io.Discard, req.Body)
			}
			if sock.IsReset(err) {
				w.ended(c)
			}
			if err != nil {
				break
			}
			requests <- struct{}{}
		}
		close(requests)
		<-written
	}
}
