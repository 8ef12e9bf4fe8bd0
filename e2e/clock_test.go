package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// clocks are the files that tell the nodes of a cluster, which run a binary built for that, what to
// add to their clocks.
type clocks map[string]string // by the node's name

// The places of the two clocks in a file.
const (
	bootClock = 0 // CLOCK_BOOTTIME, which a lease is measured on
	wallClock = 8
)

// newClocks makes the files, and a shape's prepare that gives each node its own.
func newClocks(t *testing.T) (clocks, func(*node)) {
	dir := t.TempDir()
	c := clocks{}
	return c, func(n *node) {
		c[n.name] = filepath.Join(dir, n.name)
		if err := os.WriteFile(c[n.name], make([]byte, 16), 0o600); err != nil {
			t.Fatal(err)
		}
		n.binary = os.Getenv(faultsVariable)
		n.env = []string{"WEIR_CLOCK_FAULTS=" + c[n.name]}
	}
}

// set makes one of a node's clocks read d more than the machine's, from now on.
func (c clocks) set(t *testing.T, n *node, clock int64, d time.Duration) {
	t.Helper()
	f, err := os.OpenFile(c[n.name], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(d)), clock)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestClockJumps sets a node's clocks under load, on a follower and on the leader.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	c := &clockTrial{}
	var prepare func(*node)
	c.clocks, prepare = newClocks(t)
	c.cluster = startCluster(t, shape{ttl: 2 * time.Second, prepare: prepare})
	c.up = c.upstream(t)
	const limit = 6
	c.setLimit(t, c.up.name, connections(limit))
	run := load.Start(load.Plan{
		Proxies: c.proxies(), Target: c.up.target, Workers: 12, Hold: holdFor, Pause: 20 * time.Millisecond, Timeout: 5 * time.Second,
	})
	defer run.Stop()
	eventually(t, warmUpWithin, "load", progress(run))
	for _, role := range []string{"follower", "leader"} {
		for _, trial := range []struct {
			what string
			run  func(*testing.T, *node)
		}{
			{"wall clock an hour ahead", c.fencedBy(wallClock, time.Hour)},
			{"wall clock an hour back", c.unmovedBy(wallClock, -time.Hour)},
			{"wall clock ahead by more than the margin", c.fencedBy(wallClock, 600*time.Millisecond)},
			{"wall clock ahead by less than the margin", c.unmovedBy(wallClock, 300*time.Millisecond)},
			{"wall clock drifts", c.drift},
			{"suspended for longer than the ttl", c.suspended},
			{"suspended for a moment", c.unmovedBy(bootClock, 300*time.Millisecond)},
			{"suspended between two bytes", c.fencedBy(bootClock, time.Hour)},
		} {
			t.Run(role+", "+trial.what, func(t *testing.T) {
				leader, followers := c.leader(t)
				victim := followers[0]
				if role == "leader" {
					victim = leader
				}
				trial.run(t, victim)
				victim.awaitReady(t, 10*time.Second)
				eventually(t, normalWithin, "load", progress(run))
				c.up.peakAtMost(t, limit)
			})
		}
	}
}

// clockTrial is a cluster whose nodes' clocks can be set. What is set in one trial stays set in the
// next: clocks only jump once.
type clockTrial struct {
	*cluster
	clocks clocks
	up     host
	offset map[string]time.Duration // by the node's name and the clock
}

// jump adds d to a clock of n.
func (c *clockTrial) jump(t *testing.T, n *node, clock int64, d time.Duration) {
	t.Helper()
	if c.offset == nil {
		c.offset = map[string]time.Duration{}
	}
	key := fmt.Sprint(n.name, clock)
	c.offset[key] += d
	c.clocks.set(t, n, clock, c.offset[key])
}

// talking opens exchanges through n, to a host of their own that has slots for no more.
func (c *clockTrial) talking(t *testing.T, n *node) (session uint64, h *wireHost, talks []*talk) {
	t.Helper()
	h = c.wireHost(t)
	c.setLimit(t, h.name, connections(openTalks))
	return n.session(t), h, n.talks(t, h)
}

// fencedBy is a trial: after the jump the node has lost its session, at once, and comes back with a
// new one. Where the clock is that of the lease, not a byte that is said after the jump moves.
func (c *clockTrial) fencedBy(clock int64, d time.Duration) func(*testing.T, *node) {
	return func(t *testing.T, n *node) {
		former, h, talks := c.talking(t, n)
		heard := make([][2]int, len(talks))
		c.jump(t, n, clock, d)
		jumped := time.Now()
		for i, x := range talks {
			if heard[i] = [2]int{len(x.client.heard()), len(x.upstream.heard())}; clock == bootClock {
				_, _ = x.client.Write([]byte(late)) // the node may have reset the connection already
				_, _ = x.upstream.Write([]byte(late))
			}
		}
		for i, x := range talks {
			x.mustBeCut(t, heard[i][0], heard[i][1])
		}
		if took := time.Since(jumped); took > fencedWithin {
			t.Errorf("the node fences %v after the jump; want %v at most", took, fencedWithin)
		}
		c.comesBack(t, n, former, h)
	}
}

// fencedWithin: the node looks at its clocks every quarter of a second, and the machine may be
// busy.
const fencedWithin = time.Second

func (c *clockTrial) comesBack(t *testing.T, n *node, former uint64, h *wireHost) {
	t.Helper()
	eventually(t, normalWithin, "the node admits again", admits(n, h.target))
	if now := n.session(t); now == former {
		t.Errorf("it still has session %d", former)
	}
}

// unmovedBy is a trial: the jump changes nothing.
func (c *clockTrial) unmovedBy(clock int64, d time.Duration) func(*testing.T, *node) {
	return func(t *testing.T, n *node) {
		former, _, talks := c.talking(t, n)
		c.jump(t, n, clock, d)
		c.goesOn(t, n, former, talks)
	}
}

// goesOn: the session that the node had is renewed after now, and its exchanges live.
func (c *clockTrial) goesOn(t *testing.T, n *node, former uint64, talks []*talk) {
	t.Helper()
	measure(c.shape.ttl / 3) // longer than the node takes to look at its clocks
	eventually(t, c.shape.ttl, "its session is renewed", n.renewed(former, c.shape.ttl*3/4))
	for _, x := range talks {
		x.sayLate(t)
		x.mustLiveOn(t)
	}
}

// drift lets the wall clock gain a tenth, as one that is slewed does at the very most, for a
// second.
func (c *clockTrial) drift(t *testing.T, n *node) {
	former, _, talks := c.talking(t, n)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 100 {
		<-tick.C
		c.jump(t, n, wallClock, time.Millisecond)
	}
	c.goesOn(t, n, former, talks)
}

// suspended plays a machine that sleeps: nothing runs, CLOCK_MONOTONIC stands still, CLOCK_BOOTTIME
// goes on. When it wakes, not a byte moves on its old connections.
func (c *clockTrial) suspended(t *testing.T, n *node) {
	former, h, talks := c.talking(t, n)
	n.freeze(t)
	heard := make([][2]int, len(talks))
	for i, x := range talks {
		heard[i][0], heard[i][1] = x.sayLate(t)
	}
	c.jump(t, n, bootClock, c.shape.ttl)
	n.signal(t, syscall.SIGCONT)
	for i, x := range talks {
		x.mustBeCut(t, heard[i][0], heard[i][1])
	}
	c.comesBack(t, n, former, h)
}

// TestClocksWithNothingInCommon: nodes whose clocks began at different times, each in a time
// namespace of its own, hold the limit together, and a dead one's slots come back when they should.
func TestClocksWithNothingInCommon(t *testing.T) {
	t.Parallel()
	needRoot(t)
	day := 24 * 60 * 60
	offsets := map[string][2]int{"a": {400 * day, 3 * day}, "b": {7, 7000 * day}, "c": {0, 0}}
	ttl := 6 * time.Second // longer than an election in which the votes are split once: the survivors keep their leases
	c := startCluster(t, shape{ttl: ttl, prepare: func(n *node) {
		boot, mono := fmt.Sprint(offsets[n.name][0]), fmt.Sprint(offsets[n.name][1])
		n.wrapper = []string{"unshare", "--time", "--boottime", boot, "--monotonic", mono, "--"}
	}})
	leader, _ := c.leader(t)
	if !killHolder(t, c, leader, c.shape.ttl+reclaimSlack) {
		t.Error("the election took longer than the others' leases")
	}
}
