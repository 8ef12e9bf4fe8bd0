package leader

import (
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// gate keeps slots back from keys that may count more than is known, since limits changed: what is
// open and counted elsewhere before, or not at all.
type gate struct {
	table *limit.Table // that it goes by
	first uint64       // the index of the one that the leader began with
	// moved is, by scope, the index of the last table in which a limit was gone, or counted
	// otherwise than before: what it counted may count under any other key of the scope.
	moved map[limit.Scope]uint64
	// fresh has the limits that are new, or count otherwise, with the index of their table, for as
	// long as nodes that have not heard of it may be asked. order has them by their time.
	fresh map[limit.Pattern]uint64
	order []freshLimit
}

type freshLimit struct {
	pattern limit.Pattern
	index   uint64
	at      time.Duration
}

// follow goes by a table, which is the first or comes after the one before. What is older than keep
// is forgotten.
func (g *gate) follow(now, keep time.Duration, t *limit.Table) {
	old := g.table
	if old == t {
		return
	}
	if g.table = t; old == nil {
		g.first, g.moved, g.fresh = t.Index, map[limit.Scope]uint64{}, map[limit.Pattern]uint64{}
		return
	}
	for len(g.order) > 0 && g.order[0].at < now-keep {
		if f := g.order[0]; g.fresh[f.pattern] == f.index { // else it has gone and come again since
			delete(g.fresh, f.pattern)
		}
		g.order = g.order[1:]
	}
	if old.ShapeIndex == t.ShapeIndex {
		return
	}
	was, is := old.Limits(), t.Limits()
	for len(was) > 0 || len(is) > 0 {
		order := 0 // of the next of each
		switch {
		case len(was) == 0:
			order = 1
		case len(is) == 0:
			order = -1
		default:
			order = was[0].Pattern.Compare(is[0].Pattern)
		}
		switch {
		case order < 0:
			g.moved[was[0].Pattern.Scope()] = t.Index
		case order > 0:
			g.fresh[is[0].Pattern] = t.Index
			g.order = append(g.order, freshLimit{is[0].Pattern, t.Index, now})
		case !was[0].SameShape(&is[0]):
			g.moved[is[0].Pattern.Scope()] = t.Index
		}
		if order <= 0 {
			was = was[1:]
		}
		if order >= 0 {
			is = is[1:]
		}
	}
}

// since is the table from which on a key counts what it does.
func (g *gate) since(key limit.Key, l *limit.Limit) uint64 {
	return max(g.first, g.moved[key.Scope], g.fresh[l.Pattern])
}

// gateClosed reports whether a key under a limit must wait for nodes to say what they have open, also
// if some of it is granted already. Only under the table that the leader began with such a key may
// pass: its nodes say what they have before they are granted more.
func (a *Allocator) gateClosed(now time.Duration, st *fsm.State, c *contest, l *limit.Limit) (until time.Duration, closed bool) {
	a.gate.follow(now, a.ttl, st.Table())
	since := a.gate.since(c.key, l)
	if c.passed >= since {
		return 0, false
	}
	if c.gatedSince == 0 {
		c.gatedSince = now
	}
	if c.gatedFor != since { // nodes have to hear of one more change
		c.gatedFor, c.gatedAnew = since, now
	}
	until = min(c.gatedAnew+gatePatience, c.gatedSince+gatePatienceMost)
	said := true
	for _, peer := range a.order {
		if a.eligible(now, peer) && peer.limits < since {
			said = false
		}
	}
	if said || since == a.gate.first && st.Granted(c.key) > 0 || now >= until {
		c.passed, c.gatedSince = since, 0
		return 0, false
	}
	return until, true
}
