package proxy

import "net/netip"

// IPv6 prefixes whose addresses a translator or a tunnel turns into IPv4 addresses. An address in
// them is denied if its IPv4 address is.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052 §2.1
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215: an operator's own
	sixToFour  = netip.MustParsePrefix("2002::/16")      // RFC 3056 §2
	teredo     = netip.MustParsePrefix("2001::/32")      // RFC 4380 §4: the client's, inverted
	compatible = netip.MustParsePrefix("::/96")          // RFC 4291 §2.5.5.1
)

// deniesEmbedded reports whether an IPv6 address may stand for a denied IPv4 address.
func (p *Policy) deniesEmbedded(addr netip.Addr) bool {
	b := addr.As16()
	switch addr = addr.WithZone(""); {
	case nat64.Contains(addr), compatible.Contains(addr) && !addr.IsLoopback():
		return p.denies(embeddedAt(b, 12, 13, 14, 15))
	case sixToFour.Contains(addr):
		return p.denies(embeddedAt(b, 2, 3, 4, 5))
	case teredo.Contains(addr):
		return p.denies(embeddedAt([16]byte{^b[12], ^b[13], ^b[14], ^b[15]}, 0, 1, 2, 3))
	case nat64Local.Contains(addr):
		// RFC 6052 §2.2 allows several lengths for the operator's prefix; which one is used is
		// unknown, so all are tried. A wrong guess that begins with 0 is no address.
		for _, four := range [...]netip.Addr{
			embeddedAt(b, 6, 7, 9, 10), embeddedAt(b, 7, 9, 10, 11), embeddedAt(b, 9, 10, 11, 12), embeddedAt(b, 12, 13, 14, 15),
		} {
			if four.As4()[0] != 0 && p.denies(four) {
				return true
			}
		}
	}
	return false
}

// embeddedAt returns the IPv4 address whose bytes are at the given indexes.
func embeddedAt(b [16]byte, at0, at1, at2, at3 int) netip.Addr {
	return netip.AddrFrom4([4]byte{b[at0], b[at1], b[at2], b[at3]})
}
