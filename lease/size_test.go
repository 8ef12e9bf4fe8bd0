//go:build !race

package lease

const (
	names    = 200_000
	heldKeys = 200_000
)
