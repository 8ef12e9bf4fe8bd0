package proxy

import (
	"bytes"
	"unicode/utf8"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/http1"
)

// plain answers a request for an http:// URL; false ends the connection.
func (c *httpClient) plain(keep http1.KeepAlive) bool {
	h := &c.head
	authority, path, err := h.Absolute(c.method)
	if err != nil {
		return c.respond(badRequest(err.Error()), keep)
	}
	if c.exchange == nil {
		c.exchange = newExchange(c)
	}
	x := c.exchange
	if err := x.address(authority); err != nil {
		return c.respond(badRequest("the URL needs host or host:port: "+err.Error()), keep)
	}
	forwards, err := h.MaxForwards(c.method)
	if err != nil {
		return c.respond(badRequest(err.Error()), keep)
	}
	x.authenticates = x.authenticates || h.ForConnection
	x.keep, x.upgrade = keep, h.Upgrade != nil && !http1.HasItem(h.Upgrade, "h2c")
	x.head = h.AppendRequest(c.srv.buffers.Get()[:0], x.host, path, forwards, x.upgrade, c.srv.via())
	c.consume()
	x.body = http1.RequestBody(&c.in, h)
	return x.run()
}

// address makes the authority's host the client's target; the error says what is wrong with it. Most
// clients ask for the same host again, so the last one parsed is kept.
func (x *exchange) address(authority []byte) error {
	if len(authority) == 0 || !bytes.Equal(authority, x.authority) {
		target, err := limit.ParseTarget(string(authority), 80)
		if err != nil {
			return err
		}
		host := hostField(authority, target)
		if !http1.IsHost(host) {
			return limit.ErrHost
		}
		x.pacing.end() // it is the former target's
		if former := x.idle; former == nil || target != x.target {
			if x.idle = x.c.srv.idle.join(target); former != nil {
				x.c.srv.idle.leave(former)
			}
		}
		x.authority, x.host, x.target = append(x.authority[:0], authority...), append(x.host[:0], host...), target
	}
	x.c.subject.Host = x.target
	return nil
}

// hostField returns the value of Host: the authority as written, but a name in UTF-8, which no URI
// allows, in ASCII (RFC 3986 §3.2.2).
func hostField(authority []byte, target limit.Target) []byte {
	switch {
	case !bytes.ContainsFunc(authority, func(r rune) bool { return r >= utf8.RuneSelf }):
		return authority
	case target.Port == 80:
		return []byte(target.Host)
	}
	return []byte(target.String())
}
