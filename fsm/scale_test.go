package fsm

import (
	"bytes"
	"testing"
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
