package proxy

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/weirproxy/weir/limit"
)

// client is one client connection. A worker's goroutine reads its requests and answers them one
// after the other; a CONNECT is the last.
type client struct {
	srv  *Server
	sock *sock
	addr netip.AddrPort
	in   inbuf
	out  outbuf
	head *head // lent by the worker

	method  string        // of the request being answered
	subject limit.Subject // likewise; Host is zero before it is known, User "" without authentication
	headLen int           // bytes of the request's head still in hand
	first   bool          // no request has been answered yet

	balanced bool          // the connection must begin with a PROXY header
	stranger bool          // not allowed: it is answered once
	places   chan struct{} // holds the client's place; nil if its front's do
	clock    clock         // what the read deadline measures
	idleFrom time.Time     // start of the idle time, if clock is clockIdle

	exchange *exchange // of plain requests; nil before the first

	tunnelled bool // a CONNECT's tunnel has taken over

	ahead ahead // of the answer to the request in hand

	mu   sync.Mutex
	idle bool // waiting for a request
	// since is when that wait began; zero before the client was first read from.
	since time.Time
	flow  *flow
	gone  hangup // the watcher's last report
}

func newClient(s *Server, fd int, addr netip.AddrPort) *client {
	sock := newSock(fd, &s.buffers)
	c := &client{srv: s, sock: sock, addr: addr, first: true}
	c.in.sock, c.out.sock = sock, sock
	return c
}

// serve answers requests until the connection is over, and reads their heads into h. over is false
// if the connection lives on as a tunnel, which then ends it.
func (c *client) serve(h *head) (over bool) {
	c.head = h
	if c.balanced && !c.identify() {
		return true
	}
	for c.next() {
		c.sock.stall = stallTimeout
		if !c.handle() {
			break
		}
		c.first = false
	}
	c.head = nil
	return !c.tunnelled
}

// identify reads the load balancer's header, which names the client. false means that the
// connection is over, and answered if needed.
func (c *client) identify() bool {
	if !c.setIdle(true) {
		return false
	}
	c.in.before = c
	client, err := readProxyHeader(&c.in)
	c.in.before = nil
	c.setIdle(false)
	if err != nil {
		c.refuseHead(err)
		return false
	}
	if client.IsValid() {
		c.addr = client
	}
	return true
}

// end releases what serve has left open.
func (c *client) end() {
	if c.exchange != nil {
		c.exchange.vigil.timer.Stop()
		c.exchange.upload.end()
	}
	c.in.release()
	c.out.release()
	c.sock.close()
}

// next reads a request's head into c.head. false means that the connection is over, and answered if
// needed.
func (c *client) next() bool {
	if !c.setIdle(true) {
		return false
	}
	c.method, c.subject.Host, c.subject.User = "", limit.Target{}, ""
	c.in.before = c
	b, err := c.in.head()
	for errors.Is(err, os.ErrDeadlineExceeded) && c.stillIdle() {
		b, err = c.in.head()
	}
	c.in.before = nil
	c.setIdle(false)
	if c.clock == clockHead {
		c.untimed()
	}
	c.headLen = len(b)
	if err == nil {
		err = c.head.parseRequest(b)
	}
	if err != nil {
		c.refuseHead(err)
		return false
	}
	c.method = methodName(c.head.method)
	return true
}

// refuseHead answers a malformed or late head, if the client is still there to read the answer.
func (c *client) refuseHead(err error) {
	var syntax syntaxError
	switch {
	case err == errNotHTTP && c.in.len() > 0:
		c.refuseForeign(c.in.bytes()[0])
	case errors.As(err, &syntax):
		c.refuse(badRequest(string(syntax)), keepAlive{})
	case err == errTooLong:
		c.refuse(&refuseTooLarge, keepAlive{})
	case errors.Is(err, os.ErrDeadlineExceeded) && c.in.len() > 0:
		c.refuse(&refuseTimeout, keepAlive{})
	case c.stranger:
		c.noteRefusal(&refuseClient)
	}
}

// clock is the meaning of a client's read deadline.
type clock uint8

const (
	clockNone clock = iota
	clockIdle       // until the first byte of the next request; one deadline may span several
	clockHead       // until the whole head; for the first, from the connection's start
)

// beforeRead implements [beforeReader] for heads. It sets the read deadline once for each clock:
// header_timeout is for a whole head, however many reads that takes.
func (c *client) beforeRead() error {
	clock, timeout := clockIdle, clientIdleTimeout
	if c.first || c.in.len() > 0 {
		clock, timeout = clockHead, c.headTimeout()
	}
	if c.clock == clock {
		return nil
	}
	now := time.Now()
	c.clock, c.idleFrom = clock, now
	c.setIdle(c.in.len() == 0)
	return c.sock.conn.SetReadDeadline(now.Add(timeout))
}

// headTimeout returns the time for a whole head.
func (c *client) headTimeout() time.Duration {
	timeout := c.srv.policy.Load().HeaderTimeout
	if c.stranger {
		return min(timeout, strangerTimeout)
	}
	return timeout
}

// stillIdle reports whether the read deadline that has passed was left from an earlier wait, and
// extends it for this one.
func (c *client) stillIdle() bool {
	if c.clock != clockIdle {
		return false
	}
	left := clientIdleTimeout - time.Since(c.idleFrom)
	return left > 0 && c.sock.conn.SetReadDeadline(time.Now().Add(left)) == nil
}

// untimed clears the read deadline: the next read is not of a head.
func (c *client) untimed() {
	if c.clock != clockNone {
		c.clock = clockNone
		c.sock.conn.SetReadDeadline(time.Time{})
	}
}

// consume drops the request's head, and with it everything that c.head points to.
func (c *client) consume() {
	c.in.skip(c.headLen)
	c.headLen = 0
}

// methodName converts the method to a string, without an allocation for the usual ones.
func methodName(b []byte) string {
	for _, m := range [...]string{"GET", "CONNECT", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"} {
		if string(b) == m {
			return m
		}
	}
	return string(b)
}

// setIdle records whether the client waits for its next request; false means that the server takes
// no more requests.
func (c *client) setIdle(idle bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle, c.since = idle, c.idleFrom
	return !idle || !c.srv.stopping.Load() && (c.first || !c.srv.draining.Load())
}

// idleSince returns the time since which the client has waited for a request; zero if it has one.
func (c *client) idleSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.idle {
		return time.Time{}
	}
	return c.since
}

// closeIdle ends the connection if it waits for a request, by waking its goroutine.
func (c *client) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle {
		c.sock.closeRead()
	}
}

// handle answers the request in c.head; false ends the connection.
func (c *client) handle() bool {
	s := c.srv
	s.counters.Requests.Add(1)
	c.ahead.state.Store(answerOpen)
	h, policy := c.head, s.policy.Load()
	keep := c.keepAlive()
	switch {
	case c.stranger || !policy.allowsClient(c.addr.Addr()):
		return c.refuse(&refuseClient, keepAlive{})
	case h.passedThrough(s.via()):
		return c.refuse(&refuseLoop, keep)
	case s.draining.Load():
		return c.refuse(&refuseDraining, keepAlive{})
	}
	if policy.roster != nil {
		user, refusal := s.gate.user(s.ctx, policy.roster, h, c.addr.Addr())
		if refusal != nil {
			return c.refuse(refusal, keep)
		}
		c.subject.User = user
	}
	if !c.subject.Client.Addr.IsValid() {
		c.subject.Client = s.names.client(c.addr.Addr())
	}
	if c.method == "CONNECT" {
		c.connect()
		return false
	}
	return c.plain(keep)
}

// connect opens a tunnel.
func (c *client) connect() {
	h := c.head
	target, err := limit.ParseTarget(string(h.target), 0)
	switch {
	case err != nil:
		c.refuse(badRequest("CONNECT needs host:port: "+err.Error()), keepAlive{})
		return
	case h.chunked || h.length > 0:
		c.refuse(badRequest(string(errConnectBody)), keepAlive{})
		return
	}
	c.subject.Host = target
	c.consume()
	c.untimed()
	f := &flow{srv: c.srv, target: target, client: c}
	f.kind.Store(uint32(KindConnect))
	c.use(f)
	ok, refusal := f.open(&f.own)
	switch {
	case ok:
		c.srv.counters.Tunnels.Add(1)
		c.sock.guard(f.slot, f.claims)
		if err := c.sock.write(c.unsent(c.srv.loop.Load().answer()), nil, nil); err != nil {
			f.abort(errClientReset)
		}
		c.tunnelled = true
		f.tunnel(c, KindConnect, nil)
	case refusal == nil:
		c.sock.reset()
	default:
		c.use(nil)
		c.refuse(refusal, keepAlive{})
	}
}

// established answers a CONNECT (RFC 9110 §9.3.6) if there is no loop mark to include.
var established = []byte(establishedLine + "\r\n\r\n")

const establishedLine = statusPrefix + "200 Connection established"

// use makes f the flow to which the client's hang-ups go. A hang-up that was reported before is
// passed on at once.
func (c *client) use(f *flow) {
	if f == nil && c.flow == nil { // only this goroutine changes it
		return
	}
	c.mu.Lock()
	c.flow = f
	gone := c.gone
	c.mu.Unlock()
	if f != nil && gone != 0 {
		f.clientHungUp(gone)
	}
}

// watch starts watching for the client's hang-up.
func (c *client) watch() {
	if !c.sock.watch.on() {
		c.srv.hangups.add(c.sock, c.hungUp)
	}
}

func (c *client) hungUp(kind hangup) {
	c.mu.Lock()
	f := c.flow
	c.gone = max(c.gone, kind)
	c.mu.Unlock()
	if f != nil {
		f.clientHungUp(kind)
	}
}

// keepAlive says whether the client's connection goes on after an answer.
type keepAlive struct {
	on    bool
	minor int // the request's version is HTTP/1.minor
}

// render appends the Connection field, if one is needed.
func (k keepAlive) render(dst []byte) []byte {
	switch {
	case !k.on:
		return append(dst, "Connection: close\r\n"...)
	case k.minor == 0:
		return append(dst, "Connection: keep-alive\r\n"...)
	}
	return dst
}

// keepAlive returns the request's wish.
func (c *client) keepAlive() keepAlive {
	return keepAlive{c.head.persists(), c.head.minor}
}

// refuse answers with a refusal, and reports whether the connection goes on. It goes on only if no
// content follows, because content must not be read as a request. The same holds for bytes behind a
// refused CONNECT, which were meant for the tunnel. A CONNECT without valid credentials can be
// repeated on the connection, unless such bytes are in hand already; bytes that come later fail for
// want of credentials.
func (c *client) refuse(r *refusal, keep keepAlive) bool {
	h := c.head
	again := r.reason == reasonCredentials && c.in.len() == c.headLen
	if h.chunked || h.length > 0 || c.method == "CONNECT" && !again {
		keep.on = false
	}
	status := c.noteRefusal(r)
	c.idleFrom = time.Now()
	c.consume()
	c.sock.guard(nil, nil)
	c.sock.stall = stallTimeout
	c.out.set(c.unsent(r.render(c.out.writable(), status, c.srv.loop.Load().field(), c.srv.status, c.subject.Host, keep, c.method == "HEAD")))
	if c.out.flush() != nil {
		return false
	}
	if !keep.on {
		unread := c.method == "" && r.reason != reasonHeadTimeout // the head could not be parsed: content may follow
		c.linger(unread || h.chunked || h.length > int64(c.in.len()))
	}
	return keep.on
}

// noteRefusal counts and logs a refusal, and returns its status.
func (c *client) noteRefusal(r *refusal) (status int) {
	status = r.status(c.srv.policy.Load().RejectStatus)
	c.srv.counters.refused(r)
	c.logRefusal("request refused", status, r)
	return status
}

// linger ends the connection so that the last answer arrives. Closing a socket with unread bytes,
// or before more bytes arrive, would reset it, and the client could lose the answer (RFC 9112
// §9.6). A client that may be sending content, and may read only afterwards, gets more time.
func (c *client) linger(sending bool) {
	switch {
	case c.sock.closeWrite() != nil:
	case sending:
		drainedWhile(c.sock, contentQuiet, contentLinger)
	default:
		drained(c.sock, lingerTimeout)
	}
}

// logRefusal logs a refusal: every one at debug, otherwise a sample as warnings. A status of 0 is
// left out.
func (c *client) logRefusal(message string, status int, r *refusal) {
	s := c.srv
	log := s.log.Debug
	if !s.log.IsDebug() {
		if log = s.log.Warn; !s.refusals[r.counted()].show() {
			return
		}
	}
	fields := make([]any, 0, 22)
	fields = append(fields, "client", c.addr)
	if c.subject.User != "" {
		fields = append(fields, "user", c.subject.User)
	}
	fields = append(fields, "node", s.node, "method", c.method, "host", c.subject.Host.Host, "port", c.subject.Host.Port)
	if status > 0 {
		fields = append(fields, "status", status)
	}
	fields = append(fields, "error", r.code(), "details", r.details)
	if r.limit != nil {
		fields = append(fields, "scope", r.limit.Key.Scope.String(), "resource", r.limit.Key.Resource.String())
	}
	log(message, fields...)
}
