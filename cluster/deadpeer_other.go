//go:build !linux

package cluster

import (
	"net"
	"time"
)

// setUserTimeout does nothing on this system: data sent into a partition may wait longer.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
