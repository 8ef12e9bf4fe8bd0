package proxy

import (
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// option returns one of a socket's options.
func (s *sock) option(t *testing.T, level, name int) (value int) {
	t.Helper()
	err := s.raw.Control(func(fd uintptr) {
		var err error
		if value, err = unix.GetsockoptInt(int(fd), level, name); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Error(err)
	}
	return value
}

func (s *sock) keptAlive(t *testing.T) bool {
	t.Helper()
	for _, o := range keepAliveOptions {
		if got := s.option(t, o.level, o.name); got != o.value {
			t.Logf("option %d of %d is %d, want %d", o.name, o.level, got, o.value)
			return false
		}
	}
	return true
}

// Accepted sockets inherit their options; connected ones get each when it pays.
func TestSocketOptions(t *testing.T) {
	w := newWorld(t, 0)
	u := newUpstream(t, echo)
	p := w.connect(u.addr)
	f := w.flows.all()[0]
	f.mu.Lock()
	client, up := f.client.sock, f.upstream
	f.mu.Unlock()
	if !client.keptAlive(t) || client.option(t, unix.IPPROTO_TCP, unix.TCP_NODELAY) == 0 {
		t.Error("the client's socket inherits no options")
	}
	for i, noDelay := range []int{0, 1, 1} {
		p.send("ping")
		p.expect("ping")
		if got := up.option(t, unix.IPPROTO_TCP, unix.TCP_NODELAY); got != noDelay {
			t.Errorf("after %d writes TCP_NODELAY is %d, want %d", i+1, got, noDelay)
		}
	}

	if up.keptAlive(t) {
		t.Error("keep-alive is on for a connection that has just begun")
	}
	if n := len(w.flows.lasting(f.since)); n != 0 {
		t.Errorf("%d flows have begun before the first", n)
	}
	for _, f := range w.flows.lasting(time.Now()) {
		f.keepAlive()
	}
	if !up.keptAlive(t) {
		t.Error("keep-alive is off for a connection that has lasted")
	}
	if n := len(w.flows.lasting(time.Now())); n != 0 {
		t.Errorf("%d flows are looked at twice", n)
	}
}

// A connection to itself counts as refused: nothing listens there.
func TestConnectionToItself(t *testing.T) {
	fd, err := newSocket(unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	s := newSock(fd, new(bufferPool))
	defer s.close()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr := localAddr(fd)
	_, peer, err := sockaddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	err = notItself(fd, addr, nil, unix.Connect(fd, peer))
	if isConnecting(err) {
		err = s.finishConnect(peer, addr, nil)
	}
	if err != unix.ECONNREFUSED {
		t.Errorf("%v is connected to itself: %v", addr, err)
	}
}

func TestSockaddr(t *testing.T) {
	for _, text := range []string{"192.0.2.7:443", "[2001:db8::7]:443", "[fe80::7%1]:443"} {
		addr := netip.MustParseAddrPort(text)
		family, sa, err := sockaddr(addr)
		if err != nil || (family == unix.AF_INET) != addr.Addr().Is4() || read(sa) != addr {
			t.Errorf("%s: family %d, %v, %v", text, family, sa, err)
		}
	}
	loopback, err := net.InterfaceByIndex(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, sa, err := sockaddr(netip.MustParseAddrPort("[fe80::7%" + loopback.Name + "]:443")); err != nil || sa.(*unix.SockaddrInet6).ZoneId != 1 {
		t.Errorf("the interface %s: %v, %v", loopback.Name, sa, err)
	}
	if _, _, err := sockaddr(netip.MustParseAddrPort("[fe80::7%none]:443")); err != unix.EHOSTUNREACH {
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
		ln, err := newListener(l)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.close()
		to := netip.AddrPortFrom(addr.Addr(), addr.Port())
		if addr.Addr().IsUnspecified() {
			to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port()) // seen as IPv4-mapped
		}
		client, err := net.Dial("tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		fd, peer, err := ln.accept()
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
