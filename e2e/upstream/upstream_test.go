package upstream

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, config *tls.Config) *Server {
	t.Helper()
	s, err := Start("127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func dial(t *testing.T, s *Server) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func exchange(t *testing.T, c net.Conn, send, want string) {
	t.Helper()
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("sent %q: got %q, %v; want %q", send, got, err, want)
	}
}

func awaitOpen(t *testing.T, s *Server, want int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for tick := time.Tick(time.Millisecond); ; <-tick {
		open := s.Stats().Open
		if open == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections open; want %d", open, want)
		}
	}
}

func TestLines(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s)
	exchange(t, c, "hold 1ms\n", "held\n")
	exchange(t, c, "hold 0s\r\n", "held\n")
	exchange(t, c, "hold never\n", "bad duration\n")
	awaitEOF(t, c)

	c = dial(t, s)
	exchange(t, c, "sing\n", "unknown line")
	c = dial(t, s)
	exchange(t, c, "echo\nabc", "abc")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	awaitEOF(t, c)
}

func awaitEOF(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Fatalf("awaiting the server's end: %v", err)
	}
}

// By the time a peer sees the server's end its own connection counts no more: this is what makes a
// peak above the limit the proxy's fault.
func TestStopsCountingBeforeItsOwnEnd(t *testing.T) {
	s := start(t, nil)
	for _, line := range []string{"hold 0s\n", "echo\n"} {
		for range 200 {
			c := dial(t, s)
			if _, err := io.WriteString(c, line); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			awaitEOF(t, c)
			if open := s.Stats().Open; open != 0 {
				t.Fatalf("%q: %d open after the server's end was seen; want 0", line, open)
			}
		}
	}
	if st := s.Stats(); st.Peak != 1 || st.Accepted != 400 {
		t.Errorf("peak %d, accepted %d; want 1 and 400", st.Peak, st.Accepted)
	}
}

func TestCountsUntilThePeersEnd(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s)
	exchange(t, c, "close 0s\n", "closed\n")
	awaitEOF(t, c) // the server has ended its side, the peer has not
	if open := s.Stats().Open; open != 1 {
		t.Fatalf("%d open after only the server's end; want 1", open)
	}
	_ = c.Close()
	awaitOpen(t, s, 0)
}

func TestHoldNoticesThePeersEnd(t *testing.T) {
	s := start(t, nil)
	for _, end := range []struct {
		name   string
		do     func(*net.TCPConn)
		resets uint64
	}{
		{"FIN", func(c *net.TCPConn) { _ = c.CloseWrite() }, 0},
		{"FIN behind data", func(c *net.TCPConn) { _, _ = io.WriteString(c, "more\n"); _ = c.CloseWrite() }, 0},
		{"reset", func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }, 1},
	} {
		t.Run(end.name, func(t *testing.T) {
			s.Reset()
			c := dial(t, s)
			if _, err := io.WriteString(c, "hold 10m\n"); err != nil {
				t.Fatal(err)
			}
			awaitOpen(t, s, 1)
			end.do(c)
			awaitOpen(t, s, 0)
			if got := s.Stats().Resets; got != end.resets {
				t.Errorf("%d resets; want %d", got, end.resets)
			}
		})
	}
}

func TestHTTP(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s)
	r := bufio.NewReader(c)
	for _, test := range []struct {
		request string
		status  int
		body    string
		last    bool
	}{
		{"GET /hold?ms=1 HTTP/1.1\r\nHost: x\r\n\r\n", 200, "held\n", false},
		{"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 200, "abc", false},
		{"GET /hold?ms=x HTTP/1.1\r\nHost: x\r\n\r\n", 400, "ms must be a number of milliseconds\n", false},
		{"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404, "no such path\n", false},
		{"GET /close?ms=0 HTTP/1.1\r\nHost: x\r\n\r\n", 200, "held\n", true},
	} {
		if _, err := io.WriteString(c, test.request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%q: %v", test.request, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != test.status || string(body) != test.body || resp.Close != test.last {
			t.Errorf("%q: %d %q close=%v, %v", test.request, resp.StatusCode, body, resp.Close, err)
		}
	}
	if st := s.Stats(); st.Accepted != 1 {
		t.Errorf("%d connections for five requests on one; want 1", st.Accepted)
	}
}

func TestTLSCountsTheTCPConnection(t *testing.T) {
	config, err := SelfSigned("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, config)
	raw := dial(t, s)
	awaitOpen(t, s, 1) // before any handshake
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	exchange(t, c, "hold 1ms\n", "held\n")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	awaitEOF(t, c) // TLS has ended, the connection below has not
	if open := s.Stats().Open; open != 1 {
		t.Errorf("%d open before the TCP end; want 1", open)
	}
	_ = raw.Close()
	awaitOpen(t, s, 0)
}

func TestPeakAndTimeline(t *testing.T) {
	s := start(t, nil)
	var conns []*net.TCPConn
	for i := range 3 {
		conns = append(conns, dial(t, s))
		awaitOpen(t, s, i+1)
	}
	for i, c := range conns {
		_ = c.Close()
		awaitOpen(t, s, 2-i)
	}
	if st := s.Stats(); st.Peak != 3 || st.Accepted != 3 || st.Peers["127.0.0.1"].Peak != 3 {
		t.Errorf("stats %+v; want a peak of 3", st)
	}
	var line strings.Builder
	events, dropped := s.Timeline()
	for _, e := range events {
		fmt.Fprintf(&line, "%d:%d ", e.Conn, e.Open)
	}
	if got, want := line.String(), "1:1 2:2 3:3 1:2 2:1 3:0 "; got != want || dropped != 0 {
		t.Errorf("timeline %q, %d dropped; want %q", got, dropped, want)
	}
}

// The time line tells of each end when its connection's last byte came.
func TestTimelineTellsWhenAPeerWasHeard(t *testing.T) {
	s := start(t, nil)
	silent, talker := dial(t, s), dial(t, s)
	exchange(t, talker, "hold 0s\n", "held\n")
	before := time.Now()
	exchange(t, talker, "echo\nx", "x")
	after := time.Now()
	for _, c := range []*net.TCPConn{silent, talker} {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		awaitEOF(t, c)
	}
	events, _ := s.Timeline()
	for _, e := range events[2:] {
		told := !e.Heard.Before(before) && !e.Heard.After(after)
		if e.Peer != "127.0.0.1" || e.Opened || told != (e.Conn == 2) || (e.Conn == 1 && !e.Heard.IsZero()) {
			t.Errorf("%+v; want connection 1 never heard, 2 between %v and %v", e, before, after)
		}
	}
}

func TestCloseResetsWhatIsOpen(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s)
	awaitOpen(t, s, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its server")
	}
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Error("a closed server accepts")
	}
}

// Bytes are given as asked for, and noted when they are taken; each line and request is noted once.
func TestGiveAndTake(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s)
	exchange(t, c, "give 5\n", "\x00\x00\x00\x00\x00")
	exchange(t, c, "GET /give?bytes=2 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\x00\x00")
	exchange(t, c, "POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n3\n")
	if _, err := io.WriteString(c, "take\nxyz"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	awaitEOF(t, c)
	sum := 0
	for _, chunk := range s.Taken() {
		sum += chunk.N
		if chunk.Conn != 1 || chunk.At.IsZero() {
			t.Errorf("%+v; want connection 1 and a time", chunk)
		}
	}
	if asked := len(s.Asked()); asked != 4 || sum != 6 {
		t.Errorf("%d lines and requests, %d bytes taken; want 4 and 6", asked, sum)
	}
	if ended := s.Reset(); ended.Accepted == 0 || ended.Peak == 0 {
		t.Errorf("the period that a reset ends had %+v", ended)
	}
	if len(s.Asked())+len(s.Taken()) > 0 {
		t.Error("a reset keeps what was noted")
	}
}
