//go:build !faults

package weir

import "github.com/weirproxy/weir/lease"

// leaseClock returns the clock of the lease.
func leaseClock() (lease.Clock, error) { return lease.NewSystemClock(), nil }
