package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/upstream"
)

// shape is what distinguishes one test's cluster from another's.
type shape struct {
	ttl    time.Duration // 0: 3 s
	drain  time.Duration // 0: 1 s
	limits string        // HCL: the inside of the limits block
	names  []string      // of the servers; nil: a, b, c
	// prepare, where set, changes a node before it is started for the first time.
	prepare func(*node)
}

// cluster is some nodes on this machine.
type cluster struct {
	shape shape
	dir   string
	nodes []*node
	hosts atomic.Uint32 // upstream addresses given out
}

// startCluster starts the nodes of a shape and waits until each is ready. They are killed when the
// test ends.
func startCluster(t testing.TB, s shape) *cluster {
	t.Helper()
	if s.ttl == 0 {
		s.ttl = 3 * time.Second
	}
	if s.drain == 0 {
		s.drain = time.Second
	}
	if s.names == nil {
		s.names = []string{"a", "b", "c"}
	}
	c := &cluster{shape: s, dir: logDir(t)}
	t.Cleanup(func() { c.stop(t) })
	const attempts = 3
	for attempt := 1; ; attempt++ {
		c.lay(t)
		for _, n := range c.nodes {
			n.start(t)
		}
		err := c.awaitReady(t, 20*time.Second)
		if err == nil {
			return c
		}
		if !errors.Is(err, errPortTaken) || attempt == attempts {
			t.Fatal(err)
		}
		c.killAll()
	}
}

// lay prepares fresh directories, ports and files for all nodes.
func (c *cluster) lay(t testing.TB) {
	t.Helper()
	c.nodes = nil
	ports := freePorts(t, 4*len(c.shape.names)) // all at once, so that no two nodes get the same
	for i, name := range c.shape.names {
		c.nodes = append(c.nodes, c.newNode(t, name, "server", ports[4*i:]))
	}
	for _, n := range c.nodes {
		n.join, n.expect = c.gossip(), len(c.nodes)
		if c.shape.prepare != nil {
			c.shape.prepare(n)
		}
		n.writeConfig(t)
	}
}

// newNode makes a node of the cluster on the first four addresses, neither started nor configured
// to join.
func (c *cluster) newNode(t testing.TB, name, role string, p []string) *node {
	t.Helper()
	dir, err := os.MkdirTemp(c.dir, name+"-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{
		name: name, role: role, proxy: p[0], api: p[1], rpc: p[2], gossip: p[3],
		config: filepath.Join(dir, "node.hcl"), dataDir: filepath.Join(dir, "data"), logPath: filepath.Join(dir, "log"),
		ttl: c.shape.ttl, drain: c.shape.drain, limits: c.shape.limits,
	}
	n.http = newClient(n.api)
	return n
}

// add starts one more node that joins the others. It is killed when the test ends.
func (c *cluster) add(t testing.TB, name, role string) *node {
	t.Helper()
	n := c.newNode(t, name, role, freePorts(t, 4))
	n.join = c.gossip()
	n.writeConfig(t)
	n.start(t)
	t.Cleanup(func() { n.process.Kill(); n.checkLog(t) })
	return n
}

func (c *cluster) gossip() []string {
	var addrs []string
	for _, n := range c.nodes {
		addrs = append(addrs, n.gossip)
	}
	return addrs
}

// errPortTaken: another process got a port between the choice of it and the start.
var errPortTaken = errors.New("a port was taken meanwhile")

// awaitReady waits until all nodes are ready, or one of them has ended.
func (c *cluster) awaitReady(t testing.TB, within time.Duration) error {
	t.Helper()
	var ended error
	eventually(t, within, "all nodes ready", func() error {
		for _, n := range c.nodes {
			if !n.process.Running() {
				ended = n.whyEnded()
				return nil
			}
		}
		for _, n := range c.nodes {
			if err := n.ready(); err != nil {
				return fmt.Errorf("node %s: %w", n.name, err)
			}
		}
		return nil
	})
	return ended
}

// portTakenText is in what a node says when it can't listen.
var portTakenText = regexp.MustCompile(`is taken|in use by another process|address already in use`)

func (n *node) whyEnded() error {
	log, _ := os.ReadFile(n.logPath)
	if portTakenText.Match(log) {
		return errPortTaken
	}
	return fmt.Errorf("node %s ended at its start with exit code %d:\n%s", n.name, n.process.ExitCode(), log)
}

// stop ends the cluster with its test, and looks into the logs.
func (c *cluster) stop(t testing.TB) {
	c.killAll()
	for _, n := range c.nodes {
		n.checkLog(t)
	}
}

func (c *cluster) killAll() {
	for _, n := range c.nodes {
		if n.process != nil {
			n.process.Kill()
		}
	}
}

// leader waits until all running nodes name the same running leader, and returns it with the
// others.
func (c *cluster) leader(t testing.TB) (leader *node, others []*node) {
	t.Helper()
	eventually(t, 10*time.Second, "one leader", func() error {
		var err error
		leader, others, err = c.agreedLeader()
		return err
	})
	return leader, others
}

func (c *cluster) agreedLeader() (leader *node, others []*node, err error) {
	name := ""
	for _, n := range c.running() {
		s, err := n.http.status()
		if err != nil {
			return nil, nil, err
		}
		if s.Leader == "" || (name != "" && s.Leader != name) {
			return nil, nil, fmt.Errorf("node %s takes %q for the leader, another %q", n.name, s.Leader, name)
		}
		name = s.Leader
	}
	for _, n := range c.running() {
		if n.name == name {
			leader = n
		} else {
			others = append(others, n)
		}
	}
	if leader == nil {
		return nil, nil, fmt.Errorf("the leader %q does not run", name)
	}
	return leader, others, nil
}

func (c *cluster) running() []*node {
	var up []*node
	for _, n := range c.nodes {
		if n.process.Running() && !n.frozen {
			up = append(up, n)
		}
	}
	return up
}

func (c *cluster) proxies() []string {
	var addrs []string
	for _, n := range c.nodes {
		addrs = append(addrs, n.proxy)
	}
	return addrs
}

// setLimit puts a limit on the first running node and waits until all running nodes see it.
func (c *cluster) setLimit(t testing.TB, pattern, body string) {
	t.Helper()
	c.running()[0].http.setLimit(t, pattern, body)
	var want limitAnswer
	if err := c.running()[0].http.read(limitPath(pattern), &want); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.running() {
		eventually(t, 5*time.Second, "node "+n.name+" sees the limit", func() error {
			return n.http.limitIs(pattern, *want.Connections)
		})
	}
}

// host is an upstream at an address of its own: a host of its own to the limits.
type host struct {
	*upstream.Server
	name   string // the address without its port
	target string // with its port
}

// upstream starts a counting upstream for one scenario.
func (c *cluster) upstream(t testing.TB) host {
	t.Helper()
	h, err := listen(c.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// address gives out a loopback address that no other scenario of the cluster uses.
func (c *cluster) address() string { return fmt.Sprintf("127.77.0.%d", c.hosts.Add(1)) }

func listen(name string) (host, error) {
	up, err := upstream.Start(net.JoinHostPort(name, "0"), nil)
	if err != nil {
		return host{}, err
	}
	return host{Server: up, name: name, target: net.JoinHostPort(name, strconv.Itoa(up.Port()))}, nil
}

// awaitOpen waits until the upstream sees want connections.
func (h host) awaitOpen(t testing.TB, within time.Duration, want int) {
	t.Helper()
	eventually(t, within, fmt.Sprintf("%d connections at the upstream", want), func() error {
		if open := h.Stats().Open; open != want {
			return fmt.Errorf("it sees %d", open)
		}
		return nil
	})
}

// awaitUse waits until the nodes have want connections to up, by their own account: a moment after
// a client has seen its tunnel's end, the slot is free.
func (c *cluster) awaitUse(t testing.TB, up host, want int) {
	t.Helper()
	eventually(t, 2*time.Second, fmt.Sprintf("%d slots in use", want), func() error {
		if h := c.running()[0].http.host(t, up.name); h.InUse != want {
			return fmt.Errorf("%d are", h.InUse)
		}
		return nil
	})
}

// keeps checks that the node holds an upstream connection to host for reuse.
func (n *node) keeps(host string) error {
	var list struct {
		Connections []struct {
			Protocol string
		} `json:"connections"`
	}
	if err := n.http.read("/v1/connections?host="+host, &list); err != nil {
		return err
	}
	if len(list.Connections) != 1 || list.Connections[0].Protocol != "idle" {
		return fmt.Errorf("its connections are %+v; want one that is idle", list.Connections)
	}
	return nil
}

// complete checks that Asked and Taken hold all that came: what is judged by a part of it may be
// guilty by the rest.
func (h host) complete(t testing.TB) {
	t.Helper()
	if n := h.Stats().Unnoted; n > 0 {
		t.Errorf("the upstream %s had no room for %d of what came to it", h.name, n)
	}
}

// peakAtMost ends a scenario: the upstream never saw more than limit.
func (h host) peakAtMost(t testing.TB, limit int) {
	t.Helper()
	if peak := h.Stats().Peak; peak > limit {
		t.Errorf("the upstream saw %d connections at once; the limit is %d", peak, limit)
	}
}

// Ports for nodes are taken below the range that the kernel gives to outgoing connections, so that
// a node that is down finds its ports free when it comes back.
const firstPort, lastPort = 15000, 32000

// givenPorts are those that a test has got: no other test gets one, or looks whether it is free,
// while its node is being restarted.
var givenPorts sync.Map

// freePorts finds n loopback addresses whose port is free for TCP and UDP. Another process may
// still take one before the node does.
func freePorts(t testing.TB, n int) []string {
	t.Helper()
	var addrs []string
	for range 1000 {
		if len(addrs) == n {
			return addrs
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		defer func() { _ = tcp.Close() }() // held till all are found, so that none is found twice
		udp, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		defer func() { _ = udp.Close() }()
		addrs = append(addrs, addr)
	}
	t.Fatalf("no %d free ports between %d and %d", n, firstPort, lastPort)
	return nil
}

// logDir is where a cluster keeps its files: among the test's temporary ones, or where
// WEIR_E2E_LOGS says.
func logDir(t testing.TB) string {
	t.Helper()
	keep := os.Getenv(logsVariable)
	if keep == "" {
		return t.TempDir()
	}
	keep, err := filepath.Abs(filepath.Join(keep, strings.ReplaceAll(t.Name(), "/", "_")))
	if err == nil {
		err = os.MkdirAll(keep, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	return keep
}
