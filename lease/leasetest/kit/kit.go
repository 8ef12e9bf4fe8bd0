// Package kit is what tests of both sides of a lease share.
package kit

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/limit"
)

// Limit is a limit of the config's.
func Limit(t testing.TB, pattern string, n int64, q limit.Queue) limit.Limit {
	t.Helper()
	p, err := limit.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return limit.Limit{Pattern: p, Connections: n, Queue: q, Source: limit.SourceConfig}
}

// Encode encodes a message.
func Encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Busy is the processor time that f takes: what others do on the machine meanwhile does not stall
// it for long, and is not meant.
func Busy(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := threadTime()
	f()
	return threadTime() - began
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// ReportStall reports the median of the stalls of a benchmark.
func ReportStall(b *testing.B, stalls []time.Duration) {
	slices.Sort(stalls)
	b.ReportMetric(float64(stalls[len(stalls)/2].Microseconds()), "µs-stall")
}
