package sock

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listener accepts TCP connections with one system call each. They inherit their options from the
// listening socket, and Accept returns the peer's address.
type Listener struct {
	file *os.File
	raw  syscall.RawConn

	fd      int // accepted by try
	peer    rawAddr
	err     error
	tryFunc func(uintptr) bool
}

// NewListener takes l over.
func NewListener(l net.Listener) (*Listener, error) {
	defer l.Close() // file has its own descriptor
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("got a %T, not a TCP listener", l)
	}
	file, err := tcp.File()
	if err != nil {
		return nil, err
	}
	ln := &Listener{file: file}
	ln.tryFunc = ln.try
	if ln.raw, err = file.SyscallConn(); err == nil {
		err = Control("", "", ln.raw)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return ln, nil
}

// Control sets the options that accepted connections inherit. NewListener sets them too, but as a
// [net.ListenConfig]'s Control it also covers connections that arrive before that.
func Control(_, _ string, raw syscall.RawConn) (err error) {
	control := raw.Control(func(fd uintptr) {
		err = setListenerOptions(fd)
	})
	if control != nil {
		return control
	}
	return err
}

func setListenerOptions(fd uintptr) error {
	if err := setKeepAlive(fd); err != nil {
		return err
	}
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// Accept waits for the next connection. One goroutine at a time may call it.
func (l *Listener) Accept() (fd int, addr netip.AddrPort, err error) {
	l.fd, l.err = -1, nil
	if closed := l.raw.Read(l.tryFunc); closed != nil {
		return 0, addr, closed
	}
	if l.err != nil {
		return 0, addr, l.err
	}
	return l.fd, l.peer.addrPort(), nil
}

// try accepts a connection; false means that none is waiting.
func (l *Listener) try(listening uintptr) bool {
	fd, err := acceptFrom(int(listening), &l.peer)
	for err == unix.EINTR { // the poller says only once that a connection waits
		fd, err = acceptFrom(int(listening), &l.peer)
	}
	if err == unix.EAGAIN {
		return false
	}
	l.fd, l.err = fd, err
	return true
}

// Close closes the listening socket; Accept fails then.
func (l *Listener) Close() { l.file.Close() }
