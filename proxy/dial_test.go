package proxy

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// option reads one of a socket's options.
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

// Accepted sockets inherit their options, and connected ones get theirs when they pay.
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

// A connection to itself is refused: nobody listens there.
func TestConnectionToItself(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := newSock(fd, new(bufferPool))
	defer s.close()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	addr := s.local()
	_, peer, err := sockaddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.finishConnect(peer); err != nil {
		t.Fatal(err)
	}
	if !isSelf(s, addr) {
		t.Errorf("%v is connected to itself", addr)
	}
	if other := netip.AddrPortFrom(addr.Addr(), addr.Port()^1); isSelf(s, other) {
		t.Errorf("%v is not %v", addr, other)
	}
}

func TestSockaddr(t *testing.T) {
	four := netip.MustParseAddrPort("192.0.2.7:443")
	for _, text := range []string{"192.0.2.7:443", "[2001:db8::7]:443", "[fe80::7%1]:443"} {
		addr := netip.MustParseAddrPort(text)
		family, sa, err := sockaddr(addr)
		if err != nil || (family == unix.AF_INET) != addr.Addr().Is4() || addrPort(sa) != addr {
			t.Errorf("%s: family %d, %v, %v", text, family, sa, err)
		}
	}
	if _, sa, err := sockaddr(netip.MustParseAddrPort("[fe80::7%lo]:443")); err != nil || addrPort(sa).Addr().Zone() == "" {
		t.Errorf("the interface lo: %v, %v", sa, err)
	}
	if _, _, err := sockaddr(netip.MustParseAddrPort("[fe80::7%none]:443")); err != unix.EHOSTUNREACH {
		t.Errorf("an interface that does not exist: %v", err)
	}
	mapped := unix.SockaddrInet6{Port: 443, Addr: netip.MustParseAddr("::ffff:192.0.2.7").As16()}
	if got := addrPort(&mapped); got != four {
		t.Errorf("a mapped address is %v", got)
	}
}
