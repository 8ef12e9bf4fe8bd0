//go:build linux || darwin

package rpcport

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds how long sent data may wait for acknowledgement.
func setUserTimeout(conn *net.TCPConn, after time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, userTimeout, userTimeoutValue(after))
	}); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("set %s: %w", userTimeoutName, failed)
	}
	return nil
}
