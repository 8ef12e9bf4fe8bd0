package leasetest

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
)

// flows lets a flow on each of some nodes move bytes all the time.
func (w *calm) flows(f Flow, nodes ...int) {
	for _, i := range nodes {
		f.Node, f.Busy = i, Duration(time.Hour)
		w.nodes[i].startFlow(f, newDice(w.plan.Seed, 13, uint64(len(w.nodes[i].flows)), uint64(i)))
	}
}

// used is the part of a bandwidth that was used in the last while.
func (w *calm) used(key limit.Key, d time.Duration, rate float64) float64 {
	return w.up.keys[w.up.keyOf(key)].rate.used(w.now-d) / (rate * d.Seconds())
}

// Where nothing goes wrong, flows that always have bytes to move use up their bandwidth in each
// direction, over all nodes together. Where units go round, what a flow gives back when its unit
// has gone is lost.
func TestBandwidthIsUsed(t *testing.T) {
	const long = 30 * second
	for _, c := range []struct {
		rate, burst int64
		least       float64
	}{{8_000, 4 << 10, 0.8}, {8_000, 16 << 10, 0.95}, {64_000, 8 << 10, 0.8}, {64_000, 64 << 10, 0.95}, {1_000_000, 128 << 10, 0.95}} {
		w := newCalm(t, 1, 3, Limit{Pattern: "bulk", Connections: limit.Unlimited, Upload: c.rate, Download: c.rate, AtOnce: c.burst})
		w.pass(2 * second)
		w.flows(Flow{Host: "bulk", Ways: "both", Most: 64 << 10}, 0, 0, 1, 2)
		w.pass(3*second + long)
		for _, way := range []limit.Resource{limit.Upload, limit.Download} {
			used := w.used(limit.Key{Scope: limit.ScopeHost, Resource: way, Name: "bulk"}, long, float64(c.rate))
			t.Logf("%s of %d a second, %d at once: %.3f used", way, c.rate, c.burst, used)
			if used < c.least {
				t.Errorf("%s of %d a second, %d at once: %.3f of the bandwidth is used", way, c.rate, c.burst, used)
			}
		}
	}
}

// A flow under four limits has its part of each, beside others that are under some of them; and
// what is left over is theirs.
func TestBandwidthOfFourLimits(t *testing.T) {
	const long = 30 * second
	w := newCalm(t, 1, 3,
		Limit{Scope: "total", Connections: limit.Unlimited, Download: 200_000, AtOnce: 64 << 10},
		Limit{Scope: "client", Pattern: "10.0.0.1", Connections: limit.Unlimited, Download: 80_000, AtOnce: 64 << 10},
		Limit{Scope: "user", Pattern: "u0", Connections: limit.Unlimited, Download: 60_000, AtOnce: 64 << 10},
		Limit{Pattern: "bulk", Connections: limit.Unlimited, Download: 40_000, AtOnce: 64 << 10})
	w.pass(2 * second)
	w.flows(Flow{Host: "bulk", Client: "10.0.0.1", User: "u0", Most: 64 << 10}, 0, 1, 2)
	w.flows(Flow{Host: "bulk", Client: "10.0.0.2", User: "u1", Most: 64 << 10}, 0, 1)
	w.flows(Flow{Host: "up", Client: "10.0.0.1", User: "u1", Most: 64 << 10}, 1, 2)
	w.flows(Flow{Host: "up", Client: "10.0.0.2", User: "u1", Most: 64 << 10}, 0, 2)
	w.pass(3*second + long)
	for _, c := range []struct {
		key  limit.Key
		rate float64
	}{
		{limit.Key{Scope: limit.ScopeTotal, Resource: limit.Download}, 200_000},
		{limit.Key{Scope: limit.ScopeClient, Resource: limit.Download, Name: "10.0.0.1"}, 80_000},
		{limit.Key{Scope: limit.ScopeHost, Resource: limit.Download, Name: "bulk"}, 40_000},
	} {
		used := w.used(c.key, long, c.rate)
		t.Logf("%s: %.3f used", c.key, used)
		if used < 0.9 {
			t.Errorf("%s: %.3f of the bandwidth is used", c.key, used)
		}
	}
	for _, x := range w.nodes {
		for i, f := range x.flows {
			if got := f.total; got < 3000*int64(long/second) {
				t.Errorf("flow %d on node %s, to %s for %s, has moved %d bytes in %v", i, x.name, f.Host, f.Client, got, long)
			}
		}
	}
}

// The bandwidth of a connection's own is of nobody else's: each connection has all of it, in each
// direction, as far as the limits that it shares allow.
func TestBandwidthOfEachConnection(t *testing.T) {
	const long, own, shared = 30 * second, 20_000, 50_000
	w := newCalm(t, 1, 2,
		Limit{Scope: "connection", Connections: limit.Unlimited, Upload: own, Download: own, AtOnce: 16 << 10},
		Limit{Pattern: "bulk", Connections: limit.Unlimited, Download: shared, AtOnce: 64 << 10})
	w.pass(2 * second)
	w.flows(Flow{Host: "bulk", Ways: "both", Most: 64 << 10}, 0, 0, 1, 1)
	w.flows(Flow{Host: "up", Ways: "both", Most: 64 << 10}, 0, 1)
	w.pass(3*second + long)
	if used := w.used(limit.Key{Scope: limit.ScopeHost, Resource: limit.Download, Name: "bulk"}, long, shared); used < 0.9 {
		t.Errorf("%.3f of the bandwidth that the flows share is used", used)
	}
	for _, x := range w.nodes {
		for i, f := range x.flows {
			used, least := f.own.used(w.now-long)/(own*long.Seconds()), 0.95
			if f.Host == "bulk" && f.way == limit.Download {
				least = 0.4 // a fair part of what they share is 0.625
			}
			t.Logf("%s of flow %d on node %s: %.3f of its own", f.way, i, x.name, used)
			if used < least {
				t.Errorf("the %s of flow %d on node %s to %s has used %.3f of its own", f.way, i, x.name, f.Host, used)
			}
		}
	}
}
