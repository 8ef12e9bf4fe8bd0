//go:build !linux

package lease

import "time"

var processStart = time.Now()

// SystemClock reads the runtime's monotonic clock. Where that stands still while the machine is suspended, a jump
// of the wall clock against it ends the lease instead.
type SystemClock struct{}

// Now implements [Clock].
func (SystemClock) Now() time.Duration { return time.Since(processStart) }

// Wall implements [Clock].
func (SystemClock) Wall() time.Duration { return time.Duration(time.Now().UnixNano()) }
