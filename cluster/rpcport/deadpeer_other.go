//go:build !linux && !darwin

package rpcport

import (
	"net"
	"time"
)

// setUserTimeout does nothing on this system: data sent into a partition may wait longer.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
