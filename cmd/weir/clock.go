//go:build !faults

package main

import "github.com/weirproxy/weir/lease"

// leaseClock is what the lease goes by.
func leaseClock() (lease.Clock, error) { return lease.NewSystemClock(), nil }
