package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/lognoise"
)

const (
	joinFirst    = 250 * time.Millisecond // between attempts, growing
	joinLast     = 2 * time.Second
	probeTimeout = time.Second
	maxHeardOf   = 8
	joinCheck    = 10 * time.Second // once every configured address is a member
	joinRemind   = time.Minute
	joinRepeats  = 3
	joinsAtOnce  = 16
	joinSettle   = 5 * time.Second
	conflictHold = 10 * time.Second // joining is repeated for this long after a name conflict
	udpTries     = 3
	udpPeers     = 3
)

// joinForever contacts every configured address that is not a member, for as long as there is one.
// So two halves of a cluster that have lost each other find together again, even after both have
// forgotten the other.
func (g *Gossip) joinForever(ctx context.Context) {
	reminder := lognoise.Reminder{Every: joinRemind}
	foreign := reminder
	wait := joinFirst
	for {
		if err := g.findCluster(ctx); err != nil {
			g.cfg.Fatal(err)
			return
		}
		missing, err := g.joinMissing(ctx, g.insists())
		if err != nil {
			if wrong := unreadable(err.Error()); wrong != nil && foreign.Due(wrong.What) {
				g.cfg.Log.Warn("a node can't be joined", "reason", wrong, "error", oneLine(err))
			}
		}
		switch {
		case g.insists() && !g.alone():
			wait = time.Second
		case g.undecided() && !g.cfg.Door.Of.Seed && !g.alone():
			wait = joinFirst // the others may form a cluster at any moment
		case missing == 0:
			wait = joinCheck
		default:
			if err != nil && g.alone() && reminder.Due(err.Error()) {
				g.cfg.Log.Info("nobody to join yet: trying again for ever", "error", oneLine(err))
			}
			wait = min(max(wait, joinFirst)*8/5, joinLast)
		}
		if !g.alone() && !g.udpChecked {
			g.udpChecked = true
			g.checkUDP(ctx)
		}
		if !g.sleepUntilNews(ctx, wait+rand.N(wait/4)) {
			return
		}
	}
}

// insists reports whether members are joined again although they are members already. That is so
// after a name conflict, until it is settled, and in the first seconds, because a member that is
// suspected just then does not show a conflict.
func (g *Gossip) insists() bool {
	return time.Since(time.Unix(0, g.conflicted.Load())) < conflictHold || time.Since(g.born) < joinSettle
}

// joinMissing tries the addresses that no live member has, and returns how many stay missing. With
// force, it also tries the other configured addresses, and some members. A member that was heard of
// is joined once in any case: packets alone may have shown it, and the members may know this node
// as it was before it started again.
func (g *Gossip) joinMissing(ctx context.Context, force bool) (missing int, err error) {
	present := map[string]bool{g.addr.String(): true}
	var targets []string
	for _, m := range g.members.list(time.Now()) {
		if m.Alive() && m.Name != g.cfg.Name {
			present[m.GossipAddr] = !force
			if force && len(targets) < joinRepeats {
				targets = append(targets, m.GossipAddr)
			}
		}
	}
	for _, name := range g.cfg.Join {
		addrs, resolveErr := resolveJoin(ctx, name)
		if resolveErr != nil {
			missing++
			err = errors.Join(err, resolveErr)
		}
		targets = append(targets, addrs...)
	}
	g.heardMu.Lock()
	for addr, joined := range g.heardOf {
		targets = append(targets, addr)
		if !joined {
			delete(present, addr)
		}
	}
	g.heardMu.Unlock()
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(joinsAtOnce)
	for _, addr := range targets {
		if present[addr] || ctx.Err() != nil {
			continue
		}
		present[addr] = true
		group.Go(func() error {
			if _, joinErr := g.list.Join([]string{addr}); joinErr != nil {
				mu.Lock()
				defer mu.Unlock()
				missing++
				err = errors.Join(err, joinErr)
				return nil
			}
			g.joined(addr)
			return nil
		})
	}
	_ = group.Wait() // none returns an error
	return missing, err
}

func (g *Gossip) undecided() bool { return g.cfg.Door.Of.Cluster() == "" }

// findCluster asks the nodes at the addresses of cluster.join for their cluster, while this node
// has none. The first members that answer decide. If they are of two clusters, findCluster returns
// an error.
func (g *Gossip) findCluster(ctx context.Context) error {
	if !g.undecided() {
		return nil
	}
	var addrs []string
	for _, name := range g.cfg.Join {
		found, _ := resolveJoin(ctx, name) // joinMissing reports names that do not resolve
		addrs = append(addrs, found...)
	}
	answers := make([]*clusterpb.Introduction, len(addrs))
	var group errgroup.Group
	group.SetLimit(joinsAtOnce)
	for i, addr := range addrs {
		group.Go(func() error {
			answers[i], _ = g.transport.probe(ctx, addr, probeTimeout) // unreachable addresses are skipped
			return nil
		})
	}
	_ = group.Wait()
	first := -1
	for i, a := range answers {
		switch {
		case a.GetCluster() == "":
		case first < 0:
			first = i
		case a.GetCluster() != answers[first].GetCluster():
			return fmt.Errorf("cluster.join names members of two clusters: %s (node %s) is of cluster %s, and %s (node %s) of cluster %s: "+
				"leave the addresses of the one that this node is to join", addrs[first], answers[first].GetNode(), answers[first].GetCluster(),
				addrs[i], a.GetNode(), a.GetCluster())
		}
	}
	if first < 0 {
		return nil
	}
	if err := g.cfg.Door.Of.Lean(answers[first].GetCluster()); err != nil {
		g.cfg.Log.Warn("the cluster that cluster.join leads to is not this node's", "reason", err)
	}
	return nil
}

// Hear records a member that has dialled this node: a node with an empty cluster.join joins through
// it.
func (g *Gossip) Hear(addr string) {
	if !g.cfg.Door.Of.Seed || addr == "" || addr == g.addr.String() {
		return
	}
	g.heardMu.Lock()
	defer g.heardMu.Unlock()
	if _, known := g.heardOf[addr]; known || len(g.heardOf) >= maxHeardOf {
		return
	}
	g.heardOf[addr] = false
	signal(g.news)
}

// joined records that an address that was heard of has been joined.
func (g *Gossip) joined(addr string) {
	g.heardMu.Lock()
	defer g.heardMu.Unlock()
	if _, known := g.heardOf[addr]; known {
		g.heardOf[addr] = true
	}
}

// Decide spreads the id of this node's cluster, and forgets the members of others.
func (g *Gossip) Decide(cluster string) error {
	g.members.keepCluster(cluster)
	signal(g.news) // those that it has heard of take it now
	return g.Update(func(m *clusterpb.Meta) { m.Cluster = cluster })
}

// resolveJoin resolves a join address.
func resolveJoin(ctx context.Context, name string) ([]string, error) {
	host, portText, err := net.SplitHostPort(name)
	if err != nil {
		return nil, fmt.Errorf("cluster.join: %q is not an address with a port", name)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("cluster.join: %q has no port from 1 to 65535", name)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []string{netip.AddrPortFrom(ip.Unmap(), uint16(port)).String()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("cluster.join: %q can't be resolved: %w", name, err)
	}
	addrs := make([]string, 0, len(ips))
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(port)).String())
	}
	return addrs, nil
}

func (g *Gossip) alone() bool { return g.list.NumMembers() <= 1 }

// checkUDP logs members that answer over TCP but not over UDP: such nodes would seem to come and
// go.
func (g *Gossip) checkUDP(ctx context.Context) {
	checked := 0
	for _, m := range g.members.list(time.Now()) {
		to, err := netip.ParseAddrPort(m.GossipAddr)
		if err != nil || m.Name == g.cfg.Name || !m.Alive() || checked == udpPeers {
			continue
		}
		checked++
		for try := range udpTries {
			if ctx.Err() != nil {
				return
			}
			if _, err = g.list.Ping(m.Name, net.UDPAddrFromAddrPort(to)); err == nil {
				break
			}
			if try == udpTries-1 {
				g.cfg.Log.Warn("gossip gets no answers over UDP, though TCP works: open the gossip port for UDP both ways, or nodes will seem to come and go",
					"node", m.Name, "address", m.GossipAddr)
			}
		}
	}
}

// oneLine returns an error's text without the line breaks and bullets that libraries add.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// sleepUntilNews waits, until there is somebody to join at most. It reports false if the context
// ended first.
func (g *Gossip) sleepUntilNews(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-g.news:
		return true
	case <-ctx.Done():
		return false
	}
}
