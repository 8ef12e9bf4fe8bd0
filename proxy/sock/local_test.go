package sock

import (
	"net/netip"
	"testing"
	"time"
)

func TestLocalCache(t *testing.T) {
	local, asked := true, 0
	c := NewLocalCache(func(netip.AddrPort) bool { asked++; return local })
	now := time.Unix(1000, 0)
	at := netip.MustParseAddrPort("10.0.0.1:8080")
	check := func(addr netip.AddrPort, later time.Duration, want bool, wantAsked int) {
		t.Helper()
		if got := c.IsLocal(addr, now.Add(later)); got != want || asked != wantAsked {
			t.Errorf("local is %v, asked %d times; want %v, %d", got, asked, want, wantAsked)
		}
	}
	check(netip.MustParseAddrPort("127.0.0.9:8080"), 0, true, 0)
	check(at, 0, true, 1)
	local = false
	check(at, localFor-1, true, 1)
	check(netip.AddrPortFrom(at.Addr(), 8081), 0, false, 2)
	check(at, localFor, false, 3)
	for i := range 3 * maxLocal {
		c.IsLocal(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1), now)
	}
	if len(c.known) > maxLocal {
		t.Errorf("%d addresses are remembered", len(c.known))
	}
}
