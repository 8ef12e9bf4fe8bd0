package limit

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ErrPattern is wrapped by every error about a pattern that can't be one.
var ErrPattern = errors.New("not a pattern")

// Pattern is a parsed, canonical limit pattern: "host", "host:port", "*.suffix", "*.suffix:port",
// an address, a CIDR, or "*". It is comparable: two spellings give one Pattern. The zero Pattern
// matches nothing and is invalid in a Limit.
type Pattern struct {
	text string
	// All below follows from text, so that == still compares patterns.
	host   string // exact: the host; suffix: what stands behind "*."
	prefix netip.Prefix
	port   uint16 // 0: all ports together
	kind   patternKind
}

type patternKind uint8

const (
	patternExact patternKind = iota + 1
	patternSuffix
	patternCIDR
	patternAny
)

// ParsePattern parses and normalises; the error wraps ErrPattern and says what to write instead.
// "address/32" and "address" stay two patterns, of which the second is the more specific.
func ParsePattern(s string) (Pattern, error) {
	switch {
	case s == "":
		return Pattern{}, patternErrorf(s, "is empty: write a host, *.suffix, an address, a CIDR or *")
	case s == "*":
		return Pattern{text: "*", kind: patternAny}, nil
	case strings.Contains(s, "://"):
		return Pattern{}, patternErrorf(s, "is a URL: write the host alone, or host:port")
	case strings.Contains(s, "/"):
		return parseCIDR(s)
	case strings.HasPrefix(s, "*:"):
		return Pattern{}, patternErrorf(s, "limits one port of every host: write * for all ports, or *.suffix%s", s[1:])
	case strings.HasPrefix(s, "*."):
		return parseSuffix(s)
	case strings.HasPrefix(s, "*"):
		return Pattern{}, patternErrorf(s, "has a star that is no whole label: write *.%s", strings.Trim(s, "*."))
	case strings.Contains(s, "*"):
		return Pattern{}, patternErrorf(s, "has a star in the middle: only the first label can be one, as in *.example.com")
	}
	return parseExact(s)
}

// String is the canonical form.
func (p Pattern) String() string { return p.text }

// Wildcard reports whether the pattern can match more than one host: a wildcard, a CIDR or "*".
func (p Pattern) Wildcard() bool {
	return p.kind == patternSuffix || p.kind == patternCIDR || p.kind == patternAny
}

func parseExact(s string) (Pattern, error) {
	var t Target
	var err error
	if strings.Count(s, ":") > 1 && s[0] != '[' {
		t, err = ParseHost(s) // bare IPv6: its last colon is no port's
	} else {
		t, err = parseOptionalPort(s)
	}
	if err != nil {
		return Pattern{}, fmt.Errorf("%w: %w", ErrPattern, err)
	}
	return Pattern{text: t.String(), host: t.Host, port: t.Port, kind: patternExact}, nil
}

func parseSuffix(s string) (Pattern, error) {
	t, err := parseOptionalPort(s[2:])
	switch {
	case err != nil && strings.Contains(s[1:], "*"):
		return Pattern{}, patternErrorf(s, "has more than one star: *.suffix matches at any depth already")
	case err != nil:
		return Pattern{}, fmt.Errorf("%w: %w", ErrPattern, err)
	case t.Addr.IsValid():
		return Pattern{}, patternErrorf(s, "is a wildcard on an address: write a CIDR, as in 192.0.2.0/24")
	}
	var b [len("*.") + maxTargetLen]byte
	text := t.appendTo(append(b[:0], "*."...))
	if string(text) == s {
		return Pattern{text: s, host: t.Host, port: t.Port, kind: patternSuffix}, nil // canonical already
	}
	return Pattern{text: string(text), host: t.Host, port: t.Port, kind: patternSuffix}, nil
}

// parseOptionalPort is ParseTarget where no port means all of them.
func parseOptionalPort(s string) (Target, error) {
	host, port, err := splitPort(s)
	if err != nil {
		return Target{}, err
	}
	t, err := ParseHost(host)
	if err != nil || len(host) == len(s) {
		return t, err
	}
	t.Port, err = parsePort(port)
	return t, err
}

// parseCIDR takes addresses in their usual forms only: "10/8" would mean
// 0.0.0.10/8 to inet_aton, which nobody means.
func parseCIDR(s string) (Pattern, error) {
	addr, bits, _ := strings.Cut(s, "/")
	if strings.HasPrefix(addr, "[") && strings.HasSuffix(addr, "]") {
		addr = addr[1 : len(addr)-1]
	}
	if strings.Contains(bits, ":") {
		return Pattern{}, patternErrorf(s, "is a CIDR with a port: write the CIDR alone, or address:port")
	}
	p, err := netip.ParsePrefix(addr + "/" + bits)
	if err != nil {
		return Pattern{}, patternErrorf(s, "is not a CIDR: write it as 192.0.2.0/24 or 2001:db8::/32")
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return Pattern{}, patternErrorf(s, "cuts an IPv4-mapped address above its IPv4 part: write the IPv4 network, as in 192.0.2.0/24")
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	return Pattern{text: p.String(), prefix: p, kind: patternCIDR}, nil
}

// key is what a limit with this pattern counts a target under.
func (p Pattern) key(t Target, shared bool) Key {
	switch {
	case shared, p.kind == patternExact:
		// An exact pattern's text is its host, or host:port: the target's own.
		return HostConnections(p.text)
	case p.port != 0:
		return HostConnections(t.String())
	}
	return HostConnections(t.Host)
}

func patternErrorf(s, format string, args ...any) error {
	return fmt.Errorf("%w: %s %s", ErrPattern, shorten(s), fmt.Sprintf(format, args...))
}
