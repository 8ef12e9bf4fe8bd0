package lease

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootTime reads CLOCK_MONOTONIC_RAW, which macOS lets run while the machine sleeps.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts); err != nil {
		panic("lease: CLOCK_MONOTONIC_RAW can't be read: " + err.Error()) // in every macOS since 10.12
	}
	return time.Duration(ts.Nano())
}
