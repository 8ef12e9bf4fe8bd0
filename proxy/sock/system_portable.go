//go:build !linux || portable

package sock

import (
	"errors"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rawAddr is a socket's address.
type rawAddr struct{ addr netip.AddrPort }

// acceptFrom accepts a non-blocking connection and stores the peer's address. It sets the options
// that are inherited on Linux.
func acceptFrom(listening int, peer *rawAddr) (fd int, err error) {
	syscall.ForkLock.RLock() // so that no child inherits the descriptor
	fd, sa, err := unix.Accept(listening)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, err
	}
	if err = prepare(fd); err == nil {
		err = setListenerOptions(uintptr(fd))
	}
	if err != nil {
		unix.Close(fd)
		return -1, unix.ECONNABORTED // it was reset meanwhile: try the next one
	}
	peer.addr = addrPortOf(sa)
	return fd, nil
}

// newSocket makes a non-blocking TCP socket.
func newSocket(family int) (fd int, err error) {
	syscall.ForkLock.RLock()
	fd, err = unix.Socket(family, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, err
	}
	if err = prepare(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// NewPair makes two connected non-blocking sockets.
func NewPair() (a, b int, err error) {
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, -1, err
	}
	if err := errors.Join(prepare(fds[0]), prepare(fds[1])); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return -1, -1, err
	}
	return fds[0], fds[1], nil
}

// prepare readies a new socket.
func prepare(fd int) error {
	allowLateOptions(fd)
	return unix.SetNonblock(fd, true)
}

// connectNow begins to connect a non-blocking socket.
func connectNow(fd int, peer unix.Sockaddr) error { return unix.Connect(fd, peer) }

// shutdownNow ends one direction of a connection, or both.
func shutdownNow(fd, how int) error { return unix.Shutdown(fd, how) }

// connectOn asks for the state of a connect that is under way. It does not connect again: if the
// first attempt has failed, that would begin another one.
func connectOn(fd int, _ unix.Sockaddr) error {
	failure, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if failure != 0 {
		return syscall.Errno(failure)
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return unix.EINPROGRESS
	}
	return nil
}

// localAddr returns a socket's own address, or the zero value.
func localAddr(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPortOf(sa)
}

func remoteAddr(fd int) netip.AddrPort {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPortOf(sa)
}

// addrPort returns the address, with IPv4-mapped IPv6 as IPv4.
func (a *rawAddr) addrPort() netip.AddrPort { return a.addr }

func addrPortOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.FormatUint(uint64(sa.ZoneId), 10))
		}
		return netip.AddrPortFrom(ip, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

const (
	firstLook = 250 * time.Microsecond // first pause of AwaitClosed; doubled up to lastLook
	lastLook  = 10 * time.Millisecond
)

// AwaitClosed waits, after a FIN in each direction, until the peer has acknowledged ours. It
// returns false if that takes longer than timeout or the connection is reset. It polls, because not
// every kernel reports an acknowledgement.
func (s *Conn) AwaitClosed(timeout time.Duration) bool {
	closed, failed := false, false
	look := func(fd uintptr) bool {
		over, err := IsOver(int(fd))
		closed, failed = over, err != nil
		return closed || failed
	}
	now := time.Now()
	for end, pause := now.Add(timeout), firstLook; now.Before(end); now, pause = time.Now(), min(2*pause, lastLook) {
		next := now.Add(pause)
		if next.After(end) {
			next = end
		}
		// An error of Read means that the deadline has passed, or that the socket is closed; then
		// the next SetReadDeadline fails at once.
		if s.conn.SetReadDeadline(next) != nil {
			return false
		}
		if s.raw.Read(look) == nil {
			return closed && !failed
		}
	}
	return false
}
