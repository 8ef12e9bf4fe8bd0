package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/judge"
	"github.com/weirproxy/weir/e2e/netns"
)

// isolation is a scenario in which some nodes can't renew their leases, and a majority can.
type isolation struct {
	name   string
	choose func(leader *node, followers []*node) (victims []*node)
	faults func(victims, others []string) []netns.Fault
	unseen bool // the upstream is cut off from them, too
	heard  bool // the others still hear them, until they notice themselves that they are alone
}

func aFollower(_ *node, followers []*node) []*node { return followers[:1] }

func twoFollowers(_ *node, followers []*node) []*node { return followers[:2] }

func theLeader(leader *node, _ []*node) []*node { return []*node{leader} }

func theLeaderAndOne(leader *node, followers []*node) []*node { return []*node{leader, followers[0]} }

func fromAll(victims, others []string) []netns.Fault {
	return netns.Cut(victims, slices.Concat(others, []string{upstreamMember}))
}

func unheard(victims, others []string) []netns.Fault { return netns.OneWay(victims, others) }

func deaf(victims, others []string) []netns.Fault { return netns.OneWay(others, victims) }

func withoutRPC(victims, others []string) []netns.Fault {
	return netns.CutPorts(victims, others, labRPC)
}

func withoutGossip(victims, others []string) []netns.Fault {
	return netns.CutPorts(victims, others, labGossip)
}

// The isolations are spread over labs of their own, so that they run side by side. Where a leader
// is cut off, the ttl leaves the others the time to elect the next one before their own leases run
// out: of five, three must have missed the old one.
func TestPartitionFollower(t *testing.T) {
	t.Parallel()
	runAll(t, startLab(t, labPlan{}), []isolation{
		{name: "cut off from the nodes", choose: aFollower, faults: netns.Cut},
		{name: "cut off from everything", choose: aFollower, faults: fromAll, unseen: true},
		{name: "not heard", choose: aFollower, faults: unheard},
		{name: "deaf", choose: aFollower, faults: deaf, heard: true},
		{name: "without RPC", choose: aFollower, faults: withoutRPC},
	})
}

func TestPartitionLeader(t *testing.T) {
	t.Parallel()
	runAll(t, startLab(t, labPlan{ttl: 4 * time.Second}), []isolation{
		{name: "cut off from the nodes", choose: theLeader, faults: netns.Cut},
		{name: "cut off from everything", choose: theLeader, faults: fromAll, unseen: true},
		{name: "not heard", choose: theLeader, faults: unheard},
		{name: "deaf", choose: theLeader, faults: deaf, heard: true},
		{name: "without RPC", choose: theLeader, faults: withoutRPC},
	})
}

func TestPartitionOfFive(t *testing.T) {
	t.Parallel()
	l := startLab(t, labPlan{names: []string{"a", "b", "c", "d", "e"}, ttl: 5 * time.Second})
	runAll(t, l, []isolation{
		{name: "two followers", choose: twoFollowers, faults: netns.Cut},
		{name: "leader", choose: theLeader, faults: netns.Cut},
		{name: "leader and one", choose: theLeaderAndOne, faults: netns.Cut},
	})
	t.Run("two two one", func(t *testing.T) { noMajority(t, l) })
}

func runAll(t *testing.T, l *lab, scenarios []isolation) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.run(t, l) })
	}
}

// run is one isolation, from full use to full use.
func (s isolation) run(t *testing.T, l *lab) {
	leader, followers := l.leader(t)
	victims := s.choose(leader, followers)
	tr := startTrial(t, l)
	within := l.ttl + reclaimSlack
	if s.heard { // by followers, which don't look for another leader then
		within += electionTime
	}
	tr.isolate(t, victims, s)
	t.Logf("cut off: nodes %v, leader %s", names(victims), leader.name)
	for _, n := range victims {
		if s.unseen {
			tr.awaitNoSocket(t, n)
		}
		tr.awaitFenced(t, n)
	}
	tr.awaitReclaimed(t)
	for _, n := range victims {
		tr.awaitTold(t, n)
		tr.awaitAlone(t, n)
	}
	tr.outlast()
	tr.heal(t)
	v := tr.finish(t)
	acquit(t, v)
	if v.Full.IsZero() { // the time line must show what awaitReclaimed has seen
		t.Fatalf("%s: the time line shows at no time after the cut that nodes %v use all slots", tr.name, names(tr.rest))
	}
	took := v.Full.Sub(tr.faulted)
	t.Logf("reclaimed after %v, %v after the last old connection's end; peak %d of %d", took.Round(time.Millisecond),
		v.Full.Sub(v.LastEnd).Round(time.Millisecond), v.Peak, tr.limit)
	if took > within {
		tr.errorf(t, "%s: nodes %v use all slots only %v after the cut; want %v", tr.name, names(tr.rest), took, within)
	}
	l.calm(t)
}

// noMajority splits five nodes so that none can lead: all are fenced, and all is well after the
// heal.
func noMajority(t *testing.T, l *lab) {
	tr := startTrial(t, l)
	all := names(l.nodes)
	tr.fault(t, l.nodes, false, slices.Concat(netns.Cut(all[:2], all[2:]), netns.Cut(all[2:4], all[4:]))...)
	for _, n := range l.nodes {
		tr.awaitFenced(t, n)
	}
	tr.limited.awaitOpen(t, patience, 0)
	for _, n := range l.nodes {
		tr.awaitAlone(t, n)
	}
	tr.outlast()
	tr.heal(t)
	acquit(t, tr.finish(t))
	l.calm(t)
}

// TestPartitionOfGossip: where gossip fails and the rest works, nobody loses anything, and the
// leader says what it sees.
func TestPartitionOfGossip(t *testing.T) {
	t.Parallel()
	l := startLab(t, labPlan{})
	for _, s := range []struct {
		name   string
		choose func(leader *node, followers []*node) []*node
	}{{"follower", aFollower}, {"leader", theLeader}} {
		t.Run(s.name, func(t *testing.T) { gossipCut(t, l, s.choose) })
	}
	t.Run("flapping follower", func(t *testing.T) { flap(t, l, aFollower) })
}

func gossipCut(t *testing.T, l *lab, choose func(*node, []*node) []*node) {
	leader, followers := l.leader(t)
	victim := choose(leader, followers)[0]
	var others []*node
	for _, n := range l.nodes {
		if n != victim {
			others = append(others, n)
		}
	}
	tr := startTrial(t, l)
	tr.fault(t, nil, false, withoutGossip([]string{victim.name}, names(others))...)
	// Whose view it is: the leader's, who hears all keep-alives, and finds dead whom its gossip
	// does.
	blamed := []*node{victim}
	if victim == leader {
		blamed = others
	}
	eventually(t, 15*time.Second, "the leader finds nodes dead, and their sessions live", func() error {
		seen := leader.http.nodes(t)
		for _, n := range blamed {
			if got := seen[n.name]; got.Health != "dead" || got.Session != "live" {
				return fmt.Errorf("node %s is %s, its session %s", n.name, got.Health, got.Session)
			}
		}
		return nil
	})
	t.Logf("gossip finds %v dead after %v", names(blamed), time.Since(tr.faulted).Round(time.Millisecond))
	tr.awaitFull(t, patience, l.nodes)
	for _, n := range l.nodes {
		if err := n.ready(); err != nil {
			tr.errorf(t, "%s: node %s: %v", tr.name, n.name, err)
		}
	}
	tr.heal(t)
	acquit(t, tr.finish(t))
	l.calm(t)
}

// How the flapping link flaps.
const (
	flapFor  = 10 * time.Second
	flapUp   = 250 * time.Millisecond
	flapDown = 350 * time.Millisecond
)

// flap takes a node's link to the other nodes down and up.
func flap(t *testing.T, l *lab, choose func(*node, []*node) []*node) {
	leader, followers := l.leader(t)
	tr := startStorm(t, l)
	victim, others := names(choose(leader, followers)), []string{}
	for _, name := range names(l.nodes) {
		if name != victim[0] {
			others = append(others, name)
		}
	}
	before := tr.limited.Stats().Accepted
	for begun := time.Now(); time.Since(begun) < flapFor; {
		tr.fault(t, nil, false, netns.Cut(victim, others)...)
		measure(flapDown)
		tr.set(t)
		measure(flapUp)
	}
	t.Logf("%d connections while the link of node %s flapped", tr.limited.Stats().Accepted-before, victim[0])
	tr.heal(t)
	acquit(t, tr.finish(t))
	l.calm(t)
}

// TestPartitionByWeather: all links between nodes lose packets; all links to nodes are slow.
func TestPartitionByWeather(t *testing.T) {
	t.Parallel()
	l := startLab(t, labPlan{})
	all := names(l.nodes)
	t.Run("loss", func(t *testing.T) {
		tr := startStorm(t, l)
		tr.fault(t, nil, false, netns.Fault{From: all, To: all, KeepARP: true, Percent: stormLoses})
		tr.sitOut(t, fmt.Sprintf("%d %% of the packets between nodes lost", stormLoses), func() error { return nil })
	})
	t.Run("slow", func(t *testing.T) {
		tr := startStorm(t, l)
		how, err := l.net.Slow(stormDelay, all...)
		if err != nil {
			t.Fatal(err)
		}
		tr.sitOut(t, how, func() error { return l.net.Fast(all...) })
	})
	t.Run("flapping leader", func(t *testing.T) { flap(t, l, theLeader) })
}

// What a storm does.
const (
	stormFor   = 6 * time.Second
	stormLoses = 30 // percent
	stormDelay = 300 * time.Millisecond
)

// startStorm is startTrial where anybody may lose its lease.
func startStorm(t *testing.T, l *lab) *trial {
	tr := startTrial(t, l)
	tr.unsettled = true
	return tr
}

// sitOut lets the storm blow, ends it, and sees all well again.
func (tr *trial) sitOut(t *testing.T, storm string, end func() error) {
	before := tr.limited.Stats().Accepted
	measure(stormFor)
	t.Logf("%d connections in %v of %s", tr.limited.Stats().Accepted-before, stormFor, storm)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	tr.heal(t)
	acquit(t, tr.finish(t))
	tr.calm(t)
}

// TestPartitionJudgeCanFail: nodes that keep their connections when their lease has run out exceed
// the limit, and the judge says so.
func TestPartitionJudgeCanFail(t *testing.T) {
	t.Parallel()
	l := startLab(t, labPlan{onExpiry: "keep"})
	_, followers := l.leader(t)
	tr := startTrial(t, l)
	tr.isolate(t, followers[:1], isolation{faults: netns.Cut})
	tr.awaitReclaimed(t)
	tr.outlast()
	tr.heal(t)
	v := tr.finish(t)
	for _, k := range []judge.Kind{judge.OverLimit, judge.OpenLate, judge.HeardLate, judge.ReusedEarly} {
		if !slices.ContainsFunc(v.Breaches, func(b judge.Breach) bool { return b.Kind == k }) {
			t.Errorf("no breach of kind %d: %v", k, v.Breaches)
		}
	}
	if len(v.Breaches) > 0 {
		t.Logf("as it must be, the judge finds %d breaches, the first: %v", len(v.Breaches), v.Breaches[0])
	}
}
