//go:build !portable

package sock

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawAddr is a socket address as the kernel writes it. It is for the calls that every connection
// makes: those of package unix allocate an address each time.
type rawAddr struct{ sa unix.RawSockaddrInet6 } // the longer one of the two families

// acceptFrom accepts a non-blocking connection and stores the peer's address.
func acceptFrom(listening int, peer *rawAddr) (fd int, err error) {
	size := uint32(unsafe.Sizeof(peer.sa))
	r, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(listening), uintptr(unsafe.Pointer(&peer.sa)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// newSocket makes a non-blocking TCP socket.
func newSocket(family int) (fd int, err error) {
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
}

// NewPair makes two connected non-blocking sockets.
func NewPair() (a, b int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fds[0], fds[1], err
}

// connectOn asks for the state of a connect that is under way.
func connectOn(fd int, peer unix.Sockaddr) error { return unix.Connect(fd, peer) }

// localAddr returns a socket's own address, or the zero value.
func localAddr(fd int) netip.AddrPort { return endOf(fd, unix.SYS_GETSOCKNAME) }

func remoteAddr(fd int) netip.AddrPort { return endOf(fd, unix.SYS_GETPEERNAME) }

// endOf asks for the address of one of a socket's ends; it is the zero value where there is none.
func endOf(fd int, which uintptr) netip.AddrPort {
	var a rawAddr
	size := uint32(unsafe.Sizeof(a.sa))
	_, _, errno := unix.Syscall(which, uintptr(fd), uintptr(unsafe.Pointer(&a.sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return a.addrPort()
}

// addrPort converts the address, with IPv4-mapped IPv6 as IPv4.
func (a *rawAddr) addrPort() netip.AddrPort {
	// The port is in network byte order.
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

// AwaitClosed waits, after a FIN in each direction, until the peer has acknowledged ours. It
// returns false if that takes longer than timeout or the connection is reset.
func (s *Conn) AwaitClosed(timeout time.Duration) bool {
	closed, armed := false, false
	err := s.raw.Read(func(fd uintptr) bool {
		over, err := IsOver(int(fd))
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
