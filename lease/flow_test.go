package lease

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/limit"
)

// testFlow is one direction of a connection whose upstream always has more.
type testFlow struct {
	Meter
	wake wakeup
}

func newTestFlow(m *Manager, s *limit.Subject) *testFlow {
	f := &testFlow{wake: make(wakeup, 1)}
	m.Init(&f.Meter, s, limit.Download, f.wake)
	return f
}

// move takes bytes, and waits for them for so long at most; 0: none came.
func (f *testFlow) move(most int, patience time.Duration) int {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		if n := f.Take(most); n > 0 {
			return n
		}
		select {
		case <-f.wake:
		case <-timer.C:
			return 0
		}
	}
}

// A connection may be idle for so long that its node forgets the pool of its bandwidth; then it
// moves bytes again.
func TestFlowOutlivesItsPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, pacedAt(t, 1<<20, 64<<10))
		m := startOne(t, c)
		f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
		defer f.End()
		for _, idle := range []time.Duration{0, forgetAfter + time.Minute, time.Second, 2 * forgetAfter} {
			time.Sleep(idle)
			if _, known := m.Use(limit.Key{Scope: limit.ScopeHost, Resource: limit.Download, Name: "up"}); idle > 0 && known == (idle > forgetAfter) {
				t.Fatalf("after %v without a byte, the node knows its key: %v", idle, known)
			}
			if n := f.move(32<<10, 5*time.Second); n == 0 {
				t.Fatalf("after %v without a byte, the flow waits for ever", idle)
			}
		}
	})
}

// A unit that the leader asked for stays with a node until its flow has had a piece of it. Where
// the flow ends before, the unit goes at once.
func TestRecallWaitsForNoFlowThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 100 // a piece takes 41 s
		key := limit.Key{Scope: limit.ScopeHost, Resource: limit.Download, Name: "up"}
		c := startCluster(t, pacedAt(t, rate, limit.MinByteBurst))
		nodes := startThree(t, c)
		subject := &limit.Subject{Host: to(t, "up")}
		first := newTestFlow(nodes["a"], subject)
		defer first.End()
		if n := first.move(1<<20, time.Second); int64(n) != limit.MinByteBurst {
			t.Fatalf("%d bytes of a full bucket", n)
		}
		second := newTestFlow(nodes["b"], subject)
		defer second.End()
		if n := second.move(1<<20, 5*time.Second); n > 0 {
			t.Fatalf("%d bytes of an empty bucket", n)
		}
		if n := first.move(1<<20, 5*time.Second); n > 0 {
			t.Fatalf("%d bytes while another node has the unit", n)
		}
		if use, _ := nodes["b"].Use(key); use.Granted == 0 || use.Waiting != 1 {
			t.Fatalf("a node whose flow waits for the unit that it has: %+v", use)
		}
		second.End()
		time.Sleep(time.Second)
		if use, _ := nodes["b"].Use(key); use.Granted != 0 {
			t.Errorf("a node whose flow has ended keeps what was asked for: %+v", use)
		}
		if use, _ := nodes["a"].Use(key); use.Granted == 0 {
			t.Errorf("a node whose flow waits for the only unit: %+v", use)
		}
		if n := first.move(1<<20, 35*time.Second); n == 0 {
			t.Error("the level has not come with the unit")
		}
	})
}
