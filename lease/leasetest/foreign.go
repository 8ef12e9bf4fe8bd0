package leasetest

import (
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// The leaders of other clusters, whose limits are higher. A node comes to one by a stray join, or
// because an address has changed hands; and a server that has lost its disk, and has nobody to
// join, would be one, were it not for its listening first.

const (
	clusterID = "seeded"  // of the cluster under test
	foreignID = "foreign" // of one that nodes stray to
	secondID  = "second"  // of one that a server forms alone
	// foreignTerm is far from the terms of the cluster under test, in which what is judged
	// elsewhere must not count.
	foreignTerm = 1 << 20
)

// otherCluster makes a cluster of one server outside of the world's nodes, which allows more than
// the cluster under test.
func (w *world) otherCluster(id string) *leadership {
	p := &process{w: w, index: maxNodes, name: id, dice: newDice(w.plan.Seed, 9), running: true, state: fsm.NewState()}
	var limits []limit.Limit
	for _, l := range w.plan.Limits {
		limit, err := l.limit(limit.SourceConfig)
		if err != nil {
			w.fail(BreachPlan, "the plan has a limit that can't be: %v", err)
		}
		if limit.Connections >= 0 {
			limit.Connections += 3
		}
		limits = append(limits, limit)
	}
	p.applied++
	p.state.Apply(indexStep, foreignTerm, &fsm.Init{ClusterID: id, TTL: w.plan.TTL.D(), Limits: limits})
	l := newLeadership(p, foreignTerm)
	l.foreign = true
	return l
}

// astray is the leader of another cluster that a node's next dial leads to; nil: none. One that has
// been in no cluster yet finds its cluster through its own configuration, before it dials anybody.
func (x *process) astray() *leadership {
	w := x.w
	switch {
	case x.second:
		return w.second
	case x.stray == 0 || x.cluster == "":
		return nil
	}
	x.stray--
	if w.foreign == nil {
		w.foreign = w.otherCluster(foreignID)
	}
	return w.foreign
}

// commitForeign commits what the leader of another cluster proposes.
func (l *leadership) commitForeign() {
	cmd := l.inflight
	l.inflight = nil
	l.p.applied++
	res := l.p.state.Apply(uint64(l.p.applied)*indexStep, l.term, cmd)
	l.alloc.NoteCommit(l.w.now - l.began)
	l.alloc.Applied(l.p.mono(), l.p.state, res)
	l.pump()
}

// loseSeed lets a server come back without its disk and with nobody to join. It listens first, is
// found by its cluster, and joins it as any node without data does; unless that rule is broken.
func (w *world) loseSeed(x *process, f Fault) {
	x.second = false
	w.crash(x, f)
	if w.rule == RuleSecondCluster {
		if w.second == nil {
			w.second = w.otherCluster(secondID)
		}
		x.second = true
	}
}
