package lease

import (
	"slices"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// put changes limits as the API does: the leader hears of it from its own state machine.
func (w *world) put(limits ...fsm.Limit) {
	for _, l := range limits {
		l.Source = fsm.SourceAPI
		if r := w.apply(w.term, &fsm.PutLimit{Limit: l}); r.Err != nil {
			w.t.Fatal(r.Err)
		}
	}
	w.limitsChanged()
}

// limitsChanged lets all who serve hear of it: also one that was deposed follows the log.
func (w *world) limitsChanged() {
	for _, l := range slices.Clone(w.leads) {
		l.alloc.LimitsChanged(w.state)
		l.pump()
	}
}

func (w *world) drop(pattern string) {
	p, err := fsm.ParsePattern(pattern)
	if err != nil {
		w.t.Fatal(err)
	}
	if r := w.apply(w.term, &fsm.DeleteLimit{Pattern: p}); r.Err != nil {
		w.t.Fatal(r.Err)
	}
	w.limitsChanged()
}

// ask asks for one connection on a node, and tells how it was answered.
func (w *world) ask(x *wnode, host string, answered func(served bool)) *wconn {
	t, err := fsm.ParseTarget(host, 443)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &wconn{x: x, host: host, life: x.life, done: func() {}}
	c.slot = &Slot{target: t, holder: c}
	answer := func(err error) {
		w.at(0, func() {
			if err == nil {
				c.dial(time.Hour)
			}
			answered(err == nil)
		})
	}
	waiter, err := x.n.Acquire(x.Now(), c.slot, answer)
	if waiter == nil {
		answer(err)
	} else {
		w.at(waiter.patience, func() {
			x.n.Expire(x.Now(), waiter)
			x.after()
		})
	}
	x.after()
	return c
}

// hold opens one connection on a node and returns the means to end it, once it is open; nil where it is refused.
func (w *world) hold(x *wnode, host string) (c *wconn, end func()) {
	refused := false
	c = w.ask(x, host, func(served bool) { refused = !served })
	w.run(100 * time.Millisecond)
	if refused {
		return nil, nil
	}
	return c, func() {
		if !c.dead {
			c.end(true)
		}
		w.run(20 * time.Millisecond)
	}
}

// A first limit on a host with open connections: they count from then on and are not closed.
func TestFirstLimitCountsWhatIsOpen(t *testing.T) {
	w := newWorld(t, 1, 3, ExpiryClose)
	w.run(time.Second)
	a, b := w.nodes[0], w.nodes[1]
	var ends []func()
	for i := range 7 {
		c, end := w.hold(w.nodes[i%2], "up")
		if c == nil {
			t.Fatal("a host without a limit was refused")
		}
		ends = append(ends, end)
	}
	w.put(limit(t, "up", 5, fsm.Queue{}))
	w.run(100 * time.Millisecond)
	if w.up["up"] != 7 {
		t.Fatalf("%d connections are open after the limit was set, want all 7", w.up["up"])
	}
	for open := 7; open >= 5; open-- {
		for _, x := range []*wnode{a, b, w.nodes[2]} {
			if c, _ := w.hold(x, "up"); c != nil {
				t.Fatalf("node %s opened another connection while %d were open, limit 5", x.name, open)
			}
		}
		ends[open-1]()
	}
	if c, _ := w.hold(w.nodes[2], "up"); c == nil {
		t.Fatal("with 4 of 5 open, a connection was refused")
	}
	if c, _ := w.hold(a, "up"); c != nil {
		t.Fatal("a sixth connection was opened, limit 5")
	}
}

// Lowering a limit closes nothing, and gives idle slots back within a second.
func TestLoweringClosesNothing(t *testing.T) {
	w := newWorld(t, 2, 2, ExpiryClose, limit(t, "up", 10, fsm.Queue{}))
	w.run(time.Second)
	var ends []func()
	for i := range 6 {
		_, end := w.hold(w.nodes[i%2], "up")
		ends = append(ends, end)
	}
	delete(w.caps, "up")
	w.put(limit(t, "up", 3, fsm.Queue{}))
	w.run(time.Second)
	key := fsm.HostConnections("up")
	if w.up["up"] != 6 || w.state.Granted(key) != 6 {
		t.Fatalf("%d open and %d granted, want 6 and 6", w.up["up"], w.state.Granted(key))
	}
	for i := range 4 {
		if c, _ := w.hold(w.nodes[i%2], "up"); c != nil {
			t.Fatalf("a connection was opened while %d were, limit 3", w.up["up"])
		}
		ends[i]()
	}
	w.caps["up"] = 3
	if c, _ := w.hold(w.nodes[0], "up"); c == nil {
		t.Fatal("with 2 of 3 open, a connection was refused")
	}
}

// With evict, the newest connections above the new limit are closed.
func TestEvictClosesTheNewest(t *testing.T) {
	for _, first := range []bool{false, true} {
		var limits []fsm.Limit
		if !first {
			limits = append(limits, limit(t, "up", 10, fsm.Queue{}))
		}
		w := newWorld(t, 3, 2, ExpiryClose, limits...)
		w.run(time.Second)
		var conns []*wconn
		for i := range 8 {
			c, _ := w.hold(w.nodes[i%2], "up")
			conns = append(conns, c)
		}
		delete(w.caps, "up")
		l := limit(t, "up", 4, fsm.Queue{})
		l.Evict = true
		w.put(l)
		w.run(time.Second)
		if w.up["up"] != 4 {
			t.Errorf("first=%v: %d connections are open, limit 4 with evict", first, w.up["up"])
		}
		for i, c := range conns {
			if dead := i >= 4; c.dead != dead {
				t.Errorf("first=%v: connection %d closed: %v, want %v", first, i, c.dead, dead)
			}
		}
	}
}

// Connections follow their count where patterns change.
func TestConnectionsMoveWithTheirKey(t *testing.T) {
	w := newWorld(t, 4, 2, ExpiryClose, limit(t, "*.x.org", 3, fsm.Queue{}))
	w.run(time.Second)
	var ends []func()
	for i := range 4 {
		c, end := w.hold(w.nodes[i%2], []string{"a.x.org", "b.x.org"}[i/2])
		if c == nil {
			t.Fatal("refused below the limit")
		}
		ends = append(ends, end)
	}
	l := limit(t, "*.x.org", 5, fsm.Queue{})
	l.Shared = true
	w.put(l)
	w.run(time.Second)
	shared := fsm.HostConnections("*.x.org")
	if g := w.state.Granted(shared); g != 4 {
		t.Fatalf("%d slots of the shared count are granted for 4 open connections", g)
	}
	if g := w.state.Granted(fsm.HostConnections("a.x.org")); g != 0 {
		t.Errorf("%d slots of a.x.org are still granted", g)
	}
	if c, _ := w.hold(w.nodes[0], "c.x.org"); c == nil {
		t.Fatal("a fifth connection was refused, limit 5")
	}
	if c, _ := w.hold(w.nodes[1], "d.x.org"); c != nil {
		t.Fatal("a sixth connection was opened, limit 5")
	}
	for _, end := range ends {
		end()
	}
	w.drop("*.x.org")
	w.run(5 * time.Second)
	if g := w.state.Granted(shared); g != 0 {
		t.Errorf("%d slots are granted of a limit that is gone", g)
	}
	if c, _ := w.hold(w.nodes[1], "d.x.org"); c == nil {
		t.Error("a host without a limit was refused")
	}
}

// A limit of 0 blocks, also without a session.
func TestZeroBlocks(t *testing.T) {
	w := newWorld(t, 5, 1, ExpiryClose, limit(t, "up", 0, fsm.Queue{Timeout: time.Second, Size: 5}))
	w.run(time.Second)
	if c, _ := w.hold(w.nodes[0], "up"); c != nil {
		t.Fatal("a blocked host was connected to")
	}
}
