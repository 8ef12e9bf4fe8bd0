package limit

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Target is a normalised destination: what a worker asked to be connected to.
type Target struct {
	// Host is canonical: lower case, no trailing dot, IDNA as ASCII, IPv6 without
	// brackets, an IPv4 address in dotted decimal however it was written.
	Host string
	// Addr is valid where Host is an address literal. It is never IPv4-mapped and
	// has no zone.
	Addr netip.Addr
	// Port is 1 to 65535; 0 means "no particular port" when matching.
	Port uint16
}

// Errors about destinations.
var (
	// ErrHost is wrapped by every error about a host that can't be one.
	ErrHost = errors.New("not a host")
	// ErrPort is wrapped by every error about a port.
	ErrPort = errors.New("not a port")
)

// ParseHost normalises a host without a port. IPv6 may stand in brackets or bare.
// The result's Host, parsed again, is itself. A name that is canonical already
// costs no allocation, and then shares s's memory.
func ParseHost(s string) (Target, error) {
	if canonicalName(s) {
		return Target{Host: s}, nil
	}
	return parseHostSlow(s)
}

// ParseTarget normalises "host", "host:port", "[v6]", "[v6]:port"; defaultPort is used where none
// is given (0: a port is required). An empty port ("host:", RFC 3986 section 3.2.3) is none.
// Leading zeros of a port, which has at most 16 digits, are dropped, so that two spellings give one
// target. Like ParseHost's, the result may share s's memory; s is never much longer than it. Errors
// wrap ErrHost or ErrPort.
func ParseTarget(s string, defaultPort uint16) (Target, error) {
	host, port, err := splitPort(s)
	if err != nil {
		return Target{}, err
	}
	t, err := ParseHost(host)
	if err != nil {
		return Target{}, err
	}
	if port == "" {
		if defaultPort == 0 {
			return Target{}, fmt.Errorf("%w: %s has none: write %s", ErrPort, shorten(s), Target{t.Host, t.Addr, 443})
		}
		t.Port = defaultPort
		return t, nil
	}
	t.Port, err = parsePort(port)
	return t, err
}

// ParseOptionalPort is ParseTarget where no port means all of them: Port is 0 then, and IPv6 may
// stand bare.
func ParseOptionalPort(s string) (Target, error) {
	if strings.Count(s, ":") > 1 && s[0] != '[' {
		return ParseHost(s) // bare IPv6: its last colon is no port's
	}
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

// String is the target with its port, IPv6 in brackets; without a port it is the host.
func (t Target) String() string {
	if t.Port == 0 {
		return t.Host
	}
	var b [maxTargetLen]byte
	return string(t.appendTo(b[:0]))
}

// appendTo appends String. Comparing with the result then needs no memory.
func (t Target) appendTo(b []byte) []byte {
	switch {
	case t.Port == 0:
		return append(b, t.Host...)
	case t.Addr.Is6():
		b = append(b, '[')
		b = append(b, t.Host...)
		b = append(b, ']')
	default:
		b = append(b, t.Host...)
	}
	return strconv.AppendUint(append(b, ':'), uint64(t.Port), 10)
}

// splitPort cuts "host:port"; port is "" where none is given. A bracketed host
// keeps its brackets, which tell ParseHost that nothing but IPv6 may be inside.
func splitPort(s string) (host, port string, err error) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		switch {
		case end < 0:
			return "", "", hostErrorf(s, "has no closing bracket: write [2001:db8::1]:443")
		case end == len(s)-1:
			return s, "", nil
		case s[end+1] != ':':
			return "", "", hostErrorf(s, "has text behind the bracket that is no port: write [2001:db8::1]:443")
		}
		return s[:end+1], s[end+2:], nil
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", nil
	}
	if strings.IndexByte(s, ':') != i {
		return "", "", hostErrorf(s, "has more than one colon: write IPv6 in brackets, as in [2001:db8::1]:443")
	}
	return s[:i], s[i+1:], nil
}

// maxPortDigits bounds the digits of a port. RFC 3986 section 3.2.3 allows any number of leading
// zeros, but a host's name may be kept for long, and with it all of the text that it was cut from.
const maxPortDigits = 16

// parsePort accepts decimal digits alone: strconv would also take a sign.
func parsePort(s string) (uint16, error) {
	if len(s) > maxPortDigits {
		return 0, fmt.Errorf("%w: %s has more than %d digits", ErrPort, shorten(s), maxPortDigits)
	}
	n := 0
	for i := 0; i < len(s); i++ {
		d := int(s[i]) - '0'
		if d < 0 || d > 9 {
			return 0, fmt.Errorf("%w: %s: write digits only, 1 to 65535", ErrPort, shorten(s))
		}
		if n = n*10 + d; n > 65535 {
			return 0, fmt.Errorf("%w: %s is above 65535", ErrPort, shorten(s))
		}
	}
	if n == 0 {
		return 0, fmt.Errorf("%w: %s: ports start at 1", ErrPort, shorten(s))
	}
	return uint16(n), nil
}
