package proxy

import (
	"errors"
	"io"
	"net/netip"
	"os"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/socks5"
)

// SOCKS5 is told by its first byte, which begins no HTTP message. A client may send greeting,
// credentials, request and bytes for the tunnel in any pieces; answers are collected and sent
// before the node waits for the client. So one that sends everything at once costs one read and one
// write, as a CONNECT does. A reply has no room for a text or a loop mark: the log has
// the reason, and a nested tunnel by SOCKS5 is found by its destination alone.

// socksClient is a client that speaks SOCKS5 (RFC 1928): it is told how to authenticate, does so if
// it has to, and asks for one tunnel. It implements [protocol].
//
// Most clients wait for each answer; some send everything at once, with bytes for the tunnel behind
// it. So answers are collected, and sent before the node waits for the client, or together with the
// reply: a client that has sent its request does not wait for the choice of a method.
type socksClient struct {
	*conn
	out   []byte // answers that have not been sent
	buf   [maxSOCKSAnswers]byte
	local netip.AddrPort // the proxy's side of the connection to the destination
}

const (
	// maxSOCKSAnswers has room for a choice, a status and a reply with an IPv6 address.
	maxSOCKSAnswers = 2 + 2 + 22
	// socksBegin begins every reply, and every choice.
	socksBegin = "\x05"
)

// Refusals of what only SOCKS5 has.
var (
	refuseMethods     = *badRequest("the client offers neither to go without authentication nor a user and a password")
	refuseSubprotocol = *badRequest("the client's user and password are not as RFC 1929 has them")
	refuseRequest     = *badRequest("what follows the SOCKS5 greeting is no SOCKS5 request")
	refuseNoPort      = *badRequest("the destination's port is 0")
	refuseSlow        = refusal{reason: reasonHeadTimeout, details: "the SOCKS5 request took too long"}
	refuseCommand     = refusal{reason: reasonCommand, details: "the client asks for BIND or UDP ASSOCIATE, and this proxy does CONNECT only"}
	refuseAddressType = refusal{reason: reasonAddressType, details: "the destination is neither a name nor an IPv4 or IPv6 address"}
	refuseAddress     = refusal{reason: reasonAddress,
		details: "the client asks for an address, and this proxy takes names only: use socks5h:// in the proxy's URL"}
)

// answer makes c the connection that is answered.
func (c *socksClient) answer(accepted *conn) *socksClient {
	c.conn, c.out = accepted, c.buf[:0]
	c.ahead.begin, c.bound = socksBegin, &c.local
	return c
}

// serve implements [protocol].
func (c *socksClient) serve() {
	if !c.setIdle(false) {
		return
	}
	c.nextRequest()
	c.method, c.sock.Stall = "SOCKS5", stallTimeout
	policy := c.srv.policy.Load()
	method, ok := c.greet(policy)
	if !ok {
		return
	}
	if method == socks5.UserPassword && !c.authenticate(policy) {
		return
	}
	c.request(policy)
}

// greet reads the greeting and chooses a method; false means that the connection is over.
func (c *socksClient) greet(p *Policy) (socks5.Method, bool) {
	offered, n, err := readSOCKS(c, socks5.ParseGreeting)
	if err != nil {
		c.lost(err)
		return 0, false
	}
	method, refusal := c.choose(p, offered)
	c.in.Skip(n)
	c.out = socks5.AppendChoice(c.out, method)
	if refusal != nil {
		c.reject(refusal, "choice", int(method))
		return 0, false
	}
	return method, true
}

// choose picks one of the methods offered. A client that may not use the proxy is not asked for a
// password: it is refused when it has said what it wants. Credentials that nobody asked for are
// accepted, as in HTTP.
func (c *socksClient) choose(p *Policy, offered socks5.Methods) (socks5.Method, *refusal) {
	none, password := offered.Offer(socks5.NoAuthentication), offered.Offer(socks5.UserPassword)
	allowed := c.mayUse(p)
	switch {
	case none && (!allowed || p.roster == nil):
		return socks5.NoAuthentication, nil
	case !allowed:
		return socks5.NoneAcceptable, &refuseClient
	case password:
		return socks5.UserPassword, nil
	case none:
		return socks5.NoneAcceptable, &refuseAnonymous
	}
	return socks5.NoneAcceptable, &refuseMethods
}

// authenticate reads the user and the password, and answers whether they are right (RFC 1929).
// false means that the connection is over.
func (c *socksClient) authenticate(p *Policy) bool {
	given, n, err := readSOCKS(c, socks5.ParseCredentials)
	if errors.Is(err, socks5.ErrCredentialsVersion) {
		c.deny(&refuseSubprotocol)
		return false
	}
	if err != nil {
		c.lost(err)
		return false
	}
	var refusal *refusal
	if p.roster != nil {
		user, err := c.srv.gate.Password(c.srv.ctx, p.roster, given.Name, given.Password, c.addr.Addr())
		if err != nil {
			refusal = refuseUser(err)
		}
		c.subject.User = user
		c.untimed() // the check may have taken a while
	}
	c.in.Skip(n)
	if refusal != nil {
		c.deny(refusal)
		return false
	}
	c.out = socks5.AppendStatus(c.out, true)
	return true
}

// deny answers wrong credentials, and ends the connection.
func (c *socksClient) deny(r *refusal) {
	c.out = socks5.AppendStatus(c.out, false)
	c.reject(r, "auth_status", 1)
}

// request reads the request and opens the tunnel.
func (c *socksClient) request(p *Policy) {
	r, n, err := readSOCKS(c, socks5.ParseRequest)
	switch {
	case errors.Is(err, socks5.ErrAddressType):
		c.refuse(&refuseAddressType)
		return
	case errors.Is(err, socks5.ErrVersion):
		c.refuse(&refuseRequest)
		return
	case err != nil:
		c.lost(err)
		return
	}
	target, refusal := destination(&r)
	c.in.Skip(n)
	c.subject.Host = target
	c.srv.counters.Requests.Add(1)
	switch {
	case !c.mayUse(p):
		refusal = &refuseClient
	case r.Command != socks5.Connect:
		refusal = &refuseCommand
	case c.srv.draining.Load():
		refusal = &refuseDraining
	case refusal == nil && target.Addr.IsValid():
		refusal = c.address(p, target)
	}
	if refusal != nil {
		c.refuse(refusal)
		return
	}
	c.identified(c.subject.User)
	switch string(c.out) { // the reply goes out behind it
	case "":
	case socksBegin + "\x00": // a choice
		c.ahead.begin = socksBegin + "\x00" + socksBegin
	case "\x01\x00": // a status
		c.ahead.begin = "\x01\x00" + socksBegin
	default:
		c.ahead.begin = string(c.out[:1])
	}
	c.openTunnel(c, KindSOCKS5, target, nil)
}

// address refuses a destination that is an address, or notes that the client asks for one.
func (c *socksClient) address(p *Policy, target limit.Target) *refusal {
	if p.NamesOnly {
		return &refuseAddress
	}
	c.srv.noteAddress(c.addr.Addr(), target)
	return nil
}

// destination returns the request's, normalised as that of a CONNECT.
func destination(r *socks5.Request) (t limit.Target, _ *refusal) {
	if r.Addr.IsValid() {
		addr := r.Addr.Unmap()
		t = limit.Target{Host: addr.String(), Addr: addr}
	} else {
		var err error
		if t, err = limit.ParseHost(string(r.Name)); err != nil {
			return t, badRequest("the destination is malformed: " + err.Error())
		}
	}
	if t.Port = r.Port; t.Port == 0 {
		return t, &refuseNoPort
	}
	return t, nil
}

// readSOCKS reads one message, which stays in hand, and returns its length. Answers that have not
// been sent go out before it waits.
func readSOCKS[M any](c *socksClient, parse func([]byte) (M, int, error)) (m M, n int, err error) {
	for {
		if m, n, err = parse(c.in.Bytes()); n > 0 || err != nil {
			return m, n, err
		}
		if err = c.flush(); err != nil {
			return m, 0, err
		}
		c.in.Before = c.conn
		err = c.in.Fill()
		c.in.Before = nil
		if !c.setIdle(false) && err == nil { // it has waited for the client
			err = io.EOF
		}
		if err != nil {
			return m, 0, err
		}
	}
}

// flush sends the answers collected.
func (c *socksClient) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	err := c.sock.Write(c.out, nil, nil)
	c.out = c.out[:0]
	return err
}

// lost notes why a client has not said what it wants.
func (c *socksClient) lost(err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.srv.counters.refused(&refuseSlow)
		c.logRefusal("request refused", &refuseSlow)
	case c.stranger:
		c.srv.counters.refused(&refuseClient)
		c.logRefusal("request refused", &refuseClient)
	}
}

// accepted implements [protocol].
func (c *socksClient) accepted() []byte {
	c.conn.bound = nil
	return socks5.AppendReply(c.out, socks5.Succeeded, c.local)
}

// refuse implements [protocol].
func (c *socksClient) refuse(r *refusal) {
	reply := socksReplies[r.reason]
	c.out = c.unsent(socks5.AppendReply(c.out, reply, netip.AddrPort{}))
	c.reject(r, "reply", int(reply))
}

// reject notes a refusal, sends its answer, which field has for the log, and ends the connection.
func (c *socksClient) reject(r *refusal, field string, answer int) {
	c.srv.counters.refused(r)
	c.logRefusal("request refused", r, field, answer)
	c.in.Release()
	c.sock.Guard(nil, nil)
	c.sock.Stall = stallTimeout
	if c.flush() == nil {
		c.linger(false)
	}
}
