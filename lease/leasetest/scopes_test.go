package leasetest

import (
	"errors"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// askFor asks as [calm.ask] does, for a client and a user.
func (w *calm) askFor(node int, k Worker, hold time.Duration, answered func(served bool)) *conn {
	w.t.Helper()
	s, err := k.subject()
	if err != nil {
		w.t.Fatal(err)
	}
	c := &conn{w: w.world, x: w.nodes[node], host: w.up.hostOf(k.Host), hold: hold}
	told := false
	c.onDial = func(*conn) { told = true; answered(true) }
	c.done = func(*conn, bool) {
		if !told {
			answered(false)
		}
	}
	c.ask(s)
	return c
}

// A request under several limits takes a slot of each; where the last refuses it, the others get
// theirs back.
func TestRefusedRequestGivesAllBack(t *testing.T) {
	w := newCalm(t, 1, 2, Limit{Scope: "total", Connections: 5}, Limit{Scope: "client", Pattern: "*", Connections: 3},
		Limit{Scope: "user", Pattern: "*", Connections: 3}, Limit{Pattern: "up", Connections: 1})
	w.pass(second)
	k := Worker{Host: "up", Client: "10.0.0.1", User: "u"}
	served, refused := 0, 0
	count := func(ok bool) {
		if ok {
			served++
		} else {
			refused++
		}
	}
	w.askFor(0, k, time.Hour, count)
	w.pass(100 * ms)
	for range 4 {
		c := w.askFor(1, k, time.Hour, count)
		w.pass(100 * ms)
		if e, ok := isLimit(c.err); !ok || e.Key != limit.HostConnections("up") || !errors.Is(c.err, lease.ErrOverLimit) {
			t.Errorf("refused with %v", c.err)
		}
	}
	if served != 1 || refused != 4 {
		t.Fatalf("%d served, %d refused", served, refused)
	}
	for i, h := range w.up.hosts {
		var inUse int64
		for _, x := range w.nodes {
			if use, ok := x.node.Use(x.clock(), w.up.keyIn(i)); ok {
				inUse += use.InUse
			}
		}
		if inUse != 1 {
			t.Errorf("%d of %s %s are in use, want the first request's", inUse, h.scope, h.name)
		}
	}
}

// Requests in hand count under a limit that is set later, and none is severed for it.
func TestLimitIsSetOnRequestsInHand(t *testing.T) {
	w := newCalm(t, 2, 2)
	w.scoped = true
	w.pass(second)
	k := Worker{Host: "up", Client: "10.0.0.1", User: "u"}
	var conns []*conn
	for i := range 4 {
		conns = append(conns, w.askFor(i%2, k, time.Hour, func(bool) {}))
	}
	w.pass(100 * ms)
	w.put(Limit{Scope: "client", Pattern: "*", Connections: 4})
	w.pass(second)
	refused := false
	w.askFor(0, k, time.Hour, func(ok bool) { refused = !ok })
	w.pass(second)
	if !refused {
		t.Fatal("a fifth request was served beside four that were there before the limit")
	}
	conns[0].end()
	w.pass(100 * ms)
	w.askFor(1, k, time.Hour, func(ok bool) { refused = !ok })
	w.pass(second)
	if refused || conns[1].state != connOpen {
		t.Errorf("after one of four has ended: refused %v, another's state %d", refused, conns[1].state)
	}
}

// What a limit that only reports would have refused is counted, over all nodes.
func TestReportCounts(t *testing.T) {
	w := newCalm(t, 3, 3, Limit{Scope: "total", Connections: 2, Requests: "60/m", Burst: 4, Report: true})
	w.pass(second)
	served := 0
	for i := range 9 {
		w.askFor(i%3, Worker{Host: "up"}, time.Hour, func(ok bool) {
			if ok {
				served++
			}
		})
		w.pass(50 * ms)
	}
	w.pass(4 * second)
	if served != 9 {
		t.Fatalf("%d of 9 are served", served)
	}
	var slots, tokens uint64
	for _, x := range w.nodes {
		for _, u := range x.node.Uses(x.clock()) {
			if u.Key.Resource == limit.Connections && u.Key.Scope == limit.ScopeTotal {
				slots += u.WouldReject
			} else if u.Key.Resource == limit.Requests {
				tokens += u.WouldReject
			}
		}
	}
	if slots != 7 || tokens < 4 || tokens > 5 {
		t.Errorf("%d connections and %d requests are counted as refused, want 7, and 4 or 5", slots, tokens)
	}
}

// The judge of rates itself: every window counts, by the larger of the limits within it, and what
// goes back does not.
func TestRateInfo(t *testing.T) {
	var r rateInfo
	change := func(at time.Duration, rate, burst float64) {
		r.add(rateStep{taking: taking{at: at}, second: rate, burst: burst})
	}
	token := func(at time.Duration) float64 { return r.add(rateStep{taking: taking{at, 1}}) }
	change(0, 2, 3)
	for i := range 3 {
		if over := token(second); over > 0 {
			t.Fatalf("token %d of a burst of 3: %v above", i, over)
		}
	}
	if over := token(1500 * ms); over > slackOf(limit.Requests) {
		t.Errorf("the next, when it has come: %v above", over)
	}
	if over := token(1600 * ms); over < 0.7 {
		t.Errorf("another too early: %v above", over)
	}
	change(10*second, 1, 1)
	token(10 * second)
	if over := token(10*second + 100*ms); over < 0.85 {
		t.Errorf("a window of the lower limit alone: %v above", over)
	}
	change(20*second, 1, 1)
	change(20*second, 0, 0)
	change(21*second, 1, 1)
	if over := token(21 * second); over > 0 {
		t.Errorf("after a time without a limit: %v above", over)
	}
	change(30*second, 1, 4)
	for range 4 {
		token(30 * second)
	}
	change(30*second+ms, 1, 1)
	if over := token(30*second + 2*ms); over < 0.95 || over > 1.01 {
		t.Errorf("a window under both: %v above", over)
	}
}
