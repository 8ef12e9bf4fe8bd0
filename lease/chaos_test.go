package lease

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// Whatever fails, the upstream never sees more than its limit; and when the faults stop, all slots are in use again, every
// node gets its share, what the nodes believe agrees with the log, and once nobody works nothing is left of it all.
func TestCapUnderFaults(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			f := newFaults(t, uint64(seed), breakage{})
			for range 20 {
				f.step()
			}
			f.settle()
			f.atRest()
		})
	}
}

// The world can fail: with any of the rules broken, it finds a breach. To find it soon, only what provokes it goes wrong, from
// a seed on that found it when this was written.
func TestBrokenRulesAreFound(t *testing.T) {
	for _, rule := range []struct {
		name   string
		broken breakage
		kinds  []int
		first  uint64
	}{
		{"rule 1: the lease runs from the answer", breakage{ackExtendsFromArrival: true}, []int{faultLag}, 0},
		{"rule 2: a deposed leader answers", breakage{ackUnverified: true}, []int{faultDeposed, faultStream}, 0},
		{"rule 3: the leader closes early", breakage{closeEarly: true}, []int{faultCut}, 0},
		{"rule 3: a new leader takes no new start", breakage{newLeaderForgets: true}, []int{faultLeaderDies, faultCut}, 1},
		{"rule 4: no fence", breakage{noFence: true}, []int{faultCut}, 0},
		{"rule 4: a late fence", breakage{fenceLate: true}, []int{faultCut}, 0},
		{"rule 5: the clock stops with the machine", breakage{clockStops: true}, []int{faultPause}, 0},
		{"rule 6: grants before they are committed", breakage{grantUncommitted: true}, []int{faultDeposed, faultStream}, 0},
		{"rule 6: released while still in use", breakage{releaseEarly: true}, []int{faultStream}, 0},
		{"rule 7: no rest after a take-over", breakage{noRest: true}, []int{faultRestart}, 0},
		{"rule 7: an old hello takes over", breakage{staleHelloOpens: true}, []int{faultCut, faultPause}, 0},
		{"rule 8: an old hello states what is held", breakage{staleHelloResumes: true}, []int{faultOldHello, faultLimits}, 11},
		{"rule 8: what the node does not state stays", breakage{keepMissing: true}, []int{faultStream}, 5},
	} {
		t.Run(rule.name, func(t *testing.T) {
			t.Parallel()
			for seed := rule.first; seed < rule.first+400; seed++ {
				if breach := runBroken(t, seed, rule.broken, rule.kinds); breach != "" {
					t.Logf("seed %d: %s", seed, breach)
					return
				}
			}
			t.Error("no seed finds it")
		})
	}
}

func runBroken(t *testing.T, seed uint64, broken breakage, kinds []int) string {
	f := newFaults(t, seed, broken)
	f.kinds = kinds
	f.w.expect = true
	for i := 0; i < 20 && f.w.breach == ""; i++ {
		f.step()
	}
	if f.w.breach == "" && broken.keepMissing {
		f.rest()
		f.w.nothingGranted()
	}
	return f.w.breach
}

// What can go wrong.
const (
	faultRestart = iota
	faultLost
	faultCut
	faultStream
	faultLeaderDies
	faultDeposed
	faultPause
	faultLag
	faultLeave
	faultLimits
	faultDisk
	faultTwo
	faultOldHello
)

// faults is a world in which things fail.
type faults struct {
	kinds []int
	w     *world
	t     *testing.T
	rng   *rand.Rand
	hosts []string
	slots map[string]int64
	queue fsm.Queue
}

func newFaults(t *testing.T, seed uint64, broken breakage) *faults {
	f := &faults{t: t, rng: rand.New(rand.NewPCG(seed, 2)), hosts: []string{"up", "down"}, slots: map[string]int64{}}
	for kind := range faultOldHello + 1 {
		f.kinds = append(f.kinds, kind)
	}
	if f.rng.IntN(2) == 0 {
		f.queue = fsm.Queue{Timeout: 2 * time.Second, Size: 50}
	}
	var limits []fsm.Limit
	for _, host := range f.hosts {
		f.slots[host] = int64(1 + f.rng.IntN(6))
		limits = append(limits, limit(t, host, f.slots[host], f.queue))
	}
	limits = append(limits, limit(t, "*.x.org", 3, f.queue))
	f.w = newBrokenWorld(t, seed, 3+f.rng.IntN(3), ExpiryClose, broken, limits...)
	for _, x := range f.w.nodes {
		x.rate = f.w.drift()
		f.work(x)
	}
	return f
}

func (f *faults) upTo(d time.Duration) time.Duration { return time.Duration(f.rng.Int64N(int64(d))) }

func (f *faults) work(x *wnode) {
	for range 4 {
		x.work("up", 5*time.Millisecond+f.upTo(120*time.Millisecond), 20*time.Millisecond)
	}
	x.work("down", 50*time.Millisecond+f.upTo(3*time.Second), 20*time.Millisecond)
	x.work([]string{"a.x.org", "b.x.org"}[f.rng.IntN(2)], 20*time.Millisecond+f.upTo(200*time.Millisecond), 20*time.Millisecond)
}

// start boots a process, and its workers.
func (f *faults) start(x *wnode) {
	x.boot(ExpiryClose)
	f.work(x)
}

// restart kills a process and starts it again after a while.
func (f *faults) restart(x *wnode, after time.Duration) {
	x.crash()
	life := x.life
	f.w.at(after, func() {
		if x.life == life {
			f.start(x)
		}
	})
}

// step lets time pass, and one thing go wrong.
func (f *faults) step() {
	w := f.w
	w.run(f.upTo(time.Second))
	x := w.nodes[f.rng.IntN(len(w.nodes))]
	switch f.kinds[f.rng.IntN(len(f.kinds))] {
	case faultRestart: // killed, and restarted at once or later
		f.restart(x, f.upTo(5*time.Second)*time.Duration(f.rng.IntN(2)))
		w.run(5 * time.Second)
	case faultLost: // killed, its data lost
		x.crash()
		x.identity = ""
		f.start(x)
	case faultCut: // cut off for a while
		x.partition()
		w.at(f.upTo(6*time.Second), x.heal)
		w.run(f.upTo(7 * time.Second))
	case faultStream: // a stream breaks
		if x.stream != nil {
			x.stream.hangUp()
		}
	case faultLeaderDies: // the leader is lost
		w.depose(f.upTo(4*time.Second), 0)
		w.run(4 * time.Second)
	case faultDeposed: // it is deposed and does not know; it may hand over at once
		w.depose(f.upTo(2*time.Second)*time.Duration(f.rng.IntN(2)), f.upTo(8*time.Second))
		w.run(f.upTo(10 * time.Second))
	case faultPause: // the process is stopped, or the machine suspended
		x.pause(f.upTo(6 * time.Second))
		w.run(f.upTo(7 * time.Second))
	case faultLag: // answers come late, then it is not heard any more, then there are none
		x.lag = time.Second + f.upTo(1500*time.Millisecond)
		w.run(f.upTo(2 * time.Second))
		x.mute = true
		w.run(f.upTo(2500 * time.Millisecond))
		x.partition()
		w.at(2*time.Second+f.upTo(5*time.Second), func() { x.lag = 0; x.heal() })
		w.run(7 * time.Second)
	case faultLeave: // a node leaves by consent, and comes back
		f.leave(x)
		w.run(f.upTo(3 * time.Second))
	case faultLimits:
		f.change()
	case faultDisk: // a slow disk
		w.commit = time.Duration(1+f.rng.IntN(40)) * time.Millisecond
	case faultOldHello: // a stream breaks, and the hello on the next is long on its way
		x.cut = true
		if x.stream != nil {
			x.stream.hangUp()
		}
		w.at(100*time.Millisecond+f.upTo(500*time.Millisecond), x.heal)
		w.run(3 * time.Second)
	case faultTwo: // two at once
		w.depose(f.upTo(time.Second), f.upTo(3*time.Second))
		f.restart(x, f.upTo(500*time.Millisecond))
		w.run(f.upTo(3 * time.Second))
	}
}

// leave drains a node, says goodbye and starts it again.
func (f *faults) leave(x *wnode) {
	x.idle = true
	x.n.Drain(x.Now())
	x.after()
	x.at(f.upTo(time.Second), false, func() {
		x.n.Part(x.Now())
		x.after()
		x.at(f.upTo(4*time.Second), false, func() {
			f.restart(x, 0)
		})
	})
}

// change writes limits: other numbers, which hold once what is open has come down to them, or another shape.
func (f *faults) change() {
	w := f.w
	if w.lead == nil {
		return
	}
	if f.rng.IntN(2) == 0 {
		l := limit(f.t, "*.x.org", 3, f.queue)
		l.Shared = f.rng.IntN(2) == 0
		w.put(l)
		return
	}
	n := int64(1 + f.rng.IntN(6))
	host := f.hosts[f.rng.IntN(len(f.hosts))]
	l := limit(f.t, host, n, f.queue)
	l.Evict = f.rng.IntN(2) == 0
	f.slots[host] = n
	delete(w.lowered, host)
	if int(n) < w.caps[host] {
		w.lowered[host] = int(n)
	} else {
		w.caps[host] = int(n)
	}
	w.put(l)
}

// heal ends all faults.
func (f *faults) heal() {
	w := f.w
	for _, x := range w.nodes {
		x.lag = 0
		x.heal()
	}
	w.commit = 2 * time.Millisecond
	w.run(10 * time.Second)
}

// settle checks that the cluster is whole again once the faults have stopped.
func (f *faults) settle() {
	w, t := f.w, f.t
	f.heal()
	from, area := w.now, w.area("up")
	start := make([]int, len(w.nodes))
	for i, x := range w.nodes {
		start[i] = x.served["up"]
	}
	w.run(8 * time.Second)
	if use := w.mean("up", from, area) / float64(f.slots["up"]); use < 0.85 {
		t.Errorf("mean use %.3f of the limit %d after the faults have stopped", use, f.slots["up"])
	}
	for i, x := range w.nodes {
		if x.served["up"] == start[i] {
			t.Errorf("node %s starves", x.name)
		}
	}
	if len(w.lowered) > 0 {
		t.Errorf("still above the limits: %v", w.lowered)
	}
	w.agree()
}

// rest lets everything end.
func (f *faults) rest() {
	f.heal()
	for _, x := range f.w.nodes {
		x.idle = true
	}
	f.w.run(12 * time.Second)
}

// atRest checks that nothing is left once nobody works any more.
func (f *faults) atRest() {
	f.rest()
	w, t := f.w, f.t
	w.nothingGranted()
	for _, x := range w.nodes {
		for _, p := range x.n.all {
			if p.waiters.len() != 0 || p.open != 0 || p.granted != 0 || p.releasing != 0 || p.parked != 0 || p.taken != 0 || p.dirty {
				t.Errorf("node %s, %s: %d waiting, %d open, %d granted, %d releasing", x.name, p.key, p.waiters.len(), p.open, p.granted, p.releasing)
			}
		}
		if len(x.n.hot)+len(x.n.dirty) != 0 {
			t.Errorf("node %s has %d refused and %d changed pools in hand", x.name, len(x.n.hot), len(x.n.dirty))
		}
	}
	w.lead.alloc.empty(t)
}

func (w *world) nothingGranted() {
	w.state.Keys(func(key fsm.Key, n int64) bool {
		w.fail("%d slots of %s are granted while nobody works", n, key)
		return true
	})
}

// empty checks that an allocator remembers nothing but the sessions.
func (a *Allocator) empty(t testing.TB) {
	t.Helper()
	if n := len(a.keys) + len(a.dirty) + len(a.waking) + len(a.rests); n != 0 {
		t.Errorf("the leader remembers %d keys, %d changed, %d to be woken, %d at rest", len(a.keys), len(a.dirty), len(a.waking), len(a.rests))
	}
	if n := len(a.opens) + len(a.unproven) + len(a.closes) + len(a.leaves); n != 0 || a.inflight != nil {
		t.Errorf("the leader has %d requests in hand, and %v on its way", n, a.inflight)
	}
	for _, p := range a.order {
		if len(p.demands)+len(p.missing) != 0 || p.assign != nil || p.conn == 0 {
			t.Errorf("of node %s the leader remembers %d demands, %d missing", p.Node, len(p.demands), len(p.missing))
		}
	}
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
	w.run(500 * time.Millisecond) // all three lie idle at a now
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
