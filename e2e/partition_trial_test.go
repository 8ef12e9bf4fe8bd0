package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/judge"
	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/netns"
)

const (
	slotsPerNode   = 2
	workersPerNode = 4
	queueFor       = 4 * time.Second       // longer than an election: whose turn comes in one is not told that there is no lease
	chatEvery      = 50 * time.Millisecond // between two lines on a tunnel that stays
	recoverWithin  = 5 * time.Second       // after the heal
	patience       = 30 * time.Second      // with a machine that stands still, where one that runs is held to less
	calmWithin     = 40 * time.Second      // after the heal: gossip, too, finds everybody
)

// stayer is a tunnel that a client keeps, and talks on all the time.
type stayer struct {
	tunnel *load.Tunnel
	done   chan struct{} // closed when the tunnel is broken
	at     time.Time     // then: when
	err    error         // and how
}

func stay(tunnel *load.Tunnel) *stayer {
	s := &stayer{tunnel: tunnel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for s.err == nil {
			s.err = tunnel.Hold(chatEvery)
		}
		s.at = time.Now()
	}()
	return s
}

// close ends the tunnel, if it is not broken; more than once does no harm.
func (s *stayer) close() {
	_ = s.tunnel.Close()
	<-s.done
}

func (s *stayer) broken() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// trial is a lab under load: more demand than slots on every node for a limited host, whose slots
// are all in use, and a little for a host without a limit.
type trial struct {
	*lab
	name          string
	limit         int
	limited, free host
	begin         time.Time
	crowd, few    *load.Run
	stayers       map[*node]*stayer
	faulted       time.Time // when the faults held
	rest          []*node   // who can renew their leases meanwhile
	unseen        bool      // those who can't are cut off from the upstream, too
	unsettled     bool      // the faults may end anybody's lease, and anybody's tunnels with it
	cuts          []judge.Cut
}

// startTrial puts the lab under load and waits until all slots are in use, on all nodes.
func startTrial(t *testing.T, l *lab) *trial {
	t.Helper()
	tr := &trial{
		lab: l, name: t.Name(), limit: slotsPerNode * len(l.nodes), limited: l.upstream(t), free: l.upstream(t),
		stayers: map[*node]*stayer{}, rest: l.nodes,
	}
	t.Cleanup(func() { l.set(t) }) // a scenario that fails half-way leaves no fault to the next
	l.leader(t)
	l.setLimit(t, tr.limited.name, queued(tr.limit, queueFor, 100))
	tr.begin = time.Now()
	for _, n := range l.nodes {
		tr.keep(t, n)
	}
	tr.crowd = load.Start(load.Plan{
		Proxies: names(l.nodes), Target: tr.limited.target, Workers: workersPerNode * len(l.nodes), Hold: 200 * time.Millisecond,
		Pause: 50 * time.Millisecond, Timeout: 5 * time.Second, Dial: l.dialByName,
	})
	t.Cleanup(func() { tr.crowd.Stop() })
	tr.few = load.Start(load.Plan{
		Proxies: names(l.nodes), Target: tr.free.target, Workers: len(l.nodes), Hold: 100 * time.Millisecond,
		Pause: 50 * time.Millisecond, Timeout: 5 * time.Second, Dial: l.dialByName,
	})
	t.Cleanup(func() { tr.few.Stop() })
	tr.awaitFull(t, patience, l.nodes)
	return tr
}

// keep opens a tunnel that stays, through a node.
func (tr *trial) keep(t *testing.T, n *node) {
	t.Helper()
	s := stay(n.open(t, tr.limited.target))
	tr.stayers[n] = s
	t.Cleanup(s.close)
}

func (l *lab) dialByName(ctx context.Context, name string) (net.Conn, error) {
	for _, n := range l.nodes {
		if n.name == name {
			return n.dial(ctx, n.proxy)
		}
	}
	return nil, fmt.Errorf("no node %s", name)
}

// awaitFull waits until nodes, each with some, use the whole limit between them.
func (tr *trial) awaitFull(t *testing.T, within time.Duration, nodes []*node) time.Duration {
	t.Helper()
	return eventually(t, within, fmt.Sprintf("%s: all %d slots in use on nodes %v", tr.name, tr.limit, names(nodes)), func() error {
		s := tr.limited.Stats()
		var each []int
		for _, n := range nodes {
			each = append(each, s.Peers[tr.peer(n)].Open)
		}
		if tr.openFrom(s, nodes) < tr.limit || slices.Min(each) == 0 {
			return fmt.Errorf("they use %v", each)
		}
		return nil
	})
}

// isolate breaks the network between victims and all other nodes.
func (tr *trial) isolate(t *testing.T, victims []*node, s isolation) {
	t.Helper()
	var others []string
	for _, n := range tr.nodes {
		if !slices.Contains(victims, n) {
			others = append(others, n.name)
		}
	}
	tr.fault(t, victims, s.unseen, s.faults(names(victims), others)...)
}

// fault breaks the network so that victims can't renew their leases.
func (tr *trial) fault(t *testing.T, victims []*node, unseen bool, faults ...netns.Fault) {
	t.Helper()
	tr.rest = nil
	for _, n := range tr.nodes {
		if !slices.Contains(victims, n) {
			tr.rest = append(tr.rest, n)
		}
	}
	tr.unseen = unseen
	tr.faulted = tr.set(t, faults...)
	for _, n := range victims {
		tr.cuts = append(tr.cuts, judge.Cut{Node: n.name, At: tr.faulted, TTL: tr.ttl, Guard: guardOf(tr.ttl)})
	}
}

// guardOf is how long before its deadline a node begins to fence: a tenth of the ttl, from 50 to
// 500 ms.
func guardOf(ttl time.Duration) time.Duration {
	return min(max(ttl/10, 50*time.Millisecond), 500*time.Millisecond)
}

// deadline is how long after the cut the leases may last at most.
func (tr *trial) deadline() time.Duration {
	blind, _ := tr.pace.blind(tr.begin)
	c := judge.Cut{At: tr.faulted, TTL: tr.ttl, Guard: guardOf(tr.ttl)}
	return c.Deadline(blind).Sub(tr.faulted)
}

// awaitFenced waits until a victim's clients have seen its tunnels' end, which must come before its
// lease has run out, and then holds what it says of itself to the truth.
func (tr *trial) awaitFenced(t *testing.T, n *node) {
	t.Helper()
	s := tr.stayers[n]
	eventually(t, tr.ttl+patience, tr.name+": node "+n.name+" fences", func() error {
		if !s.broken() {
			return errors.New("its oldest tunnel lives")
		}
		return nil
	})
	took := tr.pace.earliest(s.at).Sub(tr.faulted)
	t.Logf("node %s fenced after %v", n.name, took.Round(time.Millisecond))
	if took > tr.deadline() {
		t.Errorf("%s: node %s, cut off at %v, resets a tunnel only %v later (%v); its lease is %v", tr.name, n.name,
			tr.faulted.Sub(tr.begin).Round(time.Millisecond), took, s.err, tr.ttl)
	}
	r := n.refuse(t, tr.limited.target, "proxy_internal_error")
	if r.Status != http.StatusServiceUnavailable || r.RetryAfter == "" || !strings.Contains(r.ProxyStatus, `details="no lease"`) {
		t.Errorf("%s: node %s refuses with %+v; want 503, no lease, Retry-After", tr.name, n.name, r)
	}
	a := n.http.must(t, http.StatusServiceUnavailable, "GET", "/readyz", "", nil)
	if len(a.body) == 0 {
		t.Errorf("%s: node %s is not ready and doesn't say why", tr.name, n.name)
	}
	n.http.must(t, http.StatusOK, "GET", "/healthz", "", nil)
	st, err := n.http.status()
	if err != nil {
		t.Fatal(err)
	}
	if st.Ready || st.Session.State == "live" {
		t.Errorf("%s: node %s without a lease says ready %v, session %q", tr.name, n.name, st.Ready, st.Session.State)
	}
}

// awaitNoSocket waits until the node has no connection to the upstream left in its own kernel,
// which must be so before its lease has run out. What is read from the kernel is true when the
// reading begins, or later.
func (tr *trial) awaitNoSocket(t *testing.T, n *node) {
	t.Helper()
	addr := netip.MustParseAddr(tr.limited.name)
	var took time.Duration // until the latest reading that found one began
	eventually(t, tr.ttl+patience, tr.name+": no socket to the upstream on node "+n.name, func() error {
		at := time.Since(tr.faulted)
		open, err := tr.net.Member(n.name).OpenTo(addr)
		if err == nil && open > 0 {
			took = at
			err = fmt.Errorf("%d are open", open)
		}
		return err
	})
	for i, c := range tr.cuts {
		if c.Node == n.name {
			tr.cuts[i].Gone = time.Now()
		}
	}
	if took > tr.deadline() {
		t.Errorf("%s: node %s has sockets to the upstream still %v after the cut; its lease is %v", tr.name, n.name, took, tr.ttl)
	}
}

// stalledFor is how long the machine may stand still before a healthy leader is taken for dead:
// somewhat less than Raft's leader lease, 500 ms.
const stalledFor = 350 * time.Millisecond

// stalled reports whether this machine has stood still, in this trial, for so long that a cluster
// on it may have elected another leader. Then the times to recover in, and the majority's tunnels,
// can't be held against the nodes; all that is judged from the upstream's time line still is.
func (tr *trial) stalled() bool {
	_, longest := tr.pace.blind(tr.begin)
	return longest >= stalledFor
}

// errorf fails the test, unless the machine is to blame.
func (tr *trial) errorf(t *testing.T, format string, args ...any) {
	t.Helper()
	if tr.stalled() {
		t.Logf("while the machine stood still: "+format, args...)
		return
	}
	t.Errorf(format, args...)
}

// awaitReclaimed waits until the nodes that were not cut off use the whole limit, and say what is
// so. How long that took is found out from the time line.
func (tr *trial) awaitReclaimed(t *testing.T) {
	t.Helper()
	tr.awaitFull(t, tr.ttl+patience, tr.rest)
	for _, n := range tr.rest {
		if err := n.ready(); err != nil {
			tr.errorf(t, "%s: node %s of the majority: %v", tr.name, n.name, err)
		}
	}
}

// outlast waits until the victims' leases have run out, so that there is a time after it to judge.
func (tr *trial) outlast() {
	const judged = 200 * time.Millisecond
	for left := tr.ttl; left > 0; {
		left = tr.deadline() + judged - time.Since(tr.faulted)
		measure(max(left, 0))
	}
}

// awaitAlone waits until a node that reaches no majority names no leader but the one that the
// majority has, of whom it may still hear by gossip.
func (tr *trial) awaitAlone(t *testing.T, n *node) {
	t.Helper()
	eventually(t, patience, tr.name+": node "+n.name+" names no false leader", func() error {
		said, err := n.http.status()
		if err != nil || said.Leader == "" {
			return err
		}
		for _, other := range tr.rest {
			if s, err := other.http.status(); err == nil && s.Raft.State == "leader" && said.Leader == other.name {
				return nil
			}
		}
		return fmt.Errorf("it names %q", said.Leader)
	})
}

// awaitTold waits until a node that others have found silent is known to be so, by those who can
// know it.
func (tr *trial) awaitTold(t *testing.T, n *node) {
	t.Helper()
	for _, witness := range tr.rest {
		eventually(t, patience, tr.name+": node "+witness.name+" knows of node "+n.name, func() error {
			if got := witness.http.nodes(t)[n.name]; got.Session == "live" || got.Leader {
				return fmt.Errorf("its session is %s, its health %s, leader: %v", got.Session, got.Health, got.Leader)
			}
			return nil
		})
	}
}

// heal ends the faults and waits until every node is ready, has opened a connection since, and all
// slots are in use.
func (tr *trial) heal(t *testing.T) {
	t.Helper()
	before := tr.limited.Stats()
	healed := tr.set(t)
	for i := range tr.cuts {
		tr.cuts[i].Healed = healed
	}
	took := eventually(t, patience, tr.name+": recovery", func() error {
		s := tr.limited.Stats()
		for _, n := range tr.nodes {
			if err := n.ready(); err != nil {
				return fmt.Errorf("node %s: %w", n.name, err)
			}
			if s.Peers[tr.peer(n)].Accepted == before.Peers[tr.peer(n)].Accepted {
				return fmt.Errorf("node %s has opened nothing since the heal", n.name)
			}
		}
		if s.Open < tr.limit {
			return fmt.Errorf("%d of %d slots in use", s.Open, tr.limit)
		}
		return nil
	})
	t.Logf("recovered after %v", took.Round(time.Millisecond))
	if took > recoverWithin {
		tr.errorf(t, "%s: recovery takes %v; want %v", tr.name, took, recoverWithin)
	}
}

// finish ends the load and judges.
func (tr *trial) finish(t *testing.T) judge.Verdict {
	t.Helper()
	for _, n := range tr.rest {
		if s := tr.stayers[n]; s.broken() && !tr.unsettled {
			tr.errorf(t, "%s: node %s, which was not cut off, has lost a tunnel at %v: %v", tr.name, n.name,
				s.at.Sub(tr.begin).Round(time.Millisecond), s.err)
		}
	}
	tr.checkTallies(t)
	for _, s := range tr.stayers {
		s.close()
	}
	if err := tr.limited.Close(); err != nil { // what is open still ends here, and the time line tells when it was last heard
		t.Error(err)
	}
	events, dropped := tr.limited.Timeline()
	if dropped > 0 {
		t.Fatalf("%s: %d events did not fit the time line", tr.name, dropped)
	}
	blind, longest := tr.pace.blind(tr.begin)
	if longest > 0 {
		t.Logf("this process stood still %d times, for %v at most", len(blind), longest.Round(time.Millisecond))
	}
	return judge.Try(judge.Case{
		Scenario: tr.name, Limit: tr.limit, Begin: tr.begin, Nodes: tr.peers(), Cuts: tr.cuts, Blind: blind,
	}, events)
}

// checkTallies: nobody lost a connection, or an answer, that the faults do not account for.
func (tr *trial) checkTallies(t *testing.T) {
	t.Helper()
	unseen := func(n *node) bool { return tr.unseen && !slices.Contains(tr.rest, n) }
	crowd, few := tr.crowd.Stop(), tr.few.Stop()
	for i, n := range tr.nodes {
		c, f := crowd[i], few[i]
		if slices.Contains(tr.rest, n) && !tr.unsettled && (c.Cut > 0 || c.Failed > 0 || c.Reasons["proxy_internal_error"] > 0) {
			tr.errorf(t, "%s: workers on node %s, which was not cut off: %d cut, %d without answer (%v), refused %v", tr.name, n.name,
				c.Cut, c.Failed, c.LastFail, c.Reasons)
		}
		if !unseen(n) && (f.Refused+f.Failed+f.Cut > 0 || f.OK == 0) {
			tr.errorf(t, "%s: a host without a limit, through node %s: %d connections, %d refused %v, %d without answer, %d cut: %v", tr.name,
				n.name, f.OK, f.Refused, f.Reasons, f.Failed, f.Cut, f.LastFail)
		}
	}
}

// acquit reports every breach that the judge has found.
func acquit(t *testing.T, v judge.Verdict) {
	t.Helper()
	for _, b := range v.Breaches {
		t.Errorf("%v", b)
	}
}

// calm waits until the lab is as it was: everybody agrees on a leader and finds everybody alive.
func (l *lab) calm(t *testing.T) {
	t.Helper()
	begun := time.Now()
	l.leader(t)
	for _, n := range l.nodes {
		eventually(t, calmWithin, "node "+n.name+" finds all nodes well", func() error {
			for name, other := range n.http.nodes(t) {
				if other.Health != "alive" || other.Session != "live" {
					return fmt.Errorf("node %s is %s, its session %s", name, other.Health, other.Session)
				}
			}
			return nil
		})
	}
	t.Logf("calm after %v more", time.Since(begun).Round(time.Millisecond))
}
