package limit_test

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// The reference reads hosts, destinations and patterns from the rules alone, with as little
// cleverness as can be: the product's own page, RFC 1035 (lengths), RFC 3986 section 3.2.2
// (brackets), RFC 4291 section 2.2 and RFC 5952 (IPv6), RFC 3492 and RFC 5890 (names beyond ASCII),
// inet_aton(3) (IPv4 in every notation). Of Unicode it knows only letters that need no table, and
// says so where it has no opinion.
type verdict int

const (
	refused verdict = iota
	accepted
	noOpinion
)

// refHost normalises a host without a port.
func refHost(s string) (string, verdict) {
	if strings.HasPrefix(s, "[") != strings.HasSuffix(s, "]") || len(s) > 1024 {
		return "", refused
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		return refIPv6(inner[:len(inner)-1])
	}
	if strings.Contains(s, ":") {
		return refIPv6(s)
	}
	labels, v := refLabels(s)
	if v != accepted {
		return "", v
	}
	name := strings.Join(labels, ".")
	if len(name) > 253 {
		return "", refused
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", refused
		}
	}
	// A last label that is a number makes the whole an IPv4 address, or nothing: no top-level
	// domain is one.
	if _, number := refNumber(labels[len(labels)-1]); !number {
		return name, accepted
	}
	return refIPv4(labels)
}

// refLabels are the labels of a name, in lower case and in ASCII, without a final dot.
func refLabels(s string) ([]string, verdict) {
	if !utf8.ValidString(s) {
		return nil, refused
	}
	var mapped []rune
	ascii := true
	for _, r := range s {
		if r >= utf8.RuneSelf {
			ascii = false
		}
		m, known := refRune(r)
		if !known {
			return nil, noOpinion
		}
		mapped = append(mapped, m)
	}
	labels := strings.Split(string(mapped), ".")
	if len(labels) > 1 && labels[len(labels)-1] == "" {
		labels = labels[:len(labels)-1]
	}
	for i, l := range labels {
		if !ascii && strings.HasPrefix(l, "xn--") {
			return nil, noOpinion // whether it decodes to what may stand there is for tables to say
		}
		if strings.ContainsFunc(l, func(r rune) bool { return r >= utf8.RuneSelf }) {
			labels[i] = "xn--" + refPunycode([]rune(l))
		}
	}
	return labels, accepted
}

// refRune lowers a character, and reports whether it is one that needs no table.
func refRune(r rune) (rune, bool) {
	switch {
	case 'A' <= r && r <= 'Z':
		return r + ('a' - 'A'), true
	case r < utf8.RuneSelf:
		return r, true
	case r == 0x3002 || r == 0xff0e || r == 0xff61: // full stops
		return '.', true
	case 0xff01 <= r && r <= 0xff5e: // full-width ASCII
		return refRune(r - 0xfee0)
	case 0xc0 <= r && r <= 0xde && r != 0xd7: // Latin-1
		return r + 32, true
	case 0xdf <= r && r <= 0xff && r != 0xf7:
		return r, true
	case 0x391 <= r && r <= 0x3a9 && r != 0x3a2: // Greek
		return r + 32, true
	case 0x3b1 <= r && r <= 0x3c9:
		return r, true
	case 0x410 <= r && r <= 0x42f: // Cyrillic
		return r + 32, true
	case 0x430 <= r && r <= 0x44f:
		return r, true
	case 0x4e00 <= r && r <= 0x9fa5: // Han
		return r, true
	}
	return 0, false
}

// refPunycode is the procedure of RFC 3492 section 6.3.
func refPunycode(label []rune) string {
	const base, tmin, tmax, skew, damp = 36, 1, 26, 38, 700
	n, delta, bias := rune(128), 0, 72
	var out []byte
	for _, r := range label {
		if r < 128 {
			out = append(out, byte(r))
		}
	}
	basic := len(out)
	handled := basic
	if basic > 0 {
		out = append(out, '-')
	}
	for handled < len(label) {
		next := rune(utf8.MaxRune)
		for _, r := range label {
			if r >= n {
				next = min(next, r)
			}
		}
		delta += int(next-n) * (handled + 1)
		n = next
		for _, r := range label {
			if r < n {
				delta++
			}
			if r != n {
				continue
			}
			q := delta
			for k := base; ; k += base {
				t := min(max(k-bias, tmin), tmax)
				if q < t {
					break
				}
				out = append(out, "abcdefghijklmnopqrstuvwxyz0123456789"[t+(q-t)%(base-t)])
				q = (q - t) / (base - t)
			}
			out = append(out, "abcdefghijklmnopqrstuvwxyz0123456789"[q])
			if handled == basic {
				delta /= damp
			} else {
				delta /= 2
			}
			delta += delta / (handled + 1)
			k := 0
			for ; delta > (base-tmin)*tmax/2; k += base {
				delta /= base - tmin
			}
			bias = k + (base-tmin+1)*delta/(delta+skew)
			delta = 0
			handled++
		}
		delta++
		n++
	}
	return string(out)
}

// refNumber reports whether a label is written as a number, and which; one that means nothing
// ("08"), or is too large for an address, is -1.
func refNumber(l string) (value int64, number bool) {
	digits, base := l, int64(10)
	if hex, ok := strings.CutPrefix(l, "0x"); ok {
		digits, base = hex, 16
	}
	if strings.Trim(digits, "0123456789abcdef"[:base]) != "" || l == "" {
		return 0, false
	}
	if base == 10 && len(l) > 1 && l[0] == '0' {
		base = 8
	}
	for _, c := range digits {
		d := int64(strings.IndexRune("0123456789abcdef", c))
		if d >= base || value < 0 {
			return -1, true
		}
		if value = value*base + d; value > 1<<32-1 {
			value = -1
		}
	}
	return value, true
}

// refIPv4 reads one to four numbers: each is a byte, but the last fills what is left.
func refIPv4(labels []string) (string, verdict) {
	if len(labels) > 4 {
		return "", refused
	}
	var address int64
	for i, l := range labels {
		v, number := refNumber(l)
		room := int64(256)
		if i == len(labels)-1 {
			for range 4 - len(labels) {
				room *= 256
			}
		}
		if !number || v < 0 || v >= room {
			return "", refused
		}
		address = address*room + v
	}
	return fmt.Sprintf("%d.%d.%d.%d", address>>24, address>>16&255, address>>8&255, address&255), accepted
}

// refIPv6 reads the three forms of RFC 4291 section 2.2, and writes RFC 5952's; a mapped IPv4
// address is that address.
func refIPv6(s string) (string, verdict) {
	words, ok := refWords(s)
	if !ok {
		return "", refused
	}
	if slices.Equal(words[:6], []int{0, 0, 0, 0, 0, 0xffff}) {
		return fmt.Sprintf("%d.%d.%d.%d", words[6]>>8, words[6]&255, words[7]>>8, words[7]&255), accepted
	}
	// The first of the longest runs of at least two zeros becomes "::".
	from, to := 0, 0
	for i := range words {
		j := i
		for j < 8 && words[j] == 0 {
			j++
		}
		if j-i >= 2 && j-i > to-from {
			from, to = i, j
		}
	}
	if from == to {
		return refGroups(words), accepted
	}
	return refGroups(words[:from]) + "::" + refGroups(words[to:]), accepted
}

func refGroups(words []int) string {
	var groups []string
	for _, w := range words {
		groups = append(groups, fmt.Sprintf("%x", w))
	}
	return strings.Join(groups, ":")
}

// refWords are the eight words of an IPv6 address.
func refWords(s string) ([]int, bool) {
	before, after, short := strings.Cut(s, "::")
	head, ok1 := refWordList(before, !short)
	if !short {
		return head, ok1 && len(head) == 8
	}
	tail, ok2 := refWordList(after, true)
	zeros := 8 - len(head) - len(tail)
	if !ok1 || !ok2 || zeros < 1 {
		return nil, false
	}
	return slices.Concat(head, make([]int, zeros), tail), true
}

// refWordList reads groups between colons; the last may be a dotted IPv4 address, where the list is
// the address's end.
func refWordList(s string, end bool) (words []int, ok bool) {
	if s == "" {
		return nil, true
	}
	groups := strings.Split(s, ":")
	for i, g := range groups {
		if end && i == len(groups)-1 && strings.Contains(g, ".") {
			b, ok := refDotted(g)
			return append(words, b[0]<<8|b[1], b[2]<<8|b[3]), ok
		}
		if len(g) < 1 || len(g) > 4 || strings.Trim(g, "0123456789abcdefABCDEF") != "" {
			return nil, false
		}
		w := 0
		fmt.Sscanf(g, "%x", &w)
		words = append(words, w)
	}
	return words, true
}

// refDotted reads four decimal bytes without leading zeros.
func refDotted(s string) (b [4]int, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return b, false
	}
	for i, p := range parts {
		for v := range 256 {
			if fmt.Sprint(v) == p {
				b[i], ok = v, true
				break
			}
			ok = false
		}
		if !ok {
			return b, false
		}
	}
	return b, true
}

// refPort reads a port; 0 is none.
func refPort(s string) int {
	if s == "" || len(s) > 16 || strings.Trim(s, "0123456789") != "" {
		return 0
	}
	s = strings.TrimLeft(s, "0")
	port := 0
	if len(s) <= 5 {
		fmt.Sscanf(s, "%d", &port)
	}
	if port > 65535 {
		return 0
	}
	return port
}

// refSplit cuts host and port (RFC 3986 section 3.2). Where nothing stands in brackets, one colon
// is the port's.
func refSplit(s string) (host, port string, hasPort, ok bool) {
	if strings.HasPrefix(s, "[") {
		i := strings.Index(s, "]")
		if i < 0 {
			return "", "", false, false
		}
		host, rest := s[:i+1], s[i+1:]
		if rest == "" {
			return host, "", false, true
		}
		return host, rest[1:], true, rest[0] == ':'
	}
	switch strings.Count(s, ":") {
	case 0:
		return s, "", false, true
	case 1:
		host, port, _ := strings.Cut(s, ":")
		return host, port, true, true
	}
	return "", "", false, false
}

// refTarget is the canonical text of a destination; an empty port is none, and then the default
// counts.
func refTarget(s string, defaultPort uint16) (host string, port int, v verdict) {
	host, text, _, ok := refSplit(s)
	if !ok {
		return "", 0, refused
	}
	host, v = refHost(host)
	port = int(defaultPort)
	if text != "" {
		port = refPort(text)
	}
	if v != noOpinion && port == 0 {
		return "", 0, refused
	}
	return host, port, v
}
