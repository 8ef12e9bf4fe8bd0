package auth

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Load balancers announce their clients with the PROXY protocol: one header, of version 1 or 2,
// before the first byte of the connection. (Sections are those of its specification.) Connections
// from a trusted balancer must have a header; from other addresses it is refused as
// malformed HTTP.

const (
	// maxProxyLine is the longest header of version 1, including its CR LF (§2.1).
	maxProxyLine = 107
	// maxProxyBlock is the longest part after the first 16 bytes that is accepted of version 2.
	// Addresses take at most 216 bytes; the extensions after them are ignored.
	maxProxyBlock = 4 << 10
)

// HeaderError says what is wrong with the beginning of a connection that should be a header.
// Clients see it.
type HeaderError string

// Error implements error.
func (e HeaderError) Error() string { return string(e) }

// Errors of reading a header.
const (
	errNoProxyHeader  = HeaderError("connections from this address must begin with a PROXY protocol header: proxy.proxy_protocol_from lists it")
	errBadProxyHeader = HeaderError("malformed PROXY protocol header")
)

// proxySignature begins a header of version 2 (§2.2).
var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// ParseProxyHeader reads the header at the beginning of b. n is its length, or 0 if more bytes are
// needed.
func ParseProxyHeader(b []byte) (client netip.AddrPort, n int, err error) {
	switch {
	case begins(b, proxySignature):
		return parseProxyBlock(b)
	case begins(b, []byte("PROXY ")):
		return parseProxyLine(b)
	}
	return client, 0, errNoProxyHeader
}

// BeginsProxyHeader reports whether b, from which a parser of HTTP has skipped empty lines, begins
// as a header does: so does a connection from a balancer that nobody has named.
func BeginsProxyHeader(b []byte) bool {
	return bytes.HasPrefix(b, []byte("PROXY ")) || bytes.HasPrefix(b, bytes.TrimLeft(proxySignature, "\r\n"))
}

// begins reports whether b begins with prefix, or is itself a beginning of it.
func begins(b, prefix []byte) bool {
	n := min(len(b), len(prefix))
	return bytes.Equal(b[:n], prefix[:n])
}

// parseProxyLine reads version 1 (§2.1): a line of words with one space between them.
func parseProxyLine(b []byte) (client netip.AddrPort, n int, err error) {
	end := bytes.IndexByte(b[:min(len(b), maxProxyLine)], '\n')
	switch {
	case end < 0 && len(b) < maxProxyLine:
		return client, 0, nil
	case end < 1 || b[end-1] != '\r':
		return client, 0, errBadProxyHeader
	}
	line, n := b[:end-1], end+1
	words := bytes.Split(line, []byte(" "))
	switch family := string(words[1]); {
	case bytes.IndexByte(line, '\r') >= 0:
	case family == "UNKNOWN":
		return client, n, nil // the rest of the line is to be ignored
	case len(words) != 6:
	case family == "TCP4" || family == "TCP6":
		source, ok := parseProxyAddr(words[2], words[4], family == "TCP4")
		if _, also := parseProxyAddr(words[3], words[5], family == "TCP4"); ok && also {
			return source, n, nil
		}
	}
	return client, 0, errBadProxyHeader
}

// parseProxyAddr reads an address and a port, neither with leading zeros.
func parseProxyAddr(addr, port []byte, four bool) (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(string(addr))
	if err != nil || ip.Is4() != four || ip.Zone() != "" {
		return netip.AddrPort{}, false
	}
	p, err := strconv.ParseUint(string(port), 10, 16)
	if err != nil || strconv.FormatUint(p, 10) != string(port) {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(p)), true
}

// parseProxyBlock reads version 2 (§2.2): signature, version and command, family and transport, the
// length of what follows.
func parseProxyBlock(b []byte) (client netip.AddrPort, n int, err error) {
	const fixed = 16
	if len(b) < fixed {
		return client, 0, nil
	}
	command, kind, size := b[12], b[13], int(binary.BigEndian.Uint16(b[14:]))
	local := command == 0x20
	switch {
	case !local && command != 0x21, size > maxProxyBlock:
		return client, 0, errBadProxyHeader
	case !local && (kind>>4 > 3 || kind&0xf > 2): // unknown family or transport
		return client, 0, errBadProxyHeader
	case len(b) < fixed+size:
		return client, 0, nil
	}
	block, n := b[fixed:fixed+size], fixed+size
	switch {
	case local: // a health check
	case kind == 0x11 && size >= 12: // TCP over IPv4
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(block)), binary.BigEndian.Uint16(block[8:])), n, nil
	case kind == 0x21 && size >= 36: // TCP over IPv6
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(block)).Unmap(), binary.BigEndian.Uint16(block[32:])), n, nil
	case kind == 0x11 || kind == 0x21:
		return client, 0, errBadProxyHeader
	}
	return client, n, nil // another transport: the client stays unknown
}
