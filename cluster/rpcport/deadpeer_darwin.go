package rpcport

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	userTimeout     = unix.TCP_RXT_CONNDROPTIME
	userTimeoutName = "TCP_RXT_CONNDROPTIME"
)

// userTimeoutValue is in whole seconds.
func userTimeoutValue(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
