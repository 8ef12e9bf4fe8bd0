package lease

import (
	"math"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// oneRequest is what one request takes from a bucket.
const oneRequest = float64(limit.TokenGrains)

// rateShare is what a pool of a rate has in place of slots: its node's part of the rate, as a
// bucket, and what is drawn from it. The pool's lock guards it.
type rateShare struct {
	bucket    bucket
	draws     drawMeter
	flowing   hungryFlows
	keptAt    time.Duration // of bytes: when something was kept last
	shortAt   time.Duration // of bytes: since when the node has had none, and wants some, of a limit that only reports
	uncovered float64       // what has passed since
	said      int64         // the units in use that the leader was told of
	saidFlows int64         // and of how many flows
	otherAt   time.Duration // when another node has a token, as the last answer said; 0: it did not say
	dueIndex  int           // among those that wait for time to pass
	total     *ownTotal     // of one connection alone: where it is counted with those of others
}

// unit is how many shares make one unit of a rate. Needs the pool's lock.
func (p *pool) unit() int64 { return p.limit.UnitShares(p.key.Resource) }

// resize lets the bucket be as large as what the node holds of the rate. It never fills. Needs the
// pool's lock.
func (p *pool) resize(now time.Duration) {
	if p.key.Resource.IsRate() {
		fill, size := partOf(p.limit, p.key.Resource, p.granted)
		p.bucket.resize(now, fill, size)
		p.told = false
	}
}

// fillUp takes over the level that came with a grant, which the pool has counted. Needs the pool's
// lock.
func (p *pool) fillUp(now time.Duration, level int64) {
	if p.key.Resource.IsRate() {
		p.resize(now)
		p.bucket.put(float64(max(level, 0)))
		p.used = false
	}
}

// leaveBucket takes the level of k shares out, before they are released: that of the whole units
// that are lost with them. Where no request waits here, tokens go whole: their parts, here and
// where the shares go, would let nobody in for as long as a token takes to come. Needs the pool's
// lock.
func (p *pool) leaveBucket(now time.Duration, k int64) {
	r := p.key.Resource
	units := p.limit.WholeUnits(r, p.granted)
	lost := units - p.limit.WholeUnits(r, p.granted-k)
	if lost > 0 {
		whole := r == limit.Requests && !p.awaited()
		p.leaving += p.bucket.leave(now, float64(lost)/float64(units), whole)
	}
}

// lose forgets what was granted: the session that held it is over. Needs the pool's lock.
func (p *pool) lose() {
	p.granted, p.releasing, p.leaving, p.kept = 0, 0, 0, 0
	p.lost++
	if p.key.Resource.IsRate() {
		p.bucket = bucket{at: p.bucket.at, life: p.bucket.life}
		p.bucket.void()
	}
}

// drawn notes what was taken. Needs the pool's lock.
func (p *pool) drawn(now time.Duration, grains float64) {
	p.draws.add(now, grains)
	p.used = true
	p.low = min(p.low, max(p.granted-p.unit(), 0)) // it is not idle throughout
}

// settleRate is settle for a rate: units go back, first of all those that are of no use; then
// tokens go to those who wait, as long as there are any. Needs the pool's lock.
func (n *Node) settleRate(now time.Duration, p *pool) {
	defer n.noteDue(now, p)
	defer n.noteSlow(p)
	if !p.capped() {
		for w := p.waiters.head; w != nil; w = p.waiters.head {
			n.answer(p, w, nil)
		}
		n.wakeFlows(p)
		return
	}
	if p.limit.Report {
		n.admitAsGhosts(now, p)
		n.wakeFlows(p)
	}
	n.giveBack(now, p, p.granted-p.limit.WholeUnits(p.key.Resource, p.granted)*p.unit())
	n.yield(now, p)
	if n.gate.admitsAt(now) {
		for p.waiters.head != nil && p.bucket.has(now, oneRequest*float64(1+p.kept)) {
			n.giveTurn(now, p)
		}
		n.feed(now, p)
	}
	n.yield(now, p)
	if n.leaving() && !p.awaited() && !n.goesOn(now, p) {
		n.giveBack(now, p, p.granted)
	}
}

// goesOn reports whether a node that leaves keeps what it has of a rate. While it drains, its
// connections move bytes as before: if their units went back after each piece, each piece would
// cost a log entry. Needs the pool's lock.
func (n *Node) goesOn(now time.Duration, p *pool) bool {
	return n.mayDraw(p) && now-p.usedAt < idleBuckets*time.Second
}

// mayDraw reports whether anybody may yet come for what a rate brings. A node that drains takes no
// new requests, and one that parts moves no more bytes either.
func (n *Node) mayDraw(p *pool) bool {
	return !n.leaving() || !n.parting() && p.key.Resource != limit.Requests
}

// giveTurn tells the first who waits that a token is there, which is kept for it: it takes it
// together with the others that it needs. A ghost needs no others. Needs the pool's lock.
func (n *Node) giveTurn(now time.Duration, p *pool) {
	w := p.waiters.head
	if w.ghost { // which has passed already
		p.bucket.level -= oneRequest
		p.drawn(now, oneRequest)
		p.draws.exceed(now, -oneRequest)
	} else {
		p.kept++
		w.draw.keeps[w.at] = keep{p, p.lost}
	}
	n.answer(p, w, nil)
	n.mark(p)
}

// awaited reports whether somebody waits for what a rate brings, or is about to take it. Needs the
// pool's lock.
func (p *pool) awaited() bool { return p.waiters.head != nil || p.kept > 0 || p.flows.head != nil }

// yield gives back what the leader asked for. A turn lasts until a token has been taken: a node
// that gave its unit back before the token is there would never have one. Needs the pool's lock.
func (n *Node) yield(now time.Duration, p *pool) {
	if p.target < 0 || p.granted <= p.target {
		return
	}
	k := p.granted - p.target
	if !p.used && p.awaited() {
		k = min(k, p.granted-p.unit())
	}
	n.giveBack(now, p, k)
}

// fewDraws is how many requests, or pieces of 4 KiB, in half a second say so little that no more
// units are asked for because of them: a burst once in a while is what a bucket is for.
const fewDraws = 4

// need is how many units the draw of lately takes, and how many more would be good to have, so that
// the next request finds a token. Needs the pool's lock.
func (p *pool) need(now time.Duration) (units, spare int64) {
	recent := p.draws.lately(now)
	all := p.limit.Units(p.key.Resource)
	if recent <= 0 || all == 0 {
		return 0, 0
	}
	held := p.granted / p.unit()
	perUnit := p.limit.PerSecond(p.key.Resource) / float64(all)
	units = min(int64(math.Ceil(recent/perUnit)), all)
	if recent/2 < fewDraws*p.grain() {
		return min(units, held), 0
	}
	return min(units, held), max(units-held, 0) + max(units/4, 1)
}

// grain is what one draw takes.
func (p *pool) grain() float64 {
	if p.key.Resource == limit.Requests {
		return oneRequest
	}
	return leastPiece
}

// idle is what a sweep may give back of a pool: free slots, or units that nobody needs. Units of a
// rate are in use until their bucket is full: in the log, nothing fills them. Needs the pool's
// lock.
func (p *pool) idle(now time.Duration) int64 {
	if !p.key.Resource.IsRate() {
		return p.free()
	}
	p.bucket.settle(now)
	if !p.capped() || p.awaited() || p.bucket.level < p.bucket.size {
		return 0
	}
	need, spare := p.need(now)
	return max(0, p.granted-(need+spare)*p.unit())
}

// rateDemand says what a node wants of a rate, in shares of whole units. Requests that wait, or
// were refused, don't say how many units they need: the node asks for twice what it has, up to all.
// Needs the pool's lock.
func (n *Node) rateDemand(now time.Duration, p *pool, d *leasepb.Demand) {
	unit, units := p.unit(), p.limit.Units(p.key.Resource)
	need, spare := p.need(now)
	more := max(min(max(2*(p.granted/unit), need)+1, units)-need, 1)
	d.InUse = need * unit
	if p.awaited() {
		d.Waiting = more * unit
	}
	p.told = d.Waiting > 0
	d.Flows = int64(math.Round(p.hungry(now)))
	if n.mayDraw(p) {
		if p.refused != [2]int64{} {
			d.Refused = more * unit
		}
		d.Headroom = spare * unit
	}
	if p.key.Resource == limit.Requests {
		if at, ever := p.tokenAt(now); ever {
			d.TokenInNs = int64(max(at-now, 1))
		}
	}
	d.Ask = n.askFor(now, p)
	p.said, p.saidFlows = need+spare, d.Flows
}

// meter looks whether the leader must hear that a rate is drawn from otherwise than it was told, or
// by another number of flows, or that nobody waits any more: it is not told when a wait ends, since
// another may begin at once. Needs the pool's lock.
func (n *Node) meter(now time.Duration, p *pool) {
	if !p.capped() {
		return
	}
	if n.leaving() {
		n.settle(now, p) // its connections may have ended
	}
	units, spare := p.need(now)
	need := units + spare
	if change := need - p.said; change > max(p.said/8, 1) || -change > max(p.said/8, 1) || (need == 0) != (p.said == 0) ||
		need == 0 && p.told && !p.awaited() || p.hungrier(now) {
		n.mark(p)
	}
}

// meterSome visits the next held pools of rates.
func (n *Node) meterSome(now time.Duration) {
	n.unmetered = min(n.unmetered, len(n.held))
	for k := 0; n.unmetered > 0 && k < n.bounds.Page; k++ {
		n.unmetered--
		if p := n.held[n.unmetered]; p.key.Resource.IsRate() {
			n.lock(p)
			n.meter(now, p)
			p.mu.Unlock()
		}
	}
}

// nextToken is how long it takes until the next token comes: from this node's units, or from those
// of others, which come when they are asked for. Where the leader did not say when others have one,
// it is the longest that it can take. Requests that wait in a queue may take it: they are not
// counted, because nobody knows how many of them will have given up by then. Needs the pool's lock.
func (p *pool) nextToken(now time.Duration) time.Duration {
	rate := p.limit.PerSecond(p.key.Resource)
	if rate <= 0 {
		return 0
	}
	next := time.Duration(math.Ceil(oneRequest / (rate * (1 - bucketDrift)) * float64(time.Second)))
	if at, ever := p.tokenAt(now); ever {
		next = min(next, max(at-now, 0))
	}
	if p.otherAt > now {
		next = min(next, p.otherAt-now)
	}
	return next
}

// tokenAt is when this node's units have a token that is not kept for anybody. Needs the pool's
// lock.
func (p *pool) tokenAt(now time.Duration) (at time.Duration, ever bool) {
	p.bucket.settle(now)
	return p.bucket.until(oneRequest * float64(1+p.kept))
}

// noteDue lets the core come back to a pool when the next who waits can go on. Needs the pool's
// lock.
func (n *Node) noteDue(now time.Duration, p *pool) {
	var at time.Duration
	if p.granted > 0 && p.capped() && !(p.leased() && n.parting()) { // else the gate stays closed
		p.bucket.settle(now)
		if p.waiters.head != nil {
			at, _ = p.tokenAt(now)
		}
		if flowAt, ever := p.flowDue(); ever && (at == 0 || flowAt < at) {
			at = flowAt
		}
	}
	switch {
	case at == p.dueAt:
	case p.dueAt == 0:
		p.dueAt = at
		n.dues.Push(p)
	case at == 0:
		n.dues.Remove(p)
		p.dueAt = 0
	default:
		p.dueAt = at
		n.dues.Fix(p)
	}
}

// comeDue settles the pools whose time has come, a page of them at most.
func (n *Node) comeDue(now time.Duration) {
	for k := 0; k < n.bounds.Page && len(n.dues) > 0 && n.dues[0].dueAt <= now; k++ {
		p := n.dues.Pop()
		p.dueAt = 0
		n.lockFlow(p)
		n.settleFlow(now, p)
		p.mu.Unlock()
	}
}

// DueAt implements [due.Item].
func (p *pool) DueAt() time.Duration { return p.dueAt }

// Place implements [due.Item].
func (p *pool) Place() *int { return &p.dueIndex }
