package leasetest

import "testing"

// A lone server's log is put back to an older copy, under a node whose session is in that copy and
// goes on. Limits that are written afterwards hold there at once, although the log has less than
// before.
func TestLimitsAfterAnOlderLog(t *testing.T) {
	w := newCalm(t, 2, 2)
	w.pass(second)
	for i := range 20 { // that will be forgotten
		w.put(Limit{Pattern: "other", Connections: int64(1 + i)})
		w.pass(10 * ms)
	}
	session, index := w.nodes[1].node.Session(w.nodes[1].clock()).ID, w.nodes[1].node.Table().Index
	w.raft.putBack(w.nodes[0], Fault{N: 20, For: Duration(100 * ms)})
	w.pass(10 * second)
	if now := w.nodes[1].node.Session(w.nodes[1].clock()).ID; now != session {
		t.Fatalf("session %d, want that %d goes on", now, session)
	}
	w.put(Limit{Pattern: "up", Connections: 1})
	w.pass(second)
	for range 5 {
		w.hold(1, "up")
	}
	if n := w.open("up"); n != 1 {
		t.Errorf("%d are open; the limit is 1. The node goes by limits %d of before (%d), the log has %d", n, w.nodes[1].node.Table().Index, index, w.state().Table().Index)
	}
	w.pass(60 * second)
	if a, b := w.nodes[1].node.Table().Index, w.state().Table().Index; a != b {
		t.Errorf("a minute later the node goes by limits %d; the log has %d", a, b)
	}
}
