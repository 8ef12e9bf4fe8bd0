package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// lastIndex is the leader's last log index.
func lastIndex(t *testing.T, leader *node) uint64 {
	t.Helper()
	s, err := leader.http.status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Raft.State != "leader" {
		t.Fatalf("node %s was the leader and is now %q", leader.name, s.Raft.State)
	}
	return s.Raft.LastIndex
}

// logEntriesBelowLimit: below the limit and warmed up, connections cost next to nothing in the log.
func logEntriesBelowLimit(t *testing.T, c *cluster) {
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(1000))
	plan := load.Plan{Proxies: c.proxies(), Target: up.target, Workers: 48, Hold: time.Millisecond, Total: 1500}
	load.Start(plan).Wait()
	leader, _ := c.leader(t)
	before := lastIndex(t, leader)
	plan.Total = 10_000
	begun := time.Now()
	sum := load.Sum(load.Start(plan).Wait())
	took, entries := time.Since(begun), lastIndex(t, leader)-before
	t.Logf("%d connections through three nodes in %v: %d log entries", sum.OK, took.Round(time.Millisecond), entries)
	if sum.OK != 10_000 {
		t.Errorf("%d connections of 10000: %d refused, %d cut, %d without answer: %v", sum.OK, sum.Refused, sum.Cut, sum.Failed, sum.LastFail)
	}
	if entries > 50 {
		t.Errorf("%d log entries; want at most 50", entries)
	}
}

// idleCosts: a cluster that nobody uses costs under 2 % of a core per node, and its log stands
// still. Where a core needs long to wake, it costs no more than a few times what a program costs
// that does nothing but wake.
func idleCosts(t *testing.T, c *cluster) {
	const over, most, wakes, mostWakes = 10 * time.Second, 0.02, "100", 2.5
	leader, _ := c.leader(t)
	waking := gauge(t, "-wakes", wakes)
	before, shares := map[*node]time.Duration{}, map[*node]float64{}
	for attempt := range 3 { // a machine that stands still for seconds costs a session, which is no idling
		for _, n := range c.nodes {
			before[n] = cpu(t, n)
		}
		index := lastIndex(t, leader)
		begun := time.Now()
		measure(over)
		for _, n := range c.nodes {
			shares[n] = float64(cpu(t, n)-before[n]) / float64(time.Since(begun))
		}
		grown := lastIndex(t, leader) - index
		if grown <= 1 {
			break
		}
		t.Logf("the log grew by %d entries in %v", grown, over)
		if attempt == 2 {
			t.Error("that is no idle cluster")
		}
	}
	waking = max(waking, gauge(t, "-wakes", wakes))
	for n, share := range shares {
		t.Logf("node %s (leader: %v): %.2f %% of a core; a program that wakes %s times a second: %.2f %%", n.name, n == leader, 100*share, wakes, 100*waking)
		if share > max(most, mostWakes*waking) {
			t.Errorf("that is more than %.1f %%", 100*max(most, mostWakes*waking))
		}
	}
}

// slowness is this machine's, at this moment: see [load.Slowness].
func slowness(t *testing.T) float64 {
	t.Helper()
	return gauge(t, "-gauge")
}

// gauge runs one of hammer's gauges, and returns what it has measured.
func gauge(t *testing.T, args ...string) float64 {
	t.Helper()
	stdout, stderr, code := run(t, nil, os.Getenv(hammerVariable), args...)
	measured, err := strconv.ParseFloat(strings.TrimSpace(stdout), 64)
	if err != nil || code != 0 {
		t.Fatalf("gauge: exit code %d, %v: %s", code, err, stderr)
	}
	return measured
}

func cpu(t *testing.T, n *node) time.Duration {
	t.Helper()
	used, err := n.process.CPU()
	if err != nil {
		t.Fatal(err)
	}
	return used
}
