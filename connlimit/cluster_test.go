package connlimit

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fleet is a cluster with so many slots for all servers.
type fleet struct {
	mu    sync.Mutex
	slots int
	err   error         // in place of a slot
	gate  chan struct{} // each Hold waits for it
	asked []string
	lost  []func()
}

// overLimit is what a cluster says that has none.
type overLimit struct{ after time.Duration }

func (overLimit) Error() string                       { return "the key is at its limit" }
func (o overLimit) RetryAfter() (time.Duration, bool) { return o.after, o.after > 0 }

// blocked is what it says of a limit of 0.
type blocked struct{ overLimit }

func (blocked) Blocked() bool { return true }

func (f *fleet) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost[len(f.lost)-1]()
}

func (f *fleet) free() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slots
}

func (f *fleet) set(slots int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slots, f.err = slots, err
}

func clustered(f *fleet, l Limits) Config {
	return Config{Cluster: f, ClusterKey: "web", Connections: l}
}

func (f *fleet) Hold(ctx context.Context, client netip.Addr, key string, lost func()) (func(), error) {
	f.mu.Lock()
	gate := f.gate
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, client.String()+" "+key)
	switch {
	case f.err != nil:
		return nil, f.err
	case f.slots == 0:
		return nil, overLimit{7 * time.Second}
	}
	f.slots--
	f.lost = append(f.lost, lost)
	return sync.OnceFunc(func() {
		f.mu.Lock()
		f.slots++
		f.mu.Unlock()
	}), nil
}

// TestClusterAccept: the limits here come first, then the cluster's; a freed connection frees both.
func TestClusterAccept(t *testing.T) {
	f := &fleet{slots: 2}
	l, other := newLimiter(t, clustered(f, Limits{PerClient: AtMost(1)})), newLimiter(t, clustered(f, Limits{}))
	first := admit(t, l, from("192.0.2.1"))
	_, err := l.Accept(from("192.0.2.1"))
	refusedBy(t, err, ScopeClient)
	admit(t, other, from("2001:db8::1"))
	_, err = l.Accept(from("192.0.2.2"))
	e := refusedBy(t, err, ScopeCluster)
	if after, _ := e.RetryAfter(); after != 7*time.Second || e.Blocked() || e.Error() != "connlimit: the cluster has no slot: the key is at its limit" {
		t.Errorf("%v, after %v", e, after)
	}
	if n := l.NumOpen(from("192.0.2.2").RemoteAddr()); n != 0 {
		t.Errorf("%d are counted of the client that the cluster refused", n)
	}
	first.Free()
	first.Free()
	if n := f.free(); n != 1 {
		t.Errorf("%d slots are free in the cluster; want 1", n)
	}
	admit(t, other, &conn{})
	if got, want := l.Stats().Connections, (Counters{Accepted: 1, Refused: 2}); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
	want := []string{"192.0.2.1 web", "2001:db8:: web", "192.0.2.2 web", "invalid IP web"}
	for i := range want {
		if f.asked[i] != want[i] {
			t.Errorf("the cluster was asked for %q; want %q", f.asked, want)
			break
		}
	}
}

// TestClusterRetryAfter: a refusal says when to try again, by the cluster's word if it knows; but
// not if the cluster blocks.
func TestClusterRetryAfter(t *testing.T) {
	for _, test := range []struct {
		err     error
		after   time.Duration
		blocked bool
	}{
		{overLimit{time.Minute}, time.Minute, false},
		{overLimit{}, DefaultRetryAfter, false},
		{blocked{}, 0, true},
	} {
		_, err := newLimiter(t, clustered(&fleet{err: test.err}, Limits{})).Accept(from("192.0.2.1"))
		e := refusedBy(t, err, ScopeCluster)
		if after, ok := e.RetryAfter(); after != test.after || ok == test.blocked || e.Blocked() != test.blocked {
			t.Errorf("%T: again after %v, %v; blocked: %v", test.err, after, ok, e.Blocked())
		}
	}
}

// TestClusterDown: without an answer nobody is let in, unless the configuration says otherwise.
func TestClusterDown(t *testing.T) {
	f := &fleet{err: errors.New("no lease")}
	config := clustered(f, Limits{Total: AtMost(1)})
	l := newLimiter(t, config)
	if _, err := l.Accept(from("192.0.2.1")); !errors.Is(err, f.err) || errors.Is(err, ErrLimit) {
		t.Errorf("%v; want %v", err, f.err)
	}
	if s := l.Stats().Connections; s != (Counters{}) {
		t.Errorf("%+v; want nothing open or accepted; it is no limit that has refused", s)
	}
	config.ClusterOptional = true
	if err := l.SetConfig(config); err != nil {
		t.Fatal(err)
	}
	slot := admit(t, l, from("192.0.2.1"))
	if n := l.Stats().Connections.Accepted; n != 1 {
		t.Errorf("%d are accepted; want 1", n)
	}
	_, err := l.Accept(from("192.0.2.1"))
	refusedBy(t, err, ScopeTotal)
	slot.Free()
	f.set(0, nil)
	_, err = l.Accept(from("192.0.2.1"))
	refusedBy(t, err, ScopeCluster) // a limit is one, optional or not
}

// queueing is a cluster whose one limit is reached, and has a queue. Like a node, it says of a wait
// that was broken off which limit was in the way.
type queueing struct{ waits chan struct{} }

func (q queueing) Hold(ctx context.Context, _ netip.Addr, _ string, _ func()) (func(), error) {
	q.waits <- struct{}{}
	<-ctx.Done()
	return nil, overLimit{7 * time.Second}
}

// silent is a cluster that says nothing.
type silent struct{}

func (silent) Hold(ctx context.Context, _ netip.Addr, _ string, _ func()) (func(), error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestClusterTimeout: who waits in the cluster's queue for too long is over the limit, though the
// cluster is optional; a cluster that says nothing until then can't answer.
func TestClusterTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, optional := range []bool{false, true} {
			config := Config{Cluster: queueing{make(chan struct{}, 1)}, ClusterOptional: optional}
			l := newLimiter(t, config)
			start := time.Now()
			_, err := l.Accept(from("192.0.2.1"))
			if e := refusedBy(t, err, ScopeCluster); e.after != 7*time.Second || time.Since(start) != DefaultClusterTimeout {
				t.Errorf("%v, again after %v; want it refused after %v", e, e.after, DefaultClusterTimeout)
			}
			if s := l.Stats().Connections; s.Open != 0 || s.Refused != 1 {
				t.Errorf("%+v; want 1 refused", s)
			}
			config.Cluster = silent{}
			l = newLimiter(t, config)
			if _, err := l.Accept(from("192.0.2.1")); (err == nil) != optional || errors.Is(err, ErrLimit) {
				t.Errorf("ClusterOptional: %v, and the cluster says nothing: %v", optional, err)
			}
		}
	})
}

// TestClusterWaitBrokenOff: a client that goes while it waits in the cluster's queue was not
// refused by a limit.
func TestClusterWaitBrokenOff(t *testing.T) {
	cluster := queueing{make(chan struct{})}
	l := newLimiter(t, Config{Cluster: cluster, ClusterRequests: true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
		l.Handler(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
	}()
	<-cluster.waits
	cancel()
	<-done
	if s := l.Stats().Requests; s.Open != 0 || s.Refused != 0 {
		t.Errorf("%+v; want none open and none refused", s)
	}
}

// TestClusterAfterQueue: a connection that has waited for its turn here, and then for the cluster,
// is accepted once, when the cluster admits it.
func TestClusterAfterQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{slots: 2, gate: make(chan struct{})}
		l := newLimiter(t, clustered(f, Limits{Total: AtMost(1), Wait: time.Hour}))
		inner := newPipes()
		ln := l.Listener(inner)
		defer ln.Close()
		accepted := acceptAll(ln)
		check := func(want Counters) {
			t.Helper()
			synctest.Wait()
			if got := l.Stats().Connections; got != want {
				t.Errorf("%+v; want %+v", got, want)
			}
		}
		inner.dial("192.0.2.1")
		inner.dial("192.0.2.1")
		check(Counters{Open: 1, Waiting: 1})
		f.gate <- struct{}{}
		check(Counters{Open: 1, Waiting: 1, Accepted: 1})
		(<-accepted).Close()
		check(Counters{Open: 1, Accepted: 1})
		f.gate <- struct{}{}
		check(Counters{Open: 1, Accepted: 2})
		(<-accepted).Close()
	})
}

// TestClusterIsSlow: a cluster that does not answer holds up one connection, not the next; a
// connection that ends meanwhile keeps nothing, and the time is bounded.
func TestClusterIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{slots: 5, gate: make(chan struct{})}
		l := newLimiter(t, clustered(f, Limits{}))
		inner := newPipes()
		ln := l.Listener(inner)
		accepted := acceptAll(ln)
		start := time.Now()
		var dialled []net.Conn
		for range 3 { // each is taken from inner, so none is held up
			dialled = append(dialled, inner.dial("192.0.2.1"))
		}
		synctest.Wait()
		if n := l.Stats().Connections.Open; n != 3 || time.Since(start) != 0 {
			t.Errorf("%d are counted after %v; want 3, at once", n, time.Since(start))
		}
		f.gate <- struct{}{}
		c := <-accepted
		for _, d := range dialled {
			d.SetReadDeadline(time.Now().Add(time.Minute))
		}
		time.Sleep(DefaultClusterTimeout)
		synctest.Wait()
		if n := l.Stats().Connections.Open; n != 1 {
			t.Errorf("%d are counted after the timeout; want 1", n)
		}
		c.Close()
		if n := f.free(); n != 5 {
			t.Errorf("%d slots are free; want 5", n)
		}
		inner.dial("192.0.2.1")
		synctest.Wait()
		ln.Close()
		synctest.Wait()
		if n := l.Stats().Connections.Open; n != 0 {
			t.Errorf("%d are counted after Close; want 0", n)
		}
	})
}

// TestClusterLoses: a connection whose slot is lost is closed, and its slot here freed with it.
func TestClusterLoses(t *testing.T) {
	for name, prepare := range map[string]func(*Limiter, *httptest.Server){
		"Listener":  func(l *Limiter, s *httptest.Server) { s.Listener = l.Listener(s.Listener) },
		"ConnState": func(l *Limiter, s *httptest.Server) { s.Config.ConnState = l.ConnState },
		"Guard":     func(l *Limiter, s *httptest.Server) { l.Guard(s.Config) },
	} {
		for _, kind := range []string{"http", "https"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				f := &fleet{slots: 1}
				l := newLimiter(t, clustered(f, Limits{}))
				g := newGate()
				s := serve(t, kind, g.ServeHTTP, func(s *httptest.Server) { prepare(l, s) })
				failed := make(chan error)
				client := newClient(t, s)
				go func() {
					resp, err := client.Get(s.URL)
					if err == nil {
						resp.Body.Close()
					}
					failed <- err
				}()
				<-g.entered
				eventually(t, "the slot is held", func() bool { return f.free() == 0 })
				f.lose()
				if err := <-failed; err == nil {
					t.Error("the request was answered; want its connection closed")
				}
				close(g.opened)
				eventually(t, "both are freed", func() bool { return l.Stats().Connections.Open == 0 && f.free() == 1 })
				if n := l.Stats().Connections.Lost; n != 1 {
					t.Errorf("%d lost; want 1", n)
				}
			})
		}
	}
}

// TestClusterGuard: a client that the cluster refuses is told so, and one that ends before the
// cluster has answered leaves nothing behind.
func TestClusterGuard(t *testing.T) {
	f := &fleet{slots: 1}
	l := newLimiter(t, clustered(f, Limits{}))
	g := newGate()
	s := serve(t, "https", g.ServeHTTP, func(s *httptest.Server) { l.Guard(s.Config) })
	var wg sync.WaitGroup
	first := newClient(t, s)
	wg.Go(func() { get(t, first, s.URL) })
	<-g.entered
	status, after, body := get(t, newClient(t, s), s.URL)
	if status != 429 || after != "7" || body != "Too many connections are open at once. Try again later.\n" {
		t.Errorf("%d, after %q: %q; want 429, after 7", status, after, body)
	}
	f.set(0, errors.New("no lease"))
	if status, after, _ := get(t, newClient(t, s), s.URL); status != 503 || after != "1" {
		t.Errorf("%d, after %q; want 503, after 1", status, after)
	}
	close(g.opened)
	wg.Wait()
	eventually(t, "all is freed", func() bool { return l.guardsAnswers.Load() == 0 && l.Stats().Connections.Open == 0 && f.free() == 1 })

	f.mu.Lock()
	f.gate = make(chan struct{})
	f.mu.Unlock()
	c := dial(t, s.Listener.Addr())
	eventually(t, "it is counted", func() bool { return l.Stats().Connections.Open == 1 })
	c.Close()
	eventually(t, "it is freed", func() bool { return l.Stats().Connections.Open == 0 })
	if s := l.Stats().Connections; s.Accepted != 1 || s.Refused != 1 {
		t.Errorf("%+v; want 1 accepted and 1 refused: the cluster admitted the first alone", s)
	}
	l.served.endings.Range(func(any, any) bool { t.Error("a connection is remembered"); return false })
}

// TestGuardAfterTheBaseContext: once a server's BaseContext has ended, as many do at SIGTERM, the
// requests of connections that were admitted still reach the handler. One whose connection is not
// admitted yet is refused, and not answered with net/http's empty 200.
func TestGuardAfterTheBaseContext(t *testing.T) {
	base, end := context.WithCancel(t.Context())
	f := &fleet{slots: 2, gate: make(chan struct{})}
	l := newLimiter(t, clustered(f, Limits{}))
	accept := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }
	s := serve(t, "http", accept, func(s *httptest.Server) {
		s.Config.BaseContext = func(net.Listener) context.Context { return base }
		l.Guard(s.Config)
	})
	admitted := dial(t, s.Listener.Addr())
	f.gate <- struct{}{}
	answered(t, admitted)
	end()
	for range 20 {
		if resp := answered(t, admitted); resp.StatusCode != http.StatusAccepted {
			t.Fatalf("%s; want the handler's 202", resp.Status)
		}
	}
	waits := dial(t, s.Listener.Addr())
	if resp := answered(t, waits); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%s, %v; want 503, after 1", resp.Status, resp.Header)
	}
}

// TestClusterRequests: the requests of Handler hold slots in place of connections. One whose slot
// is lost is told by its context; a hijacked connection is closed.
func TestClusterRequests(t *testing.T) {
	f := &fleet{slots: 1}
	config := clustered(f, Limits{})
	config.ClusterRequests = true
	l := newLimiter(t, config)
	entered := make(chan struct{})
	h := l.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-r.Context().Done()
		if cause := context.Cause(r.Context()); cause != ErrLost {
			t.Errorf("the context ended because of %v; want ErrLost", cause)
		}
	}))
	done := make(chan struct{})
	go func() { defer close(done); request(h, "192.0.2.1:1") }()
	<-entered
	if w := request(h, "192.0.2.2:1"); w.Code != 429 || w.Header().Get("Retry-After") != "7" {
		t.Errorf("%d, %v; want 429, after 7", w.Code, w.Header())
	}
	admit(t, l, from("192.0.2.1")) // a connection takes no slot
	f.lose()
	<-done
	if s := l.Stats().Requests; s.Open != 0 || s.Accepted != 1 || s.Lost != 1 || s.Refused != 1 || f.free() != 1 {
		t.Errorf("%+v, %d free; want all freed", s, f.free())
	}

	hijacked := make(chan net.Conn, 1)
	s := serve(t, "http", l.Handler(hijack1(hijacked)).ServeHTTP, nil)
	c := dial(t, s.Listener.Addr())
	answered(t, c)
	conn := <-hijacked
	defer conn.Close()
	f.lose()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the hijacked connection is open after its slot was lost")
	}
}

// late is a cluster that gives its slot whenever it likes, whatever its context says.
type late struct {
	answer   chan struct{}
	released chan struct{}
}

func (l late) Hold(context.Context, netip.Addr, string, func()) (func(), error) {
	<-l.answer
	return func() { close(l.released) }, nil
}

// TestClusterIsLate: a slot that comes after the connection has ended is given back at once.
func TestClusterIsLate(t *testing.T) {
	cluster := late{make(chan struct{}), make(chan struct{})}
	l := newLimiter(t, Config{Cluster: cluster})
	c := from("192.0.2.1")
	l.ConnState(c, http.StateNew)
	l.ConnState(c, http.StateClosed)
	close(cluster.answer)
	<-cluster.released
	if s := l.Stats().Connections; s != (Counters{}) {
		t.Errorf("%+v; want none open, and none accepted", s)
	}
}
