package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

const (
	reclaimSlack = time.Second     // a dead node's slots are usable within ttl and this, also if it led
	electionTime = 3 * time.Second // until there is another leader
	normalWithin = 5 * time.Second // after a leader's death
)

func TestFollowerKilled(t *testing.T) {
	for _, ttl := range []time.Duration{3 * time.Second, 10 * time.Second} {
		t.Run("ttl "+ttl.String(), func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, shape{ttl: ttl})
			_, followers := c.leader(t)
			if !killHolder(t, c, followers[0], ttl+reclaimSlack) {
				t.Error("a follower's end cost the leader its office")
			}
		})
	}
}

// A short ttl may end in an election that takes longer, which costs the others their connections.
// So it has some attempts at an election that is short enough.
func TestLeaderKilled(t *testing.T) {
	for _, ttl := range []time.Duration{3 * time.Second, 10 * time.Second} {
		t.Run("ttl "+ttl.String(), func(t *testing.T) {
			t.Parallel()
			for range 3 {
				c := startCluster(t, shape{ttl: ttl})
				leader, _ := c.leader(t)
				if killHolder(t, c, leader, ttl+reclaimSlack) {
					return
				}
				c.stop(t)
			}
			t.Error("each election took longer than the others' leases")
		})
	}
}

// killHolder kills a node that holds a third of a host's slots: tunnels elsewhere live on, slots
// that the others hold are admitted from at once, and the dead node's are usable within the time
// promised, never sooner than is safe. It reports false where the others' leases ran out because
// the election of the next leader took too long.
func killHolder(t *testing.T, c *cluster, victim *node, within time.Duration) bool {
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(6))
	tunnels := map[*node][]*load.Tunnel{}
	for _, n := range c.nodes {
		tunnels[n] = n.openMany(t, up.target, 2)
	}
	killed := victim.kill(t)
	survivors := c.running()
	for _, n := range survivors {
		end(t, tunnels[n][0])
		tunnels[n][0] = n.open(t, up.target) // from the slot it holds, whoever leads
	}
	eventually(t, normalWithin, "a new host is admitted to", freshHost(t, c, survivors))
	t.Logf("normal after %v", time.Since(killed).Round(10*time.Millisecond))
	if outvoted(t, c, survivors, killed) {
		up.peakAtMost(t, 6)
		return false
	}

	var extra []*load.Tunnel
	eventually(t, within, "the dead node's slots", func() error {
		tunnel, err := survivors[len(extra)%len(survivors)].try(up.target)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = tunnel.Close() })
		if extra = append(extra, tunnel); len(extra) < 2 {
			return errors.New("only one so far")
		}
		return nil
	})
	took := time.Since(killed)
	t.Logf("the dead node's slots are in use elsewhere after %v", took.Round(10*time.Millisecond))
	if took > within {
		t.Errorf("that is later than %v", within)
	}
	for _, n := range survivors {
		mustLive(t, "on node "+n.name, tunnels[n]...)
		n.refuse(t, up.target, "connection_limit_reached")
	}
	up.peakAtMost(t, 6)
	return true
}

// outvoted reports whether a survivor has fenced, and the election of the leader after the one that
// was killed was over too late to prevent it. When a leader ends, the others' leases have three
// quarters of the ttl left; finding the next one and proving the session takes a moment.
func outvoted(t *testing.T, c *cluster, survivors []*node, killed time.Time) bool {
	t.Helper()
	fenced, elected := false, time.Duration(0)
	for _, n := range survivors {
		fenced = fenced || len(n.lines(t, "weir.lease: fenced")) > 0
		for _, line := range n.lines(t, "election won") {
			stamp, _, _ := strings.Cut(line, " ")
			at, err := time.Parse("2006-01-02T15:04:05.000Z", stamp)
			if err != nil {
				t.Fatalf("node %s logs without a time: %v", n.name, err)
			}
			elected = max(elected, at.Sub(killed))
		}
	}
	late := elected > c.shape.ttl*3/4-500*time.Millisecond
	if fenced && late {
		t.Logf("the election took %v of a ttl of %v: leases ran out", elected.Round(10*time.Millisecond), c.shape.ttl)
	}
	return fenced && late
}

// freshHost is a condition: limits can be changed, and a host that nobody holds slots of is
// admitted to, on each node.
func freshHost(t *testing.T, c *cluster, nodes []*node) func() error {
	up := c.upstream(t)
	return func() error {
		for _, n := range nodes {
			a, err := n.http.call("PUT", limitPath(up.name), connections(2), nil)
			if err != nil {
				return err
			}
			if a.status != http.StatusOK {
				return fmt.Errorf("a limit's change answers %d: %s", a.status, a.body)
			}
			if err := admits(n, up.target)(); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestRestartedNodeTakesItsSlotsBack: what a killed node held is free as soon as it is back with
// its data directory.
func TestRestartedNodeTakesItsSlotsBack(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{ttl: 30 * time.Second})
	_, followers := c.leader(t)
	victim, other := followers[0], followers[1]
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(3))
	victim.openMany(t, up.target, 3)
	killed := victim.kill(t)
	other.refuse(t, up.target, "connection_limit_reached")
	victim.start(t)
	eventually(t, 10*time.Second, "a live session", func() error {
		s, err := victim.http.status()
		if err == nil && s.Session.State != "live" {
			err = fmt.Errorf("the session is %q", s.Session.State)
		}
		return err
	})
	var open []*load.Tunnel
	took := eventually(t, time.Second, "the slots of its former life", func() error {
		tunnel, err := other.try(up.target)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = tunnel.Close() })
		if open = append(open, tunnel); len(open) < 3 {
			return fmt.Errorf("only %d so far", len(open))
		}
		return nil
	})
	t.Logf("slots usable %v after the new session, %v after the kill", took.Round(time.Millisecond),
		time.Since(killed).Round(10*time.Millisecond))
	up.peakAtMost(t, 3)
}

// TestClusterDown: with two of three servers killed, hosts without a limit still work through the
// third, limited ones are fenced before the lease ends, and all is well again when the others come
// back.
func TestClusterDown(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	limited, unlimited := c.upstream(t), c.upstream(t)
	c.setLimit(t, limited.name, connections(3))
	survivor := c.nodes[0]
	fenced := survivor.openMany(t, limited.target, 2)
	free := survivor.open(t, unlimited.target)
	killed := c.nodes[1].kill(t)
	c.nodes[2].kill(t)
	for i, tunnel := range fenced {
		err := tunnel.Broken(c.shape.ttl + time.Second)
		if took := time.Since(killed); took > c.shape.ttl {
			t.Errorf("limited tunnel %d ends %v after the cluster; the ttl is %v", i, took, c.shape.ttl)
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("limited tunnel %d: %v; want a reset", i, err)
		}
	}
	t.Logf("fenced %v after the cluster was gone", time.Since(killed).Round(10*time.Millisecond))
	limited.awaitOpen(t, time.Second, 0)

	r := survivor.refuse(t, limited.target, "proxy_internal_error")
	noLease := strings.Contains(r.ProxyStatus, `details="no lease"`)
	if r.Status != http.StatusServiceUnavailable || r.RetryAfter == "" || !noLease {
		t.Errorf("refusal %+v; want 503, no lease, Retry-After", r)
	}
	mustLive(t, "to a host without a limit", free)
	end(t, survivor.open(t, unlimited.target))
	if err := survivor.ready(); err == nil {
		t.Error("readyz says that the node can admit")
	}
	survivor.http.must(t, http.StatusOK, "GET", "/healthz", "", nil)
	a := survivor.http.must(t, http.StatusServiceUnavailable, "PUT", limitPath("x.example"), connections(1), nil)
	if a.header.Get("Retry-After") == "" {
		t.Error("a write without a leader: no Retry-After")
	}
	for _, n := range c.nodes[1:] {
		n.start(t)
	}
	for _, n := range c.nodes {
		n.awaitReady(t, 10*time.Second)
	}
	eventually(t, normalWithin, "limited hosts work again", admits(survivor, limited.target))
	limited.peakAtMost(t, 3)
}

// TestFrozenNode: a node that the kernel stopped loses its slots to the others; when it wakes it
// resets what it had and reads nothing further from it.
func TestFrozenNode(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	_, followers := c.leader(t)
	victim, other := followers[0], followers[1]
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(2))
	held := victim.openMany(t, up.target, 2)
	stopped := time.Now()
	victim.signal(t, syscall.SIGSTOP)
	took := eventually(t, c.shape.ttl+reclaimSlack, "the frozen node's slots", admits(other, up.target))
	t.Logf("slots usable %v after the node froze", took.Round(10*time.Millisecond))
	if safe := c.shape.ttl * 2 / 3; time.Since(stopped) < safe {
		t.Errorf("that is before the node's own deadline can have passed, %v", safe)
	}
	victim.signal(t, syscall.SIGCONT)
	for i, tunnel := range held {
		if err := tunnel.Broken(5 * time.Second); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("tunnel %d of the node that froze lives on", i)
		}
	}
	up.awaitOpen(t, 5*time.Second, 0)
	victim.awaitReady(t, 10*time.Second)
	eventually(t, normalWithin, "the node admits again", admits(victim, up.target))
}
