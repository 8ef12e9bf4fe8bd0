package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/clienttls"
	"github.com/weirproxy/weir/proxy/sock"
)

// [Config].MaxClients bounds client connections. If all places are taken, clients that have been
// idle for a second are closed; if none is idle, new ones wait in the backlog. Clients that
// allow_clients refuses have a few places of their own. An idle client is closed after 60 s. After
// an answer to a client that may still be sending content, the proxy reads on, so that the answer
// arrives: for up to 30 s, or until 5 s pass without a byte.

const (
	// giveWayAfter is how long a client must have been idle before it may lose its place to
	// another. A lower value also evicts clients whose next request is already on its way.
	giveWayAfter = time.Second
	// giveWayShare sets how many places idle clients give up at a time: 1 in 64. Evicting several
	// at once spares a full server from looking at all its clients for each new one.
	giveWayShare = 64
	// lookForIdle is how often a full server looks for idle clients while a new one waits.
	lookForIdle = 100 * time.Millisecond
	// strangerTimeout bounds a refused client's TLS handshake, and then its request's head.
	strangerTimeout = 2 * time.Second
)

// Serve accepts clients from l, which must be a TCP listener, until Drain or Close closes l; then
// it returns nil. Serve takes l over, even when it fails. It may run for several listeners at once.
//
// A client's address is checked before the client gets a place. When all places are taken, the
// clients that have been idle longest are closed; if none is idle, new ones wait in the listener's
// backlog.
func (s *Server) Serve(l net.Listener) error { return s.serve(l, nil) }

// ServeTLS is Serve for a listener whose clients speak TLS, as config says; its ALPN is set. See
// [Config].ServesTLS.
func (s *Server) ServeTLS(l net.Listener, config *tls.Config) error {
	return s.serve(l, clienttls.New(config, &s.buffers, s.hangups))
}

// serve accepts clients; tls is nil where they speak plain HTTP or SOCKS5.
func (s *Server) serve(l net.Listener, tls *clienttls.Terminator) error {
	ln, err := sock.NewListener(l)
	if err != nil {
		return fmt.Errorf("serve proxy clients on %v: %w", l.Addr(), err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		ln.Close()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	for {
		fd, addr, err := s.accept(ln)
		if err != nil {
			if s.isClosed() {
				return nil
			}
			return fmt.Errorf("accept proxy clients on %v: %w", l.Addr(), err)
		}
		policy := s.policy.Load()
		balanced := contains(policy.ProxyProtocolFrom, addr.Addr())
		if !balanced && !policy.allowsClient(addr.Addr()) {
			s.turnAway(fd, addr, tls)
			continue
		}
		if !s.takePlace() {
			unix.Close(fd)
			return nil
		}
		s.receive(fd, addr, tls, balanced, s.places)
	}
}

// receive makes a client of an accepted connection, which has one of the given places.
func (s *Server) receive(fd int, addr netip.AddrPort, tls *clienttls.Terminator, balanced bool, places chan struct{}) {
	if tls != nil {
		s.receiveTLS(fd, addr, tls, balanced, places)
		return
	}
	c := newConn(s, sock.New(fd, &s.buffers), addr)
	c.balanced, c.places, c.stranger = balanced, places, places == s.strangers
	s.start(c)
}

// turnAway answers a client that may not use the proxy and closes its connection. Such clients have
// places of their own, so they never take an allowed client's; when those are taken, the connection
// is closed without an answer.
func (s *Server) turnAway(fd int, addr netip.AddrPort, tls *clienttls.Terminator) {
	select {
	case s.strangers <- struct{}{}:
		s.receive(fd, addr, tls, false, s.strangers)
	default:
		unix.Close(fd)
		(&conn{srv: s, addr: addr}).noteRefusal(&refuseClient)
	}
}

// takePlace waits for a place; false means that the server has been stopped.
func (s *Server) takePlace() bool {
	select {
	case s.places <- struct{}{}:
		return true
	default:
	}
	look := time.NewTicker(lookForIdle)
	defer look.Stop()
	for first := true; ; first = false {
		if gaveWay := s.makePlace(time.Now()); (first || gaveWay > 0) && s.crowded.Show() {
			s.log.Warn("every place for a client is taken: new clients take the places of idle ones, or wait if none is idle",
				"places", cap(s.places), "gave_way", gaveWay, "hint", "raise the limit of open files, or run more nodes")
		}
		select {
		case s.places <- struct{}{}:
			return true
		case <-look.C:
		case <-s.ctx.Done():
			return false
		}
	}
}

// idler is a connection that may lose its place.
type idler struct {
	since time.Time
	end   func()
}

// makePlace closes the connections that have been idle longest, a few at a time, and returns how
// many it closed.
func (s *Server) makePlace(now time.Time) (gaveWay int) {
	idlers := s.idlers(now.Add(-giveWayAfter))
	slices.SortFunc(idlers, func(a, b idler) int { return a.since.Compare(b.since) })
	idlers = idlers[:min(len(idlers), max(cap(s.places)/giveWayShare, 1))]
	for _, i := range idlers {
		i.end()
	}
	return len(idlers)
}

// idlers returns the clients that have been idle since before the given time, and the connections
// whose TLS handshake has been unfinished since then.
func (s *Server) idlers(before time.Time) (idlers []idler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if since := c.idleSince(); !since.IsZero() && since.Before(before) && !c.stranger {
			idlers = append(idlers, idler{since, c.closeIdle})
		}
	}
	for n := range s.newcomers {
		if !n.greeted && n.since.Before(before) && n.places == s.places {
			idlers = append(idlers, idler{n.since, n.wire.Reset})
		}
	}
	return idlers
}

// accept accepts a connection. It retries after errors that pass, such as too many open files.
func (s *Server) accept(l *sock.Listener) (fd int, addr netip.AddrPort, err error) {
	pause := time.Duration(0)
	for {
		fd, addr, err = l.Accept()
		if err == nil || !isExhausted(err) && !sock.IsReset(err) && !errors.Is(err, unix.ECONNABORTED) {
			return fd, addr, err
		}
		if isExhausted(err) {
			s.idle.giveWay(1 + maxIdle/giveWayShare)
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		if s.accepts.Show() {
			s.log.Warn("a client could not be accepted", "error", err, "retry_in", pause)
		}
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			return 0, addr, err
		}
	}
}

// start hands a client to an idle worker, or to a new one if none is idle.
func (s *Server) start(c *conn) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		c.sock.Close()
		c.freePlace()
		return
	}
	s.clients[c] = struct{}{}
	s.work.Add(1)
	s.mu.Unlock()
	s.counters.Clients.Add(1)
	select {
	case s.toIdleWorker <- c:
	default:
		go s.serveClients(c)
	}
}

// serveClients serves one client after another. Reusing the goroutine saves the next client the
// cost of growing a stack.
func (s *Server) serveClients(c *conn) {
	w := new(worker)
	for c != nil {
		if c.serve(w) {
			s.left(c)
		}
		if s.idleWorkers.Add(1) > maxIdleWorkers {
			s.idleWorkers.Add(-1)
			return
		}
		c = <-s.toIdleWorker
		s.idleWorkers.Add(-1)
	}
}

// left removes a client whose connection is over.
func (s *Server) left(c *conn) {
	c.end()
	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
	s.counters.Clients.Add(-1)
	c.freePlace()
	s.work.Done()
}

// freePlace gives back the client's place. A TLS client's place belongs to its newcomer, which
// keeps it for as long as the client's TLS holds descriptors.
func (c *conn) freePlace() {
	if c.places != nil {
		<-c.places
	}
}
