package limit

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// ErrPattern is wrapped by every error about a pattern that can't be one.
var ErrPattern = errors.New("not a pattern")

// Pattern is a parsed, canonical limit pattern and the scope that it is of. In scope host it is
// "host", "host:port", "*.suffix", "*.suffix:port", an address, a CIDR, or "*"; in scope client an
// address, a CIDR or "*"; in scope user a name or "*"; in scope key a name, "prefix*" or "*". In
// the scopes total and connection it is "". It is comparable: two spellings give one Pattern. The
// zero Pattern matches nothing and is invalid in a Limit.
type Pattern struct {
	text  string
	scope Scope
	// All below follows from text, so that == still compares patterns.
	host   string // exact: the host or name; suffix: what stands behind "*."; prefix: what stands before "*"
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
	patternPrefix // of names
	patternBare   // the only one of its scope
)

// ParsePattern parses and normalises a pattern of scope host; the error wraps ErrPattern and says
// what to write instead. "address/32" and "address" stay two patterns, of which the second is the
// more specific.
func ParsePattern(s string) (Pattern, error) {
	p, err := parseHostPattern(s)
	if err == nil {
		p.scope = ScopeHost
	}
	return p, err
}

// ParsePattern parses and normalises a pattern of the scope; the error wraps [ErrPattern] and says
// what to write instead.
func (s Scope) ParsePattern(text string) (p Pattern, err error) {
	switch s {
	case ScopeHost:
		return ParsePattern(text)
	case ScopeClient:
		p, err = parseClientPattern(text)
	case ScopeUser, ScopeKey:
		p, err = s.parseNamePattern(text)
	case ScopeTotal, ScopeConnection:
		if text != "" {
			return Pattern{}, patternErrorf(text, "stands in scope %s, which has no patterns: leave it out", s)
		}
		p = Pattern{kind: patternBare}
	default:
		return Pattern{}, patternErrorf(text, "is of scope %d, which is unknown here", s)
	}
	if err != nil {
		return Pattern{}, err
	}
	p.scope = s
	return p, nil
}

// parseClientPattern takes addresses in their usual forms only: a worker's address is no text.
func parseClientPattern(s string) (Pattern, error) {
	switch {
	case s == "*":
		return Pattern{text: "*", kind: patternAny}, nil
	case strings.Contains(s, "/"):
		return parseCIDR(s)
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil || a.Zone() != "" || strings.HasPrefix(s, "[") != strings.HasSuffix(s, "]") {
		return Pattern{}, patternErrorf(s, "is no client: write an address, a CIDR such as 10.0.0.0/8, or * for each address")
	}
	text := a.Unmap().String()
	return Pattern{text: text, host: text, kind: patternExact}, nil
}

// parseNamePattern is for users and for the names that programs choose.
func (s Scope) parseNamePattern(text string) (Pattern, error) {
	name, star := strings.CutSuffix(text, "*")
	switch {
	case text == "*":
		return Pattern{text: "*", kind: patternAny}, nil
	case text == "":
		return Pattern{}, patternErrorf(text, "is empty: write a name, or * for each")
	case strings.Contains(name, "*") || star && s == ScopeUser:
		return Pattern{}, patternErrorf(text, "has a star in a name: write %s", s.PatternForms())
	case strings.Contains(name, ":") && s == ScopeUser:
		return Pattern{}, patternErrorf(text, "has a colon, which no user's name has (RFC 7617, section 2)")
	}
	if err := checkLabel(text); err != nil {
		return Pattern{}, patternErrorf(text, "%w", err)
	}
	if star {
		return Pattern{text: text, host: name, kind: patternPrefix}, nil
	}
	return Pattern{text: text, host: text, kind: patternExact}, nil
}

// maxName bounds a user's name, and one that a program chooses, in characters.
const maxName = 255

// checkLabel verifies a name that is not a host's. It asks no table of Unicode, so that servers of
// different builds agree.
func checkLabel(name string) error {
	n := 0
	for _, r := range name {
		n++
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || r == 0x2028 || r == 0x2029 {
			return errors.New("has a character that can't be printed")
		}
	}
	if n == 0 || n > maxName {
		return fmt.Errorf("has %d characters: write 1 to %d", n, maxName)
	}
	return nil
}

// ErrName is wrapped by the errors of [CheckName].
var ErrName = errors.New("not a name")

// CheckName verifies a name that a program chose to be counted under: 1 to 255 printable
// characters.
func CheckName(name string) error {
	if err := checkLabel(name); err != nil {
		return fmt.Errorf("%w: %s %w", ErrName, shorten(name), err)
	}
	return nil
}

// PatternForms says what patterns of the scope look like.
func (s Scope) PatternForms() string {
	switch s {
	case ScopeHost:
		return "a host, host:port, *.suffix, an address, a CIDR or *"
	case ScopeClient:
		return "an address, a CIDR or *"
	case ScopeUser:
		return "a user's name or *"
	case ScopeKey:
		return "a name, prefix* or *"
	}
	return "no pattern"
}

// WildcardForms is an example of a pattern that may be shared.
func (s Scope) WildcardForms() string {
	switch s {
	case ScopeClient:
		return "a CIDR such as 10.0.0.0/8, or *"
	case ScopeUser:
		return "*"
	case ScopeKey:
		return "a prefix such as tenant/*, or *"
	case ScopeTotal, ScopeConnection:
		return "it on a scope that has patterns"
	}
	return "a pattern such as *.example.com"
}

func parseHostPattern(s string) (Pattern, error) {
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

// String is the canonical form, without the scope.
func (p Pattern) String() string { return p.text }

// Scope is what the pattern is of.
func (p Pattern) Scope() Scope { return p.scope }

// IsValid reports whether the pattern was parsed: the zero Pattern is not.
func (p Pattern) IsValid() bool { return p.kind != 0 }

// Name names the pattern in messages: with the scope in front where that is not host.
func (p Pattern) Name() string {
	if p.scope == ScopeHost || p.kind == 0 {
		return p.text
	}
	return strings.TrimSpace(p.scope.String() + " " + p.text)
}

// Compare orders patterns by scope, then by text.
func (p Pattern) Compare(o Pattern) int {
	return cmp.Or(cmp.Compare(p.scope, o.scope), strings.Compare(p.text, o.text))
}

// Wildcard reports whether the pattern can match more than one thing: a wildcard, a CIDR, a prefix
// or "*".
func (p Pattern) Wildcard() bool {
	switch p.kind {
	case patternSuffix, patternCIDR, patternPrefix, patternAny:
		return true
	}
	return false
}

// Why says why the pattern wins over others that match, for whoever asks which limit is in force.
func (p Pattern) Why() string {
	switch p.kind {
	case patternExact:
		if p.port != 0 {
			return "names the host and the port"
		}
		return "names the " + p.scope.String()
	case patternSuffix:
		if p.port != 0 {
			return "the longest wildcard with the port"
		}
		return "the longest wildcard that matches"
	case patternCIDR:
		return "the longest CIDR that has the address"
	case patternPrefix:
		return "the longest prefix of the name"
	case patternAny:
		return "nothing more specific matches"
	case patternBare:
		return "holds for everything"
	}
	return ""
}

func parseExact(s string) (Pattern, error) {
	t, err := ParseOptionalPort(s)
	if err != nil {
		return Pattern{}, fmt.Errorf("%w: %w", ErrPattern, err)
	}
	return Pattern{text: t.String(), host: t.Host, port: t.Port, kind: patternExact}, nil
}

func parseSuffix(s string) (Pattern, error) {
	t, err := ParseOptionalPort(s[2:])
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
func (p Pattern) key(t Target, shared bool) string {
	switch {
	case shared, p.kind == patternExact:
		// An exact pattern's text is its host, or host:port: the target's own.
		return p.text
	case p.port != 0:
		return t.String()
	}
	return t.Host
}

func patternErrorf(s, format string, args ...any) error {
	return fmt.Errorf("%w: %s %w", ErrPattern, shorten(s), fmt.Errorf(format, args...))
}
