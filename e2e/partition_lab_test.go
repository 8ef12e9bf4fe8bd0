package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/netns"
	"github.com/weirproxy/weir/e2e/upstream"
)

// A lab's nodes each have a machine's worth of network to themselves, and so all use the same
// ports.
const (
	labRPC    = 8082
	labGossip = 8083
)

// upstreamMember is the name of the upstream's member of a lab's network.
const upstreamMember = "up"

// lab is a cluster in a network that can be broken. Clients reach a node from inside its own
// namespace, over its loopback, which no partition touches.
type lab struct {
	*cluster
	net  *netns.Network
	pace *pace
	ttl  time.Duration
}

// labPlan is what distinguishes one lab from another.
type labPlan struct {
	names    []string      // of the servers; nil: a, b, c
	ttl      time.Duration // 0: 2 s
	onExpiry string        // "": close
}

// nodePriority puts the nodes before what else the machine does. A node without a processor is as
// good as frozen, and nothing is promised of that; here it is the network that fails.
var nodePriority = []string{"nice", "-n", "-10"}

// startLab starts a lab. It skips the test where networks may not be made.
func startLab(t *testing.T, plan labPlan) *lab {
	t.Helper()
	if err := netns.Missing(); errors.Is(err, netns.ErrUnavailable) {
		t.Skipf("NOT TESTED: partitions: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	if plan.names == nil {
		plan.names = []string{"a", "b", "c"}
	}
	if plan.ttl == 0 {
		plan.ttl = 2 * time.Second
	}
	network, err := netns.NewNetwork(append([]string{upstreamMember}, plan.names...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the nodes' end
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{net: network, pace: startPace(t), ttl: plan.ttl}
	l.cluster = startCluster(t, shape{ttl: plan.ttl, names: plan.names, prepare: func(n *node) {
		l.settle(n, plan.names)
		n.onExpiry = plan.onExpiry
	}})
	return l
}

// settle puts a node, which has not been started, into its namespace.
func (l *lab) settle(n *node, names []string) {
	m := l.net.Member(n.name)
	n.proxy, n.api = "127.0.0.1:8080", "127.0.0.1:8081"
	n.rpc, n.gossip = fmt.Sprintf("%v:%d", m.Addr(), labRPC), fmt.Sprintf("%v:%d", m.Addr(), labGossip)
	n.join = nil
	for _, name := range names {
		n.join = append(n.join, fmt.Sprintf("%v:%d", l.net.Member(name).Addr(), labGossip))
	}
	n.wrapper = slices.Concat(nodePriority, m.Enter())
	n.dial = func(ctx context.Context, proxy string) (net.Conn, error) { return m.DialContext(ctx, "tcp", proxy) }
	n.dialFrom = func(address string) load.Dial {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		return func(ctx context.Context, proxy string) (net.Conn, error) { return m.DialBy(ctx, &d, "tcp", proxy) }
	}
	n.http = newClient(n.api)
	n.http.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: m.DialContext}
}

// upstream starts a counting upstream at an address of its own among the upstream member's.
func (l *lab) upstream(t *testing.T) host {
	t.Helper()
	up := l.net.Member(upstreamMember)
	addr, err := up.AddAddr()
	if err != nil {
		t.Fatal(err)
	}
	var h host
	if err := up.Do(func() (err error) {
		h, err = listen(addr.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// set replaces the network's faults, and returns when they hold.
func (l *lab) set(t *testing.T, faults ...netns.Fault) time.Time {
	t.Helper()
	if err := l.net.Set(faults...); err != nil {
		t.Fatal(err)
	}
	return time.Now()
}

// peers are the nodes' names by the address that the upstream sees.
func (l *lab) peers() map[string]string {
	names := map[string]string{}
	for _, n := range l.nodes {
		names[l.peer(n)] = n.name
	}
	return names
}

func (l *lab) peer(n *node) string { return l.net.Member(n.name).Addr().String() }

// openFrom is how many connections of some nodes the upstream has open.
func (l *lab) openFrom(s upstream.Stats, nodes []*node) (open int) {
	for _, n := range nodes {
		open += s.Peers[l.peer(n)].Open
	}
	return open
}

func names(nodes []*node) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.name)
	}
	return list
}
