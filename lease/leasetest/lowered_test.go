package leasetest

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
)

// While more are open than a lowered limit allows, nobody opens a connection, not within its share
// either.
func TestLoweredStartsNothing(t *testing.T) {
	for _, queue := range []bool{false, true} {
		l := Limit{Pattern: "up", Connections: 10}
		if queue {
			l.Timeout, l.Size = Duration(20*second), 50
		}
		w := newCalm(t, 2, 2, l)
		w.pass(second)
		for range 5 {
			w.hold(1, "up")
		}
		for range 3 {
			w.work(0, "up", 30*ms, 4*ms)
		}
		w.pass(second)
		l.Connections = 3
		w.put(l)
		w.pass(second)
		before := w.served[0]["up"]
		w.pass(5 * second)
		if began := w.served[0]["up"] - before; w.open("up") != 5 || began > 0 {
			t.Errorf("queue %v: %d are open, and node 0 has begun %d, while node 1 keeps five and the limit is 3", queue, w.open("up"), began)
		}
	}
}

// Nor does it where another limit changes meanwhile, and the leader waits for all nodes to have
// heard of that.
func TestOtherLimitsLetNothingStart(t *testing.T) {
	for delay := time.Duration(0); delay < 30*ms; delay += 3 * ms {
		queue := Duration(20 * second)
		w := newCalm(t, 2, 3, Limit{Pattern: "other", Connections: 3})
		w.rtt = 10 * ms
		w.pass(second)
		var conns []*conn
		for range 3 {
			c, _ := w.hold(0, "up")
			conns = append(conns, c)
		}
		for range 3 {
			w.hold(1, "up")
		}
		w.put(Limit{Pattern: "up", Connections: 2, Timeout: queue, Size: 50})
		w.pass(second)
		opened := false
		w.ask(0, "up", 5*second, func(ok bool) { opened = ok }, nil)
		w.pass(200 * ms)
		w.put(Limit{Pattern: "other", Delete: true})
		w.run(delay)
		for _, c := range conns {
			c.end()
		}
		w.pass(50 * ms)
		if opened {
			t.Errorf("%v after a limit was removed: %d are open; the limit is 2, and three were open before", delay, w.open("up"))
		}
	}
}

// Nor while slots of a node that has restarted rest.
func TestRestsLetNothingStart(t *testing.T) {
	w := newCalm(t, 2, 4)
	w.pass(second)
	var conns []*conn
	for range 3 {
		c, _ := w.hold(0, "up")
		conns = append(conns, c)
	}
	for range 3 {
		w.hold(1, "up")
	}
	w.hold(2, "up")
	w.put(Limit{Pattern: "up", Connections: 3, Timeout: Duration(20 * second), Size: 50})
	w.pass(second)
	opened := false
	w.ask(0, "up", 5*second, func(ok bool) { opened = ok }, nil)
	w.pass(100 * ms)
	x := w.nodes[2]
	x.crash()
	x.boot()
	for range 100 {
		if w.pass(ms); x.node.Session(x.clock()).ID != 0 {
			break
		}
	}
	w.pass(2 * ms)
	for _, c := range conns {
		c.end()
	}
	w.pass(5 * ms)
	if opened {
		t.Errorf("node 0 has opened one: %d are open, and the limit is 3", w.open("up"))
	}
}

// A request waits for the only slot in all when its client's first limit comes. It does not count
// for that until it has the other: who holds that may wait for the client's.
func TestNobodyWaitsInACircle(t *testing.T) {
	const one, timeout = 1, Duration(60 * second)
	w := newCalm(t, 2, 2, Limit{Scope: "total", Connections: one, Timeout: timeout, Size: 50})
	w.scoped = true
	w.pass(second)
	var served [3]bool
	ask := func(i, node int, client string) *conn {
		return w.askFor(node, Worker{Host: "up", Client: client}, time.Hour, func(ok bool) { served[i] = ok })
	}
	first := ask(0, 1, "10.0.0.9")
	w.pass(10 * ms)
	second := ask(1, 0, "10.0.0.1")
	w.pass(2 * ms)
	w.put(Limit{Scope: "client", Pattern: "*", Connections: one, Timeout: timeout, Size: 50})
	w.pass(10 * ms)
	third := ask(2, 1, "10.0.0.1")
	w.pass(10 * ms)
	first.end()
	w.pass(time.Second)
	if served[1] == served[2] {
		t.Fatalf("the second is served: %v, the third: %v; want one of them (%d slots in all are granted)",
			served[1], served[2], w.state().Granted(limit.Key{Scope: limit.ScopeTotal, Resource: limit.Connections}))
	}
	if served[1] {
		second.end()
	} else {
		third.end()
	}
	w.pass(time.Second)
	if !served[1] || !served[2] {
		t.Errorf("then the second is served: %v, and the third: %v", served[1], served[2])
	}
}
