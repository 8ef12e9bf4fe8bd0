package limit_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// refPattern is a pattern's canonical parts.
type refPattern struct {
	kind string // "any", "cidr", "suffix", "exact"
	host string // of "suffix" and "exact"; the masked address of "cidr"
	bits int    // of "cidr"
	port int    // 0: all
}

func (p refPattern) String() string {
	host := p.host
	if p.port != 0 && strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	text := map[string]string{"any": "*", "cidr": fmt.Sprintf("%s/%d", p.host, p.bits), "suffix": "*." + host, "exact": host}[p.kind]
	if p.port != 0 {
		text += fmt.Sprintf(":%d", p.port)
	}
	return text
}

func readPattern(s string) (p refPattern, v verdict) {
	if s == "*" {
		return refPattern{kind: "any"}, accepted
	}
	if strings.Contains(s, "/") {
		return refCIDR(s)
	}
	p.kind = "exact"
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		p.kind, s = "suffix", rest
	}
	host, port, hasPort, ok := refSplit(s)
	if p.kind == "exact" && strings.Count(s, ":") > 1 && s[0] != '[' {
		host, hasPort, ok = s, false, true // IPv6 alone
	}
	if !ok {
		return p, refused
	}
	if hasPort {
		if p.port = refPort(port); p.port == 0 {
			return p, refused
		}
	}
	p.host, v = refHost(host)
	if p.kind == "suffix" && v == accepted && refAddress(p.host) != nil {
		return p, refused // no name ends in an address
	}
	return p, v
}

// refCIDR reads an address in its usual form and a length.
func refCIDR(s string) (refPattern, verdict) {
	address, length, _ := strings.Cut(s, "/")
	if strings.HasPrefix(address, "[") && strings.HasSuffix(address, "]") {
		address = address[1 : len(address)-1]
	}
	bits := -1
	for n := range 129 {
		if fmt.Sprint(n) == length {
			bits = n
		}
	}
	var bytes []int
	if b, ok := refDotted(address); ok {
		bytes = b[:]
	} else if words, ok := refWords(address); ok {
		for _, w := range words {
			bytes = append(bytes, w>>8, w&255)
		}
		if slices.Equal(words[:6], []int{0, 0, 0, 0, 0, 0xffff}) {
			bytes, bits = bytes[12:], bits-96 // what is mapped is IPv4
		}
	}
	if bytes == nil || bits < 0 || bits > 8*len(bytes) {
		return refPattern{}, refused
	}
	for i := range bytes {
		for bit := range 8 {
			if i*8+bit >= bits {
				bytes[i] &^= 128 >> bit
			}
		}
	}
	return refPattern{kind: "cidr", host: refText(bytes), bits: bits}, accepted
}

// refAddress are the bytes of a canonical address, nil for a name.
func refAddress(host string) (bytes []int) {
	if b, ok := refDotted(host); ok {
		return b[:]
	}
	if words, ok := refWords(host); ok && strings.Contains(host, ":") {
		for _, w := range words {
			bytes = append(bytes, w>>8, w&255)
		}
	}
	return bytes
}

func refText(bytes []int) string {
	if len(bytes) == 4 {
		return fmt.Sprintf("%d.%d.%d.%d", bytes[0], bytes[1], bytes[2], bytes[3])
	}
	var words []int
	for i := 0; i < 16; i += 2 {
		words = append(words, bytes[i]<<8|bytes[i+1])
	}
	host, _ := refIPv6(refGroups(words))
	return host
}

// matches reports whether a destination falls under the pattern.
func (p refPattern) matches(host string, port int) bool {
	if p.port != 0 && p.port != port {
		return false
	}
	address := refAddress(host)
	switch p.kind {
	case "any":
		return true
	case "exact":
		return p.host == host
	case "suffix":
		return address == nil && strings.HasSuffix(host, "."+p.host)
	}
	net := refAddress(p.host)
	if len(net) != len(address) {
		return false
	}
	for i := range p.bits {
		if (net[i/8]^address[i/8])&(128>>(i%8)) != 0 {
			return false
		}
	}
	return true
}

// compareSpecific orders by "the most specific wins": exact with port, exact, longest wildcard with
// port, longest wildcard, longest CIDR, "*".
func compareSpecific(a, b refPattern) int {
	rank := func(p refPattern) int {
		n := map[string]int{"any": 0, "cidr": 1, "suffix": 2, "exact": 4}[p.kind]
		if p.port != 0 {
			n++
		}
		return n
	}
	return cmp.Or(rank(a)-rank(b), len(a.host)*bit(a.kind == "suffix")-len(b.host)*bit(b.kind == "suffix"), a.bits-b.bits)
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
