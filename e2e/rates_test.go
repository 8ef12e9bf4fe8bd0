package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/judge"
	"github.com/weirproxy/weir/e2e/load"
)

const (
	rateUsed   = 0.95 // the least of a rate that is used where there is demand
	rateFair   = 0.95 // the least of Jain's index between equal nodes
	rateWindow = 3 * time.Second
	// rateWindows is how many windows a rate gets to be used as it should: the machine may be busy
	// with other things. The cap gets no second chance.
	rateWindows = 4
	fullRate    = 2000 // requests a second, on a machine that can do four times as many
)

// rated is an upstream with a limit on requests, and the workers that ask for it through each node.
type rated struct {
	host
	perSecond, burst float64
	workers          int // through each node that has any
	steps            []judge.Step
	runs             map[*node]*load.Run
}

// rate is a limit's body, with a queue in which all its workers have room.
func rateBody(perSecond, burst float64) string {
	return fmt.Sprintf(`{"requests":{"rate":"%g/s","burst":%g},"queue":{"timeout":"1m","size":100}}`, perSecond, burst)
}

// rated starts an upstream and sets its limit.
func (c *cluster) rated(t *testing.T, perSecond, burst float64, workers int) *rated {
	t.Helper()
	r := &rated{host: c.upstream(t), perSecond: perSecond, burst: burst, workers: workers, runs: map[*node]*load.Run{}}
	r.steps = []judge.Step{{PerSecond: perSecond, Burst: burst}}
	c.put(t, "host", r.name, rateBody(perSecond, burst))
	t.Cleanup(r.rest)
	return r
}

// press lets workers ask without a pause, through these nodes alone: tunnels through every other
// node, and plain requests through the rest.
func (r *rated) press(c *cluster, nodes ...*node) {
	for n, run := range r.runs {
		if !slices.Contains(nodes, n) {
			run.Stop()
			delete(r.runs, n)
		}
	}
	for i, n := range c.nodes {
		if slices.Contains(nodes, n) && r.runs[n] == nil {
			r.runs[n] = load.Start(load.Plan{
				Proxies: []string{n.proxy}, Target: r.target, Workers: r.workers, Plain: r.perSecond > 50 || i%2 == 1,
				Pause: 50 * time.Millisecond, Timeout: 2 * time.Minute,
			})
		}
	}
}

func (r *rated) rest() {
	for n, run := range r.runs {
		run.Stop()
		delete(r.runs, n)
	}
}

func (r *rated) String() string { return fmt.Sprintf("%g/s, burst %g", r.perSecond, r.burst) }

// seen is what the upstream has seen begin.
func (r *rated) seen() (seen []judge.Passing) {
	for _, at := range r.Asked() {
		seen = append(seen, judge.Passing{At: at, N: 1})
	}
	return seen
}

// used is the share of the rate that began between two moments, and one more at most: a moment may
// lie just before the next.
func (r *rated) used(from, to time.Time) float64 {
	return (judge.Between(r.seen(), from, to) + 1) / (r.perSecond * to.Sub(from).Seconds())
}

// judge holds the rate to its cap, in every window of time.
func (r *rated) judge(t *testing.T, late time.Duration) {
	t.Helper()
	r.complete(t)
	seen := r.seen()
	worst := judge.Weigh(r.steps, late, seen)
	t.Logf("%v: %d requests; the busiest window: %v", r, len(seen), worst)
	if worst.Over() {
		t.Errorf("%v: the upstream saw more than the limit allows: %v", r, worst)
	}
}

// lateness measures how late the upstream may see what has begun: unlimited requests go through
// each node meanwhile, and the longest that one took, there and back, is the most.
type lateness struct {
	run   *load.Run
	pace  *pace
	begun time.Time
}

const lateHold = 20 * time.Millisecond // what such a request lasts at the upstream

func (c *cluster) lateness(t *testing.T) *lateness { return c.latenessBy(t, len(c.nodes)) }

// latenessBy measures with so many workers: the more, the shorter are the times that they miss.
func (c *cluster) latenessBy(t *testing.T, workers int) *lateness {
	return startLateness(t, load.Plan{Proxies: c.proxies(), Target: c.upstream(t).target, Workers: workers, Plain: true})
}

// startLateness measures by a plan for what no limit governs.
func startLateness(t *testing.T, p load.Plan) *lateness {
	l := &lateness{pace: startPace(t), begun: time.Now()}
	p.Hold, p.Pause = lateHold, lateHold
	l.run = load.Start(p)
	t.Cleanup(func() { l.run.Stop() })
	return l
}

// most ends the measuring.
func (l *lateness) most(t *testing.T) time.Duration {
	t.Helper()
	late := load.Percentile(load.Sum(l.run.Stop()).Waits, 100) - lateHold
	_, blind := l.pace.blind(l.begun)
	late = max(late, blind)
	t.Logf("an unlimited request is seen %v late at most", late.Round(time.Millisecond))
	return late
}

// affordable is a rate near fullRate that the machine, busy as it is, has the time for.
func (c *cluster) affordable(t *testing.T) float64 {
	t.Helper()
	up := c.upstream(t)
	run := load.Start(load.Plan{Proxies: c.proxies(), Target: up.target, Workers: 24, Plain: true, Pause: retryPause})
	eventually(t, warmUpWithin, "unlimited requests", progress(run))
	up.Reset()
	measure(500 * time.Millisecond)
	perSecond := 2 * float64(len(up.Asked()))
	run.Stop()
	rate := min(fullRate, float64(int(perSecond/40))*10)
	t.Logf("%.0f unlimited requests a second: the limit is %.0f/s", perSecond, rate)
	return max(rate, 100)
}

// reach measures windows until each rate has been used as it should, and, where fair is set, by all
// nodes alike.
func reach(t *testing.T, what string, fair bool, rates ...*rated) {
	t.Helper()
	pending := slices.Clone(rates)
	for i := 1; len(pending) > 0; i++ {
		before := map[*rated][]float64{}
		for _, r := range pending {
			before[r] = r.done()
		}
		from := time.Now()
		measure(rateWindow)
		to := time.Now()
		pending = slices.DeleteFunc(pending, func(r *rated) bool {
			used, jain := r.used(from, to), 1.0
			if fair && r.perSecond*rateWindow.Seconds() >= 15 {
				jain = load.Jain(less(r.done(), before[r]))
			}
			t.Logf("%s, %v: used %.3f, Jain %.3f", what, r, used, jain)
			ok := used >= rateUsed && jain >= rateFair
			if !ok && i >= rateWindows {
				t.Errorf("%s, %v: of the rate %.3f is used, with a Jain of %.3f; want %.2f and %.2f", what, r, used, jain, rateUsed, rateFair)
			}
			return ok || i >= rateWindows
		})
	}
}

// done is how many requests of each node have been served, in the order of their names.
func (r *rated) done() (done []float64) {
	var nodes []*node
	for n := range r.runs {
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	for _, n := range nodes {
		done = append(done, float64(load.Sum(r.runs[n].Tallies()).OK))
	}
	return done
}

func less(a, b []float64) []float64 {
	for i := range a {
		a[i] -= b[i]
	}
	return a
}

// TestRates: in no window of time more than rate × t + burst, and nearly all of it used, wherever
// the demand is, from one second after it has moved.
func TestRates(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	fast := c.affordable(t)
	late := c.lateness(t)
	rates := []*rated{
		c.rated(t, fast, fast/10, 16),
		c.rated(t, 0.5, 1, 2),
		c.rated(t, 5, 1, 2),
		c.rated(t, 50, 10, 4),
	}
	steadyCost(t, c, rates[0])
	press := func(nodes ...*node) {
		for _, r := range rates {
			r.press(c, nodes...)
		}
		measure(time.Second)
	}
	press(c.nodes...)
	reach(t, "everywhere", true, rates...)
	press(c.nodes[0])
	reach(t, "on one node", false, rates...)
	press(c.nodes[1])
	reach(t, "moved", false, rates...)
	most := late.most(t)
	for _, r := range rates {
		r.rest()
		r.judge(t, most)
	}
}

// steadyCost: demand that stays as it is costs next to nothing in the log.
func steadyCost(t *testing.T, c *cluster, r *rated) {
	t.Helper()
	r.press(c, c.nodes...)
	measure(2 * time.Second)
	leader, _ := c.leader(t)
	before, asked, begun := lastIndex(t, leader), len(r.Asked()), time.Now()
	measure(3 * time.Second)
	entries, requests := lastIndex(t, leader)-before, len(r.Asked())-asked
	t.Logf("%v: %d requests in %v cost %d log entries", r, requests, time.Since(begun).Round(time.Millisecond), entries)
	// 50 for 10,000 requests, but the log may tell of the first seconds of so few.
	if most := max(10, 50*uint64(requests)/10_000); entries > most {
		t.Errorf("that is more than %d", most)
	}
}

// TestRateRefusals: without a queue, who finds no token is refused, is told when to come again, and
// leaves the tokens of the other limits to others.
func TestRateRefusals(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	up, other := c.upstream(t), c.upstream(t)
	w, free := from("127.5.20.1"), from("127.5.20.2")
	const tokens = 10
	c.put(t, "host", up.name, `{"requests":{"rate":"0.1/s"}}`)
	c.put(t, "client", w.address, fmt.Sprintf(`{"requests":{"rate":"3/h","burst":%d}}`, tokens))
	begun := time.Now()
	end(t, w.open(t, c.nodes[0], up.target))
	plain := free.wire(t, c.nodes[1])
	for i, n := range c.nodes {
		r := free.refuse(t, n, up.target, "weir: "+up.name+" is at its limit of 0.1/s requests")
		if !strings.Contains(r.ProxyStatus, `details="the host is at its limit of requests"`) {
			t.Errorf("Proxy-Status %q; want the resource in it", r.ProxyStatus)
		}
		seconds, err := strconv.Atoi(r.RetryAfter)
		// The token comes 10.01 s after the last one, since buckets fill a little slower: in the first
		// moment that is 11 whole seconds.
		if least := 10 - int(time.Since(begun)/time.Second) - 1; err != nil || seconds > 11 || seconds < least {
			t.Errorf("Retry-After %q; want when the next token comes, %d to 11 seconds", r.RetryAfter, least)
		}
		plain.say(t, free.get(up.target, 0))
		plain.answers(t, i+1, 503)
	}
	// The client's tokens are not spent on what its host refuses.
	for range 2 * tokens {
		w.refuse(t, c.nodes[0], up.target, "weir: "+up.name+" is at its limit")
	}
	for range tokens / 2 {
		end(t, w.open(t, c.nodes[0], other.target))
	}
	var refused *load.Refusal
	for i := 0; refused == nil && i < tokens; i++ {
		tunnel, err := w.try(c.nodes[i%3], other.target)
		if err == nil {
			end(t, tunnel)
		} else if !errors.As(err, &refused) {
			t.Fatal(err)
		}
	}
	if refused == nil || !strings.HasPrefix(refused.Phrase, "weir: client 127.5.20.1 is at its limit of 3/h requests") ||
		!strings.Contains(refused.ProxyStatus, `details="the client is at its limit of requests"`) {
		t.Errorf("with all tokens gone: %+v; want a refusal by the client's limit", refused)
	}
	end(t, free.open(t, c.nodes[0], other.target))
	if asked := up.Stats().Accepted; asked != 1 {
		t.Errorf("%d connections at the upstream whose rate was used up; want 1", asked)
	}
	if asked := other.Stats().Accepted; asked > tokens {
		t.Errorf("%d connections at the other; want at most %d", asked, tokens)
	}
}
