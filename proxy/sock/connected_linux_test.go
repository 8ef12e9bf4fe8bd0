//go:build !portable

package sock

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
)

// A socket is found by both of its ends, of either family, and no other one is.
func TestConnected(t *testing.T) {
	t.Parallel()
	for network, at := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		l, err := net.Listen(network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		near, far := c.LocalAddr().(*net.TCPAddr).AddrPort(), l.Addr().(*net.TCPAddr).AddrPort()
		other := netip.AddrPortFrom(far.Addr(), far.Port()^1)
		for _, q := range []struct {
			local, remote netip.AddrPort
			want          bool
		}{{near, far, true}, {near, other, false}, {netip.AddrPortFrom(near.Addr(), near.Port()^1), far, false}} {
			if got, known := Connected(q.local, q.remote); got != q.want || !known {
				t.Errorf("from %v to %v: %v, known %v; want %v", q.local, q.remote, got, known, q.want)
			}
		}
	}
}

// A program that connects a socket of IPv6 to an IPv4 address is found by that address.
func TestProcAddr(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("127.0.0.1:8081")
	for got, want := range map[string]string{
		procAddr(at):   "0100007F:1F91",
		procMapped(at): "0000000000000000FFFF00000100007F:1F91",
		procAddr(netip.MustParseAddrPort("[::1]:80")): "00000000000000000000000001000000:0050",
	} {
		if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 && got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
