//go:build !portable

package sock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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

// A thread that has moved to another network is told of that one's sockets, not of those of the
// process's first thread, which may itself be elsewhere.
func TestConnectedInAnotherNetwork(t *testing.T) {
	t.Parallel()
	here, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	inNewNetwork(t, "link set lo up\n", func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		near, far := c.LocalAddr().(*net.TCPAddr).AddrPort(), l.Addr().(*net.TCPAddr).AddrPort()
		if found, known := Connected(near, far); !found || !known {
			return fmt.Errorf("a connection in this thread's network: %v, known %v", found, known)
		}
		return nil
	})
	c, err := net.Dial("tcp4", here.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	near, far := c.LocalAddr().(*net.TCPAddr).AddrPort(), here.Addr().(*net.TCPAddr).AddrPort()
	if found, known := Connected(near, far); !found || !known {
		t.Errorf("a connection in the first network, after that: %v, known %v", found, known)
	}
}

// A socket that the kernel leaves out of the list once is found all the same; one that is never
// there is looked for a bounded number of times, and an error means that nothing is known.
func TestConnectedLooksAgain(t *testing.T) {
	t.Parallel()
	failure := errors.New("not readable")
	for name, c := range map[string]struct {
		found            int   // the look that finds it; 0: none
		err              error // of each look
		connected, known bool
		looks            int
	}{
		"at once":      {found: 1, connected: true, known: true, looks: 1},
		"left out":     {found: 2*looks - 1, connected: true, known: true, looks: 2*looks - 1},
		"absent":       {known: true, looks: 2 * looks},
		"no IPv6":      {err: os.ErrNotExist, known: true, looks: 2 * looks},
		"not readable": {err: failure, looks: 1},
	} {
		n := 0
		connected, known := lookAgain(func(string) (bool, error) {
			n++
			return n == c.found, c.err
		})
		if connected != c.connected || known != c.known || n != c.looks {
			t.Errorf("%s: connected %v, known %v after %d looks; want %v, %v after %d",
				name, connected, known, n, c.connected, c.known, c.looks)
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
