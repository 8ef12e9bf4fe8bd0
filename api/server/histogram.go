package server

import (
	"sync/atomic"
	"time"
)

// buckets is the number of a histogram's upper bounds.
const buckets = 18

// bounds are the buckets' inclusive upper bounds; longer durations are counted after the last. They
// roughly double from half a millisecond to five minutes: coarse, but a queue, a dial, a commit and
// a reclaim all fit, and a finer scale would cost time on every connection.
var bounds = [buckets]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond,
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond,
	5 * time.Second, 10 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute,
}

// Histogram counts durations on paths that can't wait: observing one takes two atomic additions, no
// lock and no allocation. All histograms have the same buckets, so the zero value is ready. It must
// not be copied.
//
// It costs half as much as Prometheus's own, whose readers see each observation whole or not at
// all. Here the sum and the counts may briefly disagree.
type Histogram struct {
	counts [buckets + 1]atomic.Uint64
	sum    atomic.Int64 // nanoseconds
}

// Observe counts one duration; a negative one counts as zero. It is safe for concurrent use.
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

// Distribution is a histogram's content at one moment.
type Distribution struct {
	Count uint64
	Sum   time.Duration
	// Buckets are cumulative. Durations above the last bound are only in Count.
	Buckets []Bucket
}

// Bucket counts the durations of at most AtMost.
type Bucket struct {
	AtMost time.Duration
	Count  uint64
}

// Read returns the present content. Durations observed meanwhile may be in Count and not yet in
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
