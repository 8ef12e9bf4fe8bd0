//go:build !portable

package proxy

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawAddr is a socket's address as the kernel writes it, for the calls that each connection makes:
// those of package unix allocate it anew each time.
type rawAddr struct{ sa unix.RawSockaddrInet6 } // the longer one of the two families

// acceptFrom accepts a connection, which does not block, and says who it is from.
func acceptFrom(listening int, peer *rawAddr) (fd int, err error) {
	size := uint32(unsafe.Sizeof(peer.sa))
	r, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(listening), uintptr(unsafe.Pointer(&peer.sa)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// newSocket makes a TCP socket that does not block.
func newSocket(family int) (fd int, err error) {
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
}

// newPair makes two connected sockets that do not block.
func newPair() (a, b int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fds[0], fds[1], err
}

// connectOn asks what has become of the connection to peer that was begun.
func connectOn(fd int, peer unix.Sockaddr) error { return unix.Connect(fd, peer) }

// localAddr is a socket's address on this side; the zero value where it has none.
func localAddr(fd int) netip.AddrPort {
	var a rawAddr
	size := uint32(unsafe.Sizeof(a.sa))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return a.addrPort()
}

// addrPort is the address, IPv4-mapped IPv6 as IPv4.
func (a *rawAddr) addrPort() netip.AddrPort {
	// The port is in network order, whatever the machine's.
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&a.sa.Port))[:])
	switch a.sa.Family {
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.sa))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port)
	case unix.AF_INET6:
		ip := netip.AddrFrom16(a.sa.Addr).Unmap()
		if a.sa.Scope_id != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.FormatUint(uint64(a.sa.Scope_id), 10))
		}
		return netip.AddrPortFrom(ip, port)
	}
	return netip.AddrPort{}
}

// awaitClosed waits, after FINs have gone both ways, until the peer has acknowledged ours. It
// reports false when that took longer than timeout, or the connection was reset.
func (s *sock) awaitClosed(timeout time.Duration) bool {
	closed, armed := false, false
	err := s.raw.Read(func(fd uintptr) bool {
		over, err := isOver(int(fd))
		if err != nil {
			return true
		}
		closed = over
		if !closed && !armed {
			armed = true
			s.conn.SetReadDeadline(time.Now().Add(timeout))
		}
		return closed
	})
	return err == nil && closed
}
