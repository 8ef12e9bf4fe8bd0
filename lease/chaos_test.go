package lease

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// Whatever fails, the upstream never sees more than its limit; and when the faults stop, all slots are in use again, every
// node gets its share, and what the nodes believe agrees with the log.
func TestCapUnderFaults(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { faults(t, uint64(seed)) })
	}
}

func faults(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	slots := int64(1 + rng.IntN(6))
	var q fsm.Queue
	if rng.IntN(2) == 0 {
		q = fsm.Queue{Timeout: 2 * time.Second, Size: 50}
	}
	w := newWorld(t, seed, 3, ExpiryClose, limit(t, "up", slots, q))
	workers := func(x *wnode) {
		for range 5 {
			x.work("up", time.Duration(5+rng.IntN(60))*time.Millisecond, 5*time.Millisecond)
		}
	}
	for _, x := range w.nodes {
		workers(x)
	}
	for range 30 {
		w.run(time.Duration(rng.Int64N(int64(2 * time.Second))))
		x := w.nodes[rng.IntN(len(w.nodes))]
		switch rng.IntN(6) {
		case 0: // killed, and restarted at once or later
			x.crash()
			w.at(time.Duration(rng.Int64N(int64(5*time.Second))), func() {
				x.boot(ExpiryClose)
				workers(x)
			})
			w.run(5 * time.Second)
		case 1: // killed, its data lost
			x.crash()
			x.identity = ""
			x.boot(ExpiryClose)
			workers(x)
		case 2: // cut off for a while
			x.partition()
			w.at(time.Duration(rng.Int64N(int64(6*time.Second))), x.heal)
			w.run(time.Duration(rng.Int64N(int64(7 * time.Second))))
		case 3: // a stream breaks
			x.hangUp()
		case 4: // the leader is lost
			w.depose(time.Duration(rng.Int64N(int64(4 * time.Second))))
			w.run(4 * time.Second)
		case 5: // a slow disk
			w.commit = time.Duration(1+rng.IntN(40)) * time.Millisecond
		}
	}
	for _, x := range w.nodes {
		x.heal()
	}
	w.commit = 2 * time.Millisecond
	w.run(10 * time.Second)
	from, area := w.now, w.area("up")
	var start [3]int
	for i, x := range w.nodes {
		start[i] = x.served["up"]
	}
	w.run(10 * time.Second)
	if use := w.mean("up", from, area) / float64(slots); use < 0.9 {
		t.Errorf("mean use %.3f of the limit %d after the faults have stopped", use, slots)
	}
	for i, x := range w.nodes {
		if x.served["up"] == start[i] {
			t.Errorf("node %s starves", x.name)
		}
	}
	w.agree()
}

// agree checks that no node believes to hold more than the log grants it.
func (w *world) agree() {
	w.t.Helper()
	for _, x := range w.nodes {
		for _, p := range x.n.all {
			if g := w.state.GrantOf(x.n.sess.id, p.key); p.granted > g {
				w.t.Errorf("node %s believes to hold %d slots of %s, the log grants %d", x.name, p.granted, p.key, g)
			}
			if x.n.sess.live() && p.limit.Capped() && p.open > p.granted {
				w.t.Errorf("node %s has %d connections to %s open on %d slots", x.name, p.open, p.key, p.granted)
			}
		}
	}
}

// In a steady state with enough slots, connections come and go without log entries.
func TestSteadyStateCostsNoEntries(t *testing.T) {
	w := newWorld(t, 3, 3, ExpiryClose, limit(t, "up", 200, fsm.Queue{}))
	for i := range 64 {
		w.nodes[i%3].work("up", 30*time.Millisecond, time.Millisecond)
	}
	w.run(5 * time.Second)
	entries, served := w.entries, 0
	for _, x := range w.nodes {
		served -= x.served["up"]
	}
	w.run(5 * time.Second)
	for _, x := range w.nodes {
		served += x.served["up"]
	}
	t.Logf("%d connections, %d entries", served, w.entries-entries)
	if per := float64(w.entries-entries) / float64(served); per > 50.0/10000 {
		t.Errorf("%d entries for %d connections, want at most 50 for 10,000", w.entries-entries, served)
	}
}

// Slots that nobody uses go back within 5 s.
func TestIdleSlotsGoBack(t *testing.T) {
	w := newWorld(t, 4, 3, ExpiryClose, limit(t, "up", 50, fsm.Queue{}))
	w.run(time.Second)
	for i := range 30 {
		w.nodes[i%3].request("up", 20*time.Millisecond, func(bool) {})
	}
	w.run(time.Second)
	key := fsm.HostConnections("up")
	if w.state.Granted(key) == 0 {
		t.Fatal("nothing was granted")
	}
	w.run(4100 * time.Millisecond)
	if g := w.state.Granted(key); g != 0 {
		t.Errorf("%d slots are still granted 5 s after the last connection", g)
	}
	entries := w.entries
	w.run(time.Minute)
	if w.entries != entries {
		t.Errorf("%d entries in an idle minute", w.entries-entries)
	}
}

// A request over a limit without a queue is refused only once the other nodes have been asked for idle slots.
func TestIdleSlotsElsewhereAreFetched(t *testing.T) {
	w := newWorld(t, 5, 3, ExpiryClose, limit(t, "up", 3, fsm.Queue{}))
	w.run(time.Second)
	a, b := w.nodes[0], w.nodes[1]
	for range 3 {
		a.request("up", 10*time.Millisecond, func(bool) {})
	}
	w.run(200 * time.Millisecond) // all three lie idle at a now
	if g := w.state.Granted(fsm.HostConnections("up")); g != 3 {
		t.Fatalf("%d slots granted, want 3", g)
	}
	ok := 0
	for range 3 {
		b.request("up", 50*time.Millisecond, func(served bool) {
			if served {
				ok++
			}
		})
	}
	w.run(200 * time.Millisecond)
	if ok != 3 || b.refused["up"] != 0 {
		t.Errorf("%d of 3 requests served and %d refused while slots lay idle elsewhere", ok, b.refused["up"])
	}
}

// A killed node's slots are usable elsewhere within ttl + 1 s, a restarted one's within 1 s.
func TestReclaim(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w := newWorld(t, 6, 3, ExpiryClose, limit(t, "up", 4, fsm.Queue{Timeout: 20 * time.Second, Size: 10}))
		w.run(time.Second)
		a, b := w.nodes[0], w.nodes[1]
		for range 4 {
			a.request("up", time.Hour, func(bool) {})
		}
		w.run(100 * time.Millisecond)
		got := time.Duration(0)
		w.at(0, func() {
			for range 4 {
				b.request("up", time.Second, func(bool) { got = w.now - time.Second })
			}
		})
		w.run(time.Second)
		a.crash()
		killed := w.now
		within := 4 * time.Second // ttl 3 s
		if restart {
			a.boot(ExpiryClose)
			within = time.Second
		}
		w.run(10 * time.Second)
		if got == 0 || got-killed > within {
			t.Errorf("restart=%v: slots were usable %v after the kill, want within %v", restart, got-killed, within)
		}
	}
}
