package leader

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// rateLimit is one of scope total, so that a table is easy to write.
func rateLimit(t testing.TB, rate string, burst int64) limit.Limit {
	t.Helper()
	p, err := limit.ScopeTotal.ParsePattern("")
	if err != nil {
		t.Fatal(err)
	}
	r, err := limit.ParseRate(rate, burst)
	if err != nil {
		t.Fatal(err)
	}
	return limit.Limit{Pattern: p, Connections: limit.Unlimited, Requests: r, Source: limit.SourceConfig, Queue: limit.Queue{Timeout: time.Minute, Size: 100}}
}

var totalRequests = limit.Key{Scope: limit.ScopeTotal, Resource: limit.Requests}

const (
	simCommit = 5 * time.Millisecond
	simWire   = time.Millisecond
	simStep   = time.Millisecond
)

// rateWorld is a leader and nodes that draw from one rate. Commits and messages take their time,
// and every token is judged: in no time more go through than the limit says.
type rateWorld struct {
	*desk
	nodes   []*drawer
	limit   limit.Limit
	events  []rateEvent
	entries int
	left    float64       // tokens that nobody may exceed, however they are dealt out
	leftAt  time.Duration // when they were counted
}

type rateEvent struct {
	at time.Duration
	do func()
}

func newRateWorld(t *testing.T, nodes int, l limit.Limit) *rateWorld {
	w := &rateWorld{desk: newDesk(t, l), limit: l}
	w.left, w.leftAt = float64(l.Requests.Burst), w.now
	for i := range nodes {
		conn := uint64(i + 1)
		w.join(conn, fmt.Sprint("node-", i), fmt.Sprint(i))
		w.nodes = append(w.nodes, &drawer{conn: conn, key: totalRequests, limit: &w.limit, target: leasepb.NoTarget, at: w.now, quarter: w.now})
	}
	w.alloc.NoteCommit(simCommit)
	for range 40 {
		w.alloc.NoteCommit(simCommit)
	}
	return w
}

func (w *rateWorld) after(d time.Duration, do func()) {
	w.events = append(w.events, rateEvent{w.now + d, do})
}

// run lets time pass.
func (w *rateWorld) run(d time.Duration) {
	w.t.Helper()
	for end := w.now + d; w.now < end; {
		w.now += simStep
		w.step()
		if w.t.Failed() {
			return
		}
	}
}

func (w *rateWorld) step() {
	due := w.events
	w.events = nil
	for _, e := range due {
		if e.at <= w.now {
			e.do()
		} else {
			w.events = append(w.events, e)
		}
	}
	for _, d := range w.nodes {
		d.pass(w.now, w.judge)
		if u := d.update(); u != nil {
			w.after(simWire, func() { w.alloc.update(w.now, d.conn, u) })
		}
	}
	for _, p := range w.alloc.order {
		p.seen = w.now
	}
	w.lead()
}

// judge is told of each token that is taken.
func (w *rateWorld) judge() {
	w.left = min(w.left+(w.now-w.leftAt).Seconds()*w.limit.Requests.PerSecond(), float64(w.limit.Requests.Burst))
	w.leftAt = w.now
	if w.left--; w.left < -1e-6 {
		w.t.Errorf("at %v more is taken than the limit lets through", w.now)
	}
}

// taken is how many tokens each node takes from now on for so long, and how many entries that
// costs.
func (w *rateWorld) taken(d time.Duration) (each []float64, sum float64, entries int) {
	before := make([]int, len(w.nodes))
	for i, n := range w.nodes {
		before[i] = n.taken
	}
	entries = w.entries
	w.run(d)
	for i, n := range w.nodes {
		each = append(each, float64(n.taken-before[i]))
		sum += each[i]
	}
	return each, sum, w.entries - entries
}

// jain is the fairness of shares: 1 where all are equal (Jain, Chiu and Hawe 1984).
func jain(x []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, v := range x {
		sum += v
		squares += v * v
	}
	return sum * sum / (float64(len(x)) * squares)
}

// The rates that are promised, each with a time in which its use shows.
var promisedRates = []struct {
	rate  string
	burst int64
	over  time.Duration
}{
	{"0.5/s", 1, 3 * time.Minute},
	{"5/s", 1, time.Minute},
	{"50/s", 10, 100 * time.Second},
	{"2000/s", 200, 15 * time.Second},
}

func eachRate(t *testing.T, f func(t *testing.T, w *rateWorld, over time.Duration)) {
	for _, r := range promisedRates {
		t.Run(fmt.Sprint(r.rate, " burst ", r.burst), func(t *testing.T) {
			f(t, newRateWorld(t, 3, rateLimit(t, r.rate, r.burst)), r.over)
		})
	}
}

func (w *rateWorld) used(sum float64, over time.Duration) float64 {
	return sum / (w.limit.Requests.PerSecond() * over.Seconds())
}

// With demand everywhere nearly all of a rate is used, the nodes get equal parts, and where the
// burst is large enough for a unit for each, hardly anything moves.
func TestRateUsedEverywhere(t *testing.T) {
	eachRate(t, func(t *testing.T, w *rateWorld, over time.Duration) {
		for _, n := range w.nodes {
			n.pace = -1
		}
		w.run(2 * time.Second)
		each, sum, entries := w.taken(over)
		if used := w.used(sum, over); used < 0.95 {
			t.Errorf("%.3f of the rate is used", used)
		}
		if j := jain(each); j < 0.95 {
			t.Errorf("the nodes got %v: Jain %.3f", each, j)
		}
		if most := sum / 10_000 * 50; w.limit.Requests.Burst >= 10 && float64(entries) > most {
			t.Errorf("%d entries for %.0f requests", entries, sum)
		}
		if most := 4 * (1 + int(over/steadyTurn)); w.limit.Requests.Burst >= 10 && entries > most {
			t.Errorf("%d entries in %v: turns are shorter than %v", entries, over, steadyTurn)
		}
	})
}

// Steady demand within the rate is served, and costs next to no entries, however unequal the nodes'
// parts are; so does demand above it, where some nodes want less than their share.
func TestSteadyDemandCostsNoEntries(t *testing.T) {
	for _, paces := range [][]float64{{0.3, 0.3, 0.3}, {0.1, 0.2, 0.6}, {0.02, 0.03, 0.9}, {0.1, 0.2, -1}, {0.2, -1, -1}} {
		eachRate(t, func(t *testing.T, w *rateWorld, over time.Duration) {
			if w.limit.Requests.Burst < 10 {
				return // few units go round
			}
			for i, n := range w.nodes {
				if n.pace = paces[i] * w.limit.Requests.PerSecond(); paces[i] < 0 {
					n.pace = -1
				}
			}
			w.run(5 * time.Second)
			_, sum, entries := w.taken(over)
			if most := sum / 10_000 * 50; float64(entries) > most {
				t.Errorf("%d entries for %.0f requests", entries, sum)
			}
		})
	}
}

// A node with few requests leaves the rest to one with many, also where there is one unit alone;
// and its requests don't wait for long.
func TestRareRequestsLeaveTheRest(t *testing.T) {
	eachRate(t, func(t *testing.T, w *rateWorld, over time.Duration) {
		w.nodes[0].pace = w.limit.Requests.PerSecond() / 20
		w.nodes[1].pace = -1
		w.run(10 * time.Second)
		each, sum, entries := w.taken(over)
		if used := w.used(sum, over); used < 0.9 {
			t.Errorf("%.3f of the rate is used", used)
		}
		if most := sum / 10_000 * 50; w.limit.Requests.Burst >= 10 && float64(entries) > most {
			t.Errorf("%d entries for %.0f requests", entries, sum)
		}
		if wanted := w.nodes[0].pace * over.Seconds(); each[0] < 0.9*wanted-2 {
			t.Errorf("%.0f of %.0f requests of a small part are served", each[0], wanted)
		}
	})
}

// One node alone gets nearly all.
func TestRateUsedOnOneNode(t *testing.T) {
	eachRate(t, func(t *testing.T, w *rateWorld, over time.Duration) {
		w.nodes[1].pace = -1
		w.run(time.Second)
		_, sum, _ := w.taken(over)
		if used := w.used(sum, over); used < 0.95 {
			t.Errorf("%.3f of the rate is used", used)
		}
	})
}

// Where demand moves from one node to another, the rate has followed a second later.
func TestRateFollowsDemand(t *testing.T) {
	eachRate(t, func(t *testing.T, w *rateWorld, over time.Duration) {
		w.nodes[0].pace = -1
		w.run(10 * time.Second)
		for i := range 6 {
			w.nodes[i%3].pace, w.nodes[i%3].waiting = 0, 0
			w.nodes[(i+1)%3].pace = -1
			w.run(time.Second)
			_, sum, _ := w.taken(20 * time.Second)
			// One token more or less is chance.
			if used := w.used(sum+1, 20*time.Second); used < 0.95 {
				t.Errorf("%.3f of the rate is used after the demand has moved", used)
			}
		}
	})
}

// The same where demand comes and goes: from a second after each move nearly all is used, also
// where a node missed its last unit before.
func TestRateFollowsDemandToAndFro(t *testing.T) {
	for _, c := range []struct {
		burst int64
		stays time.Duration
	}{{5, 4 * time.Second}, {6, 4 * time.Second}, {10, 4 * time.Second}, {10, 7 * time.Second}, {20, 4 * time.Second}, {50, 4 * time.Second}} {
		for nodes := 2; nodes <= 3; nodes++ {
			t.Run(fmt.Sprint(c.burst, " every ", c.stays, " over ", nodes), func(t *testing.T) {
				w := newRateWorld(t, nodes, rateLimit(t, "50/s", c.burst))
				w.nodes[0].pace = -1
				w.run(10 * time.Second)
				for i := range 20 {
					from, to := w.nodes[i%nodes], w.nodes[(i+1)%nodes]
					from.pace, from.waiting, to.pace = 0, 0, -1
					w.run(time.Second)
					_, sum, _ := w.taken(c.stays - time.Second)
					if used := w.used(sum+1, c.stays-time.Second); used < 0.95 {
						t.Errorf("%.3f of the rate is used after move %d", used, i)
					}
				}
			})
		}
	}
}

// lead lets the leader do what it would do now.
func (w *rateWorld) lead() {
	w.alloc.Tick(w.now)
	if cmd := w.alloc.Next(w.now, w.state); cmd != nil {
		w.entries++
		w.after(simCommit, func() {
			w.alloc.Applied(w.now, w.state, w.apply(cmd))
			if err := w.state.Check(); err != nil {
				w.t.Error(err)
			}
		})
	}
	for _, o := range w.alloc.Take() {
		if as := o.Msg.GetAssign(); as != nil {
			d := w.nodes[o.Conn-1]
			w.after(simWire, func() { d.take(as) })
		}
	}
}
