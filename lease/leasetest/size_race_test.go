//go:build race

package leasetest

const worldSeeds = 120
