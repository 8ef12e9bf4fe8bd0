//go:build race

package leasetest

const (
	worldSeeds  = 200
	brokenSeeds = 20_000
)
