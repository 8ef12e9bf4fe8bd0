//go:build !linux && !darwin

package lease

import "time"

var processStart = time.Now()

// bootTime reads the runtime's monotonic clock. Where that stands still while the machine is
// suspended, a jump of the wall clock against it ends the lease instead.
func bootTime() time.Duration { return time.Since(processStart) }
