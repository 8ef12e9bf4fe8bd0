package leasetest

import (
	"errors"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// calm is a world in which nothing goes wrong but what a test does, with a ttl of 3 s, commits of 2
// ms and a round trip of 0.4 ms.
type calm struct {
	*world
	t       *testing.T
	served  []map[string]int // by node
	refused []map[string]int
}

func newCalm(t *testing.T, seed uint64, nodes int, limits ...Limit) *calm {
	t.Helper()
	p := &Plan{
		Seed: seed, Nodes: nodes, Servers: 1, TTL: Duration(3 * second), Expiry: "close", Commit: Duration(2 * ms),
		RTT: Duration(400 * time.Microsecond), Upstream: Duration(300 * time.Microsecond), Limits: limits, Every: 32,
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	w := &calm{world: newWorld(p, 0, nil), t: t}
	for range nodes {
		w.served = append(w.served, map[string]int{})
		w.refused = append(w.refused, map[string]int{})
	}
	return w
}

// pass lets time pass.
func (w *calm) pass(d time.Duration) {
	w.t.Helper()
	w.run(d)
	if w.breach != "" {
		w.t.Fatal(w.breach)
	}
}

// ask asks for one connection on a node, which holds it for a while, and tells of the answer and of
// the end.
func (w *calm) ask(node int, host string, hold time.Duration, answered func(served bool), ended func()) *conn {
	w.t.Helper()
	x := w.nodes[node]
	told := false
	c := &conn{w: w.world, x: x, host: w.up.hostOf(host), hold: hold}
	c.onDial = func(*conn) {
		told = true
		if answered != nil {
			answered(true)
		}
	}
	c.done = func(c *conn, served bool) {
		switch {
		case served:
			w.served[node][host]++
		case c.err != nil && !errors.Is(c.err, lease.ErrNoLease) && !errors.Is(c.err, lease.ErrQueueTimeout):
			w.refused[node][host]++
		}
		if !told && answered != nil {
			answered(false)
		}
		if ended != nil {
			ended()
		}
	}
	c.ask(w.up.hosts[c.host].subject)
	return c
}

// hold opens one connection on a node and returns the means to end it, once it is open; nil where
// it is refused.
func (w *calm) hold(node int, host string) (c *conn, end func()) {
	w.t.Helper()
	refused := false
	c = w.ask(node, host, time.Hour, func(served bool) { refused = !served }, nil)
	w.pass(100 * ms)
	if refused {
		return nil, nil
	}
	return c, func() {
		c.end()
		w.pass(20 * ms)
	}
}

// client is a worker of a fixed pace: it holds for so long, and after a refusal pauses for about so
// long.
type client struct {
	w     *calm
	node  int
	host  string
	hold  time.Duration
	pause time.Duration
}

func (k *client) act(uint8, int64) {
	served := false
	k.w.ask(k.node, k.host, k.hold, func(ok bool) { served = ok }, func() {
		wait := time.Duration(0)
		if !served {
			wait = k.pause/2 + k.w.dice.upTo(k.pause)
		}
		k.w.at(wait, k, 0, 0)
	})
}

func (w *calm) work(node int, host string, hold, pause time.Duration) {
	k := &client{w, node, host, hold, pause}
	w.at(w.dice.upTo(hold), k, 0, 0)
}

func (w *calm) open(host string) int { return w.up.hosts[w.up.hostOf(host)].open }

func (w *calm) area(host string) time.Duration {
	h := &w.up.hosts[w.up.hostOf(host)]
	h.count(w.now, 0)
	return h.area
}

func (w *calm) state() *fsm.State { return w.raft.head.state }

func (w *calm) granted(key string) int64 { return w.state().Granted(limit.HostConnections(key)) }

// put writes limits.
func (w *calm) put(limits ...Limit) {
	w.t.Helper()
	for _, l := range limits {
		w.writeLimit(l, 0)
	}
}

func jain(xs []int) float64 {
	var sum, squares float64
	for _, x := range xs {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	return sum * sum / (float64(len(xs)) * squares)
}
