package auth

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// block builds a header of version 2.
func block(command, kind byte, content string) string {
	b := append(slices.Clone(proxySignature), command, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(content)))
	return string(b) + content
}

const (
	// From 192.0.2.1:258 to 192.0.2.2:443, and the same in 2001:db8::/32.
	content4 = "\xc0\x00\x02\x01\xc0\x00\x02\x02\x01\x02\x01\xbb"
	content6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x01\x02\x01\xbb"
)

func TestProxyHeader(t *testing.T) {
	const none = ""
	for header, want := range map[string]string{
		"PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\n":                 "192.0.2.1:258",
		"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": "255.255.255.255:65535",
		"PROXY TCP6 2001:db8::1 2001:DB8::2 258 443\r\n":             "[2001:db8::1]:258",
		"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 0 0\r\n":       "192.0.2.1:0",
		"PROXY UNKNOWN\r\n": none,
		"PROXY UNKNOWN \xff\xff whatever 1 2 3 4 5 6\r\n":                            none,
		"PROXY UNKNOWN " + strings.Repeat("f", maxProxyLine-16) + "\r\n":             none,
		block(0x21, 0x11, content4):                                                  "192.0.2.1:258",
		block(0x21, 0x21, content6):                                                  "[2001:db8::1]:258",
		block(0x21, 0x11, content4+"\x04\x00\x01x"):                                  "192.0.2.1:258",
		block(0x21, 0x11, content4+strings.Repeat("x", maxProxyBlock-len(content4))): "192.0.2.1:258",
		block(0x20, 0x00, ""):                                                        none,
		block(0x20, 0x11, content4):                                                  none,
		block(0x20, 0xff, "xyz"):                                                     none,
		block(0x21, 0x00, "xyz"):                                                     none,
		block(0x21, 0x12, content4):                                                  none,
		block(0x21, 0x31, strings.Repeat("/", 216)):                                  none,
	} {
		for rest := range 2 {
			b := []byte(header + strings.Repeat("G", rest))
			client, n, err := ParseProxyHeader(b)
			got := none
			if client.IsValid() {
				got = client.String()
			}
			if err != nil || n != len(header) || got != want {
				t.Errorf("%q: %q, %d, %v", b, got, n, err)
			}
		}
	}
	for header, want := range map[string]error{
		"GET / HTTP/1.1\r\n": errNoProxyHeader, "\x16\x03\x01": errNoProxyHeader, "proxy TCP4": errNoProxyHeader, "PROXY\tTCP4": errNoProxyHeader,
		"\r\n\r\nGET": errNoProxyHeader,
		"PROXY TCP4 192.0.2.1 192.0.2.2 258 443\n":       errBadProxyHeader,
		"PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\r\n":   errBadProxyHeader,
		"PROXY TCP4 192.0.2.1  192.0.2.2 258 443\r\n":    errBadProxyHeader,
		"PROXY TCP4 192.0.2.1 192.0.2.2 258 443 \r\n":    errBadProxyHeader,
		"PROXY TCP4 192.0.2.1 192.0.2.2 258\r\n":         errBadProxyHeader,
		"PROXY TCP4 192.0.2.01 192.0.2.2 258 443\r\n":    errBadProxyHeader,
		"PROXY TCP4 2001:db8::1 2001:db8::2 258 443\r\n": errBadProxyHeader,
		"PROXY TCP6 192.0.2.1 192.0.2.2 258 443\r\n":     errBadProxyHeader,
		"PROXY TCP6 fe80::1%eth0 fe80::2 258 443\r\n":    errBadProxyHeader,
		"PROXY TCP4 192.0.2.1 192.0.2.2 258 65536\r\n":   errBadProxyHeader,
		"PROXY TCP4 192.0.2.1 192.0.2.2 0258 443\r\n":    errBadProxyHeader,
		"PROXY TCP4 192.0.2.1 192.0.2.2 +258 443\r\n":    errBadProxyHeader,
		"PROXY UDP4 192.0.2.1 192.0.2.2 258 443\r\n":     errBadProxyHeader,
		"PROXY \r\n": errBadProxyHeader,
		"PROXY UNKNOWN " + strings.Repeat("f", maxProxyLine) + "\r\n": errBadProxyHeader,
		block(0x11, 0x11, content4):                                   errBadProxyHeader,
		block(0x22, 0x11, content4):                                   errBadProxyHeader,
		block(0x21, 0x41, content4):                                   errBadProxyHeader,
		block(0x21, 0x13, content4):                                   errBadProxyHeader,
		block(0x21, 0x11, content4[1:]):                               errBadProxyHeader,
		block(0x21, 0x21, content6[1:]):                               errBadProxyHeader,
		block(0x21, 0x11, strings.Repeat("x", maxProxyBlock+1)):       errBadProxyHeader,
	} {
		if client, n, err := ParseProxyHeader([]byte(header)); err != want || client.IsValid() || n != 0 {
			t.Errorf("%q: %v, %d, %v; want %v", header, client, n, err, want)
		}
	}
}

// naiveProxyLine matches version 1 by the specification.
var naiveProxyLine = regexp.MustCompile(`^PROXY (UNKNOWN|UNKNOWN [^\r\n]*|TCP4 ([0-9.]+) ([0-9.]+) (\d+) (\d+)|TCP6 ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) (\d+) (\d+))\r\n`)

// naiveProxyHeader parses a whole header in another way; n is 0 if there is none.
func naiveProxyHeader(b []byte) (client string, n int) {
	if m := naiveProxyLine.FindSubmatch(b); m != nil {
		n := len(m[0])
		words := m[2:6]
		if m[6] != nil {
			words = m[6:10]
		}
		switch {
		case n > 107:
			return "", 0
		case words[0] == nil:
			return "", n
		}
		for i, w := range words {
			if i < 2 {
				ip, err := netip.ParseAddr(string(w))
				if err != nil || ip.Is4() != (m[6] == nil) {
					return "", 0
				}
			} else if p, err := strconv.Atoi(string(w)); err != nil || p > 65535 || fmt.Sprint(p) != string(w) {
				return "", 0
			}
		}
		return netip.MustParseAddr(string(words[0])).Unmap().String() + " " + string(words[2]), n
	}
	if !bytes.HasPrefix(b, []byte("\r\n\r\n\x00\r\nQUIT\n")) || len(b) < 16 {
		return "", 0
	}
	n = 16 + int(b[14])<<8 + int(b[15])
	if n > 16+maxProxyBlock || len(b) < n {
		return "", 0
	}
	kind := hex.EncodeToString(b[12:14])
	switch {
	case strings.HasPrefix(kind, "20"):
		return "", n
	case kind == "2111" && n >= 28:
		return netip.AddrFrom4([4]byte(b[16:20])).String() + " " + fmt.Sprint(int(b[24])<<8+int(b[25])), n
	case kind == "2121" && n >= 52:
		return netip.AddrFrom16([16]byte(b[16:32])).Unmap().String() + " " + fmt.Sprint(int(b[48])<<8+int(b[49])), n
	case slices.Contains([]string{"2100", "2101", "2102", "2110", "2112", "2120", "2122", "2130", "2131", "2132"}, kind):
		return "", n
	}
	return "", 0
}

// The parser agrees with a naive one, consumes only the header, and asks for more bytes as long as
// there may be a header.
func FuzzProxyHeader(f *testing.F) {
	for _, seed := range []string{
		"PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\nGET", "PROXY TCP6 2001:db8::1 ::2 258 443\r\n", "PROXY UNKNOWN\r\n", "PROXY UNKNOWN x\r\n",
		"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 1\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 0 00\r\n", "PROXY UNKNOWN\rx\r\n", "GET / HTTP/1.1\r\n\r\n",
		block(0x21, 0x11, content4), block(0x21, 0x21, content6+"tlv"), block(0x20, 0, ""), block(0x21, 0x31, "short"), block(0x21, 0x44, ""),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		client, n, err := ParseProxyHeader(b)
		got := ""
		if client.IsValid() {
			got = client.Addr().String() + " " + fmt.Sprint(client.Port())
		}
		want, wantN := naiveProxyHeader(b)
		if got != want || n != wantN || err != nil && n > 0 {
			t.Fatalf("%q: %q, %d, %v; want %q, %d", b, got, n, err, want, wantN)
		}
		if n == 0 {
			return
		}
		for i := range n { // a header that comes in pieces is waited for
			if _, more, err := ParseProxyHeader(b[:i]); more != 0 || err != nil {
				t.Fatalf("%q, of which %d bytes have come: %d, %v", b, i, more, err)
			}
		}
	})
}
