//go:build !linux || portable

package sock

import "net/netip"

// Connected does not know.
func Connected(netip.AddrPort, netip.AddrPort) (connected, known bool) { return false, false }
