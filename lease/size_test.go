//go:build !race

package lease

const (
	names    = 200_000
	heldKeys = 200_000
	clients  = 100_000
	// perClient is the most memory that a client may take, in bytes.
	perClient = 400
)
