//go:build !race

package leasetest

// The world is one goroutine: the race detector would find nothing in it, and makes it ten times
// slower.
const (
	worldSeeds = 3000
	// brokenSeeds bounds the seeds until a broken rule must have been found; they come after
	// brokenFirst, from where none takes long.
	brokenSeeds = 20_000
	brokenFirst = 33_400
)
