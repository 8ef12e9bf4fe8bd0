package fsm

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// A snapshot of a million keys, each held by three sessions: what stops the log is taking it;
// writing and reading go beside it.
func BenchmarkSnapshotMillion(b *testing.B) {
	s, _ := busyState(b, 1_000_000)
	var buf bytes.Buffer
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			buf.Reset()
			if err := s.WriteSnapshot(&buf); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(buf.Len())/1e6, "MB")
	})
	b.Run("take", func(b *testing.B) {
		for b.Loop() {
			s.image()
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := ReadSnapshot(bytes.NewReader(buf.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A limit changes while 100,000 clients hold a part of a rate each: the log is stopped for so long.
func BenchmarkLimitChange(b *testing.B) {
	const clients = 100_000
	s := NewState()
	l := perSecond(10)
	l.Limit.Pattern = limittest.Scoped(limit.ScopeClient, "*")
	run(b, s, l, &OpenSession{Term: 1, Node: "a", Identity: "i"})
	for i := range clients {
		key := limit.Key{Scope: limit.ScopeClient, Resource: limit.Requests, Name: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}
		run(b, s, &Adjust{Term: 1, Batch: s.Batch(1) + 1, Adjustments: []Adjustment{{Session: 2, Key: key, Delta: limit.Shares}}})
	}
	for burst := int64(10); b.Loop(); burst ^= 1 {
		l.Limit.Requests.Burst = burst
		run(b, s, l)
	}
}
