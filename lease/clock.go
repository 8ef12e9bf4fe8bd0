package lease

import "time"

// Clock is where the node's side of a lease reads the time.
type Clock interface {
	// Now is the time since some fixed moment, on a clock that never goes back and runs
	// while the machine is suspended.
	Now() time.Duration
	// Wall is the wall clock, as a time since the epoch. It is compared with Now only, to notice jumps.
	Wall() time.Duration
}
