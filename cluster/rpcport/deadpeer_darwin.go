package rpcport

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds how long sent data may wait for acknowledgement, to a whole second.
func setUserTimeout(conn *net.TCPConn, after time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	seconds := int((after + time.Second - 1) / time.Second)
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RXT_CONNDROPTIME, seconds)
	}); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("set TCP_RXT_CONNDROPTIME: %w", failed)
	}
	return nil
}
