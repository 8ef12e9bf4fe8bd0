package leasetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
)

// With more demand than slots, all slots are in use and nodes get equally, also where there are
// fewer slots than nodes.
func TestContendedUseAndFairness(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 10, 25} {
		for _, queue := range []bool{false, true} {
			t.Run(fmt.Sprintf("limit=%d/queue=%v", n, queue), func(t *testing.T) {
				l := Limit{Pattern: "up", Connections: n}
				if queue {
					l.Timeout, l.Size = Duration(2*second), 100
				}
				w := newCalm(t, 7, 3, l)
				for i := range 64 {
					w.work(i%3, "up", 30*ms, 4*ms)
				}
				w.pass(second)
				from, area, entries := w.now, w.area("up"), w.out.Entries
				start := []int{w.served[0]["up"], w.served[1]["up"], w.served[2]["up"]}
				w.pass(4 * second)
				use := float64(w.area("up")-area) / float64(w.now-from) / float64(n)
				got := []int{}
				for i := range 3 {
					got = append(got, w.served[i]["up"]-start[i])
				}
				peak := w.up.hosts[w.up.hostOf("up")].peak
				t.Logf("use %.3f, jain %.4f, served %v, entries %d, peak %d", use, jain(got), got, w.out.Entries-entries, peak)
				if use < 0.95 {
					t.Errorf("mean use %.3f of the limit, want at least 0.95", use)
				}
				if j := jain(got); j < 0.95 {
					t.Errorf("Jain's index %.3f over %v, want at least 0.95", j, got)
				}
			})
		}
	}
}

// In a steady state with enough slots, connections come and go without log entries.
func TestSteadyStateCostsNoEntries(t *testing.T) {
	w := newCalm(t, 3, 3, Limit{Pattern: "up", Connections: 200})
	for i := range 64 {
		w.work(i%3, "up", 30*ms, ms)
	}
	w.pass(5 * second)
	entries, served := w.out.Entries, w.out.Connections
	w.pass(5 * second)
	served = w.out.Connections - served
	t.Logf("%d connections, %d entries", served, w.out.Entries-entries)
	if per := float64(w.out.Entries-entries) / float64(served); per > 50.0/10000 {
		t.Errorf("%d entries for %d connections, want at most 50 for 10,000", w.out.Entries-entries, served)
	}
}

// Slots that nobody uses go back within 5 s.
func TestIdleSlotsGoBack(t *testing.T) {
	w := newCalm(t, 4, 3, Limit{Pattern: "up", Connections: 50})
	w.pass(second)
	for i := range 30 {
		w.ask(i%3, "up", 20*ms, nil, nil)
	}
	w.pass(second)
	if w.granted("up") == 0 {
		t.Fatal("nothing was granted")
	}
	w.pass(4100 * ms)
	if g := w.granted("up"); g != 0 {
		t.Errorf("%d slots are still granted 5 s after the last connection", g)
	}
	entries := w.out.Entries
	w.pass(time.Minute)
	if w.out.Entries != entries {
		t.Errorf("%d entries in an idle minute", w.out.Entries-entries)
	}
}

// A request over a limit without a queue is refused only once the other nodes have been asked for
// idle slots.
func TestIdleSlotsElsewhereAreFetched(t *testing.T) {
	w := newCalm(t, 5, 3, Limit{Pattern: "up", Connections: 3})
	w.pass(second)
	for range 3 {
		w.ask(0, "up", 10*ms, nil, nil)
	}
	w.pass(500 * ms) // all three lie idle at a now
	if g := w.granted("up"); g != 3 {
		t.Fatalf("%d slots granted, want 3", g)
	}
	ok := 0
	for range 3 {
		w.ask(1, "up", 50*ms, func(served bool) {
			if served {
				ok++
			}
		}, nil)
	}
	w.pass(200 * ms)
	if ok != 3 || w.refused[1]["up"] != 0 {
		t.Errorf("%d of 3 requests served and %d refused while slots lay idle elsewhere", ok, w.refused[1]["up"])
	}
}

// A killed node's slots are usable elsewhere within ttl + 1 s, a restarted one's within 1 s.
func TestReclaim(t *testing.T) {
	for _, restart := range []bool{false, true} {
		w := newCalm(t, 6, 3, Limit{Pattern: "up", Connections: 4, Timeout: Duration(20 * second), Size: 10})
		w.pass(second)
		for range 4 {
			w.ask(1, "up", time.Hour, nil, nil)
		}
		w.pass(100 * ms)
		got := time.Duration(0)
		for range 4 {
			w.ask(2, "up", time.Second, func(served bool) {
				if served {
					got = w.now
				}
			}, nil)
		}
		w.pass(second)
		if got != 0 {
			t.Fatal("served above the limit")
		}
		w.nodes[1].crash()
		killed, within := w.now, 4*second // ttl 3 s
		if restart {
			w.nodes[1].boot()
			within = second
		}
		w.pass(10 * second)
		t.Logf("restart=%v: after %v", restart, got-killed)
		if got == 0 || got-killed > within {
			t.Errorf("restart=%v: slots were usable %v after the kill, want within %v", restart, got-killed, within)
		}
	}
}

// A slot that falls idle goes to the request that waits, not to a node whose requests were refused
// a moment ago, however quickly things follow each other.
func TestIdleSlotGoesToWhoWaits(t *testing.T) {
	for seed := range uint64(200) {
		w := newCalm(t, seed, 3)
		w.pass(second)
		const a, b, c = 0, 1, 2
		step := func(node int, served bool) (end func()) {
			t.Helper()
			answered := false
			got := w.ask(node, "up", time.Hour, func(ok bool) {
				answered = true
				if ok != served {
					t.Fatalf("seed %d, t=%v, node %s: served %v, want %v", seed, w.now, w.nodes[node].name, ok, served)
				}
			}, nil)
			until := func(done func() bool) {
				for !done() {
					w.pass(100 * time.Microsecond)
				}
			}
			until(func() bool { return answered })
			return func() {
				until(func() bool { return got.state == connOpen })
				got.end()
				until(func() bool { return got.state == connGone })
			}
		}
		w.put(Limit{Pattern: "up", Connections: 1})
		w.pass(ms)
		end := step(b, true)
		step(c, false)
		end()
		w.put(Limit{Pattern: "up", Connections: 2})
		w.pass(ms)
		ends := []func(){step(c, true), step(c, true)}
		step(a, false)
		for _, end := range ends {
			end()
		}
		w.put(Limit{Pattern: "up", Connections: 3})
		w.pass(ms)
		step(a, true)
		step(a, true)
		step(a, true)
	}
}

// Refusals come within a few milliseconds also in a storm, and the leader is asked a few hundred
// times a second at most.
func TestRefusalsInAStorm(t *testing.T) {
	w := newCalm(t, 2, 2, Limit{Pattern: "up", Connections: 1})
	w.pass(second)
	if c, _ := w.hold(0, "up"); c == nil {
		t.Fatal("refused below the limit")
	}
	s := &storm{w: w, node: 1}
	for range 40 {
		s.act(0, 0)
	}
	asked := w.nodes[1].asked
	w.pass(second)
	asks := w.nodes[1].asked - asked
	t.Logf("%d refusals in a second, the slowest after %v, with %d asks", w.refused[1]["up"], s.worst, asks)
	if s.worst > 15*ms || asks > 250 || w.refused[1]["up"] < 1000 {
		t.Errorf("%d refusals, the slowest after %v, with %d asks", w.refused[1]["up"], s.worst, asks)
	}
}

// storm asks again a millisecond after each refusal.
type storm struct {
	w     *calm
	node  int
	worst time.Duration
}

func (s *storm) act(uint8, int64) {
	asked := s.w.now
	s.w.ask(s.node, "up", second, nil, func() {
		s.worst = max(s.worst, s.w.now-asked)
		s.w.at(ms, s, 0, 0)
	})
}

// A node that gossip calls dead is granted nothing more once it is silent; one whose keep-alives
// arrive is served on.
func TestDeadByGossip(t *testing.T) {
	for _, silent := range []bool{false, true} {
		w := newCalm(t, 3, 3, Limit{Pattern: "up", Connections: 2, Timeout: Duration(20 * second), Size: 10})
		w.pass(second)
		a := w.nodes[1]
		_, end := w.hold(1, "up")
		_, endB := w.hold(2, "up")
		served := false
		w.ask(1, "up", time.Hour, func(ok bool) { served = ok }, nil) // waits
		w.pass(100 * ms)
		if silent {
			w.cut(Fault{Kind: FaultCut}, 1, 1)
			w.pass(1200 * ms) // more than a keep-alive and a half
		}
		w.gossip(a.name, true)
		end()
		endB()
		w.pass(100 * ms)
		got := w.state().GrantOf(a.node.Session(a.clock()).ID, limit.HostConnections("up"))
		if silent && got > 1 {
			t.Errorf("a dead node was granted a slot more: it has %d", got)
		}
		if !silent && !served {
			t.Error("a node whose keep-alives arrive is not served, because gossip calls it dead")
		}
	}
}
