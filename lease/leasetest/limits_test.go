package leasetest

import (
	"testing"

	"github.com/weirproxy/weir/lease/leasepb"
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
