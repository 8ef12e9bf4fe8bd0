package lease

import (
	"sync"
	"sync/atomic"
	"time"
)

// Clock is where the node's side of a lease reads the time.
type Clock interface {
	// Now is the time since some fixed moment, on a clock that never goes back and runs
	// while the machine is suspended.
	Now() time.Duration
	// Wall is the wall clock, as a time since the epoch. It is compared with Now only, to notice
	// jumps.
	Wall() time.Duration
}

// SystemClock is the machine's clock that counts the time in which it was suspended (CLOCK_BOOTTIME
// on Linux): a lease must not outlive a closed lid.
//
// It is read for every connection and every piece of data, and asking the kernel for CLOCK_BOOTTIME
// is a system call. The runtime reads the monotonic clock, which stands still in a suspension, and
// the wall clock, which does not, without one. CLOCK_BOOTTIME is the monotonic clock and an offset
// that changes when the machine wakes; the wall clock jumps against the monotonic one by as much at
// the same moment. So the kernel is asked only where the two have moved apart, and ten times a
// second in any case: a wall clock set back, in the moment of waking, by just what was slept is
// noticed no later than that.
type SystemClock struct {
	base    time.Time
	ahead   atomic.Int64 // of the monotonic clock since base: CLOCK_BOOTTIME
	apart   atomic.Int64 // of the monotonic clock since base: the wall clock, when ahead was read
	checked atomic.Int64 // when that was, on the monotonic clock since base
	mu      sync.Mutex   // held while the kernel is asked
}

const (
	// clockTolerance is how far wall and monotonic clock may move apart before the kernel is asked:
	// less than any guard, more than what slewing the wall clock makes of a checkEvery.
	clockTolerance = 5 * time.Millisecond
	// clockCheckEvery is how old the kernel's answer may be.
	clockCheckEvery = 100 * time.Millisecond
	// clockReadWithin is how long reading two clocks may take to count as one moment; a thread may
	// be stopped in between.
	clockReadWithin = 50 * time.Microsecond
)

// NewSystemClock returns a clock that agrees with CLOCK_BOOTTIME.
func NewSystemClock() *SystemClock {
	c := &SystemClock{base: time.Now()}
	c.check()
	return c
}

// Now implements [Clock].
func (c *SystemClock) Now() time.Duration {
	t := time.Now()
	mono := t.Sub(c.base)
	if !c.sure(mono, t.UnixNano()) {
		return c.check()
	}
	return mono + time.Duration(c.ahead.Load())
}

// Wall implements [Clock].
func (c *SystemClock) Wall() time.Duration { return time.Duration(time.Now().UnixNano()) }

// sure reports whether the offset that was read last holds at a moment, of which both clocks are
// given.
func (c *SystemClock) sure(mono time.Duration, wall int64) bool {
	moved := wall - int64(mono) - c.apart.Load()
	return moved > -int64(clockTolerance) && moved < int64(clockTolerance) &&
		int64(mono)-c.checked.Load() < int64(clockCheckEvery)
}

// check asks the kernel.
func (c *SystemClock) check() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var t time.Time
	var boot time.Duration
	for range 3 {
		t = time.Now()
		boot = bootTime()
		if time.Since(t) < clockReadWithin {
			break
		}
	}
	mono := t.Sub(c.base)
	return c.note(mono, t.UnixNano(), boot)
}

// note takes an answer of the kernel's. The clock does not go back: an answer that came late leaves
// it ahead by as much.
func (c *SystemClock) note(mono time.Duration, wall int64, boot time.Duration) time.Duration {
	ahead := boot - mono
	if before := time.Duration(c.ahead.Load()); c.checked.Load() != 0 && before > ahead {
		ahead = before
	}
	c.ahead.Store(int64(ahead))
	c.apart.Store(wall - int64(mono))
	c.checked.Store(int64(mono))
	return mono + ahead
}
