package e2e

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// loadEach lets a load of its own go through each node, by the plan but for whom it goes through,
// and waits until all are under way.
func (c *cluster) loadEach(t testing.TB, plan load.Plan) map[*node]*load.Run {
	t.Helper()
	runs := map[*node]*load.Run{}
	for _, n := range c.nodes {
		plan.Proxies = []string{n.proxy}
		runs[n] = load.Start(plan)
		t.Cleanup(func() { runs[n].Stop() })
	}
	for _, n := range c.nodes {
		eventually(t, warmUpWithin, "load on node "+n.name, progress(runs[n]))
	}
	return runs
}

// watched is a cluster as somebody looks at it: one host is busy, the other has one tunnel open.
type watched struct {
	*cluster
	leads, idle *node // the tunnel goes through neither
	busy, quiet host
	tunnel      *load.Tunnel
}

func startWatched(t testing.TB) *watched {
	t.Helper()
	c := startCluster(t, shape{ttl: 4 * time.Second, limits: "  host \"*\" {\n    connections = 25\n  }\n"})
	leader, others := c.leader(t)
	w := &watched{cluster: c, leads: leader, idle: others[1], busy: c.upstream(t), quiet: c.upstream(t)}
	c.setLimit(t, w.busy.name, connections(6))
	run := load.Start(load.Plan{Proxies: c.proxies(), Target: w.busy.target, Workers: 9, Hold: 40 * time.Millisecond, Pause: 100 * time.Millisecond})
	t.Cleanup(func() { run.Stop() })
	w.tunnel = others[0].open(t, w.quiet.target)
	return w
}
