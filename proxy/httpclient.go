package proxy

import (
	"errors"
	"os"
	"time"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/auth"
	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/sock"
)

// Accepted credentials are remembered, as a MAC, because a bcrypt check costs a core tens of
// milliseconds. A password that is changed or removed in the file counts from the next request on;
// open tunnels stay. Few checks run at a time, and an address that fails often gets 429 without a
// check. That also hits others behind the same address, until their own password has passed once.

// A head must fit into the buffer that it is read through.
const _ = uint(sock.MaxBuffered - http1.MaxHead)

// httpClient is a client that speaks HTTP: its requests are answered one after the other; a CONNECT
// is the last. It implements [protocol].
type httpClient struct {
	*conn
	out      sock.Writer
	head     http1.Head
	headLen  int       // bytes of the request's head still in hand
	exchange *exchange // of plain requests; nil before the first
}

// answer makes conn the connection that is answered.
func (c *httpClient) answer(conn *conn) *httpClient {
	c.conn, c.out.Conn, c.headLen, c.exchange = conn, conn.sock, 0, nil
	c.head.Clear()
	conn.ahead.begin = http1.StatusPrefix
	return c
}

// serve implements [protocol].
func (c *httpClient) serve() {
	defer c.leave()
	for c.next() {
		c.sock.Stall = stallTimeout
		if !c.handle() {
			break
		}
		c.first = false
	}
}

// leave releases what belongs to the requests, but not to their connection, and forgets both.
func (c *httpClient) leave() {
	if c.exchange != nil {
		c.exchange.end()
	}
	c.out.Release()
	c.conn, c.exchange = nil, nil
}

// next reads a request's head into c.head. false means that the connection is over, and answered if
// needed.
func (c *httpClient) next() bool {
	if !c.setIdle(true) {
		return false
	}
	c.nextRequest()
	c.head.Clear() // an idle client keeps no bytes of it
	c.in.Before = c.conn
	b, err := http1.ReadHead(&c.in)
	for errors.Is(err, os.ErrDeadlineExceeded) && c.stillIdle() {
		b, err = http1.ReadHead(&c.in)
	}
	c.in.Before = nil
	stays := c.setIdle(false)
	if c.clock == clockHead {
		c.untimed()
	}
	c.headLen = len(b)
	if err == nil && !stays {
		return false
	}
	if err == nil {
		err = c.head.ParseRequest(b)
	}
	if err != nil {
		c.refuseHead(err)
		return false
	}
	c.method = methodName(c.head.Method)
	return true
}

// refuseHead answers a malformed or late head, if the client is still there to read the answer.
func (c *httpClient) refuseHead(err error) {
	var syntax http1.SyntaxError
	var header auth.HeaderError
	switch {
	case !c.balanced && auth.BeginsProxyHeader(c.in.Bytes()):
		c.respond(&refuseBalancer, http1.KeepAlive{})
	case err == http1.ErrNotHTTP && c.in.Len() > 0:
		c.refuseForeign(c.in.Bytes()[0])
	case errors.As(err, &syntax):
		c.respond(badRequest(string(syntax)), http1.KeepAlive{})
	case errors.As(err, &header):
		c.respond(badRequest(string(header)), http1.KeepAlive{})
	case err == http1.ErrTooLong:
		c.respond(&refuseTooLarge, http1.KeepAlive{})
	case err == http1.ErrTooMany:
		c.respond(&refuseTooMany, http1.KeepAlive{})
	case errors.Is(err, os.ErrDeadlineExceeded) && c.in.Len() > 0:
		c.respond(&refuseTimeout, http1.KeepAlive{})
	case c.stranger:
		c.noteRefusal(&refuseClient)
	}
}

// consume drops the request's head, and with it everything that c.head points to.
func (c *httpClient) consume() {
	c.in.Skip(c.headLen)
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

// handle answers the request in c.head; false ends the connection.
func (c *httpClient) handle() bool {
	s := c.srv
	s.counters.Requests.Add(1)
	c.ahead.state.Store(answerOpen)
	h, policy := &c.head, s.policy.Load()
	keep := c.keepAlive()
	switch {
	case !c.mayUse(policy):
		return c.turnAway(&refuseClient, http1.KeepAlive{})
	case policy.Protocols&HTTP == 0:
		return c.turnAway(&refuseHTTP, http1.KeepAlive{})
	case h.PassedThrough(s.via()):
		return c.turnAway(&refuseLoop, keep)
	case s.draining.Load():
		return c.turnAway(&refuseDraining, http1.KeepAlive{})
	}
	user, refusal := c.authenticate(policy)
	if refusal != nil {
		return c.turnAway(refusal, keep)
	}
	c.identified(user)
	if c.method == "CONNECT" {
		c.connect()
		return false
	}
	return c.plain(keep)
}

// authenticate returns the request's user, or "" if the policy has no users.
func (c *httpClient) authenticate(p *Policy) (user string, _ *refusal) {
	if p.roster == nil {
		return "", nil
	}
	switch c.head.Authorizations {
	case 0:
		return "", &refuseAnonymous
	case 1:
	default: // another parser might read another one of them
		return "", &refuseCredentials
	}
	user, err := c.srv.gate.Basic(c.srv.ctx, p.roster, c.head.Authorization, c.addr.Addr())
	if err != nil {
		return "", refuseUser(err)
	}
	return user, nil
}

// connect opens a tunnel.
func (c *httpClient) connect() {
	h := &c.head
	target, err := limit.ParseTarget(string(h.Target), 0)
	switch {
	case err != nil:
		c.respond(badRequest("CONNECT needs host:port: "+err.Error()), http1.KeepAlive{})
		return
	case h.Chunked || h.Length > 0:
		c.respond(badRequest("CONNECT with content"), http1.KeepAlive{})
		return
	}
	c.consume()
	var former *pacing
	if c.exchange != nil {
		former = &c.exchange.pacing
		former.end() // it is the former target's
	}
	c.openTunnel(c, KindConnect, target, former)
}

// accepted implements [protocol].
func (c *httpClient) accepted() []byte { return c.srv.loop.Load().answer() }

// refuse implements [protocol].
func (c *httpClient) refuse(r *refusal) { c.respond(r, http1.KeepAlive{}) }

// established answers a CONNECT (RFC 9110 §9.3.6) if there is no loop mark to include.
var established = []byte(establishedLine + "\r\n\r\n")

const establishedLine = http1.StatusPrefix + "200 Connection established"

// turnAway refuses the request in c.head before its target was looked at. The log names the target
// if it can be parsed.
func (c *httpClient) turnAway(r *refusal, keep http1.KeepAlive) bool {
	authority, port := c.head.Target, uint16(0)
	if c.method != "CONNECT" {
		authority, _, _ = c.head.Absolute(c.method)
		port = 80
	}
	if target, err := limit.ParseTarget(string(authority), port); err == nil {
		c.subject.Host = target
	}
	return c.respond(r, keep)
}

// keepAlive returns the request's wish.
func (c *httpClient) keepAlive() http1.KeepAlive {
	return http1.KeepAlive{On: c.head.Persists(), Minor: c.head.Minor}
}

// respond answers with a refusal, and reports whether the connection goes on. It goes on only if no
// content follows, because content must not be read as a request. The same holds for bytes behind a
// refused CONNECT, which were meant for the tunnel. A CONNECT without valid credentials can be
// repeated on the connection, unless such bytes are in hand already; bytes that come later fail for
// want of credentials.
func (c *httpClient) respond(r *refusal, keep http1.KeepAlive) bool {
	h := &c.head
	again := r.reason == reasonCredentials && c.in.Len() == c.headLen
	if h.Chunked || h.Length > 0 || c.method == "CONNECT" && !again {
		keep.On = false
	}
	status := c.noteRefusal(r)
	c.idleFrom = time.Now()
	c.consume()
	c.sock.Guard(nil, nil)
	c.sock.Stall = stallTimeout
	c.out.Set(c.unsent(r.render(c.out.Writable(), status, c.srv.loop.Load().field(), c.srv.status, c.subject.Host, keep, c.method == "HEAD")))
	if c.out.Flush() != nil {
		return false
	}
	if !keep.On {
		unread := c.method == "" && r.reason != reasonHeadTimeout // the head could not be parsed: content may follow
		c.linger(unread || h.Chunked || h.Length > int64(c.in.Len()))
	}
	return keep.On
}
