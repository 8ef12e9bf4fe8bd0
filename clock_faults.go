//go:build faults

package weir

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/lease"
)

// clockFaults names a file of two numbers, in nanoseconds and in this machine's byte order, that
// are added to the readings of CLOCK_BOOTTIME and of the wall clock. A test that writes to it
// simulates a machine that was suspended, or whose clock was set. The file is mapped, and read at
// each reading of a clock, so that a jump is seen wherever a real one would be.
const clockFaults = "WEIR_CLOCK_FAULTS"

// leaseClock returns the clock of the lease.
func leaseClock() (lease.Clock, error) {
	path := os.Getenv(clockFaults)
	if path == "" {
		return lease.NewSystemClock(), nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clockFaults, err)
	}
	defer func() { _ = f.Close() }()
	var offsets *[2]atomic.Int64
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(*offsets)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("%s: map %s: %w", clockFaults, path, err)
	}
	offsets = (*[2]atomic.Int64)(unsafe.Pointer(unsafe.SliceData(mapped)))
	return faultyClock{lease.NewSystemClock(), &offsets[0], &offsets[1]}, nil
}

// faultyClock adds a test's offsets to a clock.
type faultyClock struct {
	lease.Clock
	boot, wall *atomic.Int64
}

// Now implements [lease.Clock].
func (c faultyClock) Now() time.Duration { return c.Clock.Now() + time.Duration(c.boot.Load()) }

// Wall implements [lease.Clock].
func (c faultyClock) Wall() time.Duration { return c.Clock.Wall() + time.Duration(c.wall.Load()) }
