package lease

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// meterAt is a flow under limits on bandwidth in some scopes, all of which its node holds, with
// full buckets.
func meterAt(b testing.TB, clock Clock, rate int64, scopes ...limit.Scope) (*Manager, *testFlow) {
	m := heldRates(b, clock, limit.Download, scopes, func(l *limit.Limit) { l.Bandwidth = limit.Bandwidth{Download: rate} })
	return m, newTestFlow(m, &benchSubject)
}

// Bytes that the node has in hand, of none, one and four limits; some of them go back.
func BenchmarkMeter(b *testing.B) {
	for _, scopes := range benchScopes {
		eachClock(b, fmt.Sprint(len(scopes)), func(b *testing.B, clock Clock) {
			_, f := meterAt(b, clock, limit.MaxBandwidth, scopes...)
			b.ReportAllocs()
			for b.Loop() {
				n := f.Take(64 << 10)
				if n == 0 {
					b.Fatal("nothing is in hand")
				}
				f.Put(n / 2)
			}
		})
	}
}

// A flow that sleeps before each piece: with the timer that wakes it.
func BenchmarkPacedMeter(b *testing.B) {
	for _, scopes := range benchScopes[1:] {
		b.Run(fmt.Sprint(len(scopes)), func(b *testing.B) {
			m, f, clock := pacedMeter(b, scopes...)
			b.ReportAllocs()
			busy := kit.Busy(func() {
				for b.Loop() {
					takePaced(m, f, clock)
				}
			})
			b.ReportMetric(float64(busy.Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// pacedMeter is a flow under limits that a piece of it must wait for.
func pacedMeter(b testing.TB, scopes ...limit.Scope) (*Manager, *testFlow, *manualClock) {
	clock := new(manualClock)
	clock.now.Store(int64(time.Hour))
	m, f := meterAt(b, clock, 10_000_000, scopes...)
	m.node.sess.begin(1, 1, 1<<60, clock.Now())
	m.node.openGate()
	return m, f, clock
}

// takePaced takes the next piece, and lets the time pass that this takes.
func takePaced(m *Manager, f *testFlow, clock *manualClock) {
	for f.Take(1<<20) == 0 {
		for len(f.wake) == 0 {
			clock.now.Add(int64(time.Millisecond))
			m.do(func(now time.Duration) { m.node.Tick(now, now) })
		}
		<-f.wake
	}
}
