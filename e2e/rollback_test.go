package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// What Raft has at the end of a server's data directory is in these.
const (
	raftFiles = "raft"
	raftLog   = "raft/raft.db"
)

// rollbackLimit is what the upstream may see at most. A node that is cut off has it all when
// servers are put back, and still may.
const rollbackLimit = 5

func shell(t testing.TB, command string, args ...string) {
	t.Helper()
	if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", command, strings.Join(args, " "), err, out)
	}
}

// backUp copies the stopped node's directory.
func (n *node) backUp(t testing.TB) (backup string) {
	t.Helper()
	backup = n.dataDir + ".backup"
	shell(t, "cp", "-a", n.dataDir, backup)
	return backup
}

// The ways in which a copy comes back.
func copyAnew(t testing.TB, dir, backup string) {
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	shell(t, "cp", "-a", backup, dir)
}

func copyOver(t testing.TB, dir, backup string) { shell(t, "cp", "-a", backup+"/.", dir) }

func moveBack(t testing.TB, dir, backup string) {
	shell(t, "mv", dir, dir+".newer")
	shell(t, "mv", backup, dir)
}

// The identity, and what else lies beside, is then newer than the log.
func copyRaftOnly(t testing.TB, dir, backup string) {
	if err := os.RemoveAll(filepath.Join(dir, raftFiles)); err != nil {
		t.Fatal(err)
	}
	shell(t, "cp", "-a", filepath.Join(backup, raftFiles), dir)
}

func copyLogOver(t testing.TB, dir, backup string) {
	shell(t, "cp", "-a", filepath.Join(backup, raftLog), filepath.Join(dir, raftLog))
}

// startElsewhere starts stopped servers at addresses that no other node knows: who was there before
// is cut off from them.
func startElsewhere(t testing.TB, servers ...*node) {
	t.Helper()
	ports := freePorts(t, 2*len(servers))
	var join []string
	for i, n := range servers {
		n.rpc, n.gossip = ports[2*i], ports[2*i+1]
		join = append(join, n.gossip)
	}
	for _, n := range servers {
		if n.join != nil {
			n.join = join
		}
		n.writeConfig(t)
		n.start(t)
	}
}

// fill opens tunnels through nodes, in turns, until all that the limit allows are there. A node
// that has no lease yet, or not any more, is asked again.
func fill(t testing.TB, up host, nodes ...*node) {
	t.Helper()
	var held []*load.Tunnel
	eventually(t, 30*time.Second, "all slots are in use", func() error {
		for _, n := range nodes {
			tunnel, err := n.try(up.target)
			if err != nil {
				return fmt.Errorf("after %d tunnels, through node %s: %w", len(held), n.name, err)
			}
			t.Cleanup(func() { _ = tunnel.Close() })
			if held = append(held, tunnel); len(held) >= rollbackLimit {
				return nil
			}
		}
		return fmt.Errorf("there are %d tunnels", len(held))
	})
	up.peakAtMost(t, rollbackLimit)
}

func (n *node) mustSay(t testing.TB, text string) {
	t.Helper()
	log, err := os.ReadFile(n.logPath)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), text) {
		t.Errorf("node %s does not say: %s", n.name, text)
	}
}

// TestTheOnlyServerIsPutBack: a node holds all slots of a host, by grants that the only server's
// disk, which is put back to an older copy, does not hold. However that is done, the server gives
// them to nobody else until the node's time is over.
func TestTheOnlyServerIsPutBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		put      func(t testing.TB, dir, backup string)
		twice    bool
		together bool // the node is not cut off
	}{
		{name: "cp -a", put: copyAnew},
		{name: "cp -a over the files", put: copyOver},
		{name: "mv of the copy", put: moveBack},
		{name: "the raft directory alone", put: copyRaftOnly},
		{name: "the log file alone", put: copyLogOver},
		{name: "twice", put: copyAnew, twice: true},
		{name: "the node is not cut off", put: copyAnew, together: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cl := startCluster(t, shape{ttl: 3 * time.Second, names: []string{"a"}, prepare: func(n *node) { n.join = nil }})
			a := cl.nodes[0]
			p := cl.add(t, "p", "proxy")
			p.awaitReady(t, 15*time.Second)
			up := cl.upstream(t)
			cl.setLimit(t, up.name, connections(rollbackLimit))
			a.kill(t)
			backup := a.backUp(t)
			a.start(t)
			a.awaitReady(t, 15*time.Second)
			p.awaitReady(t, 15*time.Second)
			fill(t, up, p)

			a.kill(t)
			c.put(t, a.dataDir, backup)
			switch {
			case c.together:
				a.start(t)
			case c.twice:
				startElsewhere(t, a)
				eventually(t, 15*time.Second, "the server answers", func() error { _, err := a.http.status(); return err })
				a.kill(t)
				c.put(t, a.dataDir, backup)
				fallthrough
			default:
				startElsewhere(t, a)
			}
			fill(t, up, a)
			a.mustSay(t, "may be an older copy of itself")
		})
	}
}

// TestAServerOfThreeIsPutBack: a and b have committed a node's grants while c was down; b is put
// back to an older copy, and a is gone. b and c are a majority, and give the node's slots to nobody
// else until its time is over.
func TestAServerOfThreeIsPutBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		put   func(t testing.TB, dir, backup string)
		twice bool
		both  bool // a is put back too, and runs
		wiped bool // b's directory is removed after all, and a comes back
	}{
		{name: "cp -a", put: copyAnew},
		{name: "cp -a over the files", put: copyOver},
		{name: "mv of the copy", put: moveBack},
		{name: "the raft directory alone", put: copyRaftOnly},
		{name: "twice", put: copyAnew, twice: true},
		{name: "two servers", put: copyAnew, both: true},
		{name: "then wiped", put: copyAnew, wiped: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cl := startCluster(t, shape{ttl: 3 * time.Second})
			p := cl.add(t, "p", "proxy")
			p.awaitReady(t, 15*time.Second)
			up := cl.upstream(t)
			cl.setLimit(t, up.name, connections(rollbackLimit))
			leader, others := cl.leader(t)
			a, b, absent := leader, others[0], others[1]
			put := []*node{b}
			if c.both {
				put = append(put, a)
			}
			backups := map[*node]string{}
			for _, n := range put {
				n.kill(t)
				backups[n] = n.backUp(t)
				n.start(t)
				n.awaitReady(t, 15*time.Second)
				cl.leader(t)
			}
			absent.kill(t)
			eventually(t, 15*time.Second, "the node is served by a and b", p.ready)
			fill(t, up, p)

			a.kill(t)
			b.kill(t)
			restore := func() {
				for _, n := range put {
					c.put(t, n.dataDir, backups[n])
				}
			}
			restore()
			servers := append([]*node{absent}, put...)
			startElsewhere(t, servers...)
			if c.twice {
				for _, n := range put {
					eventually(t, 15*time.Second, "the server answers", func() error { _, err := n.http.status(); return err })
				}
				for _, n := range servers {
					n.kill(t)
				}
				restore()
				startElsewhere(t, servers...)
			}
			if c.wiped {
				eventually(t, 15*time.Second, "the server answers", func() error { _, err := b.http.status(); return err })
				for _, n := range servers {
					n.kill(t)
				}
				if err := os.RemoveAll(b.dataDir); err != nil {
					t.Fatal(err)
				}
				servers = []*node{a, b, absent}
				startElsewhere(t, servers...)
			}
			fill(t, up, servers...)
			for _, n := range put {
				n.mustSay(t, "may have been put back to an older copy")
			}
		})
	}
}
