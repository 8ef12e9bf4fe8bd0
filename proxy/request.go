package proxy

import (
	"bytes"
	"strconv"
	"unicode/utf8"

	"github.com/weirproxy/weir/limit"
)

// absolute splits an absolute-form target (RFC 9112 §3.2.2). path is what the origin gets; it
// begins with "/", except in an OPTIONS for the server as a whole, where it is "*".
func (h *head) absolute(method string) (authority, path []byte, _ *refusal) {
	target := h.target
	switch {
	case target[0] == '/' || string(target) == "*":
		return nil, nil, badRequest("not a proxy request: the target is a path, not a URL")
	case bytes.IndexByte(target, '#') >= 0:
		return nil, nil, badRequest("the target has a fragment")
	}
	rest, refusal := cutScheme(target)
	if refusal != nil {
		return nil, nil, refusal
	}
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, path = rest[:end], rest[end:]
	switch {
	case bytes.IndexByte(authority, '@') >= 0:
		// RFC 9110 §4.2.4: userinfo in a request is likely an attempt to deceive.
		return nil, nil, badRequest("the target has user information before its host")
	case len(path) == 0 && method == "OPTIONS":
		path = []byte("*")
	case len(path) == 0:
		path = []byte("/")
	case path[0] == '?':
		path = append([]byte("/"), path...)
	}
	return authority, path, nil
}

// cutScheme removes the scheme of a URL. Some clients ask for a WebSocket with ws:// instead of its
// handshake's http:// (RFC 6455 §4.1); that is the same request. https:// and wss:// need a tunnel.
func cutScheme(target []byte) ([]byte, *refusal) {
	for _, scheme := range [...]string{"http://", "ws://"} {
		if hasPrefixFold(target, scheme) {
			return target[len(scheme):], nil
		}
	}
	for _, scheme := range [...]string{"https://", "wss://"} {
		if hasPrefixFold(target, scheme) {
			return nil, badRequest(scheme + ` URLs need a tunnel: send "CONNECT host:443 HTTP/1.1", and speak TLS through it`)
		}
	}
	return nil, badRequest("the target is neither an http:// nor a ws:// URL")
}

func hasPrefixFold(b []byte, lower string) bool {
	return len(b) >= len(lower) && equalFold(b[:len(lower)], lower)
}

// plain answers a request for an http:// URL; false ends the connection.
func (c *httpClient) plain(keep keepAlive) bool {
	h := &c.head
	authority, path, refusal := h.absolute(c.method)
	if refusal != nil {
		return c.respond(refusal, keep)
	}
	if c.exchange == nil {
		c.exchange = newExchange(c)
	}
	x := c.exchange
	if !x.address(authority) {
		return c.respond(badRequest("the target's host is malformed"), keep)
	}
	forwards, refusal := c.maxForwards()
	if refusal != nil {
		return c.respond(refusal, keep)
	}
	x.keep, x.upgrade = keep, h.upgrade != nil && !hasItem(h.upgrade, "h2c")
	x.head = h.appendRequest(c.srv.buffers.get()[:0], x.host, path, forwards, x.upgrade, c.srv.via())
	c.consume()
	x.body = requestBody(&c.in, h)
	return x.run()
}

// address makes the authority's host the client's target; false means that it is malformed. Most
// clients ask for the same host again, so the last one parsed is kept.
func (x *exchange) address(authority []byte) bool {
	if len(authority) == 0 || !bytes.Equal(authority, x.authority) {
		target, err := limit.ParseTarget(string(authority), 80)
		if err != nil {
			return false
		}
		host := hostField(authority, target)
		if !isHost(host) {
			return false
		}
		x.upload.end() // it is the former target's
		x.authority, x.host, x.target = append(x.authority[:0], authority...), append(x.host[:0], host...), target
	}
	x.c.subject.Host = x.target
	return true
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

// maxForwards returns the Max-Forwards to send with an OPTIONS or TRACE request (RFC 9110 §7.6.2),
// or -1 for none. A request that may go no further is refused, because this node does not answer
// for itself.
func (c *httpClient) maxForwards() (int64, *refusal) {
	if c.method != "OPTIONS" && c.method != "TRACE" {
		return -1, nil
	}
	for _, f := range c.head.fields {
		if f.kind != fieldMaxForwards {
			continue
		}
		n, ok := parseLength(f.value)
		switch {
		case !ok:
			return 0, badRequest("malformed Max-Forwards")
		case n == 0:
			return 0, badRequest("Max-Forwards is 0")
		}
		return n - 1, nil
	}
	return -1, nil
}

// hasItem reports whether a comma-separated list has the item.
func hasItem(list []byte, lower string) bool {
	found := false
	eachItem(list, func(item []byte) { found = found || equalFold(item, lower) })
	return found
}

// appendRequest appends the request head for the origin.
func (h *head) appendRequest(dst, authority, path []byte, forwards int64, upgrade bool, pseudonym string) []byte {
	dst = append(dst, h.method...)
	dst = append(dst, ' ')
	dst = append(dst, path...)
	// RFC 9112 §3.2.2: the target's authority replaces Host.
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, authority...)
	dst = append(dst, "\r\n"...)
	for _, f := range h.fields {
		switch {
		case h.hopByHop(f):
		case f.kind == fieldMaxForwards && forwards >= 0:
			dst = append(dst, "Max-Forwards: "...)
			dst = strconv.AppendInt(dst, forwards, 10)
			dst = append(dst, "\r\n"...)
		case f.kind == fieldExpect && h.minor == 0: // RFC 9110 §10.1.1
		default:
			dst = appendField(dst, f.name, f.value)
		}
	}
	dst = h.appendFraming(dst, h.chunked, h.length)
	switch {
	case upgrade:
		dst = append(dst, "Connection: upgrade\r\nUpgrade: "...)
		dst = append(dst, h.upgrade...)
		dst = append(dst, "\r\n"...)
	case h.trailersOK && h.minor > 0:
		dst = append(dst, "TE: trailers\r\nConnection: TE\r\n"...)
	}
	dst = h.appendVia(dst, pseudonym)
	return append(dst, "\r\n"...)
}

// appendResponse appends the response head for the client.
func (h *head) appendResponse(dst []byte, chunked bool, length int64, keep keepAlive, pseudonym string) []byte {
	dst = append(dst, statusPrefix...)
	dst = strconv.AppendInt(dst, int64(h.status), 10)
	dst = append(dst, ' ')
	dst = append(dst, h.reason...)
	dst = append(dst, "\r\n"...)
	for _, f := range h.fields {
		if !h.hopByHop(f) || f.kind == fieldHost {
			dst = appendField(dst, f.name, f.value)
		}
	}
	dst = h.appendFraming(dst, chunked, length)
	switch {
	case h.status == 101:
		dst = append(dst, "Connection: upgrade\r\nUpgrade: "...)
		dst = append(dst, h.upgrade...)
		dst = append(dst, "\r\n"...)
	case h.status >= 200:
		dst = keep.render(dst)
	}
	dst = h.appendVia(dst, pseudonym)
	return append(dst, "\r\n"...)
}

// appendFraming appends the field that says how the body ends.
func (h *head) appendFraming(dst []byte, chunked bool, length int64) []byte {
	switch {
	case chunked:
		return append(dst, "Transfer-Encoding: chunked\r\n"...)
	case length >= 0:
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, length, 10)
		return append(dst, "\r\n"...)
	}
	return dst
}

// appendVia appends this node's Via entry, with the version that the message was received with (RFC
// 9110 §7.6.3).
func (h *head) appendVia(dst []byte, pseudonym string) []byte {
	if h.minor == 0 {
		dst = append(dst, "Via: 1.0 "...)
	} else {
		dst = append(dst, "Via: 1.1 "...)
	}
	dst = append(dst, pseudonym...)
	return append(dst, "\r\n"...)
}
