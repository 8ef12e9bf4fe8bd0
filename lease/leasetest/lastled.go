package leasetest

import (
	"slices"
	"time"
)

// contact is when a server last answered a leader, by its own clock.
type contact struct {
	term   uint64
	newest time.Duration // one of that term
	former time.Duration // one of an earlier term, or in an earlier process
}

func (c *contact) heard(term uint64, now time.Duration) {
	switch {
	case term > c.term:
		c.former = max(c.former, c.newest)
		c.term, c.newest = term, now
	case term == c.term:
		c.newest = now
	default:
		c.former = max(c.former, now)
	}
}

func (c *contact) before(term uint64) time.Duration {
	if c.term == term {
		return c.former
	}
	return max(c.former, c.newest)
}

// reached lists the servers that can talk with one, itself included.
func (r *raft) reached(x *process) (all []*process) {
	w := r.w
	for _, y := range w.nodes[:w.plan.Servers] {
		if y.awake() && w.links.raft[x.index][y.index] == 0 && w.links.raft[y.index][x.index] == 0 {
			all = append(all, y)
		}
	}
	return all
}

// answered notes that a majority has answered a leader: no more of them than it takes, and in one
// term the same as far as they can, so that the others have not heard of it for long.
func (r *raft) answered(l *leadership) {
	if l.foreign {
		return
	}
	others := slices.DeleteFunc(r.reached(l.p), func(y *process) bool { return y == l.p })
	d := newDice(r.w.plan.Seed, 18, l.term)
	for _, y := range append(some(&d, others, r.w.plan.Servers/2), l.p) {
		y.contact.heard(l.term, y.mono())
	}
}

// some picks n of the servers.
func some(d *dice, of []*process, n int) []*process {
	for i := range min(n, len(of)) {
		j := i + d.below(len(of)-i)
		of[i], of[j] = of[j], of[i]
	}
	return of[:min(n, len(of))]
}

// askLastLed asks a majority when they last answered an earlier leader. Who has not found out yet
// that it was deposed says nothing.
func (l *leadership) askLastLed() {
	w := l.w
	if l.dead || l != w.raft.lead {
		return
	}
	r := &w.raft
	heard := slices.DeleteFunc(r.reached(l.p), func(y *process) bool {
		return slices.ContainsFunc(r.leaderships, func(o *leadership) bool { return o.p == y && o.term < l.term })
	})
	majority := w.plan.Servers/2 + 1
	if len(heard) < majority {
		l.p.at(r.asks.between(50*ms, 200*ms), true, l, evAskLastLed, 0)
		return
	}
	heard = some(&r.asks, heard, majority)
	if w.rule == RuleAsksItself {
		heard = []*process{l.p}
	}
	ago := heard[0].mono() - heard[0].contact.before(l.term)
	for _, y := range heard[1:] {
		if age := y.mono() - y.contact.before(l.term); (age < ago) != (w.rule == RuleOldestContact) {
			ago = age
		}
	}
	l.p.at(r.asks.upTo(w.rtt), false, l, evLastLed, int64(ago))
}

// hearLastLed takes the answer.
func (l *leadership) hearLastLed(ago time.Duration) {
	if l.dead {
		return
	}
	l.w.trace.note(l.w.now, l.p.name, "hears that nobody has led for", ago)
	l.alloc.LastLed(l.p.mono() - ago)
	l.pump()
}

// successions cut nodes off from leaders while one leader follows another: what a node had from the
// former one counts as long as the new one waits for it.
func (g *generator) successions() {
	p, d := g.p, newDice(g.p.Seed, 19)
	if p.Servers == 1 || !d.one(3) {
		return
	}
	ttl := p.TTL.D()
	for range 1 + d.below(3) {
		at := d.upTo(p.Length.D())
		g.add(at, Fault{Kind: FaultStreamCut, Node: d.below(p.Nodes), For: Duration(d.between(ttl/2, 2*ttl))})
		at += d.upTo(ttl / 2)
		soon := func() Duration { return Duration(d.upTo(20 * ms)) }
		if d.one(2) {
			g.add(at, Fault{Kind: FaultCrash, Node: -1, For: soon()})
		} else {
			g.add(at, Fault{Kind: FaultDepose, For: soon(), Late: Duration(d.upTo(ttl)) * Duration(d.below(2))})
		}
		if d.one(2) {
			g.add(at, Fault{Kind: FaultCrash, Node: d.below(p.Servers), For: soon()})
		}
	}
	slices.SortStableFunc(p.Faults, func(x, y Fault) int { return int(x.At - y.At) })
}
