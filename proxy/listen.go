package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// listener accepts TCP connections without a question or an option for each: they inherit the options that they need, and
// accept tells who they are from.
type listener struct {
	file *os.File
	raw  syscall.RawConn
}

// newListener takes l over.
func newListener(l net.Listener) (*listener, error) {
	defer l.Close() // the file is a descriptor of its own
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("got a %T, not a TCP listener", l)
	}
	file, err := tcp.File()
	if err != nil {
		return nil, err
	}
	ln := &listener{file: file}
	if ln.raw, err = file.SyscallConn(); err == nil {
		err = Control("", "", ln.raw)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return ln, nil
}

// Control sets the options that accepted connections inherit. Serve does so too; as a [net.ListenConfig]'s Control it reaches
// also those that come before.
func Control(_, _ string, raw syscall.RawConn) (err error) {
	control := raw.Control(func(fd uintptr) {
		if err = setKeepAlive(fd); err == nil {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
	})
	if control != nil {
		return control
	}
	return err
}

// accept waits for the next connection.
func (l *listener) accept() (fd int, addr netip.AddrPort, err error) {
	closed := l.raw.Read(func(listening uintptr) bool {
		var peer unix.Sockaddr
		fd, peer, err = unix.Accept4(int(listening), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == nil {
			addr = addrPort(peer)
		}
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if closed != nil {
		return 0, addr, closed
	}
	return fd, addr, err
}

func (l *listener) close() { l.file.Close() }
