package connlimit

import (
	"net/http"
	"net/netip"
	"strings"
)

// client returns the address that has sent r: the peer's, or, if that is a trusted proxy, the last
// one in its header that is not.
//
// The header is read from its end. Each trusted proxy vouches for the address that it has added;
// the first one that is not trusted is the client, and what stands before it is only the client's
// word. An address that can't be read ends the walk: the proxy that has added it is counted.
func (c *Config) client(r *http.Request) netip.Addr {
	client := parseHost(r.RemoteAddr)
	if client.IsValid() && !contains(c.TrustedProxies, client) || !client.IsValid() && !c.TrustUnix {
		return client
	}
	lines := r.Header[c.ForwardedHeader]
	for i := len(lines) - 1; i >= 0; i-- {
		rest, more := lines[i], true
		for more {
			var last string
			rest, last, more = cutLast(rest, ',')
			if last = strings.Trim(last, " \t"); last == "" {
				continue // RFC 9110, section 5.6.1: empty elements don't count
			}
			if c.ForwardedHeader == "Forwarded" {
				last = withoutHiddenPort(forParameter(last))
			}
			addr := parseHost(last).WithZone("") // a zone means something on the proxy alone
			if !addr.IsValid() {
				return client
			}
			client = addr
			if !contains(c.TrustedProxies, addr) {
				return client
			}
		}
	}
	return client
}

// cutLast splits s at its last separator outside of quotes (RFC 9110, section 5.6.4). It reads from
// the end, so a quote that a client has left open changes nothing in what proxies have added.
func cutLast(s string, separator byte) (rest, last string, more bool) {
	quoted := false
	for i := len(s) - 1; i >= 0; i-- {
		switch s[i] {
		case '"':
			backslashes := 0
			for backslashes < i && s[i-1-backslashes] == '\\' {
				backslashes++
			}
			if backslashes%2 == 0 {
				quoted = !quoted
			}
		case separator:
			if !quoted {
				return s[:i], s[i+1:], true
			}
		}
	}
	return "", s, false
}

// forParameter returns the value of for= in one element of Forwarded (RFC 7239, section 4), without
// quotes, or "": also for a hidden identifier and for unknown, which are no addresses, and where
// there is more than one.
func forParameter(element string) string {
	found := ""
	for rest, more := element, true; more; {
		var pair string
		rest, pair, more = cutLast(rest, ';')
		name, value, ok := strings.Cut(pair, "=")
		if !ok || !strings.EqualFold(strings.Trim(name, " \t"), "for") {
			continue
		}
		if found != "" {
			return ""
		}
		found = unquote(strings.Trim(value, " \t"))
	}
	return found
}

// unquote returns what a quoted string holds (RFC 9110, section 5.6.4); anything else as it is.
func unquote(s string) string {
	in, ok := strings.CutPrefix(s, `"`)
	if !ok {
		return s
	}
	in = strings.TrimSuffix(in, `"`)
	if !strings.Contains(in, `\`) {
		return in
	}
	var out strings.Builder
	for i := 0; i < len(in); i++ {
		if in[i] == '\\' && i+1 < len(in) {
			i++
		}
		out.WriteByte(in[i])
	}
	return out.String()
}

// withoutHiddenPort returns a node (RFC 7239, section 6) without a port that has a name in place of
// its number, as in 192.0.2.43:_a: the address is as good as with a number.
func withoutHiddenPort(node string) string {
	if i := strings.LastIndexByte(node, ':'); i >= 0 && strings.HasPrefix(node[i+1:], "_") {
		return node[:i]
	}
	return node
}
