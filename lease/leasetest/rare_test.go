package leasetest

import (
	"testing"
	"time"
)

// intermittent is a client that asks for a token now and then. At its node nobody waits for most of
// the time.
type intermittent struct {
	*rareWork
	node  int
	pause time.Duration
	until time.Duration
}

// rareWork is what such clients come to.
type rareWork struct {
	w     *calm
	taken int
	waits time.Duration // the sum
}

func (k *intermittent) act(uint8, int64) {
	if k.w.now >= k.until {
		return
	}
	began := k.w.now
	k.w.ask(k.node, "up", ms, func(served bool) {
		if served {
			k.taken++
			k.waits += k.w.now - began
		}
	}, func() { k.w.at(k.pause/2+k.w.dice.upTo(k.pause), k, 0, 0) })
}

// clients lets n clients work on a node, up to a time.
func (r *rareWork) clients(node, n int, pause, until time.Duration) {
	for range n {
		r.w.at(r.w.dice.upTo(pause), &intermittent{r, node, pause, until}, 0, 0)
	}
}

// over lets time pass, and tells what part of a rate was used in it, for how long a request waited
// on average, and how many entries 10,000 requests cost.
func (r *rareWork) over(d time.Duration, perSecond float64) (used float64, wait time.Duration, entries float64) {
	r.taken, r.waits = 0, 0
	before := r.w.out.Entries
	r.w.pass(d)
	n := max(r.taken, 1)
	return float64(r.taken) / (perSecond * d.Seconds()), r.waits / time.Duration(n), float64(r.w.out.Entries-before) * 10_000 / float64(n)
}

func newRareWork(t *testing.T, rate string, burst int64, commit time.Duration) *rareWork {
	t.Helper()
	w := newCalm(t, 11, 3, Limit{Pattern: "up", Connections: -1, Requests: rate, Burst: burst, Timeout: Duration(time.Minute), Size: 100})
	w.commit, w.rtt = commit, commit/2
	w.pass(second)
	return &rareWork{w: w}
}

// A unit that lies full with a node where nobody waits goes to where somebody does, without waiting
// for a turn to end: also of slow rates most is used, and requests don't wait for a token that is
// there.
func TestUnusedUnitsMove(t *testing.T) {
	for _, c := range []struct {
		rate   string
		perSec float64
		burst  int64
		commit time.Duration
		pause  time.Duration
		used   float64 // of the rate, at least
		wait   time.Duration
	}{
		{"8/s", 8, 1, 20 * ms, 300 * ms, 0.72, 230 * ms},
		{"8/s", 8, 1, 2 * ms, 300 * ms, 0.90, 130 * ms},
		{"0.5/s", 0.5, 4, 2 * ms, 9 * second, 0.60, 50 * ms},
		{"1/s", 1, 3, 10 * ms, 4 * second, 0.70, 110 * ms},
	} {
		w := newRareWork(t, c.rate, c.burst, c.commit)
		for node := range 3 {
			w.clients(node, 1, c.pause, time.Hour)
		}
		w.over(10*second, c.perSec)
		used, wait, entries := w.over(5*time.Minute, c.perSec)
		t.Logf("%s, burst %d, commits of %v: %.3f is used, requests wait %v, %.0f entries for 10,000", c.rate, c.burst, c.commit, used, wait, entries)
		if used < c.used || wait > c.wait {
			t.Errorf("%s, burst %d, commits of %v: %.3f is used and requests wait %v, want at least %v and at most %v", c.rate, c.burst, c.commit, used, wait, c.used, c.wait)
		}
	}
}

// Demand that is uneven, and close to the rate or above it, costs at most 50 entries for 10,000
// requests where there are ten units; and when it moves, the rate has followed a second later all
// the same.
func TestUnevenDemandCostsFewEntries(t *testing.T) {
	for _, parts := range [][]float64{{0.3, 0.3, 0.3}, {0.6, 0.2, 0.1}, {0.05, 0.05, 0.75}, {0.7, 0.5, 0.2}, {1, 1, 0.05}, {1, 0.15, 0.05}} {
		const perSec, clients, ends = 50, 20, 131 * time.Second
		w := newRareWork(t, "50/s", 10, 2*ms)
		demand := 0.0
		for node, part := range parts {
			w.clients(node, clients, time.Duration(clients/(part*perSec)*float64(second)), ends)
			demand += part
		}
		w.over(30*second, perSec)
		used, wait, entries := w.over(100*second, perSec)
		t.Logf("%v: %.3f is used, requests wait %v, %.0f entries for 10,000", parts, used, wait, entries)
		if entries > 50 || used < 0.75*min(demand, 1) {
			t.Errorf("%v: %.3f is used at %.0f entries for 10,000 requests, want %.3f at 50 at most", parts, used, entries, 0.75*min(demand, 1))
		}
		w.w.run(ends + second - w.w.now) // some still wait
		w.clients(2, clients, 20*ms, time.Hour)
		w.over(2*second, perSec)
		if used, _, _ := w.over(10*second, perSec); used < 0.95 {
			t.Errorf("%v: %.3f is used after the demand has moved", parts, used)
		}
	}
}
