package leader

import "time"

// regrets remembers of a rate's key which nodes' last units were fetched for others, because they
// had not drawn anything for a moment, and whether they came to need them again soon. Where that
// happens, requests are rare but steady, and each would cost entries: the last unit then stays
// longer. Where it does not, demand has moved, and the unit goes at once.
type regrets struct {
	fetched  map[uint64]time.Duration // by session: when
	patience time.Duration            // how long a last unit stays idle
}

const (
	// regretWithin is how soon after its last unit was fetched a node must need one for a regret.
	regretWithin = 10 * time.Second
	minPatience  = time.Second
	maxPatience  = 10 * time.Second
	// settleFor is how long a node keeps what was granted to it and it does not draw, while others
	// wait: what requests wait for, nobody knows before it has been granted.
	settleFor = 500 * time.Millisecond
	// spareFor is how long a node that draws from a rate keeps a little more than it draws, while
	// others wait.
	spareFor = 3 * time.Second
	// sparedPart bounds the last units that stay: one in so many. Of a node that used more than one
	// before, movedPart: its demand has rather moved, and others must soon have nearly all.
	sparedPart = 5
	movedPart  = 20
)

// noteFetch notes where all units are fetched from a node that draws nothing.
func (p *keyPlan) noteFetch(r *row) {
	g := &p.c.regrets
	if !p.rate || r.target != 0 || r.held == 0 || r.says.inUse+r.says.waiting > 0 {
		return
	}
	if g.fetched == nil || len(g.fetched) > 2*len(p.c.demands)+16 { // of sessions that have ended, too
		g.fetched = map[uint64]time.Duration{}
	}
	id := r.d.peer.ID
	if _, again := g.fetched[id]; !again {
		g.fetched[id] = p.now
	}
}

// look learns from what a node has asked for since.
func (g *regrets) look(now time.Duration, r *row) {
	id := r.d.peer.ID
	at, fetched := g.fetched[id]
	switch {
	case !fetched:
	case now-at > regretWithin:
		g.patience /= 2
		delete(g.fetched, id)
	case r.present() && r.held == 0:
		g.patience = min(max(2*g.patience, minPatience), maxPatience)
		delete(g.fetched, id)
	}
}

// spare lets units that a node says it has no use for count as in use for a while: what was granted
// for requests that waited, since nobody knows before how much they need, and, where that has shown
// to be wise, the last unit of a node that draws nothing any more. Of few units one would be too
// large a part of a rate.
func (p *keyPlan) spare(r *row) {
	g := &p.c.regrets
	g.look(p.now, r)
	if until := r.d.idleSince + settleFor; r.says.inUse > 0 && r.says.idle() > 0 && p.now < until {
		r.says.inUse = r.says.held
		p.a.wakeAt(p.c, until)
	}
	if g.patience == 0 || r.held == 0 || r.says.held == 0 || r.says.inUse+r.says.waiting > 0 {
		return
	}
	part := int64(sparedPart)
	if r.d.most > p.unit {
		part = movedPart
	}
	if (p.spared+1)*part > p.capacity {
		return
	}
	if until := r.d.quietSince + g.patience; p.now < until {
		r.says.inUse = 1
		p.spared++
		p.a.wakeAt(p.c, until)
	}
}
