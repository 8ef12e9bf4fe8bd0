package leader

import (
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

const (
	// gatePatience bounds how long a newly counted key waits for all nodes to say what they have
	// open.
	gatePatience = time.Second
	// gatePatienceMost bounds it where limits change again and again meanwhile.
	gatePatienceMost = 5 * gatePatience
	// maxOwed bounds the slot-time that a node is owed.
	maxOwed = time.Second
)

// keyPlan is the work sheet for one key. It counts in units, of slots and rates alike: see
// [measure].
type keyPlan struct {
	a     *Allocator
	c     *contest
	now   time.Duration
	limit *limit.Limit
	measure
	turn   time.Duration // how long a turn of an extra unit lasts
	rows   []*row
	fixed  int64 // held by sessions that can't be asked: they are dead, cut off, or have not reported yet
	free   int64 // may be granted now
	back   int64 // free, but held back for a moment
	gated  int64 // of these, until all nodes have said what they have open
	rests  int64 // of a process that has started again: may be open still
	spared int64 // last units that count as in use
	tight  bool  // more is wanted than there is
	wait   bool  // grants are held back for a moment: slots rest, or nodes have yet to say what they have open
}

// plan decides one key: what to grant, whom to ask for slots back, and who can be refused.
func (a *Allocator) plan(now time.Duration, st *fsm.State, c *contest) []fsm.Adjustment {
	limit := st.Table().Governing(c.key)
	if !limit.Caps(c.key.Resource) {
		for _, d := range c.demands {
			d.ask, d.shortSince = 0, 0 // the node lets them in when it hears of the limits
			a.setTarget(d, target{slots: leasepb.NoTarget})
		}
		return nil
	}
	p := a.decide(now, st, c, limit)
	p.answer()
	var covers, adds []fsm.Adjustment
	for _, r := range p.rows {
		add := fsm.Adjustment{Session: r.d.peer.ID, Key: c.key, Delta: r.add * p.unit}
		switch {
		case r.add == 0:
		case p.overhangs && r.open() > r.held-r.add:
			covers = append(covers, add)
		default:
			adds = append(adds, add)
		}
	}
	return append(covers, adds...) // if the limit is lowered meanwhile, the log cuts the last ones
}

// decide fills in a plan: who gets how many, and who is told to come down.
func (a *Allocator) decide(now time.Duration, st *fsm.State, c *contest, l *limit.Limit) *keyPlan {
	p := &keyPlan{a: a, c: c, now: now, limit: l, measure: measureOf(l, c.key.Resource), turn: a.turn, rows: a.sheet.rows(len(c.demands))}
	p.gather(st)
	p.grant()
	p.keepTurns()
	p.aim()
	return p
}

// gather lists who holds and who wants. Here what the log and the nodes count in becomes units.
func (p *keyPlan) gather(st *fsm.State) {
	total := st.Granted(p.c.key)
	fixed := total
	for _, d := range p.c.demands {
		held := st.GrantOf(d.peer.ID, p.c.key)
		releasing := min(d.releasing, held)
		total -= releasing
		fixed -= releasing
		held -= releasing
		if d.reported && p.a.eligible(p.now, d.peer) {
			fixed -= held
			r := p.a.sheet.row()
			*r = row{d: d, says: d.wish.in(p.unit), held: held / p.unit, target: leasepb.NoTarget}
			if p.rate {
				p.spare(r)
			}
			if p.overhangs {
				r.overhang = max(0, r.open()-r.held)
			}
			p.rows = append(p.rows, r)
		}
	}
	// Parts of units, as after a change of the burst, are free to nobody until their node has given
	// them back.
	p.fixed = p.capacity - p.left(fixed)
	p.free = p.left(total)
	p.share()
	p.account()
	p.hold(st)
}

// share divides what can be moved among those who want it.
func (p *keyPlan) share() {
	capacity := p.capacity - p.fixed
	wants, weights := make([]int64, len(p.rows)), make([]int64, len(p.rows))
	sum := int64(0)
	for i, r := range p.rows {
		r.want = min(r.says.inUse+r.says.waiting+r.says.refused, max(capacity, 0))
		wants[i], weights[i] = r.want, r.weight()
		sum += r.want
	}
	p.tight = sum > capacity
	shares, parts := divide(capacity, wants, weights)
	lacking, waiting := false, false
	for i, r := range p.rows {
		r.share, r.part = shares[i], parts[i]
		lacking = lacking || r.want > r.share
		waiting = waiting || r.want > r.share && r.share == 0
	}
	if lacking && !waiting { // all have a unit
		p.turn = max(p.turn, p.steadyTurn)
	}
}

// hold keeps free slots back where they may not be given out yet.
func (p *keyPlan) hold(st *fsm.State) {
	if r, ok := p.a.rests[p.c.key]; ok && p.now < r.until {
		p.rests = (r.slots + p.unit - 1) / p.unit
		p.holdUntil(r.until, p.rests)
	}
	if p.now < p.a.notBefore {
		p.holdUntil(p.a.notBefore, p.free)
	}
	if !p.overhangs {
		return
	}
	if until, closed := p.a.gateClosed(p.now, st, p.c, p.limit); closed {
		p.gated = p.free
		p.holdUntil(until, p.free)
	}
}

// holdUntil keeps up to so many free units back.
func (p *keyPlan) holdUntil(at time.Duration, slots int64) {
	slots = max(0, min(slots, p.free))
	p.free -= slots
	p.back += slots
	p.wait = true
	p.a.wakeAt(p.c, at)
}

// account updates what each node is owed: the slot-time it got below (+) or above (−) its fair
// share since the last plan, while the key was contended. Turns alone don't make shares equal: a
// slot that falls idle for a moment goes to any node with a waiting request.
func (p *keyPlan) account() {
	c := p.c
	passed := p.now - c.planned
	wasTight := c.tight
	c.planned, c.tight = p.now, p.tight
	var contenders int64
	for _, r := range p.rows {
		if r.want > 0 {
			contenders++
		}
	}
	var sum time.Duration
	for _, r := range p.rows {
		if !p.tight || !wasTight || r.want == 0 {
			r.d.owed = 0
			continue
		}
		due := passed*time.Duration(r.share) + time.Duration(float64(passed)*r.part)
		r.d.owed += due - passed*time.Duration(r.held)
		sum += r.d.owed
	}
	for _, r := range p.rows {
		if r.want > 0 { // what nobody had, while slots changed hands, nobody is owed
			r.d.owed = min(max(r.d.owed-sum/time.Duration(contenders), -maxOwed), maxOwed)
		}
	}
}

// keepTurns notes since when each session has been short, or above its share. A turn counts from
// when the slot was granted, not from when the shortage began. Otherwise a request whose patience
// is shorter than a turn would never be served.
func (p *keyPlan) keepTurns() {
	for _, r := range p.rows {
		switch {
		case r.short() == 0:
			r.d.shortSince = 0
		case r.d.shortSince == 0 || r.add > 0:
			r.d.shortSince = p.now
		}
		if r.add > 0 {
			r.d.grantedAt = p.now
		}
		switch {
		case !p.tight || r.held <= r.share:
			r.d.extraSince = 0
		case r.d.extraSince == 0 || r.add > 0:
			r.d.extraSince = r.d.grantedAt
		}
	}
}

func (p *keyPlan) overhang() (sum int64) {
	for _, r := range p.rows {
		sum += r.overhang
	}
	return sum
}
