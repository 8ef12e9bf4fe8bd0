package leasetest

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// A first limit on a host with open connections: they count from then on and are not closed.
func TestFirstLimitCountsWhatIsOpen(t *testing.T) {
	w := newCalm(t, 1, 3)
	w.pass(second)
	var ends []func()
	for i := range 7 {
		c, end := w.hold(i%2, "up")
		if c == nil {
			t.Fatal("a host without a limit was refused")
		}
		ends = append(ends, end)
	}
	w.put(Limit{Pattern: "up", Connections: 5})
	w.pass(100 * ms)
	if w.open("up") != 7 {
		t.Fatalf("%d connections are open after the limit was set, want all 7", w.open("up"))
	}
	for open := 7; open >= 5; open-- {
		for node := range 3 {
			if c, _ := w.hold(node, "up"); c != nil {
				t.Fatalf("node %d opened another connection while %d were open, limit 5", node, open)
			}
		}
		ends[open-1]()
	}
	if c, _ := w.hold(2, "up"); c == nil {
		t.Fatal("with 4 of 5 open, a connection was refused")
	}
	if c, _ := w.hold(0, "up"); c != nil {
		t.Fatal("a sixth connection was opened, limit 5")
	}
}

// Lowering a limit closes nothing, and gives idle slots back within a second.
func TestLoweringClosesNothing(t *testing.T) {
	w := newCalm(t, 2, 2, Limit{Pattern: "up", Connections: 10})
	w.pass(second)
	var ends []func()
	for i := range 6 {
		_, end := w.hold(i%2, "up")
		ends = append(ends, end)
	}
	w.put(Limit{Pattern: "up", Connections: 3})
	w.pass(second)
	if w.open("up") != 6 || w.granted("up") != 6 {
		t.Fatalf("%d open and %d granted, want 6 and 6", w.open("up"), w.granted("up"))
	}
	for i := range 4 {
		if c, _ := w.hold(i%2, "up"); c != nil {
			t.Fatalf("a connection was opened while %d were, limit 3", w.open("up"))
		}
		ends[i]()
	}
	if c, _ := w.hold(0, "up"); c == nil {
		t.Fatal("with 2 of 3 open, a connection was refused")
	}
}

// With evict, the newest connections above the new limit are closed.
func TestEvictClosesTheNewest(t *testing.T) {
	for _, first := range []bool{false, true} {
		var limits []Limit
		if !first {
			limits = append(limits, Limit{Pattern: "up", Connections: 10})
		}
		w := newCalm(t, 3, 2, limits...)
		w.pass(second)
		var conns []*conn
		for i := range 8 {
			c, _ := w.hold(i%2, "up")
			conns = append(conns, c)
		}
		w.put(Limit{Pattern: "up", Connections: 4, Evict: true})
		w.pass(second)
		if w.open("up") != 4 {
			t.Errorf("first=%v: %d connections are open, limit 4 with evict", first, w.open("up"))
		}
		for i, c := range conns {
			if closed := c.state == connGone; closed != (i >= 4) {
				t.Errorf("first=%v: connection %d closed: %v, want %v", first, i, closed, i >= 4)
			}
		}
	}
}

// With evict, no more is closed than what is above the limit: not what would be another node's turn,
// nor for requests that wait.
func TestEvictClosesNoMoreThanIsAbove(t *testing.T) {
	queue := func(n int64) Limit {
		return Limit{Pattern: "up", Connections: n, Timeout: Duration(60 * second), Size: 99}
	}
	for name, c := range map[string]struct {
		before, after Limit
		open, waiting int
	}{
		"of a limit that reported": {Limit{Pattern: "up", Connections: 2, Report: true}, Limit{Pattern: "up", Connections: 2}, 6, 0},
		"5 to 4, others wait":      {queue(5), queue(4), 5, 9},
		"6 to 4, others wait":      {queue(6), queue(4), 6, 9},
		"2 to 1, others wait":      {queue(2), queue(1), 2, 9},
	} {
		t.Run(name, func(t *testing.T) {
			for pause := second; pause < 4*second; pause += 700 * ms { // in all states of a turn
				w := newCalm(t, 5, 3, c.before)
				w.pass(second)
				var conns []*conn
				for i := range c.open {
					k, _ := w.hold(i%3, "up")
					conns = append(conns, k)
				}
				for i := range c.waiting {
					w.ask(i%3, "up", time.Hour, nil, nil)
				}
				w.pass(pause)
				c.after.Evict = true
				w.put(c.after)
				w.pass(second)
				kept := 0
				for _, k := range conns {
					if k.state != connGone {
						kept++
					}
				}
				if want := int(c.after.Connections); kept != want || w.open("up") != want {
					t.Errorf("%d of %d connections are kept, and %d are open; want %d", kept, c.open, w.open("up"), want)
				}
			}
		})
	}
}

// With evict, nothing is closed for slots that another node holds without a use.
func TestEvictTakesIdleSlotsFirst(t *testing.T) {
	w := newCalm(t, 6, 2, Limit{Pattern: "up", Connections: 8})
	w.pass(second)
	for node := range 2 {
		var ends []func()
		for range 4 {
			_, end := w.hold(node, "up")
			ends = append(ends, end)
		}
		for _, end := range ends {
			if node == 0 {
				end()
			}
		}
	}
	if n := w.granted("up"); n != 8 {
		t.Fatalf("%d slots are granted, want 8", n)
	}
	w.put(Limit{Pattern: "up", Connections: 4, Evict: true})
	w.pass(second)
	if w.open("up") != 4 || w.granted("up") != 4 {
		t.Errorf("%d connections are open with %d slots, want 4 of 4", w.open("up"), w.granted("up"))
	}
}

// Connections follow their count where patterns change.
func TestConnectionsMoveWithTheirKey(t *testing.T) {
	w := newCalm(t, 4, 2, Limit{Pattern: "*.x.org", Connections: 3})
	w.pass(second)
	var ends []func()
	for i := range 4 {
		c, end := w.hold(i%2, []string{"a.x.org", "b.x.org"}[i/2])
		if c == nil {
			t.Fatal("refused below the limit")
		}
		ends = append(ends, end)
	}
	w.put(Limit{Pattern: "*.x.org", Connections: 5, Shared: true})
	w.pass(second)
	if g := w.granted("*.x.org"); g != 4 {
		t.Fatalf("%d slots of the shared count are granted for 4 open connections", g)
	}
	if g := w.granted("a.x.org"); g != 0 {
		t.Errorf("%d slots of a.x.org are still granted", g)
	}
	if c, _ := w.hold(0, "c.x.org"); c == nil {
		t.Fatal("a fifth connection was refused, limit 5")
	}
	if c, _ := w.hold(1, "d.x.org"); c != nil {
		t.Fatal("a sixth connection was opened, limit 5")
	}
	for _, end := range ends {
		end()
	}
	w.put(Limit{Pattern: "*.x.org", Delete: true})
	w.pass(5 * second)
	// A limit that came from the config is removed with the one over it only once.
	w.put(Limit{Pattern: "*.x.org", Delete: true})
	w.pass(5 * second)
	if g := w.granted("*.x.org"); g != 0 {
		t.Errorf("%d slots are granted of a limit that is gone", g)
	}
	if c, _ := w.hold(1, "d.x.org"); c == nil {
		t.Error("a host without a limit was refused")
	}
}

// A limit of 0 blocks, also without a session.
func TestZeroBlocks(t *testing.T) {
	w := newCalm(t, 5, 1, Limit{Pattern: "up", Connections: 0, Timeout: Duration(second), Size: 5})
	w.pass(second)
	if c, _ := w.hold(0, "up"); c != nil {
		t.Fatal("a blocked host was connected to")
	}
	w = newCalm(t, 5, 2, Limit{Pattern: "up", Connections: 0})
	w.pass(second)
	w.cut(Fault{Kind: FaultCut}, 1, 1)
	w.pass(10 * second)
	x := w.nodes[1]
	if s := x.node.Session(x.clock()); s.State == leasepb.SessionLive {
		t.Fatalf("a node that is cut off has a session: %+v", s)
	}
	if c, _ := w.hold(1, "up"); c != nil {
		t.Fatal("a blocked host was connected to without a session")
	}
}

// A host's own limit is taken away, and its connections count under the wider one from then on,
// which is raised by as much in the same write. Nothing new may start, also where the leader's disk
// is faster than the nodes are near.
func TestLimitsAreMerged(t *testing.T) {
	queue := func(l Limit) Limit {
		l.Timeout, l.Size = Duration(60*second), 99
		return l
	}
	w := newCalm(t, 4, 2, queue(Limit{Pattern: "*.x.org", Connections: 5, Shared: true}), queue(Limit{Pattern: "a.x.org", Connections: 10}))
	w.commit, w.rtt = ms, 10*ms
	w.pass(second)
	for range 10 {
		w.hold(1, "a.x.org")
	}
	for range 15 {
		w.hold(0, "b.x.org") // ten of these wait
	}
	wide, _ := queue(Limit{Pattern: "*.x.org", Connections: 15, Shared: true}).limit(limit.SourceConfig)
	w.raft.write(&fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{wide}})
	for range 20 {
		w.pass(5 * ms)
		if n := w.open("a.x.org") + w.open("b.x.org"); n > 15 {
			t.Fatalf("%v: %d connections are open; 15 were when the limit was set to 15", w.now, n)
		}
	}
}
