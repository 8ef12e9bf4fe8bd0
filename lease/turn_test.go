package lease

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// A slot that falls idle goes to the request that waits, not to a node whose requests were refused a moment ago, however
// quickly things follow each other.
func TestIdleSlotGoesToWhoWaits(t *testing.T) {
	for seed := range uint64(200) {
		w := newWorld(t, seed, 3, ExpiryClose)
		w.run(time.Second)
		a, b, c := w.nodes[0], w.nodes[1], w.nodes[2]
		step := func(x *wnode, served bool) (end func()) {
			t.Helper()
			var got *wconn
			answered := false
			got = w.ask(x, "up", func(ok bool) {
				answered = true
				if ok != served {
					t.Fatalf("seed %d, t=%v, node %s: served %v, want %v", seed, w.now, x.name, ok, served)
				}
			})
			for !answered {
				w.run(100 * time.Microsecond)
			}
			return func() {
				for served && !got.open {
					w.run(100 * time.Microsecond)
				}
				got.end(true)
				for got.slot.use != slotReleased {
					w.run(100 * time.Microsecond)
				}
			}
		}
		w.put(limit(t, "up", 1, fsm.Queue{}))
		w.run(time.Millisecond)
		end := step(b, true)
		step(c, false)
		end()
		w.put(limit(t, "up", 2, fsm.Queue{}))
		w.run(time.Millisecond)
		ends := []func(){step(c, true), step(c, true)}
		step(a, false)
		for _, end := range ends {
			end()
		}
		w.put(limit(t, "up", 3, fsm.Queue{}))
		w.run(time.Millisecond)
		step(a, true)
		step(a, true)
		step(a, true)
	}
}

// Refusals come within a few milliseconds also in a storm, and the leader is asked a few hundred times a second at most.
func TestRefusalsInAStorm(t *testing.T) {
	w := newWorld(t, 2, 2, ExpiryClose, limit(t, "up", 1, fsm.Queue{}))
	w.run(time.Second)
	if c, _ := w.hold(w.nodes[0], "up"); c == nil {
		t.Fatal("refused below the limit")
	}
	x := w.nodes[1]
	var worst time.Duration
	for range 40 {
		var again func(bool)
		var asked time.Duration
		again = func(bool) {
			if asked != 0 {
				worst = max(worst, w.now-asked)
			}
			w.at(time.Millisecond, func() {
				asked = w.now
				x.request("up", time.Second, again)
			})
		}
		again(false)
	}
	w.run(time.Second)
	asks := x.n.lookup(fsm.HostConnections("up")).ask
	t.Logf("%d refusals in a second, the slowest after %v, with %d asks", x.refused["up"], worst, asks)
	if worst > 15*time.Millisecond || asks > 250 || x.refused["up"] < 1000 {
		t.Errorf("%d refusals, the slowest after %v, with %d asks", x.refused["up"], worst, asks)
	}
}

// A node that gossip calls dead is granted nothing more once it is silent; one whose keep-alives arrive is served on.
func TestDeadByGossip(t *testing.T) {
	for _, silent := range []bool{false, true} {
		w := newWorld(t, 3, 2, ExpiryClose, limit(t, "up", 2, fsm.Queue{Timeout: 20 * time.Second, Size: 10}))
		w.run(time.Second)
		a, b := w.nodes[0], w.nodes[1]
		_, end := w.hold(a, "up")
		_, endB := w.hold(b, "up")
		a.request("up", time.Second, func(bool) {}) // waits
		w.run(100 * time.Millisecond)
		if silent {
			a.cut = true
			w.run(1200 * time.Millisecond) // more than a keep-alive and a half
		}
		w.leads[0].alloc.Health("a", true)
		end()
		endB()
		w.run(100 * time.Millisecond)
		got := w.state.GrantOf(a.n.sess.id, fsm.HostConnections("up"))
		if silent && got > 1 {
			t.Errorf("a dead node was granted a slot more: it has %d", got)
		}
		if !silent && a.n.lookup(fsm.HostConnections("up")).waiters.len() > 0 {
			t.Error("a node whose keep-alives arrive is not served, because gossip calls it dead")
		}
	}
}
