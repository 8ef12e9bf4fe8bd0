//go:build !race

package lease

import "time"

const (
	names    = 200_000
	heldKeys = 200_000
	clients  = 100_000
	// perClient is the most memory that a client may take, in bytes.
	perClient = 400
	// perHeldClient is the same where slots of all of them are held at once.
	perHeldClient = 800
	// longestStall bounds the processor time that the core may take in one go in these tests,
	// generously: the figures are some milliseconds. A scan of all pools would take some hundred.
	longestStall = 50 * time.Millisecond
)
