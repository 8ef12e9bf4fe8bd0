package limit

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Bounds on hosts, in bytes. A name is at most 255 octets on the wire, which
// leaves 253 characters of text (RFC 1035 section 2.3.4).
const (
	maxHostLen  = 253
	maxLabelLen = 63
	maxInputLen = 1024 // before IDNA, which can shrink its input

	maxTargetLen = maxHostLen + len(":65535")
)

// lookup maps Unicode names the way browsers do (UTS 46, non-transitional, with
// the bidi and joiner rules, without the STD3 and hyphen rules): what it lets
// through that no host name may have, checkName refuses afterwards.
var lookup = idna.New(
	idna.MapForLookup(),
	idna.Transitional(false),
	idna.BidiRule(),
	idna.StrictDomainName(false),
	idna.CheckHyphens(false),
)

// canonicalName reports whether s is a host name, no address, in canonical form.
// It may answer false for one that is: the slow path then finds out.
func canonicalName(s string) bool {
	if len(s) == 0 || len(s) > maxHostLen {
		return false
	}
	start := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '.':
			if i == start || i-start > maxLabelLen {
				return false
			}
			start = i + 1
		default:
			return false
		}
	}
	// An address's last label starts with a digit.
	return start < len(s) && len(s)-start <= maxLabelLen && !digit(s[start])
}

func parseHostSlow(s string) (Target, error) {
	switch {
	case s == "":
		return Target{}, fmt.Errorf("%w: it is empty", ErrHost)
	case len(s) > maxInputLen:
		return Target{}, hostErrorf(s, "is %d bytes long, a name has at most %d", len(s), maxHostLen)
	case s[0] == '[':
		if len(s) < 2 || s[len(s)-1] != ']' {
			return Target{}, hostErrorf(s, "must end with its bracket here: write [2001:db8::1]")
		}
		return parseIPv6(s, s[1:len(s)-1])
	case strings.Count(s, ":") == 1:
		return Target{}, hostErrorf(s, "must have no port here")
	case strings.IndexByte(s, ':') >= 0:
		return parseIPv6(s, s)
	}
	name, err := toASCII(s)
	if err != nil {
		return Target{}, err
	}
	// One trailing dot says that the name is fully qualified; it is the same name.
	name = strings.TrimSuffix(name, ".")
	if err := checkName(s, name); err != nil {
		return Target{}, err
	}
	if !endsInNumber(name) {
		return Target{Host: name}, nil
	}
	return parseIPv4(s, name)
}

// toASCII maps a name to lower-case ASCII. A name that is ASCII already is only
// lowered, its "xn--" labels included: they are what the DNS compares, byte by
// byte, and what the tables of one Unicode version say of them must not decide
// whether a server can read its log.
func toASCII(s string) (string, error) {
	ascii := true
	for i := 0; i < len(s); i++ {
		ascii = ascii && s[i] < utf8.RuneSelf
	}
	if ascii {
		return strings.ToLower(s), nil
	}
	if !utf8.ValidString(s) {
		return "", hostErrorf(s, "is not UTF-8")
	}
	name, err := lookup.ToASCII(s)
	if err != nil {
		return "", hostErrorf(s, "has no ASCII form: %v", err)
	}
	return strings.ToLower(name), nil
}

// checkName verifies a lower-case name without its trailing dot. Beyond letters,
// digits and hyphens it lets underscores through, as resolvers do.
func checkName(s, name string) error {
	if len(name) > maxHostLen {
		return hostErrorf(s, "is longer than %d characters", maxHostLen)
	}
	label := 0
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return hostErrorf(s, "has an empty label")
			}
			label = 0
			continue
		case 'a' <= c && c <= 'z', digit(c), c == '-', c == '_':
		case c == '%':
			return hostErrorf(s, "has a percent sign: write the name itself, not encoded")
		default:
			return hostErrorf(s, "has %q, which no host name has", rune(c))
		}
		if label++; label > maxLabelLen {
			return hostErrorf(s, "has a label longer than %d characters", maxLabelLen)
		}
	}
	if label == 0 {
		return hostErrorf(s, "has an empty label")
	}
	return nil
}

// endsInNumber reports whether a name's last label makes it an address or
// nothing (WHATWG URL, "ends in a number"): no such top-level domain exists, and
// resolvers would disagree on what it means.
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// parseIPv4 reads what inet_aton(3) reads: one to four parts, each decimal,
// octal ("0…") or hexadecimal ("0x…"), of which the last fills all the bytes that
// are left. A bare "0x" is 0, as in BSD and in browsers.
func parseIPv4(s, name string) (Target, error) {
	// The canonical form costs no allocation: it can't have leading zeros.
	if a, err := netip.ParseAddr(name); err == nil {
		return Target{Host: name, Addr: a}, nil
	}
	parts := strings.Split(name, ".")
	if len(parts) > 4 {
		return Target{}, hostErrorf(s, "ends in a number, but has too many parts for an IPv4 address")
	}
	var sum uint64
	for i, p := range parts {
		most, bits := uint64(0xff), 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts))
			most = 1<<bits - 1
		}
		v, ok := parseIPv4Part(p, most)
		if !ok {
			return Target{}, hostErrorf(s, "ends in a number, but %q can't be part %d of an IPv4 address", p, i+1)
		}
		sum = sum<<bits | v
	}
	a := netip.AddrFrom4([4]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	return Target{Host: a.String(), Addr: a}, nil
}

// parseIPv4Part reads one number of at most most, which is below 2³².
func parseIPv4Part(p string, most uint64) (uint64, bool) {
	base := uint64(10)
	if hex, ok := strings.CutPrefix(p, "0x"); ok {
		p, base = hex, 16
	} else if len(p) > 1 && p[0] == '0' {
		p, base = p[1:], 8
	}
	var v uint64
	for i := 0; i < len(p); i++ {
		d := uint64(99)
		switch c := p[i]; {
		case digit(c):
			d = uint64(c - '0')
		case 'a' <= c && c <= 'f':
			d = uint64(c-'a') + 10
		}
		if d >= base {
			return 0, false
		}
		if v = v*base + d; v > most {
			return 0, false
		}
	}
	return v, true
}

// parseIPv6 reads IPv6 in any form of RFC 4291 section 2.2 and gives that of
// RFC 5952; an IPv4-mapped one is the IPv4 address, which is where the kernel
// connects. A zone is refused: it names an interface of one machine, so it can't
// name one host for the cluster, and only link-local addresses have any.
func parseIPv6(s, inner string) (Target, error) {
	if strings.IndexByte(inner, '%') >= 0 {
		return Target{}, hostErrorf(s, "has a zone: an address of one machine's interface can't be counted in a cluster")
	}
	a, err := netip.ParseAddr(inner)
	if err != nil || !a.Is6() {
		return Target{}, hostErrorf(s, "is not an IPv6 address")
	}
	a = a.Unmap()
	return Target{Host: a.String(), Addr: a}, nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func hostErrorf(s, format string, args ...any) error {
	return fmt.Errorf("%w: %s %s", ErrHost, shorten(s), fmt.Sprintf(format, args...))
}

// shorten quotes a user's text for an error, cut to a readable length.
func shorten(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
