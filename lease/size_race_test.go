//go:build race

package lease

import "time"

// The race detector makes the cores, which are one goroutine, ten times slower, and finds nothing
// there.
const (
	names    = 60_000
	heldKeys = 20_000
	clients  = 40_000
	// What is allocated takes more memory then.
	perClient     = 1500
	perHeldClient = 3000
	// The same work takes more processor time, too.
	longestStall = 150 * time.Millisecond
)
