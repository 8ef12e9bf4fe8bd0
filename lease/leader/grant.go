package leader

import (
	"cmp"
	"slices"
	"time"
)

// grant gives out the free slots: first to connections that are open without one, then to waiting
// requests up to their node's share, then to waiting requests beyond it, then to nodes whose
// requests were refused lately and may come back. Where requests can't wait for long, such a node
// goes before requests that wait elsewhere, if it is owed slot-time. Slots that nobody wants become
// headroom.
func (p *keyPlan) grant() {
	if p.overhang() > 0 {
		p.cover()
	}
	if p.overhang() > 0 {
		return
	}
	queue := p.queue()
	for _, r := range queue {
		if r.present() || p.claims(r) {
			p.free -= r.give(r.share-r.held, p.free)
		}
	}
	for _, r := range queue { // once nobody of these is below: [keyPlan.aimAtShares] would fetch it back
		switch {
		case r.held > r.share:
		case r.present():
			p.free -= r.give(min(1, r.unserved()), p.free)
		case p.claims(r):
			p.free -= r.give(min(1, r.short()), p.free)
		}
	}
	for _, r := range queue {
		p.free -= r.give(r.unserved(), p.free)
	}
	for _, r := range queue {
		p.free -= r.give(r.share-r.held, p.free)
	}
	for _, r := range queue {
		p.free -= r.give(r.short(), p.free)
	}
	if p.free > 0 && !p.tight {
		headroom := make([]int64, len(p.rows))
		for i, r := range p.rows {
			headroom[i] = max(0, r.want+r.says.headroom-r.held)
		}
		shares, _ := divide(p.free, headroom, nil)
		for i, r := range p.rows {
			p.free -= r.give(shares[i], p.free)
		}
	}
	p.putBack()
}

// putBack returns units that were fetched for requests which have gone meanwhile, as their nodes
// give them back: in the log nothing would fill them. Full ones lose nothing there. What comes back
// again was not asked for: its node is leaving.
func (p *keyPlan) putBack() {
	if !p.rate {
		return
	}
	for _, r := range p.rows {
		units := r.d.fetched / p.unit
		if full := p.limit.BurstGrains(p.c.key.Resource) / p.capacity * units; r.d.level < full-units {
			p.free -= r.give(units, p.free)
			r.d.fetch = 0
		}
	}
}

// queue lists the rows in the order in which they are served: by slot-time owed, then by how long
// they have been short. What is owed is compared in steps of half a turn, so that a newcomer does
// not overtake a long waiter by a few milliseconds.
func (p *keyPlan) queue() []*row {
	queue := slices.Clone(p.rows)
	grain := p.a.turn / 2
	slices.SortStableFunc(queue, func(x, y *row) int {
		return cmp.Or(cmp.Compare(y.d.owed/grain, x.d.owed/grain), cmp.Compare(p.shortSince(x), p.shortSince(y)))
	})
	return queue
}

// shortSince is since when a row has had less than it wants; one that has just given a slot back
// comes last.
func (p *keyPlan) shortSince(r *row) time.Duration {
	if r.d.shortSince == 0 {
		return p.now
	}
	return r.d.shortSince
}

// cover gives slots to connections that are open without one, to those in use first. As long as
// some that nobody uses are to be closed for want of a slot, all others wait for theirs. Otherwise
// a request might take one of the former into use again, while a slot for one of the latter, which
// has ended meanwhile, lets another be opened.
func (p *keyPlan) cover() {
	busy, kept := make([]int64, len(p.rows)), make([]int64, len(p.rows))
	for i, r := range p.rows {
		busy[i] = min(max(0, r.says.inUse-r.held), r.overhang)
		kept[i] = r.overhang - busy[i]
	}
	p.promise(busy)
	if toClose := p.promise(kept); toClose > 0 {
		return
	}
	for _, r := range p.rows {
		p.back -= r.give(r.promised, r.promised)
		r.overhang, r.promised = r.overhang-r.promised, 0
	}
}

// promise keeps free slots back for connections, and returns how many of these get none.
func (p *keyPlan) promise(overhangs []int64) (lacking int64) {
	for i, n := range divideAll(p.free, overhangs) {
		p.rows[i].promised += n
		p.free -= n
		p.back += n
		lacking += overhangs[i] - n
	}
	return lacking
}
