package lease

import (
	"time"

	"golang.org/x/sys/unix"
)

// SystemClock reads CLOCK_BOOTTIME, which counts the time that the machine was suspended: a
// lease must not outlive a closed lid.
type SystemClock struct{}

// Now implements [Clock].
func (SystemClock) Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("lease: CLOCK_BOOTTIME can't be read: " + err.Error()) // in every kernel since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// Wall implements [Clock].
func (SystemClock) Wall() time.Duration { return time.Duration(time.Now().UnixNano()) }
