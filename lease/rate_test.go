package lease

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// judge is who is asked: it notes when, and holds every window of time against the limit.
type judge struct {
	mu    sync.Mutex
	start time.Time
	at    []time.Duration
	by    map[string]int
}

func newJudge() *judge { return &judge{start: time.Now(), by: map[string]int{}} }

func (j *judge) note(node string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.at = append(j.at, time.Since(j.start))
	j.by[node]++
}

// check looks at each window that begins with a request and ends with one.
func (j *judge) check(t *testing.T, rate float64, burst int) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	slices.Sort(j.at)
	// The least of i - rate*at(i) so far is where the fullest window begins.
	least := 0.0
	for i, at := range j.at {
		if over := float64(i+1) - rate*at.Seconds() - least; over > float64(burst)+1e-6 {
			t.Fatalf("request %d, at %v, is %.3f above %v/s with burst %d", i, at, over-float64(burst), rate, burst)
		}
		least = min(least, float64(i)-rate*at.Seconds())
		if i == 0 {
			least = -rate * at.Seconds()
		}
	}
}

// used is the part of a rate that was used from one moment to another.
func (j *judge) used(from, to time.Duration, rate float64) float64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, at := range j.at {
		if at >= from && at < to {
			n++
		}
	}
	return float64(n) / (rate * (to - from).Seconds())
}

func requestLimit(t *testing.T, pattern, rate string, burst int64, q limit.Queue) limit.Limit {
	t.Helper()
	p, err := limit.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	r, err := limit.ParseRate(rate, burst)
	if err != nil {
		t.Fatal(err)
	}
	return limit.Limit{Pattern: p, Connections: limit.Unlimited, Requests: r, Queue: q, Source: limit.SourceConfig}
}

// ask begins requests on a node, one after the other, until ctx ends.
func ask(ctx context.Context, m *Manager, s *limit.Subject, node string, j *judge) {
	for ctx.Err() == nil {
		err := m.Take(ctx, s, 0)
		switch {
		case err == nil:
			j.note(node)
		case ctx.Err() != nil:
			return
		default:
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

func (c *testCluster) entries() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.index
}

func TestRateOverThreeNodes(t *testing.T) {
	for _, c := range []struct {
		rate    string
		perSec  float64
		burst   int
		lasts   time.Duration
		entries uint64 // at most, in 10,000 requests of steady demand; 0: any
	}{
		{"0.5/s", 0.5, 1, 10 * time.Minute, 0},
		{"5/s", 5, 1, 2 * time.Minute, 0},
		{"50/s", 50, 10, 200 * time.Second, 50},
		{"2000/s", 2000, 200, 5 * time.Second, 50},
	} {
		t.Run(c.rate, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl := startCluster(t, requestLimit(t, "up", c.rate, int64(c.burst), limit.Queue{Timeout: time.Minute, Size: 100}))
				nodes := startThree(t, cl)
				j := newJudge()
				subject := &limit.Subject{Host: to(t, "up")}
				settle := 3 * time.Second
				var entries uint64
				withDemand(t, nodes, subject, j, settle+c.lasts, func() {
					time.Sleep(settle)
					before := cl.entries()
					time.Sleep(c.lasts - time.Second)
					entries = cl.entries() - before
				})
				j.check(t, c.perSec, c.burst)
				if used := j.used(settle, settle+c.lasts, c.perSec); used < 0.95 {
					t.Errorf("%.3f of the rate is used", used)
				}
				var sum, squares float64
				for _, n := range j.by {
					sum += float64(n)
					squares += float64(n) * float64(n)
				}
				if jain := sum * sum / (3 * squares); jain < 0.95 {
					t.Errorf("Jain %.3f: %v", jain, j.by)
				}
				t.Logf("used %.4f, %v, %d entries", j.used(settle, settle+c.lasts, c.perSec), j.by, entries)
				if c.entries > 0 && entries > c.entries {
					t.Errorf("%d entries", entries)
				}
			})
		})
	}
}

func startThree(t *testing.T, c *testCluster) map[string]*Manager {
	t.Helper()
	nodes := map[string]*Manager{}
	for _, name := range []string{"a", "b", "c"} {
		nodes[name], _ = c.start(t, name, name)
		if err := nodes[name].WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return nodes
}

// withDemand lets eight workers ask through each node while f runs.
func withDemand(t *testing.T, nodes map[string]*Manager, s *limit.Subject, j *judge, most time.Duration, f func()) {
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	var wg sync.WaitGroup
	for name, m := range nodes {
		for range 8 {
			wg.Go(func() { ask(ctx, m, s, name, j) })
		}
	}
	f()
	wg.Wait()
}

func TestRateFollowsTheDemand(t *testing.T) {
	for _, c := range []struct {
		rate   string
		perSec float64
		burst  int
	}{{"0.5/s", 0.5, 1}, {"5/s", 5, 1}, {"50/s", 50, 10}, {"2000/s", 2000, 200}} {
		t.Run(c.rate, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl := startCluster(t, requestLimit(t, "up", c.rate, int64(c.burst), limit.Queue{Timeout: time.Minute, Size: 100}))
				nodes := startThree(t, cl)
				j := newJudge()
				subject := &limit.Subject{Host: to(t, "up")}
				stay := max(10*time.Second, time.Duration(20/c.perSec*float64(time.Second)))
				for i, name := range []string{"a", "b", "c", "a"} {
					one := map[string]*Manager{name: nodes[name]}
					from := time.Since(j.start)
					withDemand(t, one, subject, j, stay, func() { time.Sleep(stay) })
					grace := time.Duration(0.05 / c.perSec * float64(time.Second))
					used := j.used(from+time.Second, from+stay+grace, c.perSec)
					if n := c.perSec * (stay - time.Second).Seconds(); used < 0.95-1/n {
						t.Errorf("on node %s, the %d. in turn, %.3f of the rate is used", name, i+1, used)
					}
				}
				j.check(t, c.perSec, c.burst)
			})
		})
	}
}

// Without a queue a request is refused once nothing is free anywhere, with the time of the next
// token.
func TestRateRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := startCluster(t, requestLimit(t, "up", "6/m", 3, limit.Queue{}))
		nodes := startThree(t, cl)
		subject := &limit.Subject{Host: to(t, "up")}
		for _, name := range []string{"a", "b", "c"} { // a full bucket, wherever its tokens are asked for
			if err := nodes[name].Take(t.Context(), subject, 0); err != nil {
				t.Fatalf("on %s: %v", name, err)
			}
		}
		err := nodes["b"].Take(t.Context(), subject, 0)
		var refused *LimitError
		if !errors.As(err, &refused) || !errors.Is(err, ErrOverLimit) {
			t.Fatalf("a fourth of a burst of 3: %v", err)
		}
		if refused.Key != (limit.Key{Scope: limit.ScopeHost, Resource: limit.Requests, Name: "up"}) || refused.Limit.Requests.Burst != 3 {
			t.Errorf("refused for %v, %+v", refused.Key, refused.Limit)
		}
		if refused.RetryAfter < 5*time.Second || refused.RetryAfter > 31*time.Second {
			t.Errorf("come again after %v; a token comes every 10 s, and this node has a third of them", refused.RetryAfter)
		}
	})
}

// All tokens of a burst are of use, through whatever nodes the requests come: none is left in parts
// on several nodes when units move. Of the last ones a unit without its token may come first; then
// the next request through that node gets another.
func TestTokensMoveWhole(t *testing.T) {
	for _, burst := range []int{2, 4, 5, 10, 20, 50} {
		synctest.Test(t, func(t *testing.T) {
			nodes := startThree(t, startCluster(t, requestLimit(t, "up", "1/h", int64(burst), limit.Queue{})))
			subject, admitted := &limit.Subject{Host: to(t, "up")}, 0
			for i := range 2*burst + 10 {
				if nodes[string(rune('a'+i%3))].Take(t.Context(), subject, 0) == nil {
					admitted++
				}
			}
			if admitted != burst {
				t.Fatalf("%d requests were let in under a burst of %d", admitted, burst)
			}
		})
	}
}

// A client that comes again when it was told to, in whole seconds, is let in.
func TestRetryAfterIsEnough(t *testing.T) {
	for _, rate := range []string{"1/s", "1/m", "1/h"} {
		t.Run(rate, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startOne(t, startCluster(t, requestLimit(t, "up", rate, 1, limit.Queue{})))
				subject := &limit.Subject{Host: to(t, "up")}
				if err := m.Take(t.Context(), subject, 0); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
				var over *LimitError
				if err := m.Take(t.Context(), subject, 0); !errors.As(err, &over) {
					t.Fatalf("a second of a burst of 1: %v", err)
				}
				time.Sleep(time.Duration(math.Ceil(over.RetryAfter.Seconds())) * time.Second)
				if err := m.Take(t.Context(), subject, 0); err != nil {
					t.Errorf("told %v, and then: %v", over.RetryAfter, err)
				}
			})
		})
	}
}

// A request that has waited in vain, or finds the queue full, is told when the next token comes:
// neither itself nor the others that wait are added.
func TestRateRefusalsOfAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl := startCluster(t, requestLimit(t, "up", "1/m", 1, limit.Queue{Timeout: 5 * time.Second, Size: 2}))
		m, _ := cl.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		subject := &limit.Subject{Host: to(t, "up")}
		if err := m.Take(t.Context(), subject, 0); err != nil {
			t.Fatal(err)
		}
		answers := make(chan error, 2)
		for range cap(answers) {
			go func() { answers <- m.Take(t.Context(), subject, 0) }()
		}
		synctest.Wait()
		refused := func(err, why error, least, most time.Duration) {
			t.Helper()
			var over *LimitError
			if !errors.As(err, &over) || !errors.Is(err, why) || over.RetryAfter < least || over.RetryAfter > most {
				t.Errorf("%v, %+v; want %v, and a token in %v to %v", err, over, why, least, most)
			}
		}
		refused(m.Take(t.Context(), subject, 0), ErrQueueFull, 59*time.Second, time.Minute+time.Minute/900) // buckets fill a little slower
		for range cap(answers) {
			refused(<-answers, ErrQueueTimeout, 54*time.Second, 56*time.Second)
		}
	})
}

// A change of a rate, also to and fro, fills nothing.
func TestChangeFillsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := requestLimit(t, "up", "1/h", 5, limit.Queue{})
		cl := startCluster(t, slow)
		m, _ := cl.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		subject := &limit.Subject{Host: to(t, "up")}
		for range 5 {
			if err := m.Take(t.Context(), subject, 0); err != nil {
				t.Fatal(err)
			}
		}
		for i, l := range []limit.Limit{requestLimit(t, "up", "1/h", 50, limit.Queue{}), requestLimit(t, "up", "2/h", 7, limit.Queue{}), slow} {
			if _, err := cl.Propose(t.Context(), 1, &fsm.PutLimit{Limit: l}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			for range 3 {
				if err := m.Take(t.Context(), subject, 0); !errors.Is(err, ErrOverLimit) {
					t.Fatalf("after change %d: %v", i, err)
				}
			}
			time.Sleep(time.Minute) // the node gives everything back
		}
	})
}

type wakeup chan struct{}

func (w wakeup) Wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// Connections share a bandwidth equally, wherever they are.
func TestBandwidthIsShared(t *testing.T) {
	for _, c := range []struct {
		flows   map[string]int
		seconds int // units that are left over take turns of ten seconds: nodes with other shares need more of them
	}{{map[string]int{"a": 2, "b": 2, "c": 2}, 20}, {map[string]int{"a": 1, "b": 4, "c": 1}, 60}, {map[string]int{"a": 1, "b": 10}, 20}, {map[string]int{"a": 3, "b": 2}, 20}} {
		t.Run(fmt.Sprint(c.flows), func(t *testing.T) { testBandwidthIsShared(t, c.flows, c.seconds) })
	}
}

func testBandwidthIsShared(t *testing.T, flows map[string]int, seconds int) {
	synctest.Test(t, func(t *testing.T) {
		const rate, burst = 1 << 20, 64 << 10
		l := limit.Limit{Connections: limit.Unlimited, Bandwidth: limit.Bandwidth{Download: rate, Burst: burst}, Source: limit.SourceConfig}
		l.Pattern, _ = limit.ParsePattern("up")
		cl := startCluster(t, l)
		nodes := startThree(t, cl)
		var mu sync.Mutex
		moved := map[string]int{}
		var total int
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for name, m := range nodes {
			for i := range flows[name] {
				wg.Go(func() {
					var f Meter
					wake := make(wakeup, 1)
					m.Init(&f, &limit.Subject{Host: to(t, "up")}, limit.Download, wake)
					defer f.End()
					for ctx.Err() == nil {
						n := f.Take(32 << 10)
						if n == 0 {
							select {
							case <-wake:
							case <-ctx.Done():
							}
							continue
						}
						mu.Lock()
						moved[fmt.Sprint(name, i)] += n
						total += n
						if most := burst + rate*time.Since(begun).Seconds(); float64(total) > most {
							t.Errorf("%d bytes after %v, at most %.0f", total, time.Since(begun), most)
						}
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		if used := float64(total) / float64(seconds*rate); used < 0.95 {
			t.Errorf("%.3f of the bandwidth is used", used)
		}
		for flow, n := range moved {
			if share := float64(n) * float64(len(moved)) / float64(total); share < 0.9 || share > 1.1 {
				t.Errorf("flow %s has %.3f of its share", flow, share)
			}
		}
	})
}

// A request that is refused on a node without a unit is told when the node that has the unit gets
// its next token.
func TestRetryAfterFromAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := startThree(t, startCluster(t, requestLimit(t, "up", "1/m", 1, limit.Queue{})))
		subject := &limit.Subject{Host: to(t, "up")}
		if err := nodes["a"].Take(t.Context(), subject, 0); err != nil {
			t.Fatal(err)
		}
		taken := time.Now()
		for _, after := range []time.Duration{2 * time.Second, 20 * time.Second, 50 * time.Second} {
			time.Sleep(time.Until(taken.Add(after)))
			for _, name := range []string{"b", "c", "a"} {
				err := nodes[name].Take(t.Context(), subject, 0)
				var refused *LimitError
				if !errors.As(err, &refused) {
					t.Fatalf("on %s, %v after the only token was taken: %v", name, after, err)
				}
				left := time.Until(taken.Add(time.Minute))
				if got := refused.RetryAfter; got < left-time.Second || got > left+time.Second {
					t.Errorf("on %s, %v after: come again in %v; want about %v", name, after, got, left)
				}
			}
		}
	})
}
