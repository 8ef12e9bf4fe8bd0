package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// The load that the promises are measured under.
const (
	workers      = 64
	holdFor      = 30 * time.Millisecond
	retryPause   = 20 * time.Millisecond // of a worker that was refused; at 5 ms refusals alone fill two cores
	leastUse     = 0.95
	leastJain    = 0.95
	warmUpWithin = 5 * time.Second
	measureFor   = 2 * time.Second
)

// peakUseFairness: whatever the limit, the upstream never sees more, the slots are in use, and
// nodes get equal shares.
func peakUseFairness(t *testing.T, c *cluster) {
	for _, limit := range []int{1, 3, 25} { // fewer than nodes, as many, and more
		for _, queue := range []bool{true, false} {
			for _, plain := range []bool{false, true} {
				name := fmt.Sprintf("%s limit %d queue %v", map[bool]string{false: "CONNECT", true: "HTTP"}[plain], limit, queue)
				t.Run(name, func(t *testing.T) { hammer(t, c, limit, queue, plain) })
			}
		}
	}
}

func hammer(t *testing.T, c *cluster, limit int, queue, plain bool) {
	name := c.address()
	rule := connections(limit)
	if queue {
		rule = queued(limit, 20*time.Second, 100)
	}
	c.setLimit(t, name, rule)
	args := []string{
		"-upstream", name + ":0", "-proxies", strings.Join(c.proxies(), ","), "-limit", strconv.Itoa(limit),
		"-workers", strconv.Itoa(workers), "-hold", holdFor.String(), "-pause", retryPause.String(),
		"-window", measureFor.String(), "-use", fmt.Sprint(leastUse), "-jain", fmt.Sprint(leastJain), fmt.Sprintf("-plain=%v", plain),
	}
	if !plain { // plain HTTP leaves connections that are kept for reuse
		args = append(args, "-let-drain", "5s")
	}
	stdout, stderr, code := run(t, nil, os.Getenv(hammerVariable), args...)
	var r load.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != 0 {
		t.Fatalf("hammer: exit code %d, %v: %s%s", code, err, stdout, stderr)
	}
	t.Log(r)
	if r.Peak > limit {
		t.Errorf("the upstream saw %d connections at once; the limit is %d", r.Peak, limit)
	}
	if r.Use < leastUse || r.Jain < leastJain {
		t.Errorf("use %.3f, Jain %.3f; want at least %v and %v", r.Use, r.Jain, leastUse, leastJain)
	}
	if r.Cut+r.Failed > 0 {
		t.Errorf("%d connections were cut and %d had no answer: %s", r.Cut, r.Failed, r.LastFail)
	}
	if queue && r.Refused > 0 {
		t.Errorf("%d were refused though the queue had room: %v", r.Refused, r.Reasons)
	}
	if !plain && r.Left > 0 {
		t.Errorf("%d connections are open though nobody uses them", r.Left)
	}
}

// slotsMoveToDemand: a slot that lies unused on one node is found for another node's first request.
func slotsMoveToDemand(t *testing.T, c *cluster) {
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(1))
	for i := range 12 {
		n := c.nodes[i%len(c.nodes)]
		end(t, n.open(t, up.target))
		c.awaitUse(t, up, 0)
	}
	up.peakAtMost(t, 1)
}

// keptAliveGivesWay: an upstream connection kept for reuse on one node is closed for a request on
// another.
func keptAliveGivesWay(t *testing.T, c *cluster) {
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(1))
	for i := range 6 {
		run := load.Start(load.Plan{Proxies: []string{c.nodes[i%3].proxy}, Target: up.target, Workers: 1, Plain: true, Total: 1})
		if sum := load.Sum(run.Wait()); sum.OK != 1 {
			t.Fatalf("request %d: %+v", i, sum)
		}
		n := c.nodes[i%3]
		eventually(t, 2*time.Second, "the connection is kept", func() error { return n.keeps(up.name) })
	}
	up.peakAtMost(t, 1)
	if got := up.Stats().Accepted; got != 6 {
		t.Errorf("%d upstream connections for 6 requests through three nodes in turn; want 6", got)
	}
}

// idleSlotsComeBack: what a node holds without use goes back within 5 s, by itself.
func idleSlotsComeBack(t *testing.T, c *cluster) {
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(9))
	var tunnels []*load.Tunnel
	for _, n := range c.nodes {
		tunnels = append(tunnels, n.openMany(t, up.target, 3)...)
	}
	if h := c.nodes[0].http.host(t, up.name); h.Granted != 9 || h.InUse != 9 {
		t.Errorf("with 9 of 9 connections open, %d slots are granted and %d in use", h.Granted, h.InUse)
	}
	end(t, tunnels...)
	took := eventually(t, 5*time.Second, "no slot granted", func() error {
		for _, n := range c.nodes {
			if h := n.http.host(t, up.name); h.Granted != 0 {
				return fmt.Errorf("node %s reports %d", n.name, h.Granted)
			}
		}
		return nil
	})
	t.Logf("idle slots are back after %v", took.Round(10*time.Millisecond))
}

// loweringLimit: closes nothing; the count falls as connections end.
func loweringLimit(t *testing.T, c *cluster) {
	up := c.upstream(t)
	n := c.nodes[0]
	c.setLimit(t, up.name, connections(4))
	tunnels := n.openMany(t, up.target, 4)
	c.setLimit(t, up.name, connections(2))
	mustLive(t, "after the limit was lowered", tunnels...)
	n.refuse(t, up.target, "connection_limit_reached")
	end(t, tunnels[:2]...)
	for _, other := range c.nodes {
		other.refuse(t, up.target, "connection_limit_reached")
	}
	end(t, tunnels[2])
	eventually(t, 2*time.Second, "a slot below the new limit", admits(c.nodes[1], up.target))
	mustLive(t, "at the end", tunnels[3])
}

// admits is a condition: a tunnel opens, and is closed again.
func admits(n *node, target string) func() error {
	return func() error {
		tunnel, err := n.try(target)
		if err != nil {
			return err
		}
		return tunnel.End()
	}
}

// evict: closes what is above the new limit, the newest first.
func evict(t *testing.T, c *cluster) {
	up := c.upstream(t)
	n := c.nodes[0]
	c.setLimit(t, up.name, connections(4))
	tunnels := n.openMany(t, up.target, 4)
	c.nodes[1].http.must(t, 200, "PUT", limitPath(up.name)+"?evict=true", connections(2), nil)
	up.awaitOpen(t, 2*time.Second, 2)
	mustLive(t, "the oldest", tunnels[:2]...)
	for i, tunnel := range tunnels[2:] {
		if err := alive(tunnel); err == nil {
			t.Errorf("tunnel %d of 4 outlives the eviction to 2", i+3)
		}
	}
}

// firstLimit: open connections count from a first limit on, and are not closed.
func firstLimit(t *testing.T, c *cluster) {
	up := c.upstream(t)
	tunnels := append(c.nodes[0].openMany(t, up.target, 2), c.nodes[1].open(t, up.target))
	c.setLimit(t, up.name, connections(3))
	eventually(t, 2*time.Second, "the open connections count", func() error {
		if h := c.nodes[2].http.host(t, up.name); h.InUse != 3 || h.Nodes["a"].InUse != 2 || h.Nodes["b"].InUse != 1 {
			return fmt.Errorf("in use: %d, of them %+v", h.InUse, h.Nodes)
		}
		return nil
	})
	for _, n := range c.nodes {
		n.refuse(t, up.target, "connection_limit_reached")
	}
	mustLive(t, "from before the limit", tunnels...)
	end(t, tunnels[0])
	eventually(t, 2*time.Second, "the freed slot elsewhere", admits(c.nodes[2], up.target))
}
