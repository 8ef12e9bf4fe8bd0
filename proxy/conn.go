package proxy

import (
	"net/netip"
	"sync"
	"time"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/sock"
)

// conn is a client's connection, whatever is spoken on it. A worker's goroutine serves it, until it
// is over or a tunnel takes it over. See [protocol].
type conn struct {
	srv  *Server
	sock *sock.Conn
	addr netip.AddrPort
	in   sock.Reader

	method  string        // of the request in hand, for the log; "" before it is known
	subject limit.Subject // likewise; Host is zero before it is known, User "" without authentication

	bound *netip.AddrPort // if not nil, gets the local address of the connection dialled for it

	places    chan struct{} // holds the client's place; nil if its newcomer's do
	idleFrom  time.Time     // start of the idle time, if clock is clockIdle
	clock     clock         // what the read deadline measures
	first     bool          // no request has been answered yet
	balanced  bool          // the connection must begin with a PROXY header
	stranger  bool          // not allowed: it is answered once
	tunnelled bool          // a tunnel has taken over

	// Guarded by mu. gone is the watcher's last report; idle says that the client waits for a
	// request, and since is when that began; zero before it was first read from. ousted says that
	// closeIdle has ended it.
	gone   sock.Hangup
	idle   bool
	ousted bool
	mu     sync.Mutex
	since  time.Time
	flow   *flow

	ahead ahead // of the answer to the request in hand
}

func newConn(s *Server, sock *sock.Conn, addr netip.AddrPort) *conn {
	c := &conn{srv: s, sock: sock, addr: addr, first: true}
	c.in.Conn = sock
	return c
}

// serve serves the connection with what w has for its protocol. over is false if the connection
// lives on as a tunnel, which then ends it.
func (c *conn) serve(w *worker) (over bool) {
	if c.balanced {
		if err := c.identify(); err != nil {
			h := w.http.answer(c)
			h.refuseHead(err)
			h.leave()
			return true
		}
	}
	if first, ok := c.begin(); ok {
		w.protocol(c, first).serve()
	}
	return !c.tunnelled
}

// begin waits for the connection's first byte, which stays in hand. false means that the connection
// is over.
func (c *conn) begin() (first byte, ok bool) {
	if !c.setIdle(true) {
		return 0, false
	}
	if c.in.Len() == 0 {
		c.in.Before = c
		err := c.in.Fill()
		c.in.Before = nil
		if err != nil {
			c.setIdle(false)
			if c.stranger {
				c.noteRefusal(&refuseClient)
			}
			return 0, false
		}
	}
	return c.in.Bytes()[0], true
}

// end releases what serve has left open.
func (c *conn) end() {
	c.in.Release()
	c.sock.Close()
}

// nextRequest forgets the request in hand.
func (c *conn) nextRequest() {
	c.method, c.subject.Host, c.subject.User = "", limit.Target{}, ""
}

// mayUse reports whether the policy lets the client use the proxy.
func (c *conn) mayUse(p *Policy) bool { return !c.stranger && p.allowsClient(c.addr.Addr()) }

// identified completes the subject of the request in hand, whose user is known.
func (c *conn) identified(user string) {
	c.subject.User = user
	if !c.subject.Client.Addr.IsValid() {
		c.subject.Client = c.srv.names.client(c.addr.Addr())
	}
}

// clock is the meaning of a client's read deadline.
type clock uint8

const (
	clockNone clock = iota
	clockIdle       // until the first byte of the next request; one deadline may span several
	clockHead       // until the whole head; for the first, from the connection's start
)

// BeforeRead implements [sock.BeforeReader] for heads. It sets the read deadline once for each
// clock: header_timeout is for a whole head, however many reads that takes.
func (c *conn) BeforeRead() error {
	clock, timeout := clockIdle, clientIdleTimeout
	if c.first || c.in.Len() > 0 {
		clock, timeout = clockHead, c.headTimeout()
	}
	if c.clock == clock {
		return nil
	}
	now := time.Now()
	c.clock, c.idleFrom = clock, now
	c.setIdle(c.in.Len() == 0)
	return c.sock.SetReadDeadline(now.Add(timeout))
}

// headTimeout returns the time for a whole head.
func (c *conn) headTimeout() time.Duration {
	timeout := c.srv.policy.Load().HeaderTimeout
	if c.stranger {
		return min(timeout, strangerTimeout)
	}
	return timeout
}

// stillIdle reports whether the read deadline that has passed was left from an earlier wait, and
// extends it for this one.
func (c *conn) stillIdle() bool {
	if c.clock != clockIdle {
		return false
	}
	left := clientIdleTimeout - time.Since(c.idleFrom)
	return left > 0 && c.sock.SetReadDeadline(time.Now().Add(left)) == nil
}

// untimed clears the read deadline: the next read is not of a head.
func (c *conn) untimed() {
	if c.clock != clockNone {
		c.clock = clockNone
		c.sock.SetReadDeadline(time.Time{})
	}
}

// setIdle records whether the client waits for its next request; false means that the server takes
// no more requests, or that a request came as closeIdle ended the client: what follows it can't be
// read. A draining server answers such a request.
func (c *conn) setIdle(idle bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle, c.since = idle, c.idleFrom
	draining := c.srv.draining.Load()
	if idle && (c.srv.stopping.Load() || draining && !c.first) {
		return false
	}
	return !c.ousted || draining
}

// idleSince returns the time since which the client has waited for a request; zero if it has one.
func (c *conn) idleSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.idle {
		return time.Time{}
	}
	return c.since
}

// closeIdle ends the connection if it waits for a request, by waking its goroutine.
func (c *conn) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle {
		c.endIdle()
	}
}

// endIdle wakes the goroutine that waits for a request. Needs c.mu.
func (c *conn) endIdle() {
	c.ousted = true
	c.sock.CloseRead()
}

// use makes f the flow to which the client's hang-ups go. A hang-up that was reported before is
// passed on at once.
func (c *conn) use(f *flow) {
	if f == nil && c.flow == nil { // only this goroutine changes it
		return
	}
	c.mu.Lock()
	c.flow = f
	gone := c.gone
	c.mu.Unlock()
	if f != nil && gone != 0 {
		f.clientHungUp(c, gone)
	}
}

// current returns the flow that serves the request in hand; nil: none.
func (c *conn) current() *flow {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flow
}

// watch starts watching for the client's hang-up.
func (c *conn) watch() {
	if !c.sock.Watched() {
		c.srv.hangups.Add(c.sock, c.hungUp)
	}
}

func (c *conn) hungUp(kind sock.Hangup) {
	c.mu.Lock()
	f := c.flow
	c.gone = max(c.gone, kind)
	c.mu.Unlock()
	if f != nil {
		f.clientHungUp(c, kind)
	}
}

// openTunnel answers the request in hand with a tunnel to the target, or with a refusal, for which
// the caller has made the connection ready.
func (c *conn) openTunnel(p protocol, kind Kind, target limit.Target, former *pacing) {
	c.subject.Host = target
	c.untimed()
	f := &flow{srv: c.srv, target: target, client: c}
	f.kind.Store(uint32(kind))
	c.use(f)
	ok, refusal := f.open(&f.own)
	switch {
	case ok:
		c.srv.counters.Tunnels.Add(1)
		c.sock.Guard(f.slot, f.claims)
		if err := c.sock.Write(c.unsent(p.accepted()), nil, nil); err != nil {
			f.abort(errClientReset)
		}
		c.tunnelled = true
		f.tunnel(c, kind, &f.own, nil, former)
	case refusal == nil:
		c.sock.Reset()
	default:
		c.use(nil)
		p.refuse(refusal)
	}
}

// noteRefusal counts and logs a refusal, and returns its status.
func (c *conn) noteRefusal(r *refusal) (status int) {
	status = r.status(c.srv.policy.Load().RejectStatus)
	c.srv.counters.refused(r)
	c.logRefusal("request refused", r, "status", status)
	return status
}

// linger ends the connection so that the last answer arrives. Closing a socket with unread bytes,
// or before more bytes arrive, would reset it, and the client could lose the answer (RFC 9112
// §9.6). A client that may be sending content, and may read only afterwards, gets more time.
func (c *conn) linger(sending bool) {
	switch {
	case c.sock.CloseWrite() != nil:
	case sending:
		sock.DrainedWhile(c.sock, contentQuiet, contentLinger)
	default:
		sock.Drained(c.sock, lingerTimeout)
	}
}
