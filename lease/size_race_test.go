//go:build race

package lease

// The race detector makes the cores, which are one goroutine, ten times slower, and finds nothing
// there.
const (
	names    = 60_000
	heldKeys = 20_000
	clients  = 40_000
	// What is allocated takes more memory then.
	perClient = 1500
)
