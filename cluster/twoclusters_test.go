package cluster

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/clustertest"
	"github.com/weirproxy/weir/config/certs"
)

// Two clusters, of which no node of the one ever counts on a node of the other.

const idX, idY = "1111222233334444aaaabbbbccccdddd", "5555666677778888aaaabbbbccccdddd"

// of makes a started node a member of a cluster, as its log or first session would.
func (n *testNode) of(id string) *testNode {
	n.t.Helper()
	must(n.t, n.SetClusterID(id))
	return n
}

func logged(log *clustertest.Log) option {
	return func(c *Config) {
		c.Log = hclog.New(&hclog.LoggerOptions{Name: c.Name, Level: hclog.Warn, Output: log})
	}
}

// onAddresses gives a node the addresses of one that has ended.
func onAddresses(rpc, gossip string) option { return func(c *Config) { c.RPC, c.Gossip = rpc, gossip } }

func knows(n *testNode, name string) bool { _, ok := n.Member(name); return ok }

// TestClustersAreKeptApart: whatever leads a node to a member of another cluster, neither takes the
// other for a member, on no port.
func TestClustersAreKeptApart(t *testing.T) {
	t.Parallel()
	l := clustertest.NewLab(t)
	for name, set := range map[string]option{
		"plain": func(*Config) {},
		// A CA and a key that both clusters have say nothing about which one a node is of.
		"encrypted": func(c *Config) {
			certificate := l.Set(c.Name, 1, 30)
			c.TLS, c.GossipKeys = func() *certs.Set { return certificate }, GossipKeys{make([]byte, 32)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testKeptApart(t, set)
		})
	}
}

func testKeptApart(t *testing.T, set option) {
	var aLog, bLog clustertest.Log
	a := startNode(t, "a", "", asProxy, set, logged(&aLog)).of(idX)
	b := startNode(t, "b", "", asProxy, set, logged(&bLog), joining(a), func(c *Config) { c.Data = dirOf(t, c.Name, idY) })
	eventually(t, 10*time.Second, "both log it", func() bool {
		return strings.Contains(aLog.String(), "cluster "+idY) && strings.Contains(bLog.String(), "cluster "+idX)
	})
	// Either may have dialled first, and who is dialled names two addresses.
	for log, wants := range map[*clustertest.Log][]string{
		&aLog: {"node b at 127.0.0.1:", b.GossipAddr()},
		&bLog: {"node a at 127.0.0.1:", a.GossipAddr()},
	} {
		for _, want := range append(wants, idX, idY) {
			if !strings.Contains(log.String(), want) {
				t.Errorf("want %q in:\n%s", want, log)
			}
		}
	}
	resp, err := (&http.Client{Transport: b.RoundTripper(a.RPCAddr()), Timeout: 5 * time.Second}).Get("http://peer/v1/limits")
	if err == nil {
		_ = resp.Body.Close()
	}
	if !errors.Is(err, ErrOtherCluster) {
		t.Errorf("HTTP: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := ask(ctx, b.Cluster, a.RPCAddr(), func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.IdentifyReply, error) {
		return cc.Identify(ctx, &clusterpb.IdentifyRequest{})
	}); err == nil {
		t.Error("gRPC gets through")
	}
	if knows(a, "b") || knows(b, "a") {
		t.Error("one takes the other for a member")
	}
}

// dirOf is the directory, in memory, of a node that is of a cluster already.
func dirOf(t *testing.T, name, id string) *DataDir {
	d := MemoryDataDir(name)
	must(t, d.update(func(saved *identity) { saved.Cluster = id }))
	return d
}

// TestAnAddressChangesClusters: a node that starts on the addresses of a former member of another
// cluster is not taken for it, by nobody there, though they look for it.
func TestAnAddressChangesClusters(t *testing.T) {
	t.Parallel()
	y := startNode(t, "d", "", asProxy).of(idY)
	former := startNode(t, "f", "", asProxy, joining(y), func(c *Config) { c.Data = dirOf(t, c.Name, idY) })
	eventually(t, 5*time.Second, "f is a member", func() bool { return knows(y, "f") })
	rpc, gossip := former.RPCAddr(), former.GossipAddr()
	former.kill()
	x := startNode(t, "a", "", asProxy).of(idX)
	var log clustertest.Log
	stray := startNode(t, "p", "", asProxy, onAddresses(rpc, gossip), joining(x), logged(&log))
	eventually(t, 10*time.Second, "p is a member of the cluster that it joins", func() bool { return knows(x, "p") && stray.ClusterID() == idX })
	eventually(t, 15*time.Second, "f is dead to its own cluster", func() bool { m, _ := y.Member("f"); return m.Health == HealthDead })
	if knows(y, "p") || knows(stray, "d") || knows(x, "d") || knows(y, "a") {
		t.Errorf("two clusters have met: d knows %v, p knows %v", names(y.Members()), names(stray.Members()))
	}
	// A packet or a stream of d's comes first; the second line about it would be noise.
	if text := log.String(); !strings.Contains(text, "a member of another cluster") && !strings.Contains(text, "node d at") {
		t.Errorf("p does not log that it is taken for a member of another cluster:\n%s", &log)
	}
}

// TestJoinNamesTwoClusters: a new node does not choose between two clusters, and one that is a
// member of one ignores the other.
func TestJoinNamesTwoClusters(t *testing.T) {
	t.Parallel()
	x, y := startNode(t, "a", "", asProxy).of(idX), startNode(t, "d", "", asProxy).of(idY)
	fresh := startNode(t, "p", "", asProxy, joining(x, y))
	select {
	case err := <-fresh.fatal:
		for _, want := range []string{"cluster.join names members of two clusters", idX, idY, x.GossipAddr(), y.GossipAddr()} {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("it stops with %q: want %q in it", err, want)
			}
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a new node that is to join two clusters goes on")
	}
	if fresh.ClusterID() != "" || knows(x, "p") || knows(y, "p") {
		t.Errorf("it is of cluster %q", fresh.ClusterID())
	}
	member := startNode(t, "q", "", asProxy, joining(y, x), func(c *Config) { c.Data = dirOf(t, c.Name, idX) })
	eventually(t, 5*time.Second, "a member joins its own", func() bool { return knows(x, "q") })
	if knows(y, "q") || knows(member, "d") {
		t.Error("a member of one joins the other too")
	}
}

// TestYoungNodesLearnTheirCluster: nodes that meet before there is a cluster are of the one that
// they form.
func TestYoungNodesLearnTheirCluster(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	p := startNode(t, "p", "", asProxy, joining(nodes[1]))
	eventually(t, 5*time.Second, "all have met", func() bool { return len(nodes[2].Members()) == 4 && len(p.Members()) == 4 })
	for _, n := range nodes { // as its log tells it
		n.of(idX)
	}
	eventually(t, 5*time.Second, "the proxy knows, and all know of all", func() bool {
		for _, n := range append(nodes, p) {
			for _, m := range n.Members() {
				if m.Cluster != idX || !m.Alive() {
					return false
				}
			}
		}
		return p.ClusterID() == idX
	})
	propose(t, waitLeader(t, nodes...), "still one cluster")
}

// TestAWipedSeedComesBack: a server that nobody is named to join, and that has lost its directory,
// listens first, is found by its cluster, and becomes a member of it again.
func TestAWipedSeedComesBack(t *testing.T) {
	t.Parallel()
	for name, rejoin := range map[string]struct{ leaderless bool }{"with a leader": {false}, "without a quorum": {true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := startThree(t)
			for _, n := range nodes {
				n.of(idX)
			}
			a, b, c := nodes[0], nodes[1], nodes[2]
			rpc, gossip, path := a.RPCAddr(), a.GossipAddr(), a.path
			if rejoin.leaderless {
				c.kill()
			}
			a.kill()
			must(t, os.RemoveAll(path))
			back := startNode(t, "a", path, expecting(1), onAddresses(rpc, gossip))
			eventually(t, 10*time.Second, "it is found", func() bool { return back.ClusterID() == idX && knows(b, "a") && knows(back, "b") })
			if !rejoin.leaderless {
				leader := waitLeader(t, back, b, c)
				eventually(t, 15*time.Second, "it is a voter again", func() bool {
					for _, p := range leader.Peers() {
						if p.ID == back.dir.ServerID() && p.Voter {
							return true
						}
					}
					return false
				})
			}
			if back.dir.state().FormedAlone {
				t.Error("it has formed a cluster of its own")
			}
		})
	}
}

// TestASecondClusterFences: a seed that lost its directory while nobody could reach it has formed a
// second cluster. As soon as the first one's leader finds it, it leads nobody any more, and says
// why.
func TestASecondClusterFences(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	for _, n := range nodes {
		n.of(idX)
	}
	a, b, c := nodes[0], nodes[1], nodes[2]
	rpc, gossip, path := a.RPCAddr(), a.GossipAddr(), a.path
	a.kill()
	must(t, os.RemoveAll(path))
	waitLeader(t, b, c)
	// Apart from the others: on other addresses, which nobody dials.
	apart := startNode(t, "a", path, expecting(1), func(c *Config) { c.listen = time.Millisecond })
	waitLeader(t, apart)
	apart.of(idY)
	if !apart.dir.state().FormedAlone {
		t.Error("it does not note that it formed its cluster alone")
	}
	apart.kill()
	var log clustertest.Log
	again := startNode(t, "a", path, expecting(1), onAddresses(rpc, gossip), logged(&log))
	select {
	case err := <-again.superseded:
		if !errors.Is(err, ErrOtherCluster) || !strings.Contains(err.Error(), idX) || !strings.Contains(err.Error(), idY) {
			t.Errorf("it is fenced for %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a second cluster goes on")
	}
	eventually(t, 5*time.Second, "it leads nobody", func() bool { return again.leads() == 0 && again.leadingTerm() == 0 })
	if err := again.VerifyLeader(t.Context()); err == nil {
		t.Error("it proves that it leads")
	}
	if _, _, err := again.Propose(t.Context(), 0, []byte("x")); !errors.Is(err, ErrNotLeader) {
		t.Errorf("it writes: %v", err)
	}
	if !strings.Contains(log.String(), "an older cluster names this server as a voter") {
		t.Errorf("it does not say so:\n%s", &log)
	}
	propose(t, waitLeader(t, b, c), "the first cluster goes on")
}
