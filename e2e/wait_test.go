package e2e

import (
	"testing"
	"time"
)

// poll is how often a condition is looked at. Its cost is what a measured time may be too long by.
const poll = 10 * time.Millisecond

// eventually waits until check returns nil and tells how long that took. The test ends with check's
// last error when within is over.
func eventually(t testing.TB, within time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	begun := time.Now()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := check()
		took := time.Since(begun)
		if err == nil {
			return took
		}
		if took > within {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		<-tick.C
	}
}

// measure lets a load run for d.
func measure(d time.Duration) { <-time.After(d) }
