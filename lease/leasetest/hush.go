package leasetest

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/limit"
)

// hush lets nobody ask for anything for a while: what is leased goes back, and then all come at
// once.
func (w *world) hush(within time.Duration) {
	w.hushed = max(w.hushed, w.now+within)
	for _, x := range slices.Concat(w.nodes, w.twins) {
		for _, l := range x.flows {
			if l.busy {
				l.busy = false
				l.phase++
				w.silent(x, &l.dice, l, evPhase, l.phase)
			}
		}
	}
}

// silent puts off an event while nobody is to ask.
func (w *world) silent(x *process, d *dice, to actor, kind uint8, n int64) bool {
	if w.now >= w.hushed {
		return false
	}
	x.at(w.hushed-w.now+d.upTo(20*ms), false, to, kind, n)
	return true
}

// dips lower the burst of a rate for a while in which mostly nobody asks: what was taken under the
// larger one counts when that holds again.
func (g *generator) dips() {
	d := newDice(g.p.Seed, 20)
	var rated []Limit
	for _, l := range g.p.Limits {
		if l.Burst > 1 || l.AtOnce > limit.MinByteBurst {
			rated = append(rated, l)
		}
	}
	if len(rated) == 0 || !g.changesLimits() || d.one(2) {
		return
	}
	for range 1 + d.below(2) {
		l, at, long := pick(&d, rated...), d.upTo(g.p.Length.D()), d.between(second, 6*second)
		dip := l
		dip.Burst, dip.AtOnce = min(l.Burst, 1), min(l.AtOnce, limit.MinByteBurst)
		if !d.one(4) {
			g.add(at, Fault{Kind: FaultHush, For: Duration(long + d.upTo(300*ms))})
		}
		g.add(at+d.upTo(second), Fault{Kind: FaultLimit, Limit: &dip})
		g.add(at+long, Fault{Kind: FaultLimit, Limit: &l})
	}
	slices.SortStableFunc(g.p.Faults, func(x, y Fault) int { return int(x.At - y.At) })
}
