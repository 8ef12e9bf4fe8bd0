//go:build !race

package leasetest

const (
	worldSeeds = 3000
	// brokenSeeds bounds the seeds until a broken rule must have been found.
	brokenSeeds = 20_000
)
