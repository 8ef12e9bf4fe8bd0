package server

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestHistogramAgainstModel compares with the plain definition: a bucket holds what is at most its
// bound.
func TestHistogramAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h Histogram
	var all []time.Duration
	for _, d := range append(bounds[:], 0, -time.Second, time.Nanosecond, time.Hour) {
		all = append(all, d, d+1)
	}
	for range 1000 {
		all = append(all, time.Duration(r.Int64N(int64(10*time.Minute))))
	}
	for _, d := range all {
		h.Observe(d)
	}
	got := h.Read()
	var sum time.Duration
	for _, d := range all {
		sum += max(0, d)
	}
	if got.Count != uint64(len(all)) || got.Sum != sum {
		t.Errorf("count %d, sum %v; want %d, %v", got.Count, got.Sum, len(all), sum)
	}
	if len(got.Buckets) != len(bounds) {
		t.Fatalf("%d buckets, want %d", len(got.Buckets), len(bounds))
	}
	for i, b := range got.Buckets {
		want := uint64(0)
		for _, d := range all {
			if d <= bounds[i] {
				want++
			}
		}
		if b.AtMost != bounds[i] || b.Count != want {
			t.Errorf("bucket %v holds %d, want %v with %d", b.AtMost, b.Count, bounds[i], want)
		}
	}
}

func TestHistogramTogether(t *testing.T) {
	var h Histogram
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				h.Observe(time.Millisecond)
			}
		})
	}
	for range 100 {
		d := h.Read()
		if last := d.Buckets[len(d.Buckets)-1].Count; last > d.Count {
			t.Errorf("%d in the buckets, %d in all", last, d.Count)
		}
	}
	wg.Wait()
	if d := h.Read(); d.Count != 4000 || d.Sum != 4*time.Second || d.Buckets[1].Count != 4000 || d.Buckets[0].Count != 0 {
		t.Errorf("%+v", d)
	}
}

// BenchmarkHistogram compares with Prometheus' own, on one goroutine and on all.
func BenchmarkHistogram(b *testing.B) {
	var own Histogram
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x", Buckets: prometheus.ExponentialBuckets(0.0005, 2, buckets)})
	for name, observe := range map[string]func(time.Duration){
		"own":        own.Observe,
		"prometheus": func(d time.Duration) { theirs.Observe(d.Seconds()) },
	} {
		b.Run(name+"/alone", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				observe(3 * time.Millisecond)
			}
		})
		b.Run(name+"/together", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					observe(3 * time.Millisecond)
				}
			})
		})
	}
}
