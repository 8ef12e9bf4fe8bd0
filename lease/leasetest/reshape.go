package leasetest

import (
	"cmp"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// Write is a set of limits that takes the place of all that there are, in one entry, once the faults
// are over: At is since then.
type Write struct {
	At     Duration `json:"at"`
	Limits []Limit  `json:"limits"`
}

// String is the write as traces show it.
func (x Write) String() string { return string(mustJSON(x)) }

// reshapeRest is the time from the last write to when the cluster must be settled again.
const reshapeRest = 3 * time.Second

// reshape writes limits while nothing goes wrong. What was open before counts from then on, under
// whatever limit it comes.
func (w *world) reshape() {
	if len(w.plan.Writes) == 0 || w.breach != "" {
		return
	}
	w.trace.note(w.now, "world", "the limits are written anew")
	w.quiet()
	var last time.Duration
	for i, x := range w.plan.Writes {
		last = max(last, x.At.D())
		w.at(x.At.D(), w, evWrite, int64(i))
	}
	w.run(last + reshapeRest)
}

// quiet begins the time in which nothing goes wrong but that limits change.
func (w *world) quiet() {
	w.calm = true
	u := &w.up
	for i := range u.keys {
		u.keys[i].high, u.keys[i].heard = u.taken(i), w.now+hearing
	}
}

// write makes a plan's limits those of the cluster.
func (w *world) write(i int) {
	x := w.plan.Writes[i]
	cmd := &fsm.ReplaceLimits{Source: limit.SourceAPI}
	for _, l := range x.Limits {
		limit, err := l.limit(limit.SourceAPI)
		if err != nil {
			w.fail(BreachPlan, "the plan has a limit that can't be: %v", err)
			return
		}
		cmd.Limits = append(cmd.Limits, limit)
	}
	if _, done := w.raft.write(cmd); !done {
		w.at(50*ms, w, evWrite, int64(i))
		return
	}
	w.trace.note(w.now, "world", "wrote", x)
}

// lateOld allows for a connection that is opened by limits under which it counted elsewhere, because
// its node has not heard of the newest; and for a request that was in hand before, and counted since
// then.
func (u *upstream) lateOld(c *conn, i int) {
	h, admitted := &u.hosts[c.claims[i].place], c.claims[i].table
	if i == hostClaim && c.draw != nil { // it has waited since, and asked whether it is covered
		admitted = c.x.node.Table().Index
	}
	if u.w.calm && admitted < h.since {
		u.keys[h.key].high = max(u.keys[h.key].high, u.taken(h.key))
	}
}

// reshapes lets the limits of some plans be written anew, several times in a short while, once the
// faults are over: limits come, go, are merged and split, count otherwise, and have other numbers.
// Not where a log is put back: for how long levels are doubted begins anew with each change.
func (g *generator) reshapes() {
	d := newDice(g.p.Seed, 21)
	if !d.one(3) || slices.ContainsFunc(g.p.Faults, func(f Fault) bool { return f.Kind == FaultPutBack }) {
		return
	}
	g.rewrites(&d, 1+d.below(4))
}

// rewrites adds so many writes, and a last one that brings the first limits back.
func (g *generator) rewrites(d *dice, n int) {
	now := slices.Clone(g.p.Limits)
	at := d.upTo(300 * ms)
	for range n {
		for range 1 + d.below(3) {
			now = g.reshaped(d, now)
		}
		g.p.Writes = append(g.p.Writes, Write{Duration(at), slices.Clone(now)})
		at += d.scale(ms, second)
	}
	g.p.Writes = append(g.p.Writes, Write{Duration(at), g.p.Limits}) // by which the rest is judged
}

// reshaped changes one of some limits.
func (g *generator) reshaped(d *dice, limits []Limit) []Limit {
	limits = slices.Clone(limits)
	if len(limits) == 0 || d.one(3) {
		l := pick(d,
			Limit{Pattern: g.hosts[d.below(len(g.hosts))]}, Limit{Pattern: "*"}, Limit{Pattern: "*.x.org"},
			Limit{Scope: "total"}, Limit{Scope: "client", Pattern: "*"}, Limit{Scope: "client", Pattern: "10.0.0.1"}, Limit{Scope: "user", Pattern: "*"})
		l.Shared = l.Pattern != "" && l.Pattern[0] == '*' && l.Scope == "" && d.one(2)
		l.Connections = int64(d.below(8))
		if d.one(2) {
			l.Timeout, l.Size = Duration(d.between(500*ms, 5*second)), 1+d.below(20)
		}
		same := func(o Limit) bool {
			return cmp.Or(o.Scope, "host") == cmp.Or(l.Scope, "host") && o.Pattern == l.Pattern
		}
		return append(slices.DeleteFunc(limits, same), l)
	}
	i := d.below(len(limits))
	l := &limits[i]
	switch d.below(6) {
	case 0, 1:
		limits = slices.Delete(limits, i, i+1)
	case 2:
		l.Shared = !l.Shared && l.Scope == "" && l.Pattern[0] == '*'
	case 3:
		l.Report = !l.Report
	case 4:
		if l.Connections >= 0 {
			l.Connections, l.Evict = int64(d.below(4)), d.one(4)
		}
	default:
		if l.Connections >= 0 {
			l.Connections += int64(1 + d.below(10))
		}
	}
	return limits
}

// validateWrites names what makes the late writes impossible.
func (p *Plan) validateWrites(bad func(string, ...any)) {
	for _, x := range p.Writes {
		seen := map[limit.Pattern]bool{}
		for _, l := range x.Limits {
			limit, err := l.limit(limit.SourceAPI)
			if err == nil {
				err = limit.Validate()
			}
			if err != nil || seen[limit.Pattern] || l.Delete {
				bad("a write has the limit %s %q twice, or it can't be: %v", l.Scope, l.Pattern, err)
			}
			seen[limit.Pattern] = true
		}
	}
}
