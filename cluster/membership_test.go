package cluster

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/gossip"
	"github.com/weirproxy/weir/cluster/handshake"
)

// again restarts a node with its directory, on the ports that it had unless an option says
// otherwise.
func (n *testNode) again(opts ...option) *testNode {
	n.t.Helper()
	same := func(c *Config) {
		c.RPC, c.Gossip = n.RPCAddr(), n.GossipAddr()
		c.Join, c.BootstrapExpect = n.cfg.Join, n.cfg.BootstrapExpect
	}
	return startNode(n.t, n.cfg.Name, n.path, append([]option{same}, opts...)...)
}

func hasPeer(n *testNode, id string, voter bool) bool {
	for _, p := range n.Peers() {
		if p.ID == id {
			return p.Voter || !voter
		}
	}
	return false
}

func TestRestartedServerIsTheSamePeer(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	follower := others(leader, nodes)[0]
	follower.kill()
	index := propose(t, leader, "while it was away")

	back := follower.again()
	waitApplied(t, back, index)
	if back.dir.ServerID() != follower.dir.ServerID() {
		t.Errorf("the server's id was %s and is %s", follower.dir.ServerID(), back.dir.ServerID())
	}
	if got := len(leader.Peers()); got != 3 {
		t.Errorf("there are %d peers, want 3", got)
	}
}

func TestReturnedServerIsFoundUnderItsNewAddress(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	follower := others(leader, nodes)[0]
	follower.kill()
	index := propose(t, leader, "x")
	back := follower.again(func(c *Config) { c.RPC, c.Gossip = "127.0.0.1:0", "127.0.0.1:0" }, joining(leader))
	waitApplied(t, back, index)
	eventually(t, 15*time.Second, "the configuration has the new address", func() bool {
		for _, p := range leader.Peers() {
			if p.ID == back.dir.ServerID() {
				return p.Address == back.RPCAddr()
			}
		}
		return false
	})
	// Raft writes the address down after it has told its goroutine for that server of the entry, and
	// reads it without a lock where that goroutine then fails: this one comes in between.
	waitApplied(t, back, propose(t, leader, "y"))
}

func TestWipedServerIsANewServer(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	follower := others(leader, nodes)[0]
	old := follower.dir.ServerID()
	follower.kill()
	index := propose(t, leader, "x")

	follower.path = filepath.Join(t.TempDir(), "wiped")
	back := follower.again() // at the old address
	eventually(t, 15*time.Second, "the new server votes and the old is gone", func() bool {
		return hasPeer(leader, back.dir.ServerID(), true) && !hasPeer(leader, old, false)
	})
	waitApplied(t, back, index)
	if handshake.NameOf(old) != handshake.NameOf(back.dir.ServerID()) || old == back.dir.ServerID() {
		t.Errorf("old id %s, new id %s", old, back.dir.ServerID())
	}
}

func TestTheWholeClusterRestarts(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	term := leader.leads()
	propose(t, leader, "before")
	for _, n := range nodes {
		n.kill()
	}
	var back []*testNode
	for _, n := range nodes {
		back = append(back, n.again())
	}
	next := waitLeader(t, back...)
	if next.leads() <= term {
		t.Errorf("leads in term %d after term %d", next.leads(), term)
	}
	index := propose(t, next, "after")
	for _, n := range back {
		waitApplied(t, n, index)
		if got := n.fsm.total(); got != uint64(len("before")+len("after")) {
			t.Errorf("%s holds %d", n.cfg.Name, got)
		}
	}
}

func TestFourthServerIsAddedAndLeaves(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	fourth := startNode(t, "d", filepath.Join(t.TempDir(), "d"), joining(nodes...))
	id := fourth.dir.ServerID()
	eventually(t, 15*time.Second, "d votes", func() bool { return hasPeer(leader, id, true) })

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := fourth.Leave(ctx); err != nil {
		t.Fatalf("leave: %v", err)
	}
	if hasPeer(leader, id, false) {
		t.Error("d has left, but is in the configuration")
	}
	fourth.SetSessionLeft(42)
	fourth.halt()
	eventually(t, 5*time.Second, "all say that d left", func() bool {
		for _, n := range nodes {
			if m, ok := n.Member("d"); !ok || m.Health != HealthLeft || m.SessionLeft != 42 {
				return false
			}
		}
		return true
	})
	back := fourth.again()
	eventually(t, 15*time.Second, "d, back again, votes", func() bool { return hasPeer(leader, back.dir.ServerID(), true) })
}

func TestLeaderLeaves(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := leader.Leave(ctx); err != nil {
		t.Fatalf("leave: %v", err)
	}
	rest := others(leader, nodes)
	next := waitLeader(t, rest...)
	if hasPeer(next, leader.dir.ServerID(), false) {
		t.Error("the former leader is still in the configuration")
	}
	leader.halt()
	propose(t, next, "x")
}

func TestShutdownHandsLeadershipOverAndStaysAPeer(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	id := leader.dir.ServerID()
	began := time.Now()
	leader.halt()
	next := waitLeader(t, others(leader, nodes)...)
	t.Logf("a new leader %s after the old one was told to stop", time.Since(began))
	if !hasPeer(next, id, true) {
		t.Error("the stopped server is no peer any more")
	}
	if m, _ := next.Member(leader.cfg.Name); m.Health != HealthLeft {
		t.Errorf("the stopped server is %q in gossip, want left", m.Health)
	}
}

func TestShutdownWithoutAQuorumIsBounded(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	for _, n := range others(leader, nodes) {
		n.kill()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, _, err := leader.Propose(ctx, 0, []byte("x")); err == nil {
		t.Error("an entry was committed without a quorum")
	}
	eventually(t, 10*time.Second, "nobody leads, so the last server may end as it likes", func() bool { return leader.CheckLeave() == nil })
	began := time.Now()
	leader.halt()
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("shutting down took %s", took)
	}
}

func TestTransferAndRemovePeer(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	rest := others(leader, nodes)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	if err := rest[0].Transfer(ctx, ""); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower transferred leadership: %v", err)
	}
	if err := leader.Transfer(ctx, "nobody"); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("transfer to nobody: %v", err)
	}
	if err := leader.Transfer(ctx, rest[0].cfg.Name); err != nil {
		t.Fatalf("transfer: %v", err)
	}
	if got := waitLeader(t, nodes...); got != rest[0] {
		t.Fatalf("%s leads, want %s", got.cfg.Name, rest[0].cfg.Name)
	}
	leader, gone := rest[0], rest[1]
	if _, err := leader.RemovePeer(ctx, leader.cfg.Name); !errors.Is(err, ErrUnsafe) {
		t.Errorf("removed the leader: %v", err)
	}
	before := leader.RaftStatus().LastIndex
	if index, err := leader.RemovePeer(ctx, gone.cfg.Name); err != nil || index <= before || index > leader.RaftStatus().LastIndex {
		t.Fatalf("remove: index %d after %d, %v", index, before, err)
	}
	if hasPeer(leader, gone.dir.ServerID(), false) {
		t.Error("the removed server is in the configuration")
	}
	eventually(t, 5*time.Second, "the removed server knows", func() bool { return gone.self().Detached })
	eventually(t, 10*time.Second, "the removed server's Raft has lost its leader, and it knows who leads", func() bool {
		_, heard := gone.raft.LeaderWithID()
		name, addr := gone.Leader()
		return heard == "" && name == leader.cfg.Name && addr == leader.RPCAddr()
	})
}

// A live server that is removed by its id is told so, as one that is removed by its name: it stays
// out under the next leader too.
func TestRemovedByIDStaysOut(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	gone := others(leader, nodes)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := leader.RemovePeer(ctx, gone.dir.ServerID()); err != nil {
		t.Fatalf("remove: %v", err)
	}
	eventually(t, 5*time.Second, "the removed server knows", func() bool { return gone.self().Detached })
}

func TestRemovalNeverCostsTheQuorum(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	rest := others(leader, nodes)
	rest[0].kill()
	eventually(t, 10*time.Second, "gossip calls it dead", func() bool {
		m, _ := leader.Member(rest[0].cfg.Name)
		return m.Health == HealthDead
	})
	eventually(t, 10*time.Second, "the other one calls it dead, too", func() bool {
		m, _ := rest[1].Member(rest[0].cfg.Name)
		return m.Health == HealthDead
	})
	for _, n := range []*testNode{leader, rest[1]} {
		if err := n.CheckLeave(); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "first start "+rest[0].cfg.Name) {
			t.Errorf("%s, which the quorum needs, may leave: %v", n.cfg.Name, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := leader.RemovePeer(ctx, rest[1].cfg.Name); !errors.Is(err, ErrUnsafe) {
		t.Errorf("removed a server that the quorum needs: %v", err)
	}
	if _, err := leader.RemovePeer(ctx, rest[0].cfg.Name); err != nil {
		t.Errorf("the dead server could not be removed: %v", err)
	}
	eventually(t, 5*time.Second, "the other one may leave", func() bool { return rest[1].CheckLeave() == nil })
	propose(t, leader, "x")
}

func TestProxyHoldsNoStateAndKnowsTheLeader(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	proxy := startNode(t, "p", "", asProxy, joining(nodes[2]))
	eventually(t, 5*time.Second, "the proxy knows the leader", func() bool {
		name, addr := proxy.Leader()
		return name == leader.cfg.Name && addr == leader.RPCAddr()
	})
	if err := proxy.CheckLeave(); err != nil {
		t.Errorf("the proxy may not leave: %v", err)
	}
	if s := proxy.RaftStatus(); s.State != "none" {
		t.Errorf("the proxy's Raft state is %q", s.State)
	}
	if _, _, err := proxy.Propose(t.Context(), 0, nil); !errors.Is(err, ErrNoRaft) {
		t.Errorf("propose on a proxy: %v", err)
	}
	if err := leader.Transfer(t.Context(), ""); err != nil {
		t.Fatalf("transfer: %v", err)
	}
	next := waitLeader(t, nodes...)
	eventually(t, 5*time.Second, "the proxy knows the new leader", func() bool {
		name, _ := proxy.Leader()
		return name == next.cfg.Name
	})
	for _, n := range append(nodes, proxy) {
		eventually(t, 5*time.Second, n.cfg.Name+" was told of the new leader", func() bool { return n.toldOf(next) })
	}
	for _, n := range nodes {
		if m, ok := n.Member("p"); !ok || m.Role != RoleProxy || hasPeer(n, m.ServerID(), false) {
			t.Errorf("%s sees the proxy as %+v", n.cfg.Name, m)
		}
	}
}

func TestANameTakenByALiveNodeStopsTheNewcomer(t *testing.T) {
	t.Parallel()
	a := startNode(t, "a", "", expecting(1))
	b := startNode(t, "b", "", asProxy, joining(a))
	for _, via := range []*testNode{a, b} {
		t.Run("joining "+via.cfg.Name, func(t *testing.T) {
			impostor := startNode(t, "a", "", asProxy, joining(via), func(c *Config) { c.Label = a.cfg.Label })
			select {
			case err := <-impostor.fatal:
				if !errors.Is(err, ErrNameTaken) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), a.RPCAddr()) {
					t.Errorf("the newcomer is told %q", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the newcomer was not stopped")
			}
		})
	}
	select {
	case err := <-a.fatal:
		t.Errorf("the sitting node was stopped: %v", err)
	default:
	}
	if m, _ := b.Member("a"); m.Identity != a.dir.Identity() || m.Health != HealthAlive {
		t.Errorf("the newcomer has taken the name, or said goodbye in it: %+v", m)
	}
}

func TestAddressesThatCantBeAdvertised(t *testing.T) {
	t.Parallel()
	for setting, set := range map[string]option{
		"cluster.advertise_gossip": func(c *Config) { c.Gossip = "[::]:0" },
		"cluster.advertise_rpc":    func(c *Config) { c.RPC, c.Gossip = "[::]:0", "[::]:0" },
	} {
		if n, err := tryNode(t, "a", "", asProxy, set); err == nil || !strings.Contains(err.Error(), setting+": set it") {
			if err == nil {
				t.Errorf("%s: advertises %s and %s", setting, n.RPCAddr(), n.GossipAddr())
				continue
			}
			if strings.Contains(err.Error(), "address family not supported") {
				continue // a machine without IPv6
			}
			t.Errorf("%s: %v", setting, err)
		}
	}
	n := startNode(t, "b", "", asProxy, func(c *Config) {
		c.RPC, c.Gossip, c.AdvertiseRPC, c.AdvertiseGossip = "0.0.0.0:0", "0.0.0.0:0", "", "127.0.0.1:0"
	})
	if !strings.HasPrefix(n.RPCAddr(), "127.0.0.1:") || !strings.HasPrefix(n.GossipAddr(), "127.0.0.1:") || strings.HasSuffix(n.RPCAddr(), ":0") {
		t.Errorf("advertises %s and %s", n.RPCAddr(), n.GossipAddr())
	}
}

func TestPeersTalkOverTheSharedPort(t *testing.T) {
	t.Parallel()
	var nodes []*testNode
	for _, name := range []string{"a", "b"} {
		nodes = append(nodes, startNode(t, name, "", asProxy, joining(nodes...)))
	}
	a, b := nodes[0], nodes[1]
	for _, from := range []*testNode{a, b} { // b reaches itself without a socket
		client := &http.Client{Transport: from.RoundTripper(b.RPCAddr()), Timeout: 5 * time.Second}
		resp, err := client.Get("http://whatever/v1/x")
		if err != nil {
			t.Fatalf("%s: %v", from.cfg.Name, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != "b got /v1/x" || err != nil {
			t.Errorf("%s got %q, %v", from.cfg.Name, body, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		reply, err := ask(ctx, from.Cluster, b.RPCAddr(), func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.IdentifyReply, error) {
			return cc.Identify(ctx, &clusterpb.IdentifyRequest{}, grpc.WaitForReady(true))
		})
		cancel()
		if err != nil || reply.GetName() != "b" {
			t.Errorf("%s asked b who it is: %v, %v", from.cfg.Name, reply, err)
		}
	}
	first, err := a.GRPCConn(b.RPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	if second, _ := a.GRPCConn(b.RPCAddr()); second != first {
		t.Error("each call makes a connection of its own")
	}
}

func TestAServerOfAnotherClusterIsNotAdded(t *testing.T) {
	t.Parallel()
	leader := startNode(t, "a", "", expecting(1))
	eventually(t, 5*time.Second, "leads", func() bool { return leader.leads() != 0 })
	must(t, leader.SetClusterID("one"))
	may := func(m Member) bool { return leader.pilot.mayAdd(m) }
	stateful := func(cluster string) Member {
		m := server("b")
		m.HasState, m.Cluster = true, cluster
		return m
	}
	if may(stateful("")) || may(stateful("two")) {
		t.Error("a server with the log of another cluster may be added")
	}
	if !may(stateful("one")) || !may(server("b")) {
		t.Error("an own server, or one without a log, may not be added")
	}
}

func TestADeadServerStaysAPeerForLong(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	gone := others(leader, nodes)[0]
	gone.kill()
	eventually(t, 10*time.Second, "gossip calls it dead", func() bool {
		m, _ := leader.Member(gone.cfg.Name)
		return m.Health == HealthDead
	})
	id := raft.ServerID(gone.dir.ServerID())
	dead := leader.pilot.KnownServers()[id]
	if dead == nil || dead.NodeStatus != autopilot.NodeFailed {
		t.Fatalf("autopilot is told %+v", dead)
	}
	leader.pilot.RemoveFailedServer(dead)
	if !hasPeer(leader, string(id), true) {
		t.Fatal("a server that has died just now was removed")
	}
	leader.pilot.mu.Lock()
	leader.pilot.deadSince[id] = time.Now().Add(-deadServerTime)
	leader.pilot.mu.Unlock()
	leader.pilot.RemoveFailedServer(dead)
	eventually(t, 5*time.Second, "removed after three days", func() bool { return !hasPeer(leader, string(id), false) })
}

// A node's config digest reaches the others through gossip, cut to the room that it has.
func TestConfigDigestSpreads(t *testing.T) {
	t.Parallel()
	a := startNode(t, "a", "", asProxy, func(c *Config) { c.ConfigDigest = "one" })
	b := startNode(t, "b", "", asProxy, joining(a), func(c *Config) { c.ConfigDigest = "one" })
	digests := func(ofA, ofB string) func() bool {
		return func() bool {
			for _, n := range []*testNode{a, b} {
				x, _ := n.Member("a")
				y, _ := n.Member("b")
				if x.ConfigDigest != ofA || y.ConfigDigest != ofB {
					return false
				}
			}
			return true
		}
	}
	eventually(t, 10*time.Second, "they agree", digests("one", "one"))
	b.SetConfigDigest(strings.Repeat("d", 100))
	eventually(t, 10*time.Second, "both see that they differ", digests("one", strings.Repeat("d", gossip.MaxText)))
	a.SetClusterDigest(strings.Repeat("e", 100))
	eventually(t, 10*time.Second, "b sees what the cluster has, as a says", func() bool {
		m, _ := b.Member("a")
		return m.ClusterDigest == strings.Repeat("e", gossip.MaxClusterDigest) && m.ConfigDigest == "one"
	})
}
