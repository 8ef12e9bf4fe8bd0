package gossip

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/clustertest"
	"github.com/weirproxy/weir/cluster/handshake"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

var must, eventually = clustertest.Must, clustertest.Eventually

// patience bounds every wait for what must happen, on however busy a machine.
const patience = 30 * time.Second

// node is a node under test: gossip, and nothing else of it.
type node struct {
	*Gossip
	of  *handshake.Affiliation
	log *clustertest.Log // its warnings
	end func()           // without a goodbye
}

type option func(*Config)

func joining(nodes ...*node) option {
	return func(c *Config) {
		for _, n := range nodes {
			c.Join = append(c.Join, n.Addr().String())
		}
	}
}

func encrypted(keys Keys) option { return func(c *Config) { c.Keys = keys } }

// listenAs binds a node's port. cluster is the id that it has kept, or "".
func listenAs(t *testing.T, name, cluster string, opts ...option) *node {
	t.Helper()
	n := &node{log: &clustertest.Log{}}
	n.of = handshake.NewAffiliation(cluster, func(string) error { return nil }, func(id string) {
		if err := n.Decide(id); err != nil {
			t.Error(err)
		}
	})
	cfg := Config{
		Name: name, Bind: "127.0.0.1:0", Plaintext: handshake.PlainRefuse, Label: t.Name(), Multiplier: 1,
		Log: hclog.New(&hclog.LoggerOptions{Output: n.log, Level: hclog.Warn}),
		Door: &handshake.Doorkeeper{
			Name: name, Of: n.of,
			Introduction: func(i *clusterpb.Introduction) { i.GossipAddr = n.Addr().String() },
		},
		Conflict: func(Member) {}, Fatal: func(err error) { t.Errorf("%s has to stop: %v", name, err) },
	}
	for _, o := range opts {
		o(&cfg)
	}
	var err error
	n.Gossip, err = Listen(cfg)
	must(t, err)
	n.of.Seed = len(cfg.Join) == 0
	return n
}

// start starts a node, and stops it when the test ends.
func start(t *testing.T, name string, opts ...option) *node {
	t.Helper()
	return startIn(t, name, "", opts...)
}

// startIn starts a node that has kept the id of a cluster.
func startIn(t *testing.T, name, cluster string, opts ...option) *node {
	t.Helper()
	n := listenAs(t, name, cluster, opts...)
	n.begin(t, metaOf(name[0], func(m *clusterpb.Meta) { m.Role, m.Cluster = clusterpb.Role_ROLE_PROXY, cluster }), n.Run)
	return n
}

// begin makes a node a member, and stops it when the test ends. run is what it does until then.
func (n *node) begin(t *testing.T, meta *clusterpb.Meta, run func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	n.end = sync.OnceFunc(func() {
		cancel()
		n.HangUp()
		wg.Wait()
		n.Close()
	})
	t.Cleanup(n.end)
	must(t, n.Start(meta))
	n.Accept()
	wg.Go(func() { run(ctx) })
}

// sees reports whether all the nodes are alive to n.
func (n *node) sees(nodes ...*node) bool {
	for _, m := range nodes {
		if seen, ok := n.Member(m.cfg.Name); !ok || seen.Health != HealthAlive || seen.GossipAddr != m.Addr().String() {
			return false
		}
	}
	return true
}

// together reports whether each of the nodes sees all.
func together(nodes ...*node) bool {
	for _, n := range nodes {
		if !n.sees(nodes...) {
			return false
		}
	}
	return true
}

// join contacts one address, once.
func (n *node) join(addr string) error {
	_, err := n.list.Join([]string{addr})
	return err
}

func TestSplitGossipHealsByItself(t *testing.T) {
	t.Parallel()
	a := start(t, "a")
	b := start(t, "b", joining(a))
	eventually(t, patience, "they meet", func() bool { return together(a, b) })
	addr := a.Bound().String()
	a.end()
	eventually(t, patience, "a is dead", func() bool { m, _ := b.Member("a"); return m.Health == HealthDead })
	// The new a knows nobody: b has to find it.
	back := start(t, "a", func(c *Config) { c.Bind = addr })
	eventually(t, patience, "found again", func() bool { return together(back, b) })
}

// A seed that has started again with another identity, before anybody noticed its end, tells the
// first member that dials it, also where packets have shown it that member already.
func TestSeedTellsWhoDialsIt(t *testing.T) {
	t.Parallel()
	a := start(t, "a")
	b := start(t, "b", joining(a))
	eventually(t, patience, "they meet", func() bool { return together(a, b) })
	addr := a.Bound().String()
	a.end()
	back := listenAs(t, "a", "", func(c *Config) { c.Bind = addr })
	identity := metaOf('z')
	back.begin(t, identity, func(context.Context) {})
	back.members.here("b", b.Addr().String(), metaOf('b'), true, time.Now())
	back.Hear(b.Addr().String())
	if !back.sleepUntilNews(t.Context(), time.Hour) {
		t.Error("what was heard of does not wake the node")
	}
	if missing, err := back.joinMissing(t.Context(), false); missing > 0 || err != nil {
		t.Errorf("%d missing: %v", missing, err)
	}
	if !back.heardOf[b.Addr().String()] {
		t.Error("who dialled was not joined")
	}
	eventually(t, patience, "b knows who a is now", func() bool {
		m, _ := b.Member("a")
		return m.Identity == hex.EncodeToString(identity.GetIdentity())
	})
	back.Hear(b.Addr().String())
	if len(back.news) > 0 {
		t.Error("what is known wakes it again")
	}
}

func TestJoinAddressesAreResolved(t *testing.T) {
	t.Parallel()
	a := start(t, "a")
	_, port, _ := strings.Cut(a.Addr().String(), ":")
	b := start(t, "b", func(c *Config) { c.Join = []string{"localhost:" + port, "name.invalid:1"} })
	eventually(t, patience, "b has found a by name", func() bool { return together(a, b) })
	for _, bad := range []string{"nowhere", "127.0.0.1:99999"} {
		if _, err := resolveJoin(t.Context(), bad); err == nil {
			t.Errorf("%q was resolved", bad)
		}
	}
}

// What a node says of itself reaches the others: at once when it changes, and finally when it says
// goodbye.
func TestMetadataSpreads(t *testing.T) {
	t.Parallel()
	a := start(t, "a")
	b := start(t, "b", joining(a))
	c := start(t, "c", joining(a))
	eventually(t, patience, "they meet", func() bool { return together(a, b, c) })
	must(t, b.Update(func(m *clusterpb.Meta) { m.ConfigDigest = "d2" }))
	eventually(t, patience, "the others see b's new digest, and b's alone", func() bool {
		for _, n := range []*node{a, b, c} {
			for name, want := range map[string]string{"a": "", "b": "d2", "c": ""} {
				if m, _ := n.Member(name); m.ConfigDigest != want {
					return false
				}
			}
		}
		return true
	})
	if err := b.Update(func(m *clusterpb.Meta) { m.RpcAddr = strings.Repeat("x", 1000) }); err == nil {
		t.Error("metadata that does not fit was taken")
	}
	b.Leave(t.Context(), func(m *clusterpb.Meta) { m.SessionLeft = 42 })
	eventually(t, patience, "b has left, with its last word", func() bool {
		for _, n := range []*node{a, c} {
			if m, _ := n.Member("b"); m.Health != HealthLeft || m.SessionLeft != 42 || m.ConfigDigest != "d2" {
				return false
			}
		}
		return true
	})
}

// Nodes of two clusters never take each other for members, and both say why.
func TestClustersAreKeptApart(t *testing.T) {
	t.Parallel()
	const x, y = "1111222233334444aaaabbbbccccdddd", "5555666677778888aaaabbbbccccdddd"
	a := startIn(t, "a", x)
	b := startIn(t, "b", y, joining(a))
	if err := b.join(a.Addr().String()); err == nil || !strings.Contains(err.Error(), "of cluster "+x) {
		t.Errorf("b joins a: %v", err)
	}
	for n, other := range map[*node]*node{a: b, b: a} {
		eventually(t, patience, n.cfg.Name+" says why", func() bool {
			for _, want := range []string{"node " + other.cfg.Name + " at 127.0.0.1:", other.Addr().String(), x, y} {
				if !strings.Contains(n.log.String(), want) {
					return false
				}
			}
			return true
		})
	}
	if len(a.Members()) != 1 || len(b.Members()) != 1 {
		t.Errorf("a knows %v, b knows %v", a.Members(), b.Members())
	}
}

// Close ends a Gossip that was not started, or whose node goes no further, though streams and
// packets have arrived that nobody takes.
func TestCloseBeforeAccept(t *testing.T) {
	t.Parallel()
	for what, begin := range map[string]func(*node) error{
		"not started": func(*node) error { return nil },
		"started":     func(n *node) error { return n.Start(metaOf('a')) },
		"start fails": func(n *node) error {
			if err := n.Start(metaOf('a', func(m *clusterpb.Meta) { m.RpcAddr = strings.Repeat("x", 1000) })); err == nil {
				return errors.New("metadata that does not fit was taken")
			}
			return nil
		},
	} {
		n := listenAs(t, "a", "")
		must(t, begin(n))
		for range 3 {
			for _, network := range []string{"tcp", "udp"} {
				conn, err := net.Dial(network, n.Bound().String())
				must(t, err)
				defer conn.Close()
				_, err = conn.Write([]byte("hello"))
				must(t, err)
			}
		}
		closed := make(chan struct{})
		go func() { defer close(closed); n.Close() }()
		select {
		case <-closed:
		case <-time.After(patience):
			t.Fatalf("%s: Close has not returned", what)
		}
		eventually(t, patience, what+": the port is free", func() bool {
			cfg := n.cfg
			cfg.Bind = n.Bound().String()
			again, err := Listen(cfg)
			if err == nil {
				again.Close()
			}
			return err == nil
		})
	}
}
