package resolve

import (
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addrs(texts ...string) (list []netip.Addr) {
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func listed(a Addrs) (texts []string) {
	for i := range a.Len() {
		texts = append(texts, a.At(i).String())
	}
	return texts
}

func everywhere(netip.Addr) bool { return true }

func TestOrderOfAddresses(t *testing.T) {
	onlyFour := func(addr netip.Addr) bool { return addr.Is4() }
	for _, c := range []struct {
		name   string
		in     string
		routed func(netip.Addr) bool
		turn   uint32
		want   string
	}{
		{"as given", "10.0.0.1 10.0.0.2 10.0.0.3", everywhere, 0, "10.0.0.1 10.0.0.2 10.0.0.3"},
		{"rotated", "10.0.0.1 10.0.0.2 10.0.0.3", everywhere, 1, "10.0.0.2 10.0.0.3 10.0.0.1"},
		{"the counter wraps", "10.0.0.1 10.0.0.2", everywhere, 1<<32 - 1, "10.0.0.2 10.0.0.1"},
		{"families take turns", "10.0.0.1 10.0.0.2 2a00::1 2a00::2", everywhere, 0, "2a00::1 10.0.0.1 2a00::2 10.0.0.2"},
		{"one family has more", "10.0.0.1 2a00::1 2a00::2 2a00::3", everywhere, 0, "2a00::1 10.0.0.1 2a00::2 2a00::3"},
		{"the other has more", "10.0.0.1 10.0.0.2 10.0.0.3 2a00::1", everywhere, 1, "2a00::1 10.0.0.2 10.0.0.3 10.0.0.1"},
		{"no route to IPv6", "2a00::1 10.0.0.1 2a00::2", onlyFour, 0, "10.0.0.1 2a00::1 2a00::2"},
		{"unique local is below IPv4", "fd00::1 10.0.0.1", everywhere, 0, "10.0.0.1 fd00::1"},
		{"6to4 and Teredo too", "2002::1 2001::1 10.0.0.1 2001:db8::1", everywhere, 0, "2001:db8::1 10.0.0.1 2002::1 2001::1"},
		{"unique local alone rotates", "fd00::1 fd00::2", everywhere, 1, "fd00::2 fd00::1"},
		{"loopback is native", "127.0.0.1 ::1", everywhere, 0, "::1 127.0.0.1"},
		{"mapped is IPv4", "::ffff:10.0.0.1", everywhere, 0, "10.0.0.1"},
		{"zones", "fe80::1%lo 10.0.0.1", everywhere, 0, "fe80::1%lo 10.0.0.1"},
		{"none", "", everywhere, 5, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := group(addrs(strings.Fields(c.in)...), c.routed)
			if got := strings.Join(listed(Addrs{groups: g, turn: c.turn}), " "); got != c.want {
				t.Errorf("%q in the order %q, want %q", c.in, got, c.want)
			}
		})
	}
	if n := new(Addrs).Len(); n != 0 {
		t.Errorf("the zero value has %d addresses", n)
	}
}
