package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// seedVariable replays a run of faults, as far as real processes can be replayed.
const seedVariable = "WEIR_E2E_SEED"

// seeded is chance that the log can replay.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(seedVariable); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", seedVariable, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestFaultsUnderLoad kills, stops and freezes nodes at random under load: the upstream never sees
// more than the limit, and every node admits again afterwards. A freeze ends before the
// node's session would: a process that is frozen for longer can't close its sockets, and is not
// covered.
func TestFaultsUnderLoad(t *testing.T) {
	rng := seeded(t)
	c := startCluster(t, shape{ttl: 2 * time.Second})
	up := c.upstream(t)
	const limit = 4
	c.setLimit(t, up.name, connections(limit))
	run := load.Start(load.Plan{
		Proxies: c.proxies(), Target: up.target, Workers: 30, Hold: holdFor, Pause: 20 * time.Millisecond, Timeout: 5 * time.Second,
	})
	defer run.Stop()
	eventually(t, warmUpWithin, "load", progress(run))
	for range 10 {
		fault(t, rng, c.nodes[rng.IntN(len(c.nodes))])
		up.peakAtMost(t, limit)
	}
	run.Stop()
	for _, n := range c.nodes {
		n.awaitReady(t, 10*time.Second)
		eventually(t, normalWithin, "node "+n.name+" admits", admits(n, up.target))
	}
	up.peakAtMost(t, limit)
}

// fault does one thing to a node, and sees it back.
func fault(t *testing.T, rng *rand.Rand, n *node) {
	t.Helper()
	short := time.Duration(rng.Int64N(int64(1500 * time.Millisecond)))
	switch what := rng.IntN(4); what {
	case 0:
		t.Logf("node %s is killed, and back after %v", n.name, short)
		n.kill(t)
		<-time.After(short) // how long it is away
		n.start(t)
	case 1:
		t.Logf("node %s is killed and started again at once", n.name)
		n.kill(t)
		n.start(t)
	case 2:
		t.Logf("node %s is stopped and started again", n.name)
		n.terminate(t)
		n.start(t)
	case 3:
		// One freeze after another leaves no time to renew the session, and they count as one.
		eventually(t, 10*time.Second, "node "+n.name+" has renewed its session", func() error {
			s, err := n.http.status()
			if err != nil {
				return err
			}
			left, err := time.ParseDuration(s.Session.ExpiresIn)
			if err == nil && left <= short {
				err = fmt.Errorf("it ends in %v", left)
			}
			return err
		})
		t.Logf("node %s is frozen for %v", n.name, short)
		n.signal(t, syscall.SIGSTOP)
		<-time.After(short)
		n.signal(t, syscall.SIGCONT)
	}
	n.awaitReady(t, 10*time.Second)
}
