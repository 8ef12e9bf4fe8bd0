package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// pair is two clusters on one machine, and an upstream of which the one's limit is far above the
// other's: a node of the first that leases from the second is seen there.
type pair struct {
	x, y *cluster
	up   host // for workers of x alone
}

const limitX, limitY = 5, 50

func startPair(t *testing.T, ttl time.Duration, namesY ...string) *pair {
	t.Helper()
	p := &pair{x: startCluster(t, shape{ttl: ttl}), y: startCluster(t, shape{ttl: ttl, names: namesY})}
	p.up = p.x.upstream(t)
	p.x.setLimit(t, p.up.name, queued(limitX, 5*time.Second, 100))
	p.y.setLimit(t, p.up.name, connections(limitY))
	return p
}

// press keeps many more workers than the limit allows busy on the nodes of x.
func (p *pair) press(t *testing.T, nodes ...*node) {
	t.Helper()
	var proxies []string
	for _, n := range append(nodes, p.x.nodes...) {
		proxies = append(proxies, n.proxy)
	}
	run := load.Start(load.Plan{Proxies: proxies, Target: p.up.target, Workers: 8 * len(proxies), Hold: holdFor, Pause: retryPause, Timeout: 8 * time.Second})
	t.Cleanup(func() { run.Stop() })
	eventually(t, warmUpWithin, "load", progress(run))
}

// restartLeader stops and starts the leader of a cluster, as an operator would: others lead
// afterwards.
func (c *cluster) restartLeader(t *testing.T) {
	t.Helper()
	leader, _ := c.leader(t)
	leader.terminate(t)
	leader.start(t)
	if err := c.awaitReady(t, 20*time.Second); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) id(t *testing.T) string {
	t.Helper()
	s, err := c.running()[0].http.status()
	if err != nil || len(s.Cluster) != 32 {
		t.Fatalf("the cluster's id is %q, %v", s.Cluster, err)
	}
	return s.Cluster
}

// apart checks that no node of the one cluster counts on one of the other, and that the limits
// held.
func (p *pair) apart(t *testing.T, what string, strays ...*node) {
	t.Helper()
	ids := map[*cluster]string{p.x: p.x.id(t), p.y: p.y.id(t)}
	for c, others := range map[*cluster]*cluster{p.x: p.y, p.y: p.x} {
		foreign := map[string]bool{}
		for _, n := range others.nodes {
			foreign[n.rpc] = true
		}
		nodes := c.running()
		if c == p.x {
			nodes = append(nodes, strays...)
		}
		for _, n := range nodes {
			if s, err := n.http.status(); err != nil || s.Cluster != ids[c] {
				t.Errorf("%s: node %s is of cluster %q, %v; want %s", what, n.name, s.Cluster, err, ids[c])
			}
			for name, m := range n.http.nodes(t) {
				if foreign[m.Addresses.RPC] {
					t.Errorf("%s: node %s lists %s, of the other cluster", what, n.name, name)
				}
			}
		}
	}
	p.up.peakAtMost(t, limitX)
}

// TestTwoClustersStayTwo: a join that names a member of another cluster, a restart with another
// cluster's join, and a node on the addresses of another cluster's former member: none makes a node
// lease from the other cluster, whoever leads it.
func TestTwoClustersStayTwo(t *testing.T) {
	t.Parallel()
	p := startPair(t, 3*time.Second, "d", "e", "f")
	x, y := p.x, p.y
	idX, idY := x.id(t), y.id(t)
	if idX == idY {
		t.Fatal("two clusters have one id")
	}
	stray := x.add(t, "p", "proxy")
	stray.awaitReady(t, 20*time.Second)
	p.press(t, stray)

	t.Run("a new node is to join both", func(t *testing.T) {
		fresh := x.newNode(t, "q", "proxy", freePorts(t, 4))
		fresh.join = []string{x.nodes[0].gossip, y.nodes[0].gossip}
		line := fails(t, fresh)
		for _, want := range []string{"cluster.join names members of two clusters", idX, idY, x.nodes[0].gossip, y.nodes[0].gossip} {
			if !strings.Contains(line, want) {
				t.Errorf("%q lacks %q", line, want)
			}
		}
	})
	t.Run("a member's join names the other too", func(t *testing.T) {
		stray.terminate(t)
		stray.join = append(x.gossip(), y.nodes[0].gossip)
		stray.writeConfig(t)
		stray.start(t)
		stray.awaitReady(t, 20*time.Second)
		stray.logs(t, 1, "node d", idX, idY)
		y.nodes[0].logs(t, 1, "node p", idX, idY)
		y.restartLeader(t)
		y.restartLeader(t)
		p.apart(t, "a stray join", stray)
	})
	t.Run("a server's join names only the other", func(t *testing.T) {
		b, e := x.nodes[1], y.nodes[1]
		b.terminate(t)
		b.join = []string{e.gossip}
		b.writeConfig(t)
		b.start(t)
		b.logs(t, 1, "node e", idX, idY)
		e.logs(t, 1, "node b", idX, idY)
		b.awaitReady(t, 20*time.Second) // the others look for it
		y.restartLeader(t)
		y.restartLeader(t)
		p.apart(t, "another cluster's join", stray)
		x.awaitVoters(t, "a", "b", "c")
		y.awaitVoters(t, "d", "e", "f")
	})
	t.Run("an address changes clusters", func(t *testing.T) {
		f := y.nodes[2]
		f.kill(t)
		y.nodes = y.nodes[:2]
		g := x.newNode(t, "g", "proxy", freePorts(t, 4))
		g.rpc, g.gossip, g.join = f.rpc, f.gossip, x.gossip()
		g.writeConfig(t)
		g.start(t)
		t.Cleanup(func() { g.process.Kill(); g.checkLog(t) })
		g.awaitReady(t, 20*time.Second)
		p.press(t, g)
		y.restartLeader(t)
		p.apart(t, "an address used again", stray, g)
	})
}

// seed starts three servers of which the first has nobody to join, and the others join it.
func startSeeded(t *testing.T, ttl time.Duration) *cluster {
	t.Helper()
	return startCluster(t, shape{ttl: ttl, prepare: func(n *node) {
		n.expect = 0
		if n.name == "a" {
			n.join = nil
		} else {
			n.join = n.join[:1]
		}
	}})
}

// loseDisk kills a node and removes its data directory.
func (n *node) loseDisk(t *testing.T) {
	t.Helper()
	n.kill(t)
	if err := os.RemoveAll(n.dataDir); err != nil {
		t.Fatal(err)
	}
}

// TestSeedLosesItsDisk: the server that the others join, and that has nobody to join itself, comes
// back without its data directory. It forms no second cluster, is found by the first, and becomes a
// voter again.
func TestSeedLosesItsDisk(t *testing.T) {
	t.Parallel()
	c := startSeeded(t, 3*time.Second)
	c.awaitVoters(t, "a", "b", "c")
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(limitX))
	id := c.id(t)
	for _, how := range []string{"while another leads", "while it leads"} {
		seed := c.nodes[0]
		if leader, _ := c.leader(t); (leader == seed) != (how == "while it leads") {
			to := map[bool]string{true: "a", false: "b"}[how == "while it leads"]
			if _, stderr, code := c.nodes[1].weir(t, "raft", "transfer", to); code != 0 {
				t.Fatalf("transfer: %s", stderr)
			}
		}
		c.leader(t)
		held := c.nodes[1].openMany(t, up.target, limitX)
		seed.loseDisk(t)
		seed.start(t)
		seed.awaitReady(t, 20*time.Second)
		for range 2 * limitX {
			if tunnel, err := seed.try(up.target); err == nil {
				_ = tunnel.Close()
			}
		}
		c.awaitVoters(t, "a", "b", "c")
		if got := c.id(t); got != id {
			t.Errorf("%s: the seed is of cluster %s, not %s", how, got, id)
		}
		end(t, held...)
		up.peakAtMost(t, limitX)
	}
}

// TestSecondClusterIsFenced: a seed that lost its disk while nobody could reach it has formed
// another cluster. As soon as it is reached, it stops using it, resets what it had let through, and
// says what to do.
func TestSecondClusterIsFenced(t *testing.T) {
	t.Parallel()
	c := startSeeded(t, 20*time.Second)
	c.awaitVoters(t, "a", "b", "c")
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(limitX))
	first := c.id(t)
	seed, others := c.nodes[0], c.nodes[1:]
	seed.loseDisk(t)
	for _, n := range others {
		n.signal(t, syscall.SIGSTOP)
	}
	seed.limits = fmt.Sprintf("  host %q {\n    connections = 3\n  }\n", up.name)
	seed.writeConfig(t)
	seed.start(t)
	seed.awaitReady(t, 20*time.Second)
	tunnel := seed.open(t, up.target)
	second := c.id(t)
	for _, n := range others {
		n.signal(t, syscall.SIGCONT)
	}
	if err := tunnel.Broken(10 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the second cluster's tunnel is not reset: %v", err)
	}
	seed.logs(t, 1, "an older cluster names this server as a voter", first, second, "cluster.join")
	seed.refuse(t, up.target, "proxy_internal_error")
	c.nodes = others
	t.Cleanup(seed.process.Kill)
	c.leader(t)
	eventually(t, normalWithin, "the first cluster admits", admits(others[0], up.target))
}

// of is the cluster of a node.
func (p *pair) of(n *node) *cluster {
	if slices.Contains(p.x.nodes, n) {
		return p.x
	}
	return p.y
}

// roundsVariable says how often TestTwoClustersUnderFaults does all that it does.
const roundsVariable = "WEIR_E2E_ROUNDS"

// TestTwoClustersUnderFaults: two clusters whose nodes have the same names, under load, exchange
// addresses and disks, lose disks, are given each other's addresses to join and are restarted, all
// of them. No upstream ever sees more than its own cluster's limit.
func TestTwoClustersUnderFaults(t *testing.T) {
	t.Parallel()
	rounds := 1
	if s := os.Getenv(roundsVariable); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	rng := seeded(t)
	p := startPair(t, 3*time.Second, "a", "b", "c")
	upY := p.x.upstream(t) // at an address of its own
	const smallY = 4
	p.y.setLimit(t, upY.name, queued(smallY, 5*time.Second, 100))
	p.x.setLimit(t, upY.name, connections(limitY))
	p.press(t)
	(&pair{x: p.y, up: upY}).press(t)
	clusters := []*cluster{p.x, p.y}
	check := func(what string) {
		t.Helper()
		for _, c := range clusters {
			if err := c.awaitReady(t, 30*time.Second); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		p.apart(t, what)
		upY.peakAtMost(t, smallY)
		if t.Failed() {
			t.FailNow()
		}
	}
	for range rounds {
		i, j := rng.IntN(3), rng.IntN(3)
		xi, yj := p.x.nodes[i], p.y.nodes[j]
		for _, n := range []*node{xi, yj} {
			n.terminate(t)
		}
		xi.rpc, yj.rpc = yj.rpc, xi.rpc
		xi.gossip, yj.gossip = yj.gossip, xi.gossip
		for _, n := range []*node{xi, yj} { // the others' join goes on naming the former addresses
			n.writeConfig(t)
			n.start(t)
		}
		check("two nodes exchange addresses")

		// Of one name, so that a disk could be taken for the other's. A node is where its disk is:
		// the workers of its cluster go through it.
		xi, yj = p.x.nodes[i], p.y.nodes[i]
		exchange := func() {
			t.Helper()
			xi.kill(t)
			yj.kill(t)
			xi.dataDir, yj.dataDir = yj.dataDir, xi.dataDir
			xi.proxy, yj.proxy = yj.proxy, xi.proxy
			for _, n := range []*node{xi, yj} {
				n.writeConfig(t)
				n.start(t)
			}
		}
		exchange()
		measure(p.x.shape.ttl) // for as long as their former sessions live
		p.up.peakAtMost(t, limitX)
		upY.peakAtMost(t, smallY)
		exchange()
		check("two disks are exchanged, and back")

		lost := clusters[rng.IntN(2)].nodes[rng.IntN(3)]
		lost.loseDisk(t)
		lost.join = p.of(lost).gossip() // as they are now: a new node does not choose between two clusters
		lost.writeConfig(t)
		lost.start(t)
		check("a disk is lost")

		stray := p.x.nodes[rng.IntN(3)]
		stray.terminate(t)
		stray.join = append(p.x.gossip(), p.y.gossip()...)
		stray.writeConfig(t)
		stray.start(t)
		check("a join names both")

		for _, c := range clusters {
			for _, n := range c.nodes {
				n.terminate(t)
				n.start(t)
				n.awaitReady(t, 20*time.Second)
			}
		}
		check("all nodes are restarted")
	}
}
