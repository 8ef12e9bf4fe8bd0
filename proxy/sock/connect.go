package sock

import (
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Dial begins to connect to peer, which is addr in the kernel's form. If own is not nil, it gets
// the socket's own address once it is connected.
func Dial(family int, peer unix.Sockaddr, addr netip.AddrPort, own *netip.AddrPort, pool *Buffers) (s *Conn, connected bool, err error) {
	fd, err := newSocket(family)
	if err != nil {
		return nil, false, err
	}
	err = connectNow(fd, peer)
	if err == unix.EINPROGRESS {
		// Nearby peers have answered by now: asking costs less than waiting for an event.
		err = connectOn(fd, peer)
	}
	err = notItself(fd, addr, own, err)
	if err != nil && !isConnecting(err) {
		unix.Close(fd)
		return nil, false, err
	}
	s = New(fd, pool)
	s.writing.slowStart = true
	return s, err == nil, nil
}

// lowestEphemeral is the lowest port that a kernel can be configured to choose for outgoing
// connections.
const lowestEphemeral = 1024

// notItself turns the success of a connection to itself into a refusal. TCP allows such
// connections: if a socket connects to an unused port of its own machine, the kernel may choose
// that very port for the socket. If own is not nil, it gets the socket's own address.
func notItself(fd int, addr netip.AddrPort, own *netip.AddrPort, err error) error {
	if err != nil || addr.Port() < lowestEphemeral && own == nil {
		return err
	}
	local := localAddr(fd)
	if local == addr {
		return unix.ECONNREFUSED
	}
	if own != nil {
		*own = local
	}
	return nil
}

// isConnecting reports whether err, of a non-blocking connect, means that it is under way.
func isConnecting(err error) bool {
	return err == unix.EINPROGRESS || err == unix.EALREADY || err == unix.EINTR
}

// zoneIndex returns the interface number of a zone.
func zoneIndex(zone string) (index uint32, ok bool) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), true
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, false
	}
	return uint32(ifi.Index), true
}

// Sockaddr converts an address to the kernel's form.
func Sockaddr(addr netip.AddrPort) (family int, sa unix.Sockaddr, err error) {
	ip := addr.Addr()
	if ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}, nil
	}
	six := &unix.SockaddrInet6{Port: int(addr.Port()), Addr: ip.As16()}
	if zone := ip.Zone(); zone != "" {
		index, ok := zoneIndex(zone)
		if !ok {
			return 0, nil, unix.EHOSTUNREACH // there is no such interface
		}
		six.ZoneId = index
	}
	return unix.AF_INET6, six, nil
}

// HasSource reports whether the machine has a source address to reach addr from. Connecting a UDP
// socket reveals that without sending anything, and takes no TCP port.
func HasSource(addr netip.AddrPort) bool {
	family, peer, err := Sockaddr(addr)
	if err != nil {
		return false
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return true // unknown: keep the kernel's error
	}
	defer unix.Close(fd)
	return unix.Connect(fd, peer) == nil
}

// Local returns the socket's own address, or the zero value if the socket is closed.
func (s *Conn) Local() (at netip.AddrPort) {
	s.raw.Control(func(fd uintptr) { at = localAddr(int(fd)) })
	return at
}

// Remote returns the address that the socket is connected to, or the zero value if it is not.
func (s *Conn) Remote() (at netip.AddrPort) {
	s.raw.Control(func(fd uintptr) { at = remoteAddr(int(fd)) })
	return at
}
