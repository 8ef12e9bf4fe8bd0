package lease

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/limit"
)

func startOne(t *testing.T, c *testCluster) *Manager {
	t.Helper()
	m, _ := c.start(t, "n1", "id1")
	if err := m.WaitLive(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // what the node has to say first is said
	return m
}

// flowThrough takes from a node as a tunnel does whose upstream always has more, until ctx ends.
// Each piece takes a moment to be moved.
func flowThrough(ctx context.Context, m *Manager, s *limit.Subject) (moved, takes, waits int) {
	var f Meter
	wake := make(wakeup, 1)
	m.Init(&f, s, limit.Download, wake)
	defer f.End()
	for ctx.Err() == nil {
		n := f.Take(1 << 20)
		if n > 0 {
			moved, takes = moved+n, takes+1
			time.Sleep(100 * time.Microsecond)
			continue
		}
		waits++
		select {
		case <-wake:
		case <-ctx.Done():
		}
	}
	return moved, takes, waits
}

func pacedAt(t *testing.T, rate, burst int64) limit.Limit {
	t.Helper()
	l := limit.Limit{Connections: limit.Unlimited, Bandwidth: limit.Bandwidth{Download: rate, Burst: burst}, Source: limit.SourceConfig}
	var err error
	if l.Pattern, err = limit.ParsePattern("up"); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestFastFlowMovesLargePieces: a flow that is held to a fast rate sleeps until there is a piece
// for it, rather than move what comes during each call, and the leader is not told of each sleep.
func TestFastFlowMovesLargePieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, took = 200_000_000, 10 * time.Second
		c := startCluster(t, pacedAt(t, rate, rate/10))
		m := startOne(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), took)
		defer cancel()
		moved, takes, waits := flowThrough(ctx, m, &limit.Subject{Host: to(t, "up")})
		if used := float64(moved) / (rate * took.Seconds()); used < 0.97 {
			t.Errorf("%.3f of the bandwidth is used", used)
		}
		if size := moved / takes; size < 900_000 {
			t.Errorf("%d bytes at once, of at most %d", size, 1<<20)
		}
		if most := int(took/pieceTime) * 11 / 10; waits > most {
			t.Errorf("the flow has slept %d times in %v, at most %d", waits, took, most)
		}
		if n := c.updates("n1"); n > int64(waits)/5 {
			t.Errorf("the leader was told %d times, of %d waits", n, waits)
		}
	})
}

// TestBucketSmallerThanAPiece: a small burst does not keep the bandwidth from being used. A bucket
// may hold no whole number of bytes, or fill faster than a timer goes off.
func TestBucketSmallerThanAPiece(t *testing.T) {
	for _, burst := range []int64{64 << 10, 64<<10 + 1, 500_000, 1_500_000, 2_000_003, 4_000_000} {
		synctest.Test(t, func(t *testing.T) {
			const rate, took = 100_000_000, 5 * time.Second // a piece is 2 MB
			c := startCluster(t, pacedAt(t, rate, burst))
			m := startOne(t, c)
			ctx, cancel := context.WithTimeout(t.Context(), took)
			defer cancel()
			moved, _, _ := flowThrough(ctx, m, &limit.Subject{Host: to(t, "up")})
			least := 0.95
			switch {
			case burst < rate/1000: // less than comes during the shortest sleep
				least = 0.5
			case burst < rate/100:
				least = 0.9
			}
			if used := float64(moved) / (rate * took.Seconds()); used < least || float64(moved) > rate*took.Seconds()+float64(burst) {
				t.Errorf("burst %d: %.3f of the bandwidth is used", burst, used)
			}
		})
	}
}

// TestFractionalPiece: a piece is whole bytes, or a bucket without a whole number of them would
// never have one.
func TestFractionalPiece(t *testing.T) {
	p := newPool(limit.Key{Scope: limit.ScopeHost, Resource: limit.Download, Name: "up"})
	p.bucket = bucket{fill: 1, size: 28672.4}
	for _, fill := range []float64{1e-6, 1e-3, 1} {
		p.bucket.fill = fill
		if piece := p.piece(); p.bucket.whole(time.Hour) < piece || piece != math.Floor(piece) {
			t.Errorf("at %v a nanosecond there is no piece of %v in a full bucket", fill, piece)
		}
	}
}

// A flow that waits for a slow limit of its own goes on when that is raised or removed: it does not
// wait for the piece that the old one owes it, which may take an hour.
func TestNewLimitWakesALoneFlow(t *testing.T) {
	const slow, burst = 1, limit.MinByteBurst
	own := func(rate, index int64) limit.Limit {
		l := scopePaced(t, limit.ScopeConnection, "", rate, burst)
		l.ModifyIndex = uint64(index)
		return l
	}
	for name, limits := range map[string][]limit.Limit{"raised": {own(1_000_000, 2)}, "removed": nil} {
		t.Run(name, func(t *testing.T) {
			m, clock := meterNode(t, nil, own(slow, 1))
			f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
			if n := int64(f.Take(1 << 20)); n != burst {
				t.Fatalf("%d bytes of a full bucket that holds %d", n, burst)
			}
			if n := f.Take(1 << 20); n > 0 {
				t.Fatalf("%d bytes of an empty bucket", n)
			}
			shape := uint64(1)
			if limits == nil {
				shape = 2
			}
			m.do(func(now time.Duration) { m.node.setLimits(now, limit.NewTable(2, shape, limits)) })
			if len(f.wake) == 0 {
				t.Fatal("the flow is not woken")
			}
			<-f.wake
			f.Take(1 << 20)
			m.pass(clock, 10*time.Millisecond)
			if n := f.Take(1 << 20); n == 0 {
				t.Error("nothing moves under the new limits")
			}
			f.End()
			if len(m.node.dues) > 0 {
				t.Error("a flow that has ended is still to be woken")
			}
		})
	}
}
