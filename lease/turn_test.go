package lease

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// A slot that falls idle goes to the request that waits, not to a node whose requests were refused a moment ago.
func TestIdleSlotGoesToWhoWaits(t *testing.T) {
	w := newWorld(t, 1, 3, ExpiryClose)
	w.run(time.Second)
	a, c, b := w.nodes[0], w.nodes[2], w.nodes[1]
	step := func(x *wnode, want bool) func() {
		t.Helper()
		cn, end := w.hold(x, "up")
		if (cn != nil) != want {
			t.Fatalf("%s: got %v", x.name, cn != nil)
		}
		return end
	}
	w.put(limit(t, "up", 1, fsm.Queue{}))
	e1 := step(b, true)
	step(c, false)
	e1()
	w.put(limit(t, "up", 2, fsm.Queue{}))
	e1 = step(c, true)
	e2 := step(c, true)
	step(a, false)
	e1()
	e2()
	w.put(limit(t, "up", 3, fsm.Queue{}))
	step(a, true)
	step(a, true)
	step(a, true)
}
