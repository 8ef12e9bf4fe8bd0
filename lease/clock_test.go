package lease

import (
	"sync"
	"testing"
	"time"
)

// The clock follows CLOCK_BOOTTIME: a machine that was suspended, whose monotonic clock stood
// still, is noticed at the next reading.
func TestClockCountsSuspension(t *testing.T) {
	const ms = time.Millisecond
	wall := int64(1_700_000_000 * time.Second)
	c := &SystemClock{}
	c.note(ms, wall, time.Hour)
	for _, step := range []struct {
		what string
		mono time.Duration
		wall time.Duration // since the first reading
		sure bool
	}{
		{"the next moment", 2 * ms, ms, true},
		{"slewed a little", 91 * ms, 94 * ms, true},
		{"an old answer", 101 * ms, 100 * ms, false},
		{"suspended for a minute", 10 * ms, time.Minute, false},
		{"suspended for as little as matters", 10 * ms, 9*ms + clockTolerance, false},
		{"the wall clock set back", 10 * ms, -time.Minute, false},
	} {
		if got := c.sure(step.mono, wall+int64(step.wall)); got != step.sure {
			t.Errorf("%s: sure %v, want %v", step.what, got, step.sure)
		}
	}
	if now := c.note(10*ms, wall+int64(time.Minute), time.Hour+time.Minute+9*ms); now != time.Hour+time.Minute+9*ms {
		t.Errorf("after a minute's suspension the clock shows %v", now)
	}
	if !c.sure(11*ms, wall+int64(time.Minute+ms)) {
		t.Error("the kernel would be asked again at once")
	}
	// An answer that says less than is known already does not turn the clock back.
	if now := c.note(12*ms, wall+int64(time.Minute+2*ms), time.Hour); now != time.Hour+time.Minute+11*ms {
		t.Errorf("the clock went back to %v", now)
	}
}

// What the clock shows is CLOCK_BOOTTIME, however many read it, and it never goes back.
func TestClockAgreesWithTheKernel(t *testing.T) {
	c := NewSystemClock()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last time.Duration
			for range 20_000 {
				before := bootTime()
				now := c.Now()
				after := bootTime()
				if now < last {
					t.Errorf("the clock went back from %v to %v", last, now)
				}
				if now < before-clockTolerance || now > after+clockTolerance+time.Second {
					t.Errorf("the clock shows %v between %v and %v", now, before, after)
				}
				last = now
			}
		})
	}
	wg.Wait()
}

func BenchmarkClock(b *testing.B) {
	c := NewSystemClock()
	for b.Loop() {
		c.Now()
	}
}
