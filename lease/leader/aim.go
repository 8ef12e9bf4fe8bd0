package leader

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
)

const (
	// askPatience bounds how long an ask is held back while other nodes are asked. It is below the
	// time for which a node's requests wait for the answer.
	askPatience = 600 * time.Millisecond
	// contendedFor is how long nodes go on reporting at once after the last shortage.
	contendedFor = time.Second
	// maxLinger bounds how long an idle slot stays with a node that expects requests while others
	// wait for one.
	maxLinger = 20 * time.Millisecond
)

// aim decides who must come down, and to what, and tells those for whom that changes.
func (p *keyPlan) aim() {
	var shortage, waiting int64
	for _, r := range p.rows {
		shortage += r.short()
		waiting += r.unserved()
	}
	// Slots that are held back will be granted in a moment: nobody need give any up.
	shortage, waiting = max(0, shortage-p.back), max(0, waiting-p.back)
	over := p.fixed - p.capacity
	for _, r := range p.rows {
		over += r.held
	}
	overhang := p.overhang()
	if over > 0 || shortage > 0 {
		p.aimAtShares(over)
	}
	if over+p.rests > 0 && p.overhangs {
		p.aimAtExcess()
	}
	if overhang > 0 {
		p.aimAtOverhang()
	}
	if p.tight {
		p.aimAtIdle(waiting)
	}
	if over > 0 || shortage > 0 || overhang > 0 {
		p.c.contendedUntil = p.now + contendedFor
	}
	contended := p.now < p.c.contendedUntil
	if contended {
		p.a.wakeAt(p.c, p.c.contendedUntil)
	}
	evicts := (over > 0 || overhang > 0) && p.overhangs && !p.wait && p.a.evicts(p.now, p.limit) && p.heard()
	if evicts {
		p.keep()
	}
	for _, r := range p.rows {
		t := target{slots: leasepb.NoTarget, contended: contended}
		switch {
		case evicts && r.open() > r.keeps:
			t.slots, t.evict = r.keeps*p.unit, true
		case r.target >= 0 && r.held+r.overhang > r.target:
			t.slots = r.target * p.unit
		}
		p.noteFetch(r)
		p.a.setTarget(r.d, t)
	}
}

// heard reports whether all nodes have said what they have since the limit was written, or have had
// time for it: a node that nobody is short beside says late that its slots have become idle.
func (p *keyPlan) heard() bool {
	until := p.a.limitSince[p.limit.ModifyIndex] + gatePatience
	if p.now >= until {
		return true
	}
	for _, r := range p.rows {
		if r.d.peer.limits < p.limit.ModifyIndex {
			p.a.wakeAt(p.c, until)
			return false
		}
	}
	return true
}

// keep says how many connections each node may keep where those above the limit are closed: all
// that there is room for. Shares are no matter here: nobody's connection is closed for another's
// request.
func (p *keyPlan) keep() {
	open := make([]int64, len(p.rows))
	for i, r := range p.rows {
		open[i] = r.open()
	}
	for i, n := range divideAll(p.capacity-p.fixed, open) {
		p.rows[i].keeps = n
	}
}

// aimAtExcess lets nobody open a connection, not within its share either, while more are open than
// a limit that was lowered allows. Each node closes idle ones as if all that are to be closed were
// its own: one that kept some could open others in their place, and the count would not fall. Where
// fewer are open, no more free slots stay than there is room for beside them.
func (p *keyPlan) aimAtExcess() {
	room := p.capacity - p.fixed - p.rests
	unused := make([]int64, len(p.rows))
	for i, r := range p.rows {
		room -= r.open()
		unused[i] = max(0, r.held-r.open())
	}
	if room < 0 {
		for _, r := range p.rows {
			r.lower(r.open() + room)
		}
		return
	}
	for i, n := range divideAll(room, unused) {
		p.rows[i].lower(p.rows[i].open() + n)
	}
}

// aimAtOverhang asks for slots for connections in use that have none, also of nodes that have too
// few themselves. Those that nobody uses, and for which there is no slot, are closed; until they
// are, no node may open another in place of one that has ended, so slots come back for them, too.
// What is known only once all nodes have spoken changes no node's target.
func (p *keyPlan) aimAtOverhang() {
	var busy, open int64 // in all, without a slot
	for _, r := range p.rows {
		busy += r.lacksInUse()
		open += r.lacks()
	}
	for _, r := range p.rows {
		inUse, any := max(0, busy-r.lacksInUse()-p.gated), max(0, open-r.lacks()-p.gated)
		switch {
		case r.overhang > 0 && p.wait:
			if r.d.sent.slots >= 0 {
				r.lower(r.d.sent.slots / p.unit)
			}
		case r.overhang > 0 || any > 0:
			r.lower(min(r.held+r.promised-inUse, r.promised+max(0, r.held-any)))
		}
	}
}

// lacks is how many connections are open without a slot, and will not get one.
func (r *row) lacks() int64 { return r.overhang - r.promised }

// lacksInUse is how many of these are in use.
func (r *row) lacksInUse() int64 {
	if r.overhang == 0 {
		return 0
	}
	return max(0, r.says.inUse-r.held-r.promised)
}

// aimAtShares asks those above their share to come down while others are below theirs, or while the
// limit is exceeded.
func (p *keyPlan) aimAtShares(over int64) {
	var below, claims int64
	var holders []*row
	for _, r := range p.rows {
		switch {
		case over <= 0 && !p.rate && r.awaits():
			// it would give back at once what it got for its requests, and they would be refused
		case r.held > r.share:
			holders = append(holders, r)
		case !p.claims(r):
		case r.held < r.share:
			below += r.share - r.held
		case r.unserved() > 0 || !r.present() && r.short() > 0:
			claims++
		}
	}
	slices.SortStableFunc(holders, func(x, y *row) int { return int(x.d.extraSince - y.d.extraSince) })
	switch {
	case !p.tight: // enough for all: what some lack lies idle with others
		need := max(below, over)
		for _, r := range holders {
			k := min(r.held-r.share, need)
			r.lower(r.held - k)
			need -= k
		}
	case below+claims > 0 || over > 0:
		p.aimAtTurns(holders, claims)
	}
}

// claims reports whether slots may be taken from other nodes for a row: requests wait there, or,
// where none can wait, it is owed slot-time, and has no slot that it does not use. Refusals alone
// are no reason to take a slot that another request is about to use. With a queue, a request that
// comes back waits, and goes first if its node is owed: a slot kept for it meanwhile would lie
// idle, be fetched for a request elsewhere, and be kept again.
func (p *keyPlan) claims(r *row) bool {
	return r.present() || !p.limit.Queue.Enabled() && r.d.owed >= p.a.turn/2 && (p.rate || r.says.idle() == 0)
}

// aimAtTurns brings holders down to their share and what is above the shares, and passes the latter
// on: a node that has held it for a turn gives it to a node that has none.
func (p *keyPlan) aimAtTurns(holders []*row, claims int64) {
	above, each := p.aboveShares()
	for _, r := range slices.Backward(holders) { // who has held it for longest gives it up first
		keeps := min(r.held-r.share, each, above)
		above -= keeps
		r.lower(r.share + keeps)
		if keeps == 0 || claims == 0 {
			continue
		}
		if turn := p.turnEnd(r.d.extraSince); p.now >= turn {
			r.lower(r.share)
		} else {
			p.a.wakeAt(p.c, turn)
		}
	}
}

// aboveShares is how many units are left where all who claim units have their share, and the others
// what they hold of theirs, and how many of them one may have.
func (p *keyPlan) aboveShares() (units, each int64) {
	units = p.capacity - p.fixed
	var claiming int64
	for _, r := range p.rows {
		if p.claims(r) {
			units -= r.share
			claiming++
		} else {
			units -= min(r.held, r.share)
		}
	}
	units = max(units, 0)
	return units, max(1, (units+claiming-1)/max(claiming, 1))
}

// aimAtIdle asks for slots that nodes hold without a use, also within their share, while requests
// wait elsewhere. Where a node has refused requests lately, the next is likely to come soon: the
// slot is fetched only once it has lain idle for as long as fetching it takes, so that neither
// choice can cost much more than the other (the ski-rental rule). Of a rate that a node draws from,
// a little more than the draw stays for a while: requests come unevenly, and would fetch it back.
func (p *keyPlan) aimAtIdle(waiting int64) {
	for _, r := range p.rows {
		if r.add > 0 || r.present() {
			continue
		}
		now, later, at := p.fetchable(r)
		if later > 0 && now < waiting {
			p.a.wakeAt(p.c, at)
		}
		if k := min(now, waiting); k > 0 {
			r.lower(r.held - k)
			waiting -= k
			r.d.owed = min(r.d.owed, 0) // it has had its chance, and would get the same slot again
		}
	}
}

// fetchable is how much of what a node holds idle can be fetched now, and how much from a moment
// on.
func (p *keyPlan) fetchable(r *row) (now, later int64, at time.Duration) {
	idle := r.says.idle()
	if p.rate && r.says.refused > 0 {
		idle = min(idle, max(0, r.held-r.share)) // who comes again finds the tokens of its share
	}
	switch {
	case idle == 0:
	case p.rate && r.says.refused > 0 && p.now < r.d.grantedAt+settleFor:
		at, later = r.d.grantedAt+settleFor, idle
	case p.rate:
		at, later = r.d.idleSince+spareFor, min(idle, r.says.headroom)
	case r.says.refused > 0:
		at, later = r.d.idleSince+min(p.a.commit, maxLinger), idle
	}
	if p.now >= at {
		later = 0
	}
	return idle - later, later, at
}

// answer lets a node refuse the requests that asked whether anything is free, once nothing is:
// nothing can be granted, no idle slot is about to come back on the node itself, and every other
// holder has reported that it has none idle. It waits for that for askPatience at most.
func (p *keyPlan) answer() {
	for _, r := range p.rows {
		d := r.d
		if d.ask == 0 {
			continue
		}
		if r.present() && (r.add > 0 || r.awaits()) {
			continue // however long the entry takes, what it brings is free; then the node says who still waits
		}
		if r.present() && p.now < d.askSince+askPatience && (p.wait || d.parked > 0 || !p.othersBusy(r)) {
			p.a.wakeAt(p.c, d.askSince+askPatience)
			continue
		}
		as := d.peer.assigning()
		as.Answers = append(as.Answers, &leasepb.Answer{Key: fsmpb.KeyOf(p.c.key), Ask: d.ask, TokenInNs: int64(p.tokenIn(r))})
		d.ask = 0
	}
}

// tokenIn is how long it takes until some node other than the asking one has a token, as far as
// they have said; 0: none has. It is for the refused, who are told when to come again.
func (p *keyPlan) tokenIn(asking *row) (soonest time.Duration) {
	for _, r := range p.rows {
		in := r.d.tokenAt - p.now
		if r != asking && r.held > 0 && in > 0 && (soonest == 0 || in < soonest) {
			soonest = in
		}
	}
	return soonest
}

func (p *keyPlan) othersBusy(asking *row) bool {
	for _, r := range p.rows {
		if r == asking || r.held == 0 {
			continue
		}
		// A slot that the node has not reported yet may be one that it has no use for.
		idle, later, _ := p.fetchable(r)
		if !p.rate {
			idle += later // it comes in a moment; of a rate it is what the node keeps
		}
		if !r.d.sent.contended || r.d.acked != r.d.seq || idle > 0 || r.held > r.says.held {
			return false
		}
	}
	return true
}
