package connlimit

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ConnState is for http.Server.ConnState: it counts the server's connections and closes those that
// are over a limit, without an answer and without blocking the server's accept loop. Guard answers
// them.
//
// Hijacked connections count until they are closed, which is noticed within a quarter of a second.
// That needs a connection that leads to its socket by SyscallConn, NetConn or Unwrap; any other no
// longer counts once it is hijacked. With a Listener, all of them count to their end.
//
// A hook can't hold a connection back. With Config.Cluster, a connection that the cluster refuses
// is closed only once the cluster has said so: the server may serve its requests until then. Guard,
// Listener, Accept and Config.ClusterRequests serve none before the cluster has admitted it.
//
// RemoteAddr of a connection is called in the server's accept loop. If that has to read a header of
// the PROXY protocol first, one silent client holds up all others: use Guard or Listener there.
func (l *Limiter) ConnState(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if err := l.serveNew(conn); err != nil {
			abort(conn)
		}
	case http.StateHijacked:
		l.hijacked(conn)
	case http.StateClosed:
		l.serveClosed(conn)
	}
}

// Guard makes srv enforce the limits on connections, and answer those that are over a limit: each
// of their requests is refused as Handler refuses one, with Retry-After and Connection: close, over
// HTTP/1 and HTTP/2, with TLS or without, by the goroutine that the server has for the connection.
// At most Config.MaxAnswers such connections are open at once, each for at most
// Config.AnswerTimeout; others are closed at once. srv.Handler never sees them.
//
// Call Guard once, before srv serves. It sets srv.ConnContext, srv.ConnState and srv.Handler, and
// calls those that were set. It also sets srv.DisableGeneralOptionsHandler, because net/http would
// answer OPTIONS * of a refused connection, and gives net/http's answer itself where that was not
// set. Hijacked connections are counted as by ConnState. Connections that come from a Listener of
// the same Limiter are counted there, and not again.
//
// A connection that has to be read from before its RemoteAddr is known, such as one of a listener
// for the PROXY protocol, does not hold up the accept loop, and is under no limit until then.
func (l *Limiter) Guard(srv *http.Server) {
	contexts, states, handler := srv.ConnContext, srv.ConnState, srv.Handler
	if handler == nil {
		handler = http.DefaultServeMux
	}
	if !srv.DisableGeneralOptionsHandler {
		srv.DisableGeneralOptionsHandler = true
		handler = withGeneralOptions(handler)
	}
	srv.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if contexts != nil {
			if ctx = contexts(ctx, conn); ctx == nil {
				return nil // and the server panics, as it would without Guard
			}
		}
		return context.WithValue(ctx, guardKey{l}, l.guard(conn))
	}
	srv.ConnState = func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateHijacked:
			l.hijacked(conn)
		case http.StateClosed:
			l.serveClosed(conn)
		}
		if states != nil {
			states(conn, state)
		}
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, _ := r.Context().Value(guardKey{l}).(*guarded)
		if g == nil { // counted by a Listener, or the request is not from srv
			handler.ServeHTTP(w, r)
			return
		}
		if !g.wait(r.Context()) {
			l.current().answer(w, r, context.Cause(r.Context()))
			return
		}
		if g.refusal == nil {
			handler.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		l.current().answer(w, r, g.refusal)
	})
}

// withGeneralOptions answers OPTIONS * as net/http does: yes, the server is there. A little content
// is read, so that the connection can go on.
func withGeneralOptions(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodOptions || r.RequestURI != "*" {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", "0")
		if r.ContentLength != 0 {
			io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 4<<10))
		}
	})
}

type guardKey struct{ limiter *Limiter }

// guarded is what became of a connection.
type guarded struct {
	refusal error         // nil: it is within the limits
	decided chan struct{} // closed when refusal is final; nil: it is
}

// wait waits for the decision; false means that ctx has ended without one. The decision is looked
// for first: a server's context may have ended long after the connection was admitted.
func (g *guarded) wait(ctx context.Context) bool {
	if g.decided == nil {
		return true
	}
	select {
	case <-g.decided:
		return true
	default:
	}
	select {
	case <-g.decided:
		return true
	case <-ctx.Done():
		return false
	}
}

// guard counts conn. It is nil where that has been done.
func (l *Limiter) guard(conn net.Conn) *guarded {
	if l.counts(conn) {
		return nil
	}
	c, end, g := l.current(), l.served.begin(conn), &guarded{}
	decide := func() {
		slot, addr, err := l.takeServed(conn, end, c)
		if err == nil && c.afterConn() == forCluster {
			err = l.holdServed(conn, end, c, slot, addr)
		}
		if g.refusal = err; err != nil {
			l.keepForAnswer(conn, end, c)
		}
	}
	if knowsAddr(conn) && c.afterConn() == 0 {
		decide()
		return g
	}
	g.decided = make(chan struct{})
	go func() {
		defer close(g.decided)
		decide()
	}()
	return g
}

// keepForAnswer bounds the number of refused connections, and the time of each.
func (l *Limiter) keepForAnswer(conn net.Conn, end *ending, c *Config) {
	if l.guardsAnswers.Add(1) > int64(c.MaxAnswers) {
		l.guardsAnswers.Add(-1)
		abort(conn)
		return
	}
	done := sync.OnceFunc(func() { l.guardsAnswers.Add(-1) })
	timer := time.AfterFunc(c.AnswerTimeout, func() { abort(conn); done() })
	end.then(func() { timer.Stop(); done() })
}

// serveNew counts a connection that a server has accepted.
func (l *Limiter) serveNew(conn net.Conn) error {
	if l.counts(conn) {
		return nil
	}
	c, end := l.current(), l.served.begin(conn)
	slot, addr, err := l.takeServed(conn, end, c)
	if err != nil {
		return err
	}
	if c.afterConn() == forCluster {
		go func() {
			if err := l.holdServed(conn, end, c, slot, addr); err != nil {
				abort(conn)
			}
		}()
	}
	return nil
}

// takeServed takes the slot here for a connection that a server has begun to serve.
func (l *Limiter) takeServed(conn net.Conn, end *ending, c *Config) (Slot, netip.Addr, error) {
	addr := addrOf(conn)
	slot, err := l.conns.take(addr, c.afterConn())
	if err != nil {
		end.refused.Store(true)
		return Slot{}, addr, err
	}
	end.then(slot.Free)
	return slot, addr, nil
}

// holdServed takes the cluster's slot for a connection that a server has begun to serve.
func (l *Limiter) holdServed(conn net.Conn, end *ending, c *Config, slot Slot, addr netip.Addr) error {
	ctx, cancel := context.WithCancel(context.Background())
	end.then(cancel)
	_, err := l.hold(clusterContext{ctx, func() { abort(conn) }}, l.conns, c, slot, addr)
	end.refused.Store(err != nil)
	return err
}

func (l *Limiter) serveClosed(conn net.Conn) {
	if end := l.served.take(conn); end != nil {
		end.now()
	}
}

// hijacked keeps conn counted until it is closed.
func (l *Limiter) hijacked(conn net.Conn) {
	if end := l.served.take(conn); end != nil && !l.watch.add(conn, end.now) {
		end.now()
	}
}

// served maps the connections of servers to what is to be done at their end, because a server says
// which connection has ended, and nothing else.
type served struct {
	endings sync.Map

	mu    sync.Mutex
	alike map[any][]*ending // of types that can't be compared, by likeness
}

func (s *served) begin(conn net.Conn) *ending {
	e := new(ending)
	if canCompare(conn) {
		s.endings.Store(conn, e)
		return e
	}
	like := likeness(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alike == nil {
		s.alike = map[any][]*ending{}
	}
	s.alike[like] = append(s.alike[like], e)
	return e
}

// take returns what was begun, once. Of connections that are alike any may be the one: then the one
// without a slot is taken first, so that what is open stays counted.
func (s *served) take(conn net.Conn) *ending {
	if canCompare(conn) {
		e, _ := s.endings.LoadAndDelete(conn)
		end, _ := e.(*ending)
		return end
	}
	like := likeness(conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	endings := s.alike[like]
	if len(endings) == 0 {
		return nil
	}
	i := max(0, slices.IndexFunc(endings, func(e *ending) bool { return e.refused.Load() }))
	end := endings[i]
	if s.alike[like] = slices.Delete(endings, i, i+1); len(endings) == 1 {
		delete(s.alike, like)
	}
	return end
}

// An ending is what is to be done when a connection has ended.
type ending struct {
	refused atomic.Bool // it has no slot

	mu   sync.Mutex
	over bool
	do   []func()
}

// then adds f, or calls it where the connection has ended already.
func (e *ending) then(f func()) {
	e.mu.Lock()
	over := e.over
	if !over {
		e.do = append(e.do, f)
	}
	e.mu.Unlock()
	if over {
		f()
	}
}

func (e *ending) now() {
	e.mu.Lock()
	do := e.do
	e.over, e.do = true, nil
	e.mu.Unlock()
	for _, f := range do {
		f()
	}
}

func canCompare(conn net.Conn) bool {
	return reflect.TypeOf(conn).Comparable() && reflect.ValueOf(conn).Comparable()
}

// likeness returns what a connection of a type that can't be compared is found by: the one that it
// wraps, or else its ends. Those of a Unix socket's clients are all the same.
func likeness(conn net.Conn) any {
	if in := inner(conn); in != nil && canCompare(in) {
		return in
	}
	type ends struct{ local, remote string }
	id := ends{}
	if a := conn.LocalAddr(); a != nil {
		id.local = a.Network() + " " + a.String()
	}
	if a := conn.RemoteAddr(); a != nil {
		id.remote = a.String()
	}
	return id
}
