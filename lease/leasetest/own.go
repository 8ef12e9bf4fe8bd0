package leasetest

import (
	"time"

	"github.com/weirproxy/weir/limit"
)

// A limit of scope connection is each connection's own, in each direction: no other connection
// counts, and no lease. So the judge of a flow goes by the limits that its node knows, and excuses
// nothing, whatever becomes of the node's session.

// ownLimits adds, to some of the plans with flows, a limit of scope connection, and changes of it.
func (g *generator) ownLimits() {
	d := newDice(g.p.Seed, 15)
	if d.one(2) {
		return
	}
	l := Limit{Scope: limit.ScopeConnection.String(), Connections: limit.Unlimited, Report: d.one(10)}
	l.bytes(&d)
	g.p.Limits = append(g.p.Limits, l)
	if g.changesLimits() {
		for range d.below(4) {
			g.pacedChange(&d, l)
		}
	}
}

// governOwn takes over what the flow's node knows now of its own limit.
func (f *flow) governOwn(t *limit.Table) {
	var second, burst float64
	if l, _ := t.Find(limit.ScopeConnection, &f.subject); l.Caps(f.way) && !l.Report {
		second, burst = l.PerSecond(f.way)*(1+float64(f.x.ppm)/1e6), float64(l.BurstGrains(f.way))
	}
	if r := &f.own; second != r.now.second || burst != r.now.burst {
		r.now = rateSpan{second: second, burst: burst}
		r.add(rateStep{taking: taking{at: f.w.now}, second: second, burst: burst})
	}
}

// movedOwn judges bytes by the flow's own limit.
func (f *flow) movedOwn(n float64) {
	r := &f.own
	if r.now.second == 0 {
		return
	}
	t := taking{f.w.now, n}
	r.takes = append(r.takes, t)
	if over := r.add(rateStep{taking: t}); over > slackOf(f.way) {
		f.w.fail(BreachOverRate, "the %s of one connection on node %s took %g, which is %.3f more than %.3g a second and %.3g at once allow each", f.way, f.x.name, n, over, r.now.second, r.now.burst)
	}
}

// limits is how many limits count the flow's bytes.
func (f *flow) limits() int {
	n := len(f.counted())
	if f.own.now.second != 0 {
		n++
	}
	return n
}

// ownPiece is how many bytes a flow takes of its own limit at once, and how long that takes: it is
// woken a little late.
func (f *flow) ownPiece() (bytes float64, takes time.Duration) {
	r := &f.own
	bytes = min(pieceOf(r), max(r.now.burst/2, float64(limit.MinByteBurst)), float64(f.Most))
	return bytes, time.Duration(bytes/r.now.second*float64(time.Second)) + 10*ms
}

// ownWanted is how many bytes a flow must have used of its own limit in a while in which it was
// always busy: nearly all, or half where it waits for others too, while its own runs over.
func (f *flow) ownWanted(window time.Duration) float64 {
	bytes, takes := f.ownPiece()
	part := 0.9
	if f.limits() > 1 {
		part = 0.5
	}
	return bytes * (part*float64(window)/float64(takes) - 2)
}
