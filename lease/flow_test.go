package lease

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

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
			if _, known := m.Use(upDownload[0]); idle > 0 && known == (idle > forgetAfter) {
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
		key := upDownload[0]
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

// byteJudge notes when bytes are moved, and holds every window of time against a limit.
type byteJudge struct {
	mu    sync.Mutex
	start time.Time
	moved float64
	spare float64 // the least so far of what was moved before a moment, less what came until then
	over  float64 // the most by which a window was above the rate
	by    map[string]float64
}

func newByteJudge() *byteJudge { return &byteJudge{start: time.Now(), by: map[string]float64{}} }

func (j *byteJudge) note(rate float64, flow string, n int) {
	j.noteAt(time.Since(j.start), rate, flow, n)
}

func (j *byteJudge) noteAt(at time.Duration, rate float64, flow string, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	came := rate * at.Seconds()
	j.spare = min(j.spare, j.moved-came)
	j.moved += float64(n)
	if j.by != nil {
		j.by[flow] += float64(n)
	}
	j.over = max(j.over, j.moved-came-j.spare)
}

// of is how many bytes a flow has moved, while it may be moving more.
func (j *byteJudge) of(flow string) float64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.by[flow]
}

// runFlow moves bytes of a flow until ctx ends: each as soon as it may.
func runFlow(ctx context.Context, m *Manager, s *limit.Subject, most int, moved func(n int)) {
	f := newTestFlow(m, s)
	defer f.End()
	for ctx.Err() == nil {
		if n := f.Take(most); n > 0 {
			moved(n)
			continue
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
		}
	}
}

func scopePaced(t *testing.T, scope limit.Scope, pattern string, rate, burst int64) limit.Limit {
	t.Helper()
	l := pacedAt(t, rate, burst)
	var err error
	if l.Pattern, err = scope.ParsePattern(pattern); err != nil {
		t.Fatal(err)
	}
	return l
}

// All of a flow's pieces are taken when it moves them: flows that each wait for a slow limit of
// their own don't move at once what came meanwhile of one that they share.
func TestPiecesAreTakenTogether(t *testing.T) {
	const rate, burst, clients = 100_000, 8192, 24
	keys := []limit.Key{{Scope: limit.ScopeTotal, Resource: limit.Download}}
	var flows []*testFlow
	for i := range clients {
		keys = append(keys, limit.Key{Scope: limit.ScopeClient, Resource: limit.Download, Name: fmt.Sprintf("10.0.0.%d", i)})
	}
	m, clock := meterNode(t, keys, scopePaced(t, limit.ScopeTotal, "", rate, burst), scopePaced(t, limit.ScopeClient, "*", 2000, 4096))
	for _, key := range keys[1:] {
		flows = append(flows, newTestFlow(m, &limit.Subject{Client: limit.ClientOf(addr(t, key.Name)), Host: to(t, "up")}))
	}
	j := new(byteJudge)
	moved := map[*testFlow]int{}
	for _, f := range flows {
		moved[f] += f.Take(1 << 20)
	}
	for at := time.Duration(0); at < 21*time.Second/2; at += 5 * time.Millisecond {
		for _, f := range flows {
			for len(f.wake) > 0 {
				<-f.wake
				for n := f.Take(1 << 20); n > 0; n = f.Take(1 << 20) {
					j.noteAt(at, rate, "", n)
					moved[f] += n
				}
			}
		}
		m.pass(clock, 5*time.Millisecond)
	}
	if j.over > burst {
		t.Errorf("in some window %.0f bytes above the rate were moved, the burst is %d", j.over, burst)
	}
	for i, f := range flows {
		if moved[f] < 4*4096 {
			t.Errorf("client %d has moved %d bytes in 10.5 s, of two thousand a second", i, moved[f])
		}
		f.End()
	}
}

// A flow under two limits, for each of which others contend, waits for ever behind none of them;
// and one that waits for a slow limit of its own takes nothing of what it shares with others.
func TestSeveralBandwidthsHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total, slow, up, took = 400_000, 8_000, 100_000, time.Minute
		c := startCluster(t, scopePaced(t, limit.ScopeTotal, "", total, 64<<10), scopePaced(t, limit.ScopeClient, "10.0.0.1", slow, 4096),
			scopePaced(t, limit.ScopeClient, "10.0.0.2", 80_000, 4096), pacedAt(t, up, 16<<10))
		m := startOne(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), took)
		defer cancel()
		j := newByteJudge()
		var wg sync.WaitGroup
		for _, f := range []struct {
			name, client, host string
			flows              int
		}{
			{"slow", "10.0.0.1", "up", 8}, {"both", "10.0.0.2", "up", 2}, {"its client elsewhere", "10.0.0.2", "down", 2},
			{"its host for others", "10.0.0.3", "up", 4}, {"rest", "10.0.0.4", "down", 4},
		} {
			subject := &limit.Subject{Client: limit.ClientOf(addr(t, f.client)), Host: to(t, f.host)}
			for range f.flows {
				wg.Go(func() { runFlow(ctx, m, subject, 1<<20, func(n int) { j.note(total, f.name, n) }) })
			}
		}
		wg.Wait()
		t.Logf("%.0f above the rate; %v", j.over, j.by)
		if j.over > 64<<10 {
			t.Errorf("in some window %.0f bytes above the rate were moved", j.over)
		}
		for name, least := range map[string]float64{
			"slow": 0.9 * slow, "both": 20_000, "its client elsewhere": 30_000, "its host for others": 40_000, "rest": 200_000,
		} {
			if got := j.by[name] / took.Seconds(); got < least {
				t.Errorf("%s: %.0f bytes a second, want %.0f", name, got, least)
			}
		}
		if used := j.moved / (total * took.Seconds()); used < 0.95 {
			t.Errorf("%.3f of the rate is used", used)
		}
	})
}

// meterNode is a node with all units of some keys, which are empty, on a clock that is set by hand.
func meterNode(t *testing.T, keys []limit.Key, limits ...limit.Limit) (*Manager, *manualClock) {
	t.Helper()
	clock := new(manualClock)
	clock.now.Store(int64(time.Hour))
	m := NewManager(ManagerConfig{Name: "a", Identity: "1", Clock: clock, Log: hclog.NewNullLogger()})
	m.node.setLimits(0, limit.NewTable(1, 1, limits))
	m.node.sess.begin(1, 1, time.Hour, clock.Now())
	m.node.stream.phase = streamWelcome
	m.node.openGate()
	m.do(func(now time.Duration) {
		for _, key := range keys {
			m.node.grant(key, limit.Shares)
			m.node.lookup(key).fillUp(now, 0)
		}
	})
	return m, clock
}

// pass lets time pass.
func (m *Manager) pass(clock *manualClock, d time.Duration) {
	clock.now.Add(int64(d))
	m.do(func(now time.Duration) { m.node.Tick(now, now) })
}

var upDownload = []limit.Key{{Scope: limit.ScopeHost, Resource: limit.Download, Name: "up"}}

// A flow whose turn it is has taken nothing until it takes it. The lease may have ended by then, or
// the flow.
func TestPieceIsKeptNotTaken(t *testing.T) {
	const rate, burst = 1_000_000, 64 << 10
	t.Run("the lease ends", func(t *testing.T) {
		m, clock := meterNode(t, upDownload, pacedAt(t, rate, burst))
		f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
		if n := f.Take(1 << 20); n > 0 {
			t.Fatalf("%d bytes of an empty bucket", n)
		}
		m.pass(clock, 21*time.Millisecond)
		if len(f.wake) == 0 {
			t.Fatal("the flow is not woken when there is a piece")
		}
		m.GiveUp()
		if n := f.Take(1 << 20); n > 0 {
			t.Errorf("%d bytes after the lease has ended", n)
		}
		f.End()
		if err := m.node.Check(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the flow ends", func(t *testing.T) {
		m, clock := meterNode(t, upDownload, pacedAt(t, rate, burst))
		first, second := newTestFlow(m, &limit.Subject{Host: to(t, "up")}), newTestFlow(m, &limit.Subject{Host: to(t, "up")})
		first.Take(1 << 20)
		second.Take(1 << 20)
		m.pass(clock, 21*time.Millisecond)
		if len(first.wake) != 1 || len(second.wake) != 0 {
			t.Fatalf("woken: the first %d times, the second %d", len(first.wake), len(second.wake))
		}
		if n := second.Take(1 << 20); n > 0 {
			t.Fatalf("%d bytes before the first had its turn", n)
		}
		first.End()
		if len(second.wake) != 1 || second.Take(1<<20) == 0 {
			t.Error("what was kept for a flow that has ended is nobody's")
		}
	})
	t.Run("the flow is stuck", func(t *testing.T) {
		m, clock := meterNode(t, upDownload, pacedAt(t, rate, 8<<10)) // two pieces
		flows := make([]*testFlow, 3)
		for i := range flows {
			flows[i] = newTestFlow(m, &limit.Subject{Host: to(t, "up")})
			flows[i].Take(1 << 20)
		}
		m.pass(clock, 21*time.Millisecond)
		if len(flows[1].wake) != 1 || len(flows[2].wake) != 0 {
			t.Fatalf("two pieces are there: the second flow is woken %d times, the third %d", len(flows[1].wake), len(flows[2].wake))
		}
		for range 20 {
			m.pass(clock, keepFor/10)
		}
		if len(flows[2].wake) != 1 || flows[2].Take(1<<20) == 0 {
			t.Error("a flow that waits behind two that are stuck is stuck too")
		}
		moved := 0
		for _, f := range flows[:2] {
			moved += f.Take(1 << 20)
		}
		if moved > 4<<10 {
			t.Errorf("those that were stuck move %d bytes at once, of 4 KiB that are left", moved)
		}
	})
	t.Run("it comes late", func(t *testing.T) {
		m, clock := meterNode(t, upDownload, pacedAt(t, rate, burst))
		flows := make([]*testFlow, 3)
		for i := range flows {
			flows[i] = newTestFlow(m, &limit.Subject{Host: to(t, "up")})
			flows[i].Take(1 << 20)
		}
		moved := 0
		m.pass(clock, 10*time.Second)
		for range 2 {
			for _, f := range flows {
				moved += f.Take(1 << 20)
			}
		}
		if moved > burst {
			t.Errorf("%d bytes at one moment, the burst is %d", moved, burst)
		}
	})
}

// A limit that only reports slows nothing down, and its units are asked for: it counts what it
// would have slowed down, and nothing where the flow is within it.
func TestReportOfBandwidth(t *testing.T) {
	for _, c := range []struct {
		name    string
		pause   time.Duration
		exceeds bool
	}{{"within", 100 * time.Millisecond, false}, {"beyond", 10 * time.Millisecond, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := pacedAt(t, 100_000, 64<<10)
				l.Report = true
				m := startOne(t, startCluster(t, l))
				f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
				defer f.End()
				for range 200 {
					if n := f.Take(4096); n != 4096 {
						t.Fatalf("%d of 4096 bytes", n)
					}
					time.Sleep(c.pause)
				}
				f.Put(96) // of the last piece
				use, _ := m.Use(upDownload[0])
				if want := uint64(200*4096 - 96); use.Admitted != want {
					t.Errorf("%d bytes are counted, and %d have passed", use.Admitted, want)
				}
				if use.Granted == 0 || (use.WouldReject > 20) != c.exceeds || use.WouldReject > 0 && !c.exceeds {
					t.Errorf("%+v", use)
				}
			})
		})
	}
}

// The first bytes after a pause, when the node has to ask for its units, are over no limit.
func TestReportOfAFewBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pacedAt(t, 100_000_000, 100<<20)
		l.Report = true
		m := startOne(t, startCluster(t, l))
		f := newTestFlow(m, &limit.Subject{Host: to(t, "up")})
		defer f.End()
		for range 3 {
			for range 5 {
				if f.Take(100) != 100 {
					t.Fatal("bytes are held back")
				}
			}
			time.Sleep(7 * time.Second)
		}
		if use, _ := m.Use(upDownload[0]); use.WouldReject != 0 || use.Admitted != 1500 {
			t.Errorf("%+v", use)
		}
	})
}

// A flow that has had its turn and found nothing to move wants nothing more: the leader hears of
// it, and its node's units go to where others wait.
func TestLeaderHearsThatNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, burst = 8_000, 16 << 10 // a piece takes a second, of half of it
		c := startCluster(t, pacedAt(t, rate, burst))
		nodes := startThree(t, c)
		subject := &limit.Subject{Host: to(t, "up")}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		j := newByteJudge()
		var wg sync.WaitGroup
		wg.Go(func() { runFlow(ctx, nodes["b"], subject, 1<<20, func(n int) { j.note(rate, "b", n) }) })
		f := newTestFlow(nodes["a"], subject)
		defer f.End()
		for range 10 {
			j.note(rate, "a", f.move(1<<20, 5*time.Second))
		}
		f.Put(f.move(1<<20, 5*time.Second))
		time.Sleep(2 * time.Second)
		if use, _ := nodes["a"].Use(upDownload[0]); use.Granted != 0 {
			t.Errorf("two seconds after its flow found nothing to move, a node has %+v", use)
		}
		before := j.of("b")
		time.Sleep(2 * time.Second)
		if got := j.of("b") - before; got < 0.8*2*rate {
			t.Errorf("the only flow that has bytes to move moves %.0f in 2 s, of %d a second", got, rate)
		}
		cancel()
		wg.Wait()
		if j.over > burst {
			t.Errorf("in some window %.0f bytes above the rate were moved", j.over)
		}
	})
}

// What is kept for a flow of one limit outlives the pool of another, which its node may forget as
// long as the flow waits for none of it. Else flows could take each other's turns away for ever.
func TestKeptPieceOutlivesAnotherPool(t *testing.T) {
	total := limit.Key{Scope: limit.ScopeTotal, Resource: limit.Download}
	m, clock := meterNode(t, []limit.Key{total}, scopePaced(t, limit.ScopeTotal, "", 100_000, 4096), scopePaced(t, limit.ScopeClient, "*", 100_000, 4096))
	bounds := m.node.bounds
	bounds.Bare = 1
	m.node.SetBounds(bounds)
	var flows [2]*testFlow
	for i, name := range []string{"10.0.0.1", "10.0.0.2"} {
		flows[i] = newTestFlow(m, &limit.Subject{Client: limit.ClientOf(addr(t, name)), Host: to(t, "up")})
		flows[i].Take(1 << 20)
	}
	m.pass(clock, 50*time.Millisecond)
	if len(flows[0].wake) != 1 || len(flows[1].wake) != 0 {
		t.Fatalf("one piece is there, and the flows are woken %d and %d times", len(flows[0].wake), len(flows[1].wake))
	}
	client := limit.Key{Scope: limit.ScopeClient, Resource: limit.Download, Name: "10.0.0.1"}
	m.do(func(now time.Duration) {
		for _, name := range []string{"10.0.0.7", "10.0.0.8", "10.0.0.9"} {
			m.node.pool(now, limit.Key{Scope: limit.ScopeClient, Resource: limit.Download, Name: name})
		}
	})
	if _, known := m.Use(client); known {
		t.Fatal("the client's pool is not forgotten")
	}
	if n := flows[0].Take(1 << 20); n > 0 {
		t.Fatalf("%d bytes of a client without a unit", n)
	}
	if use, _ := m.Use(client); use.Waiting != 1 {
		t.Errorf("the flow does not wait for what it lacks: %+v", use)
	}
}
