//go:build !portable

package sock

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel is given the address that is meant, of either family.
func TestConnectNow(t *testing.T) {
	for _, text := range []string{"192.0.2.7:443", "[2001:db8::7]:65535", "[fe80::7%1]:1"} {
		addr := netip.MustParseAddrPort(text)
		_, sa, err := Sockaddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		var raw rawAddr
		if raw.set(sa); raw.addrPort() != addr {
			t.Errorf("%s: the kernel is given %v", text, raw.addrPort())
		}
	}
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		to := l.Addr().(*net.TCPAddr).AddrPort()
		family, peer, err := Sockaddr(to)
		if err != nil {
			t.Fatal(err)
		}
		s, connected, err := Dial(family, peer, to, nil, new(Buffers))
		if err == nil && !connected {
			err = s.FinishConnect(peer, to, nil)
		}
		if err != nil {
			t.Fatalf("%v: %v", to, err)
		}
		defer s.Close()
		if at := s.Remote(); at != to {
			t.Errorf("connected to %v, want %v", at, to)
		}
	}
	if err := connectNow(-1, &unix.SockaddrUnix{Name: "/"}); err == nil {
		t.Error("an address of no family of TCP is accepted")
	}
	if err := connectNow(-1, &unix.SockaddrInet4{}); err != unix.EBADF {
		t.Errorf("without a socket: %v", err)
	}
}
