package rpcport

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	userTimeout     = unix.TCP_USER_TIMEOUT
	userTimeoutName = "TCP_USER_TIMEOUT"
)

// userTimeoutValue is in milliseconds.
func userTimeoutValue(d time.Duration) int { return int(d.Milliseconds()) }
