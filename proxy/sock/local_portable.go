//go:build !linux || portable

package sock

import (
	"net"
	"net/netip"
)

// IsLocal reports whether addr is one of the machine's addresses. If they can't be listed, it
// counts as one. Addresses that only a route makes local are not found.
func IsLocal(addr netip.AddrPort) bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == addr.Addr().WithZone("") {
				return true
			}
		}
	}
	return addr.Addr().IsLoopback()
}
