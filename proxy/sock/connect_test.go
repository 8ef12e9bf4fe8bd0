package sock

import (
	"net"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection to itself counts as refused: nothing listens there.
func TestConnectionToItself(t *testing.T) {
	fd, err := newSocket(unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	s := New(fd, new(Buffers))
	defer s.Close()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr := localAddr(fd)
	_, peer, err := Sockaddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	err = notItself(fd, addr, nil, unix.Connect(fd, peer))
	if isConnecting(err) {
		err = s.FinishConnect(peer, addr, nil)
	}
	if err != unix.ECONNREFUSED {
		t.Errorf("%v is connected to itself: %v", addr, err)
	}
}

func TestSockaddr(t *testing.T) {
	for _, text := range []string{"192.0.2.7:443", "[2001:db8::7]:443", "[fe80::7%1]:443"} {
		addr := netip.MustParseAddrPort(text)
		family, sa, err := Sockaddr(addr)
		if err != nil || (family == unix.AF_INET) != addr.Addr().Is4() || read(sa) != addr {
			t.Errorf("%s: family %d, %v, %v", text, family, sa, err)
		}
	}
	loopback, err := net.InterfaceByIndex(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, sa, err := Sockaddr(netip.MustParseAddrPort("[fe80::7%" + loopback.Name + "]:443")); err != nil || sa.(*unix.SockaddrInet6).ZoneId != 1 {
		t.Errorf("the interface %s: %v, %v", loopback.Name, sa, err)
	}
	if _, _, err := Sockaddr(netip.MustParseAddrPort("[fe80::7%none]:443")); err != unix.EHOSTUNREACH {
		t.Errorf("an interface that does not exist: %v", err)
	}
}

// read converts an address of package unix.
func read(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			ip = ip.WithZone(strconv.Itoa(int(a.ZoneId)))
		}
		return netip.AddrPortFrom(ip, uint16(a.Port))
	}
	return netip.AddrPort{}
}

// Addresses from the kernel equal those of package net.
func TestRawAddr(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		ln, err := NewListener(l)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		to := netip.AddrPortFrom(addr.Addr(), addr.Port())
		if addr.Addr().IsUnspecified() {
			to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port()) // seen as IPv4-mapped
		}
		client, err := net.Dial("tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		fd, peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if want := client.LocalAddr().(*net.TCPAddr).AddrPort(); peer != want {
			t.Errorf("on %s: accepted from %v, want %v", listen, peer, want)
		}
		if local := localAddr(fd); local != to {
			t.Errorf("on %s: the accepted socket is at %v, want %v", listen, local, to)
		}
		unix.Close(fd)
	}
	if local := localAddr(-1); local.IsValid() {
		t.Errorf("no socket is at %v", local)
	}
}
