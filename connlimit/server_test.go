package connlimit

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return s.TLS.Certificates[0]
}

// TestConnState: of 10 connections at once, those over the limit of 5 are closed.
func TestConnState(t *testing.T) {
	for _, kind := range []string{"http", "https"} {
		t.Run(kind, func(t *testing.T) {
			l := newLimiter(t, perClient(5))
			g := newGate()
			s := serve(t, kind, g.ServeHTTP, func(s *httptest.Server) { s.Config.ConnState = l.ConnState })
			client := newClient(t, s)
			var ok, closed atomic.Int32
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if resp, err := client.Get(s.URL); err != nil {
						closed.Add(1)
					} else {
						resp.Body.Close()
						ok.Add(1)
					}
				})
			}
			eventually(t, "five are refused, five are served", func() bool { return closed.Load() == 5 && len(g.entered) == 5 })
			close(g.opened)
			wg.Wait()
			if ok.Load() != 5 {
				t.Errorf("%d were served; want 5", ok.Load())
			}
			eventually(t, "all are freed", func() bool { return l.Stats().Connections.Open == 0 })
		})
	}
}

// TestGuard: those over the limit are told so, whatever they speak, and may try again.
func TestGuard(t *testing.T) {
	for _, kind := range []string{"http", "https", "h2"} {
		t.Run(kind, func(t *testing.T) {
			l := newLimiter(t, perClient(2))
			g := newGate()
			var states atomic.Int32
			type mark struct{}
			handler := func(w http.ResponseWriter, r *http.Request) {
				if r.Context().Value(mark{}) != true {
					t.Error("the server's own ConnContext is lost")
				}
				g.ServeHTTP(w, r)
			}
			s := serve(t, kind, handler, func(s *httptest.Server) {
				s.Config.ConnState = func(net.Conn, http.ConnState) { states.Add(1) }
				s.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
					return context.WithValue(ctx, mark{}, true)
				}
				l.Guard(s.Config)
			})
			var wg sync.WaitGroup
			for range 2 {
				c := newClient(t, s)
				wg.Go(func() {
					if status, _, body := get(t, c, s.URL); status != 200 || body != "hello" {
						t.Errorf("%d %q; want 200", status, body)
					}
				})
				<-g.entered
			}
			for range 3 {
				status, after, body := get(t, newClient(t, s), s.URL)
				want := "You have too many connections open at once: the limit is 2. Close some, or try again later.\n"
				if status != 429 || after != "1" || body != want {
					t.Errorf("%d, after %q: %q; want 429, after 1: %q", status, after, body, want)
				}
			}
			keeping := dial(t, s.Listener.Addr()) // unlike those clients, it does not ask for the end
			if kind != "http" {
				keeping = insecure(keeping)
			}
			if resp := answered(t, keeping); resp.StatusCode != 429 || !resp.Close {
				t.Errorf("%s, closes: %v; want 429, and its connection closed", resp.Status, resp.Close)
			}
			close(g.opened)
			wg.Wait()
			s.CloseClientConnections()
			eventually(t, "all are freed", func() bool { return l.Stats().Connections.Open == 0 && l.guardsAnswers.Load() == 0 })
			if status, _, _ := get(t, newClient(t, s), s.URL); status != 200 {
				t.Errorf("%d once there is room; want 200", status)
			}
			if states.Load() == 0 {
				t.Error("the server's own ConnState is lost")
			}
		})
	}
}

// TestGuardsOwnAnswer: ErrorHandler, Status and RetryAfter are for connections, too, and can change
// while the server runs.
func TestGuardsOwnAnswer(t *testing.T) {
	const text = "The server takes no connections from you: the limit is 0.\n"
	for _, kind := range []string{"http", "https", "h2"} {
		l := newLimiter(t, perClient(0))
		s := serve(t, kind, func(http.ResponseWriter, *http.Request) { t.Error("served") }, func(s *httptest.Server) { l.Guard(s.Config) })
		for _, test := range []struct {
			change func(*Config)
			status int
			after  string
			body   string
		}{
			{func(c *Config) {}, 429, "", text},
			{func(c *Config) { c.Status = 403 }, 403, "", text},
			{func(c *Config) { c.RetryAfter = time.Minute }, 429, "60", text},
			{func(c *Config) {
				c.RetryAfter = time.Hour
				c.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
					e := refusedBy(t, err, ScopeClient)
					w.WriteHeader(http.StatusTeapot)
					fmt.Fprintf(w, "%s, for %s: %d %s", r.URL.Path, e.Prefix, e.Limit, e.Kind)
				}
			}, 418, "3600", "/tea, for 127.0.0.1/32: 0 connections"},
		} {
			c := perClient(0)
			test.change(&c)
			if err := l.SetConfig(c); err != nil {
				t.Fatal(err)
			}
			status, after, body := get(t, newClient(t, s), s.URL+"/tea")
			if status != test.status || after != test.after || body != test.body {
				t.Errorf("%s: %d, after %q: %q; want %d, after %q: %q", kind, status, after, body, test.status, test.after, test.body)
			}
		}
	}
}

// TestGuardOptions: OPTIONS * is refused, too, though net/http answers it before any handler. Where
// there is room, it is answered as without Guard: by net/http's rules, or by the server's handler.
func TestGuardOptions(t *testing.T) {
	for _, kind := range []string{"http", "https", "h2"} {
		for _, own := range []bool{false, true} {
			l := newLimiter(t, perClient(1))
			handler := func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }
			s := serve(t, kind, handler, func(s *httptest.Server) {
				s.Config.DisableGeneralOptionsHandler = own
				l.Guard(s.Config)
			})
			target, err := url.Parse(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			target.Opaque = "*"
			ask := func(want int) {
				t.Helper()
				resp, err := newClient(t, s).Do(&http.Request{Method: "OPTIONS", URL: target})
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != want || want == 200 && resp.Header.Get("Content-Length") != "0" {
					t.Errorf("%s, own %v: %s, %v; want %d", kind, own, resp.Status, resp.Header, want)
				}
			}
			if own {
				ask(http.StatusTeapot)
			} else {
				ask(http.StatusOK)
			}
			if err := l.SetConfig(perClient(0)); err != nil {
				t.Fatal(err)
			}
			ask(http.StatusTooManyRequests)
		}
	}
}

// TestGuardIsNotHeldUp: refused clients that don't speak, or don't shake hands, keep nobody
// waiting, where an answer that is written in the ConnState hook stops the server; they are bounded
// in number and in time.
func TestGuardIsNotHeldUp(t *testing.T) {
	l := newLimiter(t, Config{MaxAnswers: 3, AnswerTimeout: 200 * time.Millisecond,
		Connections: Limits{Networks: []Network{{Prefix: netip.MustParsePrefix("127.0.0.1/32"), PerClient: AtMost(1)}}}})
	s := serve(t, "https", func(w http.ResponseWriter, r *http.Request) {}, func(s *httptest.Server) { l.Guard(s.Config) })
	held := insecure(dial(t, s.Listener.Addr()))
	if resp := answered(t, held); resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	start := time.Now()
	var silent []net.Conn
	for range 6 {
		silent = append(silent, dial(t, s.Listener.Addr()))
	}
	eventually(t, "six are refused", func() bool { return l.Stats().Connections.Refused == 6 })
	if n := l.guardsAnswers.Load(); n > 3 {
		t.Errorf("%d refused connections are kept; the bound is 3", n)
	}
	if resp := answered(t, held); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	for _, c := range silent {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a refused client that says nothing was sent something")
		}
	}
	if d := time.Since(start); d < 200*time.Millisecond {
		t.Errorf("all were closed after %v; three have 200 ms", d)
	}
	eventually(t, "none is left", func() bool { return l.guardsAnswers.Load() == 0 })
	if resp := answered(t, insecure(dial(t, s.Listener.Addr()))); resp.StatusCode != 429 {
		t.Errorf("%s once there is room for an answer; want 429", resp.Status)
	}
	if s := l.Stats().Connections; s.Open != 1 || s.Refused != 7 {
		t.Errorf("%+v; want 1 open, 7 refused", s)
	}
}

// TestGuardAndListener of one Limiter count a connection once.
func TestGuardAndListener(t *testing.T) {
	for _, kind := range []string{"http", "https"} {
		l := newLimiter(t, total(1))
		s := serve(t, kind, func(w http.ResponseWriter, r *http.Request) {}, func(s *httptest.Server) {
			s.Listener = l.Listener(s.Listener)
			l.Guard(s.Config)
		})
		if status, _, _ := get(t, newClient(t, s), s.URL); status != 200 {
			t.Errorf("%s: %d; want 200", kind, status)
		}
		eventually(t, "it is freed", func() bool { return l.Stats().Connections.Open == 0 })
		if n := l.Stats().Connections.Accepted; n != 1 {
			t.Errorf("%s: %d were counted; want 1", kind, n)
		}
		l2 := newLimiter(t, total(1))
		other := serve(t, kind, func(w http.ResponseWriter, r *http.Request) {}, func(s *httptest.Server) {
			s.Listener = l2.Listener(s.Listener)
			s.Config.ConnState = l2.ConnState
		})
		if status, _, _ := get(t, newClient(t, other), other.URL); status != 200 {
			t.Errorf("%s with ConnState: %d; want 200", kind, status)
		}
	}
}

// TestHijackedConnections are counted to their end: by ConnState, Guard and Listener, over TLS too.
// Where they are freed when they are hijacked, a client has as many WebSockets as it likes.
func TestHijackedConnections(t *testing.T) {
	for _, kind := range []string{"http", "https"} {
		for name, prepare := range map[string]func(*Limiter, *httptest.Server){
			"ConnState": func(l *Limiter, s *httptest.Server) { s.Config.ConnState = l.ConnState },
			"Guard":     func(l *Limiter, s *httptest.Server) { l.Guard(s.Config) },
			"Listener":  func(l *Limiter, s *httptest.Server) { s.Listener = l.Listener(s.Listener) },
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				l := newLimiter(t, perClient(2))
				hijacked := make(chan net.Conn, 1)
				s := serve(t, kind, hijack1(hijacked), func(s *httptest.Server) { prepare(l, s) })
				c := dial(t, s.Listener.Addr())
				if kind == "https" {
					c = insecure(c)
				}
				answered(t, c)
				conn := <-hijacked
				for range 3 { // longer than it takes to look
					l.watch.look()
				}
				if n := l.Stats().Connections.Open; n != 1 {
					t.Errorf("%d are counted; want 1", n)
				}
				conn.Close()
				eventually(t, "it is freed", func() bool { return l.Stats().Connections.Open == 0 })
			})
		}
	}
}

// hijack1 takes over the connection and answers 101.
func hijack1(hijacked chan net.Conn) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		hijacked <- conn
	}
}

// TestHijackedWithoutASocket: what can't be watched is freed when it is hijacked, not kept for
// ever; a connection of no comparable type is found again.
func TestHijackedWithoutASocket(t *testing.T) {
	l := newLimiter(t, total(1))
	addr := textAddr("192.0.2.1:1")
	a, _ := net.Pipe()
	c := uncomparable{conn: conn{Conn: a, remote: addr}}
	for _, end := range []http.ConnState{http.StateHijacked, http.StateClosed} {
		l.ConnState(c, http.StateNew)
		if n := l.NumOpen(addr); n != 1 {
			t.Errorf("%d are open; want 1", n)
		}
		l.ConnState(c, http.StateActive)
		l.ConnState(c, http.StateIdle)
		l.ConnState(c, end)
		l.ConnState(c, http.StateClosed)
		if n := l.NumOpen(addr); n != 0 {
			t.Errorf("%d are open after %v; want 0", n, end)
		}
	}
}

// wrapping is of no comparable type, and shows what it wraps.
type wrapping struct {
	uncomparable
	inside net.Conn
}

func (w wrapping) NetConn() net.Conn { return w.inside }

// TestAlike: connections that nothing tells apart, as those of one Unix socket and of a type that
// can't be compared, are all freed at their end, and not before a refused one's end.
func TestAlike(t *testing.T) { synctest.Test(t, testAlike) }

func testAlike(t *testing.T) {
	path := &net.UnixAddr{Name: "@", Net: "unix"}
	accepted, refused := uncomparable{conn: conn{Conn: unixEnd{}, remote: path}}, uncomparable{conn: conn{Conn: unixEnd{}, remote: path}}
	for name, hook := range map[string]func(*Limiter) func(net.Conn, http.ConnState){
		"ConnState": func(l *Limiter) func(net.Conn, http.ConnState) { return l.ConnState },
		"Guard": func(l *Limiter) func(net.Conn, http.ConnState) {
			srv := &http.Server{}
			l.Guard(srv)
			return func(c net.Conn, state http.ConnState) {
				if state == http.StateNew {
					srv.ConnContext(context.Background(), c)
					synctest.Wait() // for its address
				}
				srv.ConnState(c, state)
			}
		},
	} {
		l := newLimiter(t, total(2))
		state := hook(l)
		open := func(what string, want int64) {
			t.Helper()
			if n := l.Stats().Connections.Open; n != want {
				t.Errorf("%s, %s: %d are counted; want %d", name, what, n, want)
			}
		}
		state(accepted, http.StateNew)
		state(accepted, http.StateNew)
		state(refused, http.StateNew)
		open("two are accepted", 2)
		state(refused, http.StateClosed)
		open("the third is closed", 2)
		state(accepted, http.StateClosed)
		open("one of the two is", 1)
		state(accepted, http.StateClosed)
		open("both are", 0)

		a, b := wrapping{accepted, from("192.0.2.1")}, wrapping{accepted, from("192.0.2.1")}
		state(a, http.StateNew)
		state(b, http.StateNew)
		state(a, http.StateClosed)
		state(a, http.StateClosed)
		open("one of two that show what they wrap is closed", 1)
		state(b, http.StateClosed)
		open("the other, too", 0)
		if n := len(l.served.alike); n != 0 {
			t.Errorf("%s: %d are left", name, n)
		}
	}
}

type unixEnd struct{ net.Conn }

func (unixEnd) LocalAddr() net.Addr { return &net.UnixAddr{Name: "/run/a.sock", Net: "unix"} }

// TestGuardPassesUpgrades: a server behind Guard still passes WebSocket upgrades both ways.
func TestGuardPassesUpgrades(t *testing.T) {
	l := newLimiter(t, Config{Connections: Limits{PerClient: AtMost(1)}, Requests: Limits{PerClient: AtMost(1)}})
	s := serve(t, "http", nil, func(s *httptest.Server) {
		s.Config.Handler = l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
			go func() { defer conn.Close(); io.Copy(conn, rw) }()
		}))
		l.Guard(s.Config)
	})
	c := dial(t, s.Listener.Addr())
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
	r := bufio.NewReader(c)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	io.WriteString(c, "ping")
	b := make([]byte, 4)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "ping" {
		t.Fatalf("%q, %v", b, err)
	}
	stats := l.Stats()
	if stats.Connections.Open != 1 || stats.Requests.Open != 1 {
		t.Errorf("%+v; want one of each open", stats)
	}
	if resp := answered(t, dial(t, s.Listener.Addr())); resp.StatusCode != 429 {
		t.Errorf("%s for a second client; want 429", resp.Status)
	}
	c.Close()
	eventually(t, "both are freed", func() bool { s := l.Stats(); return s.Connections.Open == 0 && s.Requests.Open == 0 })
}
