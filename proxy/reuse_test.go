package proxy

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/sock"
)

// park makes one exchange; then the upstream's connection q is kept.
func park(t *testing.T, w *world, u *upstream) (p, q *peer) {
	t.Helper()
	p = w.dial()
	p.send(get(u, "/", ""))
	q = u.accept()
	q.readHead()
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	p.response("GET")
	eventually(t, "the connection is parked", func() bool { return len(w.idle.all()) == 1 && w.idle.all()[0].isParked() })
	return p, q
}

// Bytes that an upstream sends while its connection is idle never become the answer to a request,
// with or without content, and the request is not sent twice.
func TestUnaskedAnswerIsNotTaken(t *testing.T) {
	u := newUpstream(t, nil)
	for _, request := range []string{
		get(u, "/", ""),
		"POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
	} {
		w := newWorld(t, 1)
		p, q := park(t, w, u)
		q.send("HTTP/1.1 299 Unasked\r\nContent-Length: 0\r\n\r\n")
		up := w.idle.all()[0].upstream
		eventually(t, "the bytes have come", func() bool { return up.Unread() > 0 })
		go func() { // the upstream ends when asked to
			io.Copy(io.Discard, q.r)
			q.Close()
		}()
		p.send(request)
		fresh := u.accept()
		fresh.readHead()
		fresh.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
		if resp, _ := p.response("GET"); resp.StatusCode != 201 {
			t.Errorf("%q: %s", request, resp.Status)
		}
		eventually(t, "both exchanges are counted", func() bool { return w.Counters().Exchanges.Load() == 2 })
		if n := w.Counters().Retries.Load(); n != 0 {
			t.Errorf("%q: %d retries", request, n)
		}
	}
}

// Nor is one for which a request waits that has no bandwidth yet, whether it comes before the
// request or while that waits. Whatever its method, the request goes to another connection.
func TestUnaskedAnswerIsNotTakenWhilePaced(t *testing.T) {
	const unasked = "HTTP/1.1 299 Unasked\r\nContent-Length: 0\r\n\r\n"
	u := newUpstream(t, nil)
	for _, request := range []string{
		get(u, "/", ""),
		"POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
	} {
		for _, meanwhile := range []bool{false, true} {
			w := newWorld(t, 1)
			p, q := park(t, w, u)
			up := w.idle.all()[0].upstream
			if !meanwhile {
				q.send(unasked)
				eventually(t, "the bytes have come", func() bool { return up.Unread() > 0 })
			}
			w.adm.pace()
			p.send(request)
			if meanwhile {
				eventually(t, "the request waits", func() bool { return w.adm.starved(limit.Upload) })
				q.send(unasked)
			}
			io.Copy(io.Discard, q.r) // its end, or a reset
			q.Close()
			fresh := u.accept()
			w.adm.feed(limit.Upload, 1<<20)
			w.adm.feed(limit.Download, 1<<20)
			head := fresh.readHead()
			if strings.HasSuffix(request, "body") {
				fresh.expect("body")
			}
			fresh.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
			if resp, _ := p.response("GET"); resp.StatusCode != 201 {
				t.Errorf("%q, meanwhile %v: %s to %q", request, meanwhile, resp.Status, head)
			}
		}
	}
}

// If an operator closes a reused connection during an exchange, the client gets an answer, and the
// request is not repeated.
func TestClosedWhileAsking(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 2)
	p, q := park(t, w, u)
	p.send(get(u, "/", ""))
	q.readHead()
	if !w.CloseConnection(w.Connections("")[0].ID) {
		t.Fatal("there is no connection")
	}
	q.expectReset()
	p.refused("GET", 502, "connection_terminated")
	if n := u.all.Load(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
}

// A request that is larger than the window arrives whole, and its answer too.
func TestAskBeyondTheWindow(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	s := sockOf(t, conn.(*net.TCPConn))
	s.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<10) })
	if err != nil {
		t.Fatal(err)
	}
	s.Stall = patience
	request := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	received := make(chan []byte, 1)
	go func() {
		b := make([]byte, len(request))
		io.ReadFull(peer, b)
		received <- b
		io.WriteString(peer, "answer")
	}()
	var a sock.Asking
	buf, n, asked, readErr, writeErr := a.Ask(s, request)
	if !asked || readErr != nil || writeErr != nil || n != 0 {
		t.Fatalf("asked %t, %d bytes, %v, %v", asked, n, readErr, writeErr)
	}
	s.Recycle(buf)
	if !bytes.Equal(<-received, request) {
		t.Error("the request did not arrive as it was sent")
	}
	if buf, n, err := s.Read(nil); err != nil || string(buf[:n]) != "answer" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// Nothing is written once the slot is no longer live.
func TestAskNeedsALiveSlot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := sockOf(t, conn.(*net.TCPConn))
	s.Guard(new(slot), nil)
	var a sock.Asking
	if _, _, asked, _, _ := a.Ask(s, []byte("x")); asked {
		t.Error("asked without a session")
	}
}

// A read deadline may remain from an earlier wait. When it passes, only a client that was idle for
// the whole time is closed.
func TestIdleClock(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p, q := park(t, w, u)
	exchange := func() {
		t.Helper()
		p.send(get(u, "/", ""))
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		p.response("GET")
	}
	exchange()
	w.mu.Lock()
	var c *conn
	for c = range w.clients {
	}
	w.mu.Unlock()
	c.sock.SetReadDeadline(time.Unix(1, 0)) // as if it had been set a minute ago
	exchange()
	exchange()
	if _, err := p.Write(nil); err != nil {
		t.Error(err)
	}

	idle := &conn{clock: clockIdle, idleFrom: time.Now().Add(-clientIdleTimeout), sock: c.sock}
	if idle.stillIdle() {
		t.Error("a client that was idle for the whole time may stay")
	}
	head := &conn{clock: clockHead, idleFrom: time.Now(), sock: c.sock}
	if head.stillIdle() {
		t.Error("a head may take longer than header_timeout")
	}
}

// The client of a long exchange is watched, even after many short ones.
func TestVigil(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p, q := park(t, w, u)
	for range 100 {
		p.send(get(u, "/", ""))
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		p.response("GET")
	}
	p.send(get(u, "/", ""))
	q.readHead()
	p.reset()
	q.expectReset()
}
