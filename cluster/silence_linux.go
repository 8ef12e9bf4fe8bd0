package cluster

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// endAfterSilence lets the kernel end a TCP connection on which what was sent is not acknowledged for so long (RFC 5482). Without it
// the kernel repeats itself at growing intervals, and after a partition a connection may be silent for as long again as
// the partition was. gRPC would do this itself, but only on a connection that it finds to be a *net.TCPConn.
func endAfterSilence(conn net.Conn, after time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil // in memory
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
	}); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", failed)
	}
	return nil
}
