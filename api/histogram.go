package api

import (
	"sync/atomic"
	"time"
)

// buckets is the number of a histogram's upper bounds.
const buckets = 18

// bounds are the buckets' upper bounds, inclusive; what is longer than the last is counted behind
// it. They double or so from half a millisecond to five minutes: coarse, but a queue, a dial, a
// commit and a reclaim all fit, and the cost of a finer one would be paid on every connection.
var bounds = [buckets]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond,
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
	5 * time.Second, 10 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute,
}

// Histogram counts durations on paths that can't wait: observing one takes two atomic additions, no
// lock and no memory. All histograms have the same buckets, so that the zero value is ready. It
// must not be copied.
//
// It costs half of what Prometheus' own does, whose readers see all of an observation or nothing;
// here they may be a moment behind, in the sum or in the counts.
type Histogram struct {
	counts [buckets + 1]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

// Observe counts one duration; one below zero counts as zero. It may be called by many at once.
func (h *Histogram) Observe(d time.Duration) {
	i := 0
	for i < buckets && d > bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	if d > 0 {
		h.sum.Add(int64(d))
	}
}

// Distribution is what a histogram has counted by some moment.
type Distribution struct {
	Count uint64
	Sum   time.Duration
	// Buckets are cumulative: how many were at most as long as the bound. Those above the last
	// bound are in Count alone.
	Buckets []Bucket
}

// Bucket is how many durations were at most AtMost long.
type Bucket struct {
	AtMost time.Duration
	Count  uint64
}

// Read returns what has been counted. What is observed meanwhile may be in Count and not yet in
// Sum, or the other way round.
func (h *Histogram) Read() Distribution {
	d := Distribution{Sum: time.Duration(h.sum.Load()), Buckets: make([]Bucket, buckets)}
	for i, bound := range bounds {
		d.Count += h.counts[i].Load()
		d.Buckets[i] = Bucket{AtMost: bound, Count: d.Count}
	}
	d.Count += h.counts[buckets].Load()
	return d
}
