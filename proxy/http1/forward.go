package http1

import (
	"bytes"
	"strconv"
)

// StatusPrefix begins every answer.
const StatusPrefix = "HTTP/1.1 "

// Absolute splits an absolute-form target (RFC 9112 §3.2.2). path is what the origin gets; it
// begins with "/", except in an OPTIONS for the server as a whole, where it is "*".
func (h *Head) Absolute(method string) (authority, path []byte, _ error) {
	target := h.Target
	switch {
	case target[0] == '/' || string(target) == "*":
		return nil, nil, SyntaxError("not a proxy request: the target is a path, not a URL")
	case bytes.IndexByte(target, '#') >= 0:
		return nil, nil, SyntaxError("the target has a fragment")
	}
	rest, err := cutScheme(target)
	if err != nil {
		return nil, nil, err
	}
	end := 0
	for end < len(rest) && rest[end] != '/' && rest[end] != '?' {
		end++
	}
	authority, path = rest[:end], rest[end:]
	switch {
	case bytes.IndexByte(authority, '@') >= 0:
		// RFC 9110 §4.2.4: userinfo in a request is likely an attempt to deceive.
		return nil, nil, SyntaxError("the target has user information before its host")
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
func cutScheme(target []byte) ([]byte, error) {
	for _, scheme := range [...]string{"http://", "ws://"} {
		if hasPrefixFold(target, scheme) {
			return target[len(scheme):], nil
		}
	}
	for _, scheme := range [...]string{"https://", "wss://"} {
		if hasPrefixFold(target, scheme) {
			return nil, SyntaxError(scheme + ` URLs need a tunnel: send "CONNECT host:443 HTTP/1.1", and speak TLS through it`)
		}
	}
	return nil, SyntaxError("the target is neither an http:// nor a ws:// URL")
}

func hasPrefixFold(b []byte, lower string) bool {
	return len(b) >= len(lower) && equalFold(b[:len(lower)], lower)
}

// MaxForwards returns the Max-Forwards to send with an OPTIONS or TRACE request (RFC 9110 §7.6.2),
// or -1 for none. A request that may go no further is an error, because this node does not answer
// for itself.
func (h *Head) MaxForwards(method string) (int64, error) {
	if method != "OPTIONS" && method != "TRACE" {
		return -1, nil
	}
	for _, f := range h.Fields {
		if f.Kind != fieldMaxForwards {
			continue
		}
		n, ok := parseLength(f.Value)
		switch {
		case !ok:
			return 0, SyntaxError("malformed Max-Forwards")
		case n == 0:
			return 0, SyntaxError("Max-Forwards is 0")
		}
		return n - 1, nil
	}
	return -1, nil
}

// HasItem reports whether a comma-separated list has the item.
func HasItem(list []byte, lower string) bool {
	found := false
	eachItem(list, func(item []byte) { found = found || equalFold(item, lower) })
	return found
}

// AppendRequest appends the request head for the origin.
func (h *Head) AppendRequest(dst, authority, path []byte, forwards int64, upgrade bool, pseudonym string) []byte {
	dst = append(dst, h.Method...)
	dst = append(dst, ' ')
	dst = append(dst, path...)
	// RFC 9112 §3.2.2: the target's authority replaces Host.
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, authority...)
	dst = append(dst, "\r\n"...)
	for _, f := range h.Fields {
		switch {
		case h.hopByHop(f):
		case f.Kind == fieldMaxForwards && forwards >= 0:
			dst = append(dst, "Max-Forwards: "...)
			dst = strconv.AppendInt(dst, forwards, 10)
			dst = append(dst, "\r\n"...)
		case f.Kind == fieldExpect && h.Minor == 0: // RFC 9110 §10.1.1
		default:
			dst = appendField(dst, f.Name, f.Value)
		}
	}
	dst = h.appendFraming(dst, h.Chunked, h.Length)
	switch {
	case upgrade:
		dst = append(dst, "Connection: upgrade\r\nUpgrade: "...)
		dst = append(dst, h.Upgrade...)
		dst = append(dst, "\r\n"...)
	case h.trailersOK && h.Minor > 0:
		dst = append(dst, "TE: trailers\r\nConnection: TE\r\n"...)
	}
	dst = h.appendVia(dst, pseudonym)
	return append(dst, "\r\n"...)
}

// AppendResponse appends the response head for the client.
func (h *Head) AppendResponse(dst []byte, chunked bool, length int64, keep KeepAlive, pseudonym string) []byte {
	dst = append(dst, StatusPrefix...)
	dst = strconv.AppendInt(dst, int64(h.Status), 10)
	dst = append(dst, ' ')
	dst = append(dst, h.Reason...)
	dst = append(dst, "\r\n"...)
	for _, f := range h.Fields {
		if !h.hopByHop(f) || f.Kind == fieldHost {
			dst = appendField(dst, f.Name, f.Value)
		}
	}
	dst = h.appendFraming(dst, chunked, length)
	switch {
	case h.Status == 101:
		dst = append(dst, "Connection: upgrade\r\nUpgrade: "...)
		dst = append(dst, h.Upgrade...)
		dst = append(dst, "\r\n"...)
	case h.Status >= 200:
		dst = keep.Append(dst)
	}
	dst = h.appendVia(dst, pseudonym)
	return append(dst, "\r\n"...)
}

// appendFraming appends the field that says how the body ends.
func (h *Head) appendFraming(dst []byte, chunked bool, length int64) []byte {
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
func (h *Head) appendVia(dst []byte, pseudonym string) []byte {
	if h.Minor == 0 {
		dst = append(dst, "Via: 1.0 "...)
	} else {
		dst = append(dst, "Via: 1.1 "...)
	}
	dst = append(dst, pseudonym...)
	return append(dst, "\r\n"...)
}

// KeepAlive says whether the client's connection goes on after an answer.
type KeepAlive struct {
	On    bool
	Minor int // the request's version is HTTP/1.minor
}

// Append appends the Connection field, if one is needed.
func (k KeepAlive) Append(dst []byte) []byte {
	switch {
	case !k.On:
		return append(dst, "Connection: close\r\n"...)
	case k.Minor == 0:
		return append(dst, "Connection: keep-alive\r\n"...)
	}
	return dst
}
