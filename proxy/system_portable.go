//go:build !linux || portable

package proxy

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

// acceptFrom accepts a connection, which does not block, and says who it is from. It sets the
// options that accepted connections inherit elsewhere.
func acceptFrom(listening int, peer *rawAddr) (fd int, err error) {
	syscall.ForkLock.RLock() // no child inherits the descriptor
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
		return -1, unix.ECONNABORTED // it was reset meanwhile: the next one is accepted
	}
	peer.addr = addrPortOf(sa)
	return fd, nil
}

// newSocket makes a TCP socket that does not block.
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

// newPair makes two connected sockets that do not block.
func newPair() (a, b int, err error) {
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

// prepare makes a new socket ready for use.
func prepare(fd int) error {
	allowLateOptions(fd)
	return unix.SetNonblock(fd, true)
}

// connectOn asks what has become of the connection to peer that was begun. A second connect would
// begin another one where the first has failed.
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

// localAddr is a socket's address on this side; the zero value where it has none.
func localAddr(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPortOf(sa)
}

// addrPort is the address, IPv4-mapped IPv6 as IPv4.
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
	firstLook = 250 * time.Microsecond // awaitClosed's, doubled up to
	lastLook  = 10 * time.Millisecond
)

// awaitClosed waits, after FINs have gone both ways, until the peer has acknowledged ours. It
// reports false when that took longer than timeout, or the connection was reset. It looks again and
// again: not every kernel tells of an acknowledgement.
func (s *sock) awaitClosed(timeout time.Duration) bool {
	closed, failed := false, false
	look := func(fd uintptr) bool {
		over, err := isOver(int(fd))
		closed, failed = over, err != nil
		return closed || failed
	}
	now := time.Now()
	for end, pause := now.Add(timeout), firstLook; now.Before(end); now, pause = time.Now(), min(2*pause, lastLook) {
		next := now.Add(pause)
		if next.After(end) {
			next = end
		}
		// The errors are that the deadline has passed, and that the socket is closed, where the
		// next call fails at once.
		if s.conn.SetReadDeadline(next) != nil {
			return false
		}
		if s.raw.Read(look) == nil {
			return closed && !failed
		}
	}
	return false
}
