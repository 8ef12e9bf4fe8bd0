package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// TestScopes runs, one after another on one cluster, what limits of clients and of the total
// promise. Each scenario has clients of its own.
func TestScopes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	for _, scenario := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"client", clientLimit},
		{"each client for itself", eachClient},
		{"clients together", clientsTogether},
		{"many clients at once", clientStorm},
		{"plain requests in hand", requestsInHand},
		{"refused by one, the others are given back", givesBack},
		{"waiting for a host counts for the client", waitingCounts},
		{"limit on what is in hand", limitInHand},
		{"total", totalLimit},
	} {
		t.Run(scenario.name, func(t *testing.T) { scenario.run(t, c) })
	}
}

// clientLimit: one count through all nodes, whatever the host, and no other client's business.
func clientLimit(t *testing.T, c *cluster) {
	one, two := c.upstream(t), c.upstream(t)
	w, other := from("127.5.1.1"), from("127.5.1.2")
	c.put(t, "client", w.address, connections(2))
	first := w.open(t, c.nodes[0], one.target)
	w.open(t, c.nodes[1], two.target)
	for _, n := range c.nodes {
		r := w.refuse(t, n, one.target, "weir: client 127.5.1.1 is at its limit of 2 connections")
		if r.Status != 503 || !strings.HasPrefix(r.ProxyStatus, n.name+";") || !strings.Contains(r.ProxyStatus, `details="the client is at its limit of connections"`) {
			t.Errorf("refusal %+v; want 503, and a Proxy-Status of node %s that names scope and resource", r, n.name)
		}
		if seconds, err := strconv.Atoi(r.RetryAfter); err != nil || seconds < 1 {
			t.Errorf("Retry-After %q; want whole seconds", r.RetryAfter)
		}
		other.open(t, n, one.target)
	}
	end(t, first)
	w.open(t, c.nodes[2], two.target)
	c.put(t, "client", w.address, connections(0))
	if r := w.refuse(t, c.nodes[0], one.target, "client 127.5.1.1 is blocked by a limit of 0 connections"); r.RetryAfter != "" {
		t.Errorf("Retry-After %q of what is blocked; want none", r.RetryAfter)
	}
}

// eachClient: a network that is not shared gives each address a count of its own, and the longest
// prefix wins as a whole.
func eachClient(t *testing.T, c *cluster) {
	up := c.upstream(t)
	c.put(t, "client", "127.5.2.0/24", connections(1))
	c.put(t, "client", "127.5.2.128/25", `{}`)
	for _, address := range []string{"127.5.2.1", "127.5.2.2"} {
		w := from(address)
		w.open(t, c.nodes[0], up.target)
		w.refuse(t, c.nodes[1], up.target, "client "+address+" is at its limit of 1 connection")
	}
	free := from("127.5.2.200")
	for range 3 {
		free.open(t, c.nodes[2], up.target)
	}
}

// clientsTogether: a shared network has one count.
func clientsTogether(t *testing.T, c *cluster) {
	up := c.upstream(t)
	const network = "127.5.3.0/24"
	c.put(t, "client", network, `{"connections":2,"shared":true}`)
	first := from("127.5.3.1").open(t, c.nodes[0], up.target)
	from("127.5.3.2").open(t, c.nodes[1], up.target)
	third := from("127.5.3.3")
	third.refuse(t, c.nodes[2], up.target, "weir: all clients of "+network+" together are at their limit of 2 connections")
	c.awaitUsage(t, "client", network, 2, 0)
	end(t, first)
	third.open(t, c.nodes[2], up.target)
	up.peakAtMost(t, 2)
}

// clientStorm: the upstream of one client's tunnels never sees more than the client's limit, and
// all of it in use.
func clientStorm(t *testing.T, c *cluster) {
	up := c.upstream(t)
	w := from("127.5.4.1")
	const limit = 4
	c.put(t, "client", w.address, queued(limit, 20*time.Second, 100))
	run := load.Start(load.Plan{
		Proxies: c.proxies(), Target: up.target, Workers: 12, Hold: 20 * time.Millisecond, Pause: retryPause, Dial: w.caller.Dial,
	})
	eventually(t, warmUpWithin, "the load is under way", progress(run))
	measure(time.Second)
	peak := up.Stats().Peak // before clients are given up, whose requests end before their upstream knows
	sum := load.Sum(run.Stop())
	if sum.Refused+sum.Failed+sum.Cut > 0 {
		t.Errorf("%d refused %v, %d failed, %d cut: %v; the queue has room for all", sum.Refused, sum.Reasons, sum.Failed, sum.Cut, sum.LastFail)
	}
	if peak != limit {
		t.Errorf("the upstream saw %d connections at once; the limit is %d", peak, limit)
	}
}

// requestsInHand: a plain request counts from its head until its response has been passed on; the
// client's connection beside it does not.
func requestsInHand(t *testing.T, c *cluster) {
	up := c.upstream(t)
	w := from("127.5.5.1")
	c.put(t, "client", w.address, connections(1))
	idle, busy := w.wire(t, c.nodes[0]), w.wire(t, c.nodes[1])
	idle.say(t, w.get(up.target, 0))
	idle.answers(t, 1, 200) // and is kept
	c.awaitUsage(t, "client", w.address, 0, 0)
	busy.say(t, w.get(up.target, 700*time.Millisecond))
	c.awaitUsage(t, "client", w.address, 1, 0)
	idle.say(t, w.get(up.target, 0))
	idle.answers(t, 1, 503)
	idle.awaitText(t, "weir: client 127.5.5.1 is at its limit of 1 connection")
	w.refuse(t, c.nodes[2], up.target, "client 127.5.5.1")
	busy.answers(t, 1, 200)
	end(t, w.open(t, c.nodes[2], up.target))
	c.awaitUsage(t, "client", w.address, 0, 0)
	busy.say(t, w.get(up.target, 0))
	busy.answers(t, 2, 200)
}

// givesBack: who is refused by one limit holds nothing of the others.
func givesBack(t *testing.T, c *cluster) {
	full, free := c.upstream(t), c.upstream(t)
	w := from("127.5.6.1")
	c.put(t, "client", w.address, connections(3))
	c.put(t, "total", "", connections(50))
	defer c.drop(t, "total", "")
	c.setLimit(t, full.name, connections(1))
	w.open(t, c.nodes[0], full.target)
	plain := w.wire(t, c.nodes[1])
	for i := range 6 {
		w.refuse(t, c.nodes[i%3], full.target, full.name+" is at its limit of 1 connection")
		plain.say(t, w.get(full.target, 0))
		plain.answers(t, i+1, 503)
	}
	c.awaitUsage(t, "client", w.address, 1, 0)
	w.open(t, c.nodes[1], free.target)
	w.open(t, c.nodes[2], free.target)
	for i := range 6 {
		w.refuse(t, c.nodes[i%3], free.target, "client 127.5.6.1 is at its limit of 3 connections")
	}
	eventually(t, 2*time.Second, "the total counts what is open", func() error {
		var list struct {
			Usage []usageAnswer `json:"usage"`
		}
		err := c.nodes[0].http.read("/v1/usage/total", &list)
		if err == nil && (len(list.Usage) != 1 || list.Usage[0].InUse != 3) {
			err = fmt.Errorf("%+v", list.Usage)
		}
		return err
	})
	c.awaitUse(t, free, 2)
}

// waitingCounts: a request that waits for a host holds its client's slot, and lets go of it when it
// waits no more.
func waitingCounts(t *testing.T, c *cluster) {
	busy, free := c.upstream(t), c.upstream(t)
	w := from("127.5.7.1")
	n := c.nodes[1]
	c.put(t, "client", w.address, connections(2))
	c.setLimit(t, busy.name, queued(1, 20*time.Second, 10))
	holder := from("127.5.7.2").open(t, c.nodes[0], busy.target)
	waiting := w.wire(t, n)
	waiting.say(t, fmt.Sprintf("CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", busy.target))
	eventually(t, 2*time.Second, "it waits", waitingIs(n, busy, 1))
	c.awaitUsage(t, "client", w.address, 1, 0)
	second := w.open(t, c.nodes[2], free.target)
	w.refuse(t, n, free.target, "client 127.5.7.1 is at its limit of 2 connections")
	_ = waiting.Close()
	eventually(t, 2*time.Second, "it waits no more", waitingIs(n, busy, 0))
	third := w.open(t, n, free.target)
	end(t, holder, second, third)
	busy.peakAtMost(t, 1)
}

// limitInHand: a first limit counts what is in hand from then on, and closes nothing; with evict,
// what is above it is closed.
func limitInHand(t *testing.T, c *cluster) {
	up := c.upstream(t)
	w := from("127.5.8.1")
	var held []*load.Tunnel
	for _, n := range c.nodes {
		held = append(held, w.open(t, n, up.target), w.open(t, n, up.target))
	}
	c.put(t, "client", w.address, connections(6))
	c.awaitUsage(t, "client", w.address, 6, 0)
	for _, n := range c.nodes {
		w.refuse(t, n, up.target, "client 127.5.8.1 is at its limit of 6 connections")
	}
	mustLive(t, "under a first limit", held...)
	end(t, held[0])
	again := w.open(t, c.nodes[2], up.target)
	w.refuse(t, c.nodes[0], up.target, "client 127.5.8.1")
	c.nodes[0].http.must(t, 200, "PUT", scopedPath("client", w.address)+"?evict=true", connections(2), nil)
	up.awaitOpen(t, 5*time.Second, 2)
	c.awaitUsage(t, "client", w.address, 2, 0)
	_ = again.Close()
}

// totalLimit: everything that workers ask of the proxies has one count. What a program asks of the
// API does not count.
func totalLimit(t *testing.T, c *cluster) {
	one, two := c.upstream(t), c.upstream(t)
	c.put(t, "total", "", connections(3))
	defer c.drop(t, "total", "")
	held := from("127.5.9.1").open(t, c.nodes[0], one.target)
	from("127.5.9.2").open(t, c.nodes[1], two.target)
	w := from("127.5.9.3")
	plain := w.wire(t, c.nodes[2])
	plain.say(t, w.get(one.target, 600*time.Millisecond))
	one.awaitOpen(t, 2*time.Second, 2)
	for _, n := range c.nodes {
		r := w.refuse(t, n, two.target, "weir: all workers together are at their limit of 3 connections")
		if !strings.Contains(r.ProxyStatus, `details="the total of all workers is at its limit of connections"`) {
			t.Errorf("Proxy-Status %q", r.ProxyStatus)
		}
	}
	plain.answers(t, 1, 200)
	w.open(t, c.nodes[0], two.target)
	end(t, held)
	w.open(t, c.nodes[1], two.target)
}

// TestUserLimits: a user has one count, from wherever it comes and through whatever node; others
// have their own.
func TestUserLimits(t *testing.T) {
	t.Parallel()
	file := newUsersFile(t)
	for _, user := range []string{"ada", "bob", "nightly"} {
		file.add(t, user, "secret")
	}
	c := startCluster(t, shape{prepare: func(n *node) { n.more = fmt.Sprintf("proxy {\n  users_file = %q\n}\n", file.path) }})
	up := c.upstream(t)
	c.put(t, "user", "nightly", connections(2))
	c.put(t, "user", "*", connections(1))
	nightly := as("nightly", "secret")
	held := nightly.open(t, c.nodes[0], up.target)
	elsewhere := from("127.5.10.1")
	elsewhere.caller.Fields = nightly.caller.Fields
	plain := elsewhere.wire(t, c.nodes[1])
	plain.say(t, elsewhere.get(up.target, 700*time.Millisecond))
	c.awaitUsage(t, "user", "nightly", 2, 0)
	r := nightly.refuse(t, c.nodes[2], up.target, "weir: user nightly is at its limit of 2 connections")
	if !strings.Contains(r.ProxyStatus, `details="the user is at its limit of connections"`) || r.RetryAfter == "" {
		t.Errorf("refusal %+v; want details that name the scope, and Retry-After", r)
	}
	for _, user := range []string{"ada", "bob"} {
		w := as(user, "secret")
		w.open(t, c.nodes[0], up.target)
		w.refuse(t, c.nodes[1], up.target, "user "+user+" is at its limit of 1 connection")
	}
	plain.answers(t, 1, 200)
	nightly.open(t, c.nodes[2], up.target)
	nightly.refuse(t, c.nodes[1], up.target, "user nightly")
	end(t, held)
	nightly.open(t, c.nodes[1], up.target)

	// Who is let in is known per request, so one connection can carry several users' requests.
	shared := from("127.5.10.2").wire(t, c.nodes[0])
	for i, user := range []string{"ada", "nightly", "bob"} {
		shared.say(t, as(user, "secret").get(up.target, 0))
		shared.awaitText(t, "user "+user+" is at its limit")
		shared.answers(t, i+1, 503)
	}
}
