//go:build !linux || portable

package sock

import (
	"net"
	"net/netip"
	"testing"
)

func TestOwnAddresses(t *testing.T) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		ip, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		if !IsLocal(netip.AddrPortFrom(ip.Unmap(), 8080)) || !IsLocal(netip.AddrPortFrom(ip.Unmap().WithZone("one"), 8080)) {
			t.Errorf("%v is not local", ip)
		}
	}
	for addr, want := range map[string]bool{"127.9.9.9": true, "203.0.113.77": false, "2001:db8::77": false} {
		if IsLocal(netip.AddrPortFrom(netip.MustParseAddr(addr), 8080)) != want {
			t.Errorf("%s is not %v", addr, want)
		}
	}
}
