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

// rawAddr is a socket address as the kernel has it. It is for the calls that every connection
// makes, which are made directly, see readNow. Those of package unix also allocate an address each
// time.
type rawAddr struct{ sa unix.RawSockaddrInet6 } // the longer one of the two families

// acceptFrom accepts a non-blocking connection and stores the peer's address.
func acceptFrom(listening int, peer *rawAddr) (fd int, err error) {
	size := uint32(unsafe.Sizeof(peer.sa))
	r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listening), uintptr(unsafe.Pointer(&peer.sa)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// newSocket makes a non-blocking TCP socket.
func newSocket(family int) (fd int, err error) {
	r, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// NewPair makes two connected non-blocking sockets.
func NewPair() (a, b int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fds[0], fds[1], err
}

// connectNow begins to connect a non-blocking socket.
func connectNow(fd int, peer unix.Sockaddr) error {
	var a rawAddr
	size := a.set(peer)
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a.sa)), size)
	return errorOf(errno)
}

// connectOn asks for the state of a connect that is under way.
func connectOn(fd int, peer unix.Sockaddr) error { return connectNow(fd, peer) }

// shutdownNow ends one direction of a connection, or both.
func shutdownNow(fd, how int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return errorOf(errno)
}

func errorOf(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// localAddr returns a socket's own address, or the zero value.
func localAddr(fd int) netip.AddrPort { return endOf(fd, unix.SYS_GETSOCKNAME) }

func remoteAddr(fd int) netip.AddrPort { return endOf(fd, unix.SYS_GETPEERNAME) }

// endOf asks for the address of one of a socket's ends; it is the zero value where there is none.
func endOf(fd int, which uintptr) netip.AddrPort {
	var a rawAddr
	size := uint32(unsafe.Sizeof(a.sa))
	_, _, errno := unix.RawSyscall(which, uintptr(fd), uintptr(unsafe.Pointer(&a.sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return a.addrPort()
}

// set stores an address, and returns its size.
func (a *rawAddr) set(addr unix.Sockaddr) (size uintptr) {
	switch addr := addr.(type) {
	case *unix.SockaddrInet4:
		a.setPort(addr.Port)
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.sa))
		four.Family, four.Addr = unix.AF_INET, addr.Addr
		return unix.SizeofSockaddrInet4
	case *unix.SockaddrInet6:
		a.setPort(addr.Port)
		a.sa.Family, a.sa.Addr, a.sa.Scope_id = unix.AF_INET6, addr.Addr, addr.ZoneId
		return unix.SizeofSockaddrInet6
	}
	return 0 // which no call accepts
}

// port returns where both families have the port, in network byte order.
func (a *rawAddr) port() []byte { return (*[2]byte)(unsafe.Pointer(&a.sa.Port))[:] }

func (a *rawAddr) setPort(port int) { binary.BigEndian.PutUint16(a.port(), uint16(port)) }

// addrPort converts the address, with IPv4-mapped IPv6 as IPv4.
func (a *rawAddr) addrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16(a.port())
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
