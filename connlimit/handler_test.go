package connlimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func requests(l Limits) Config { return Config{Requests: l} }

// request is served by h as one from the client at addr.
func request(h http.Handler, addr string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = addr
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestHandler: of five at once two are served, over each version of HTTP, however many connections
// they come by; then there is room again.
func TestHandler(t *testing.T) {
	for _, kind := range []string{"http", "https", "h2"} {
		t.Run(kind, func(t *testing.T) {
			l := newLimiter(t, requests(Limits{Total: AtMost(2)}))
			g := newGate()
			s := serve(t, kind, l.Handler(g).ServeHTTP, nil)
			client := newClient(t, s)
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if status, _, _ := get(t, client, s.URL); status != 200 {
						t.Errorf("%d; want 200", status)
					}
				})
			}
			<-g.entered
			<-g.entered
			for range 3 {
				status, after, body := get(t, client, s.URL)
				if status != 503 || after != "1" || body != "The server has too many requests at once. Try again later.\n" {
					t.Errorf("%d, after %q: %q; want 503, after 1", status, after, body)
				}
			}
			if got := l.Stats().Requests; got.Open != 2 || got.Refused != 3 || got.Accepted != 2 {
				t.Errorf("counters are %+v", got)
			}
			close(g.opened)
			wg.Wait()
			if status, _, _ := get(t, client, s.URL); status != 200 {
				t.Errorf("%d once there is room; want 200", status)
			}
			eventually(t, "all are freed", func() bool { return l.Stats().Requests.Open == 0 })
		})
	}
}

// TestHandlerPerClient: each client has its own limit, by its address without the port; requests
// one after the other are not at once.
func TestHandlerPerClient(t *testing.T) {
	l := newLimiter(t, requests(Limits{Total: AtMost(100), PerClient: AtMost(1)}))
	g := newGate()
	h := l.Handler(g)
	done := make(chan int)
	go func() { done <- request(h, "192.0.2.1:1").Code }()
	<-g.entered
	for _, addr := range []string{"192.0.2.1:2", "192.0.2.1:1"} {
		if w := request(h, addr); w.Code != 429 {
			t.Errorf("%s: %d; want 429", addr, w.Code)
		}
	}
	go func() { done <- request(h, "[2001:db8::1]:1").Code }()
	<-g.entered
	go func() { done <- request(h, "[2001:db9::1]:1").Code }()
	<-g.entered
	if w := request(h, "[2001:db8::2]:1"); w.Code != 429 {
		t.Errorf("one more of a /64: %d; want 429", w.Code)
	}
	if n := l.NumRequests(textAddr("192.0.2.1:77")); n != 1 {
		t.Errorf("%d requests; want 1", n)
	}
	close(g.opened)
	for range 3 {
		if code := <-done; code != 200 {
			t.Errorf("%d; want 200", code)
		}
	}
	for range 5 {
		if w := request(h, "192.0.2.1:1"); w.Code != 200 {
			t.Errorf("one after the other: %d; want 200", w.Code)
		}
	}
}

// TestHandlerAtOnce: of eight that begin at the same instant, exactly as many are served as there
// is room for. Those served stay until all eight are, or are refused, so a handler that looks first
// and counts later, or goes by what it saw, serves more.
func TestHandlerAtOnce(t *testing.T) {
	const n, room, rounds = 8, 2, 3000
	for name, limits := range map[string]Limits{"total": {Total: AtMost(room)}, "per client": {PerClient: AtMost(room)}} {
		l := newLimiter(t, requests(limits))
		for round := range rounds {
			var served, decided atomic.Int32
			all, start := make(chan struct{}), make(chan struct{})
			decide := func() {
				if decided.Add(1) == n {
					close(all)
				}
			}
			h := l.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				served.Add(1)
				decide()
				<-all
			}))
			var wg sync.WaitGroup
			for range n {
				w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
				wg.Go(func() {
					<-start
					if h.ServeHTTP(w, r); w.Code != 200 {
						decide()
					}
				})
			}
			close(start)
			wg.Wait()
			if got := served.Load(); got != room {
				t.Fatalf("%s, round %d: %d were served at once; want %d", name, round, got, room)
			}
		}
	}
}

// TestHandlersOwnAnswer: ErrorHandler answers, and knows why; Status and RetryAfter change the
// default. A block says nothing of trying again, unless it is told to.
func TestHandlersOwnAnswer(t *testing.T) {
	config := requests(Limits{PerClient: AtMost(0)})
	for _, test := range []struct {
		change func(*Config)
		status int
		after  string
		body   string
	}{
		{func(c *Config) {}, 429, "", "The server takes no requests from you: the limit is 0.\n"},
		{func(c *Config) { c.Requests = Limits{Total: AtMost(0)} }, 503, "", "The server takes no requests from you: the limit is 0.\n"},
		{func(c *Config) { c.Status = 503 }, 503, "", "The server takes no requests from you: the limit is 0.\n"},
		{func(c *Config) { c.RetryAfter = time.Minute }, 429, "60", "The server takes no requests from you: the limit is 0.\n"},
		{func(c *Config) { c.RetryAfter = time.Millisecond }, 429, "1", "The server takes no requests from you: the limit is 0.\n"},
		{func(c *Config) {
			c.ErrorHandler = func(w http.ResponseWriter, r *http.Request, err error) {
				e := &Error{}
				if !errors.As(err, &e) {
					t.Errorf("%v is no *Error", err)
				}
				w.WriteHeader(http.StatusTeapot)
				fmt.Fprintf(w, "%s: %d %s", e.Prefix, e.Limit, e.Kind)
			}
		}, 418, "", "192.0.2.1/32: 0 requests"},
	} {
		c := config
		test.change(&c)
		h := newLimiter(t, c).Handler(http.NotFoundHandler())
		w := request(h, "192.0.2.1:1")
		if w.Code != test.status || w.Header().Get("Retry-After") != test.after || w.Body.String() != test.body {
			t.Errorf("%d, after %q: %q; want %d, after %q: %q", w.Code, w.Header().Get("Retry-After"), w.Body, test.status, test.after, test.body)
		}
	}
}

// TestHandlerPanics: a handler's panic frees its slot, and passes.
func TestHandlerPanics(t *testing.T) {
	l := newLimiter(t, requests(Limits{Total: AtMost(1)}))
	h := l.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") }))
	for range 3 {
		func() {
			defer func() {
				if p := recover(); p != "oh" {
					t.Errorf("the panic is %v", p)
				}
			}()
			request(h, "192.0.2.1:1")
		}()
	}
	if n := l.Stats().Requests.Open; n != 0 {
		t.Errorf("%d are open; want 0", n)
	}
}

// TestHandlerWaits: a request over the limit waits for its turn, no longer than its client stays,
// and no longer than Wait.
func TestHandlerWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, requests(Limits{Total: AtMost(1), Wait: time.Second}))
		g := newGate()
		h := l.Handler(g)
		codes := make(chan int, 10)
		go func() { codes <- request(h, "192.0.2.1:1").Code }()
		<-g.entered
		start := time.Now()
		if w := request(h, "192.0.2.2:1"); w.Code != 503 || time.Since(start) != time.Second {
			t.Errorf("%d after %v; want 503 after 1s", w.Code, time.Since(start))
		}
		gone, leave := context.WithCancel(t.Context())
		left := make(chan struct{})
		go func() {
			r := httptest.NewRequestWithContext(gone, "GET", "/", nil)
			h.ServeHTTP(httptest.NewRecorder(), r)
			close(left)
		}()
		synctest.Wait()
		go func() { codes <- request(h, "192.0.2.3:1").Code }()
		synctest.Wait()
		if n := l.Stats().Requests.Waiting; n != 2 {
			t.Errorf("%d wait; want 2", n)
		}
		leave()
		<-left
		close(g.opened)
		for range 2 {
			if code := <-codes; code != 200 {
				t.Errorf("%d; want 200", code)
			}
		}
		if s := l.Stats().Requests; s.Open != 0 || s.Waiting != 0 || s.Accepted != 2 {
			t.Errorf("%+v; want 2 accepted, all freed", s)
		}
	})
}

// unwrapping is the writer of a middleware, which does more only for who unwraps it.
type unwrapping struct{ http.ResponseWriter }

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// TestHijackedRequests count until the handler has returned and the connection is closed.
func TestHijackedRequests(t *testing.T) {
	t.Run("plain", func(t *testing.T) { testHijackedRequests(t, func(h http.Handler) http.Handler { return h }) })
	t.Run("inside another middleware", func(t *testing.T) {
		testHijackedRequests(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(unwrapping{unwrapping{w}}, r) })
		})
	})
}

func testHijackedRequests(t *testing.T, outer func(http.Handler) http.Handler) {
	l := newLimiter(t, requests(Limits{PerClient: AtMost(1)}))
	hijacked := make(chan interface{ Close() error }, 1)
	ends := make(chan struct{})
	s := serve(t, "http", outer(l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		hijacked <- conn
		if r.Header.Get("Stay") != "" {
			<-ends
		}
	}))).ServeHTTP, nil)
	c := dial(t, s.Listener.Addr())
	answered(t, c)
	conn := <-hijacked
	if resp := answered(t, dial(t, s.Listener.Addr())); resp.StatusCode != 429 {
		t.Errorf("%s while the first is open; want 429", resp.Status)
	}
	conn.Close()
	conn.Close()
	eventually(t, "it is freed", func() bool { return l.Stats().Requests.Open == 0 })

	c = dial(t, s.Listener.Addr())
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nStay: yes\r\n\r\n")
	(<-hijacked).Close()
	if n := l.Stats().Requests.Open; n != 1 {
		t.Errorf("%d open while the handler is at work; want 1", n)
	}
	close(ends)
	eventually(t, "it is freed", func() bool { return l.Stats().Requests.Open == 0 })
}

// TestHandlersWriter: it can do what the server's own exports.
func TestHandlersWriter(t *testing.T) {
	l := newLimiter(t, Config{})
	for kind, hijacks := range map[string]bool{"http": true, "h2": false} {
		s := serve(t, kind, l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, flushes := w.(http.Flusher)
			_, writes := w.(io.StringWriter)
			_, reads := w.(io.ReaderFrom)
			_, h := w.(http.Hijacker)
			_, pushes := w.(http.Pusher)
			if _, ok := w.(closeNotifier); !ok { // gin's Context.Stream panics without it
				t.Errorf("%s: it does not say when its client is gone", kind)
			}
			if !flushes || !writes || reads != hijacks || h != hijacks || pushes == hijacks {
				t.Errorf("%s: flushes %v, writes strings %v, reads from files %v, hijacks %v, pushes %v", kind, flushes, writes, reads, h, pushes)
			}
			rc := http.NewResponseController(w)
			if err := errors.Join(rc.SetReadDeadline(time.Now().Add(time.Hour)), rc.SetWriteDeadline(time.Time{})); err != nil {
				t.Error(err)
			}
			io.WriteString(w, "a")
			if err := rc.Flush(); err != nil {
				t.Error(err)
			}
			io.Copy(w, strings.NewReader("b"))
		})).ServeHTTP, nil)
		if _, _, body := get(t, newClient(t, s), s.URL); body != "ab" {
			t.Errorf("%s: the body is %q", kind, body)
		}
	}
	// A writer that only hijacks, or only that and flushes, is not said to do more.
	w := &struct {
		http.ResponseWriter
		http.Hijacker
	}{}
	if _, ok := wrapWriter(w, nil).(http.Flusher); ok {
		t.Error("a writer that can't flush is said to")
	}
	f := &struct {
		http.ResponseWriter
		http.Hijacker
		http.Flusher
	}{}
	if _, ok := wrapWriter(f, nil).(http.Flusher); !ok {
		t.Error("a writer that can flush is said not to")
	}
}

// failing is a writer that can't flush what it has.
type failing struct {
	http.ResponseWriter
	http.Hijacker
}

var errFlush = errors.New("the client has gone")

func (failing) Flush()            {}
func (failing) FlushError() error { return errFlush }

// failingFully can do what net/http's writer can, but for closeNotifier.
type failingFully struct {
	failing
	io.ReaderFrom
	io.StringWriter
}

// unwrappingFlusher is the writer of a middleware that knows Flush alone.
type unwrappingFlusher struct {
	unwrapping
	http.Hijacker
}

func (unwrappingFlusher) Flush() {}

// TestFlushError: a handler learns that a flush has failed, as it does without a Limiter.
func TestFlushError(t *testing.T) {
	for _, test := range []struct {
		w    http.ResponseWriter
		want error
	}{
		{failing{}, errFlush},
		{failingFully{}, errFlush},
		{&struct {
			failingFully
			closeNotifier
		}{}, errFlush},
		{struct {
			unwrapping
			http.Hijacker
		}{unwrapping: unwrapping{failing{}}}, errFlush},
		{unwrappingFlusher{unwrapping: unwrapping{failing{}}}, nil},
	} {
		w := wrapWriter(test.w, nil)
		if err := http.NewResponseController(w).Flush(); err != test.want {
			t.Errorf("%T for %T: %v; want %v", w, test.w, err, test.want)
		}
	}
}

// TestForwarded: the word of a proxy is taken only if it is trusted, and only for the address that
// it has added itself. Where the first address of X-Forwarded-For is taken, or a header of anybody,
// each client is whoever it likes.
func TestForwarded(t *testing.T) {
	const xff, rfc = "X-Forwarded-For", "Forwarded"
	for _, test := range []struct {
		remote string
		header []string
		want   string
	}{
		{"192.0.2.1:1", []string{xff, "198.51.100.1"}, "192.0.2.1"}, // nobody's proxy
		{"10.0.0.1:1", nil, "10.0.0.1"},
		{"10.0.0.1:1", []string{xff, "198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{xff, "203.0.113.9, 198.51.100.1"}, "198.51.100.1"}, // the client has said 203.0.113.9
		{"10.0.0.1:1", []string{xff, "203.0.113.9,198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{xff, "203.0.113.9", xff, "198.51.100.1", xff, "10.0.0.2 "}, "198.51.100.1"},
		{"10.0.0.1:1", []string{xff, "10.0.0.3, 10.0.0.2"}, "10.0.0.3"}, // proxies all the way
		{"10.0.0.1:1", []string{xff, "198.51.100.1, nonsense"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{xff, "nonsense, 10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.1:1", []string{xff, ", 198.51.100.1 ,,"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{xff, ""}, "10.0.0.1"},
		{"10.0.0.1:1", []string{xff, `"203.0.113.9, 198.51.100.1`}, "198.51.100.1"}, // a quote left open by the client
		{"10.0.0.1:1", []string{xff, "198.51.100.1:4711"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{xff, "[2001:db8::1]:4711"}, "2001:db8::1"},
		{"10.0.0.1:1", []string{xff, "2001:db8::1"}, "2001:db8::1"},
		{"10.0.0.1:1", []string{xff, "::ffff:198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{xff, "fe80::1%eth0"}, "fe80::1"},
		{"10.0.0.1:1", []string{rfc, "for=198.51.100.1"}, "10.0.0.1"}, // another header than the proxies'
		{"[2001:db8:ffff::1]:1", []string{xff, "198.51.100.1"}, "198.51.100.1"},
		{"[::ffff:10.0.0.1]:1", []string{xff, "198.51.100.1"}, "198.51.100.1"},
		{"@", []string{xff, "198.51.100.1"}, "invalid IP"},
	} {
		checkForwarded(t, xff, test.remote, test.header, test.want)
	}
	for header, want := range map[string]string{
		`for=198.51.100.1`: "198.51.100.1",
		`FOR = "198.51.100.1:80" ;proto=http;by=203.0.113.43`: "198.51.100.1",
		`for="[2001:db8:cafe::17]:4711"`:                      "2001:db8:cafe::17",
		`for=203.0.113.9, for=198.51.100.1;by=10.0.0.2`:       "198.51.100.1",
		`for=198.51.100.1, for="10.0.0.2"`:                    "198.51.100.1",
		`for=198.51.100.1, for=unknown`:                       "10.0.0.1",
		`for=198.51.100.1, for="_hidden"`:                     "10.0.0.1",
		`for=198.51.100.1, proto=https`:                       "10.0.0.1",
		`host="a.test, for=203.0.113.9";for=198.51.100.1`:     "198.51.100.1",
		`host="a.test;for=203.0.113.9";for=198.51.100.1`:      "198.51.100.1",
		`host="a\";for=203.0.113.9";for=198.51.100.1`:         "198.51.100.1",
		`for=203.0.113.9;for=198.51.100.1`:                    "10.0.0.1",
		`for="203.0.113.9, for=198.51.100.1`:                  "198.51.100.1",
		`for="198.51.100.1:_port"`:                            "198.51.100.1", // a hidden port hides no address
		`for="[2001:db8:cafe::17]:_p.1"`:                      "2001:db8:cafe::17",
		`for="\[2001:db8:cafe::17\]"`:                         "2001:db8:cafe::17", // quoted pairs
		`for=198.51.100.1, for="10.0.0.2:_a"`:                 "198.51.100.1",
		`for=198.51.100.1, for="_hidden:_port"`:               "10.0.0.1",
		`for=198.51.100.1, for=":_port"`:                      "10.0.0.1",
		`for=198.51.100.1, for="\`:                            "10.0.0.1",
	} {
		checkForwarded(t, rfc, "10.0.0.1:1", []string{rfc, header}, want)
	}
	checkForwarded(t, "x-real-ip", "10.0.0.1:1", []string{"X-Real-Ip", "198.51.100.1", xff, "203.0.113.9"}, "198.51.100.1")
}

func checkForwarded(t *testing.T, header, remote string, headers []string, want string) {
	t.Helper()
	c := Config{ForwardedHeader: header, TrustedProxies: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:ffff::/48")}}.withDefaults()
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = remote
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	if got := c.client(r).String(); got != want {
		t.Errorf("from %s with %q: %s; want %s", remote, headers, got, want)
	}
}

// FuzzForwarded: no header makes the walk pass an address that a trusted proxy has not added: what
// stands before the last element changes nothing.
func FuzzForwarded(f *testing.F) {
	for _, s := range []string{`for="`, `a\"`, `"\`, `,,;="`, `for="_x";by="`} {
		f.Add(s)
	}
	c := Config{ForwardedHeader: "Forwarded", TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}.withDefaults()
	f.Fuzz(func(t *testing.T, before string) {
		r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"Forwarded": {before + ", for=198.51.100.1"}}}
		if got := c.client(r).String(); got != "198.51.100.1" {
			t.Errorf("after %q: %s", before, got)
		}
	})
}

// TestTrustedProxiesAreExempt from the limit on each client's connections: theirs are those of
// many.
func TestTrustedProxiesAreExempt(t *testing.T) {
	config := perClient(1)
	config.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	config.Connections.Networks = []Network{{Prefix: netip.MustParsePrefix("10.1.0.0/16"), PerClient: AtMost(2)}}
	l := newLimiter(t, config)
	for range 10 {
		admit(t, l, from("10.0.0.1"))
	}
	admit(t, l, from("10.1.0.1"))
	admit(t, l, from("10.1.0.1"))
	_, err := l.Accept(from("10.1.0.1"))
	refusedBy(t, err, ScopeClient)
}
