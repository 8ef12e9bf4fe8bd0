package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// TestGracefulStop: a node that is told to stop gives its slots back at once, and so does the last
// one.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{ttl: 30 * time.Second}) // so that nothing comes back by expiry
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(3))
	leader, others := c.leader(t)
	for _, victim := range []*node{others[0], leader} {
		held := victim.openMany(t, up.target, 3)
		end(t, held[1:]...)
		victim.terminate(t) // one tunnel is open, for as long as the drain may take
		survivor := c.running()[0]
		var open []*load.Tunnel
		took := eventually(t, normalWithin, "its slots elsewhere", func() error {
			tunnel, err := survivor.try(up.target)
			if err != nil {
				return err
			}
			if open = append(open, tunnel); len(open) < 3 {
				return fmt.Errorf("only %d so far", len(open))
			}
			return nil
		})
		t.Logf("node %s (leader: %v): slots usable %v after its end", victim.name, victim == leader, took.Round(time.Millisecond))
		if limit := time.Second; victim != leader && took > limit {
			t.Errorf("that is later than %v", limit)
		}
		end(t, open...)
		victim.start(t)
		victim.awaitReady(t, 10*time.Second)
	}
	up.peakAtMost(t, 3)
}

// TestStopWithoutQuorum: the last of three stops in good order too.
func TestStopWithoutQuorum(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(3))
	c.nodes[0].open(t, up.target)
	c.nodes[1].kill(t)
	c.nodes[2].kill(t)
	begun := time.Now()
	c.nodes[0].terminate(t)
	t.Logf("stopped in %v", time.Since(begun).Round(10*time.Millisecond))
	up.awaitOpen(t, time.Second, 0)
}

// awaitDrain waits until a node that stops admits nothing more.
func (n *node) awaitDrain(t testing.TB, target string) {
	t.Helper()
	eventually(t, 5*time.Second, "the drain", func() error {
		tunnel, err := n.try(target)
		if err != nil {
			return nil
		}
		end(t, tunnel) // the drain would wait for it
		return fmt.Errorf("it admits")
	})
}

// TestSecondSignal: stops at once, whatever the drain is waiting for.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{drain: time.Minute, names: []string{"a"}})
	n := c.nodes[0]
	up := c.upstream(t)
	n.open(t, up.target)
	n.signal(t, syscall.SIGTERM)
	n.awaitDrain(t, up.target)
	if !n.process.Running() {
		t.Fatal("it does not wait for its connections")
	}
	n.signal(t, syscall.SIGINT)
	eventually(t, 2*time.Second, "the end", func() error {
		if n.process.Running() {
			return fmt.Errorf("it runs")
		}
		return nil
	})
}

// TestSignalWhileLeaving: a service manager's signal to a node that leaves cuts nothing.
func TestSignalWhileLeaving(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{drain: time.Minute})
	up := c.upstream(t)
	_, others := c.leader(t)
	n := others[0]
	tunnel := n.open(t, up.target)
	if _, stderr, code := n.weir(t, "leave", "--detach"); code != 0 {
		t.Fatalf("weir leave: exit code %d: %s", code, stderr)
	}
	n.awaitDrain(t, up.target)
	n.signal(t, syscall.SIGTERM)
	n.logs(t, 1, "already leaving")
	end(t, tunnel)
	n.awaitExit(t)
}

// TestLeave: the node is taken out of the consensus group, gives everything back, and its process
// ends.
func TestLeave(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{ttl: 30 * time.Second})
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(2))
	leader, others := c.leader(t)
	for i, leaving := range []*node{others[0], leader} {
		end(t, leaving.openMany(t, up.target, 2)...)
		if _, stderr, code := leaving.weir(t, "leave"); code != 0 {
			t.Fatalf("weir leave: exit code %d: %s", code, stderr)
		}
		leaving.awaitExit(t)
		rest := c.running()
		rest[0].awaitNoPeer(t, leaving, 2-i)
		eventually(t, normalWithin, "its slots elsewhere", admits(rest[0], up.target))
	}
}

// TestLeaveNeverCostsTheQuorum: with one of three servers dead, another one is told that it may not
// leave, and runs on. Once the dead one is removed, it may.
func TestLeaveNeverCostsTheQuorum(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	leader, others := c.leader(t)
	dead, n := others[0], others[1]
	dead.kill(t)
	eventually(t, 10*time.Second, "it is known to be dead", func() error {
		if got := n.metrics(t).total("weir_members", "health", "dead").value; got != 1 {
			return fmt.Errorf("%v nodes are dead", got)
		}
		return nil
	})
	stdout, stderr, code := n.weir(t, "leave")
	if code != 1 || stdout != "" || !strings.Contains(stderr, "lose its quorum") || !strings.Contains(stderr, "first start "+dead.name) {
		t.Errorf("weir leave: exit code %d: %q %q", code, stdout, stderr)
	}
	n.http.must(t, http.StatusConflict, "POST", "/v1/leave", "", nil)
	if stdout, _, _ := n.weir(t, "status"); strings.Contains(stdout, "State") {
		t.Errorf("weir status of a node that may not leave:\n%s", stdout)
	}
	if _, stderr, code := leader.weir(t, "raft", "remove", dead.name); code != 0 {
		t.Fatalf("weir raft remove: exit code %d: %s", code, stderr)
	}
	n.awaitNoPeer(t, dead, 2)
	if stdout, stderr, code := n.weir(t, "leave"); code != 0 || !strings.Contains(stdout, n.name+" has left") {
		t.Errorf("weir leave with a quorum: exit code %d: %q %q", code, stdout, stderr)
	}
	n.awaitExit(t)
	leader.awaitNoPeer(t, n, 1)
}

// TestLeaveWhileStopping: a node that only stops does not say that it leaves. While it drains it
// can still be made to leave, and does.
func TestLeaveWhileStopping(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{drain: time.Minute})
	up := c.upstream(t)
	leader, others := c.leader(t)
	n := others[0]
	tunnel := n.open(t, up.target)
	n.signal(t, syscall.SIGTERM)
	n.awaitDrain(t, up.target)
	if stdout, _, code := n.weir(t, "status"); code != 0 || strings.Contains(stdout, "leaving") || !strings.Contains(stdout, "draining") {
		t.Errorf("weir status of a node that stops: exit code %d\n%s", code, stdout)
	}
	if _, stderr, code := n.weir(t, "leave", "--detach"); code != 0 {
		t.Fatalf("weir leave: exit code %d: %s", code, stderr)
	}
	end(t, tunnel)
	n.awaitExit(t)
	leader.awaitNoPeer(t, n, 2)
}

// awaitNoPeer waits until another node is no peer any more, and n sees only the others.
func (n *node) awaitNoPeer(t testing.TB, gone *node, others int) {
	t.Helper()
	eventually(t, 5*time.Second, "it is no peer", func() error {
		if names, err := peers(n); err != nil || slices.Contains(names, gone.name) || len(names) != others {
			return fmt.Errorf("the peers are %v, %v", names, err)
		}
		return nil
	})
}

func peers(n *node) (names []string, err error) {
	var list peersAnswer
	if err := n.http.read("/v1/raft/peers", &list); err != nil {
		return nil, err
	}
	for _, p := range list.Peers {
		names = append(names, p.Name)
	}
	return names, nil
}

// TestRollingRestart: each node in turn stops and comes back under load, and no request fails on
// the nodes that are up.
func TestRollingRestart(t *testing.T) {
	c := startCluster(t, shape{})
	up := c.upstream(t)
	const limit = 10
	c.setLimit(t, up.name, queued(limit, 20*time.Second, 100))
	runs := c.loadEach(t, load.Plan{Target: up.target, Workers: 8, Hold: holdFor, Pause: retryPause})
	for _, victim := range c.nodes {
		restartUnderLoad(t, victim, runs)
	}
	up.peakAtMost(t, limit)
}

func restartUnderLoad(t *testing.T, victim *node, runs map[*node]*load.Run) {
	t.Helper()
	before := map[*node]load.Tally{}
	for n, run := range runs {
		before[n] = load.Sum(run.Tallies())
	}
	begun := time.Now()
	victim.terminate(t)
	stopped := time.Since(begun)
	victim.start(t)
	victim.awaitReady(t, 15*time.Second)
	back := time.Since(begun)
	for n, run := range runs {
		eventually(t, warmUpWithin, "load on node "+n.name, progress(run))
	}
	t.Logf("node %s stopped in %v and was back after %v", victim.name, stopped.Round(10*time.Millisecond),
		back.Round(10*time.Millisecond))
	for n, run := range runs {
		was, is := before[n], load.Sum(run.Tallies())
		if is.Cut > was.Cut {
			t.Errorf("node %s: %d admitted connections were cut: %v", n.name, is.Cut-was.Cut, is.LastFail)
		}
		if n != victim && (is.Refused > was.Refused || is.Failed > was.Failed) {
			t.Errorf("node %s was up, but refused %d %v and left %d without an answer: %v", n.name, is.Refused-was.Refused,
				is.Reasons, is.Failed-was.Failed, is.LastFail)
		}
	}
}

// progress is a condition: the load has made 20 more connections since it was first looked at.
func progress(run *load.Run) func() error {
	base := load.Sum(run.Tallies()).OK
	return func() error {
		if done := load.Sum(run.Tallies()).OK - base; done < 20 {
			return fmt.Errorf("%d connections", done)
		}
		return nil
	}
}
