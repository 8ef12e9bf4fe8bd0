package lease

import (
	"cmp"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// row is one session in the plan for a key.
type row struct {
	d        *demand
	held     int64 // granted in the log, less what is being released, plus what this plan adds
	add      int64
	want     int64 // in use, waiting, and refused lately: what counts for a share
	share    int64
	overhang int64 // open connections beyond what is held: a limit was set on them
	target   int64
}

// short is what is lacking of what is wanted.
func (r *row) short() int64 { return max(0, r.want-r.held) }

// idle is what the node reported to hold without a use of its own.
func (r *row) idle() int64 { return max(0, r.d.held-r.d.inUse-r.d.waiting) }

// present reports whether requests wait at this moment.
func (r *row) present() bool { return r.d.waiting > 0 }

// unserved counts the waiting requests that the plan has no slot for yet.
func (r *row) unserved() int64 { return max(0, min(r.short(), r.d.waiting-r.add)) }

// give moves up to k free slots to the row and returns how many it took.
func (r *row) give(k, free int64) int64 {
	k = max(0, min(k, free))
	r.add += k
	r.held += k
	return k
}

// sheet is the memory of one plan, which the next one uses again.
type sheet struct {
	all  []row
	list []*row
}

// rows starts a plan of up to n rows.
func (s *sheet) rows(n int) []*row {
	if cap(s.all) < n {
		s.all, s.list = make([]row, 0, 2*n), make([]*row, 0, 2*n)
	}
	s.all = s.all[:0]
	return s.list[:0]
}

// row is the next one's memory.
func (s *sheet) row() *row {
	s.all = s.all[:len(s.all)+1]
	return &s.all[len(s.all)-1]
}

// keyPlan is the work sheet for one key.
type keyPlan struct {
	a     *Allocator
	c     *contest
	now   time.Duration
	limit *limit.Limit
	rows  []*row
	fixed int64 // held by sessions that can't be asked: they are dead, cut off, or have not reported yet
	free  int64 // may be granted now
	back  int64 // free, but held back for a moment
	extra int64 // slots above everybody's share, for turns
	tight bool  // more is wanted than there is
	wait  bool  // grants are held back for a moment: slots rest, or nodes have yet to say what they have open
}

// plan decides one key: what to grant, whom to ask for slots back, and who can be refused.
func (a *Allocator) plan(now time.Duration, st *fsm.State, c *contest) []fsm.Adjustment {
	limit := st.Table().Governing(c.key)
	if !limit.Capped() {
		for _, d := range c.demands {
			d.ask, d.shortSince = 0, 0 // the node lets them in when it hears of the limits
			a.setTarget(d, target{slots: noTarget})
		}
		return nil
	}
	p := &keyPlan{a: a, c: c, now: now, limit: limit, rows: a.sheet.rows(len(c.demands))}
	p.gather(st)
	p.grant()
	p.keepTurns()
	p.aim()
	p.answer()
	var adds []fsm.Adjustment
	for _, r := range p.rows {
		if r.add > 0 {
			adds = append(adds, fsm.Adjustment{Session: r.d.peer.ID, Key: c.key, Delta: r.add})
		}
	}
	return adds
}

// gather lists who holds and who wants, and divides the limit among them.
func (p *keyPlan) gather(st *fsm.State) {
	total := int64(0)
	for _, g := range st.Grants(p.c.key) {
		total += g.Slots
	}
	p.fixed = total
	for _, d := range p.c.demands {
		held := st.GrantOf(d.peer.ID, p.c.key)
		p.fixed -= min(d.releasing, held)
		total -= min(d.releasing, held)
		held -= min(d.releasing, held)
		if d.reported && p.a.eligible(p.now, d.peer) {
			p.fixed -= held
			r := p.a.sheet.row()
			*r = row{d: d, held: held, target: noTarget, overhang: max(0, d.inUse+d.parked-held)}
			p.rows = append(p.rows, r)
		}
	}
	capacity := p.limit.Connections - p.fixed
	wants := make([]int64, len(p.rows))
	for i, r := range p.rows {
		r.want = min(r.d.inUse+r.d.waiting+r.d.refused, max(capacity, 0))
		wants[i] = r.want
	}
	sum := int64(0)
	for _, w := range wants {
		sum += w
	}
	p.tight = sum > capacity
	shares, extra := divide(capacity, wants)
	for i, r := range p.rows {
		r.share = shares[i]
	}
	p.extra = extra
	p.free = p.limit.Connections - total
	p.account()
	p.hold(st)
}

// hold keeps free slots back where they may not be given out yet.
func (p *keyPlan) hold(st *fsm.State) {
	if r, ok := p.a.rests[p.c.key]; ok && p.now < r.until {
		p.holdUntil(r.until, r.slots)
	}
	if p.now < p.a.notBefore {
		p.holdUntil(p.a.notBefore, p.free)
	}
	if until, closed := p.gateClosed(st); closed {
		p.holdUntil(until, p.free)
	}
}

// holdUntil keeps up to so many free slots back.
func (p *keyPlan) holdUntil(at time.Duration, slots int64) {
	slots = max(0, min(slots, p.free))
	p.free -= slots
	p.back += slots
	p.wait = true
	p.a.wakeAt(p.c, at)
}

// gateClosed reports whether a key that is counted only since the patterns changed must wait for
// nodes to say what they have open: those connections count from now on.
func (p *keyPlan) gateClosed(st *fsm.State) (until time.Duration, closed bool) {
	c, shape := p.c, st.Table().ShapeIndex
	if c.shape == shape {
		return 0, false
	}
	if c.shapeSince == 0 {
		c.shapeSince = p.now
	}
	acked := true
	for _, peer := range p.a.order {
		if p.a.eligible(p.now, peer) && peer.limits < shape {
			acked = false
		}
	}
	if acked || st.Granted(c.key) > 0 || p.now >= c.shapeSince+gatePatience {
		c.shape, c.shapeSince = shape, 0
		return 0, false
	}
	return c.shapeSince + gatePatience, true
}

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
		switch {
		case r.present():
			p.free -= r.give(r.share-r.held, p.free)
		case p.claims(r):
			p.free -= r.give(min(r.short(), max(1, r.share-r.held)), p.free)
		}
	}
	for _, r := range queue {
		if r.held <= r.share {
			p.free -= r.give(min(1, r.unserved()), p.free)
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
			headroom[i] = max(0, r.want+r.d.headroom-r.held)
		}
		shares, _ := divide(p.free, headroom)
		for i, r := range p.rows {
			p.free -= r.give(shares[i], p.free)
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

// account updates what each node is owed: the slot-time it got below (+) or above (−) its fair
// share since the last plan, while the key was contended. Turns alone don't make shares equal: a
// slot that falls idle for a moment goes to any node with a waiting request.
func (p *keyPlan) account() {
	c := p.c
	passed := p.now - c.planned
	wasTight := c.tight
	c.planned, c.tight = p.now, p.tight
	var takers, contenders int64
	for _, r := range p.rows {
		if r.want > r.share {
			takers++
		}
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
		due := passed * time.Duration(r.share)
		if r.want > r.share {
			due += passed * time.Duration(p.extra) / time.Duration(takers)
		}
		r.d.owed += due - passed*time.Duration(r.held)
		sum += r.d.owed
	}
	for _, r := range p.rows {
		if r.want > 0 { // what nobody had, while slots changed hands, nobody is owed
			r.d.owed = min(max(r.d.owed-sum/time.Duration(contenders), -maxOwed), maxOwed)
		}
	}
}

// cover gives slots to connections that are open without one.
func (p *keyPlan) cover() {
	overhangs := make([]int64, len(p.rows))
	for i, r := range p.rows {
		overhangs[i] = r.overhang
	}
	shares, _ := divide(p.free, overhangs)
	for i, r := range p.rows {
		p.free -= r.give(shares[i], p.free)
	}
	for _, r := range p.rows {
		p.free -= r.give(min(1, r.d.inUse+r.d.parked-r.held), p.free)
		r.overhang = max(0, r.d.inUse+r.d.parked-r.held)
	}
}

func (p *keyPlan) overhang() (sum int64) {
	for _, r := range p.rows {
		sum += r.overhang
	}
	return sum
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

// aim decides who must come down, and to what, and tells those for whom that changes.
func (p *keyPlan) aim() {
	var shortage, waiting int64
	for _, r := range p.rows {
		shortage += r.short()
		waiting += r.unserved()
	}
	// Slots that are held back will be granted in a moment: nobody need give any up.
	shortage, waiting = max(0, shortage-p.back), max(0, waiting-p.back)
	over := p.fixed - p.limit.Connections
	for _, r := range p.rows {
		over += r.held
	}
	overhang := p.overhang()
	if over > 0 || shortage > 0 {
		p.aimAtShares(over)
	}
	if overhang > 0 {
		for _, r := range p.rows {
			if r.overhang == 0 {
				r.lower(r.held - overhang)
			}
		}
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
	for _, r := range p.rows {
		evict := p.limit.Evict && !p.wait && (over > 0 || r.overhang > 0)
		if evict && r.overhang > 0 {
			r.lower(r.held)
		}
		t := target{slots: noTarget, contended: contended}
		if r.target >= 0 && r.held+r.overhang > r.target {
			t.slots = r.target
			t.evict = evict
		}
		p.a.setTarget(r.d, t)
	}
}

func (r *row) lower(to int64) {
	to = max(to, 0)
	if r.target < 0 || to < r.target {
		r.target = to
	}
}

// aimAtShares asks those above their share to come down while others are below theirs, or while the
// limit is exceeded.
func (p *keyPlan) aimAtShares(over int64) {
	var below, claims int64
	var holders []*row
	for _, r := range p.rows {
		switch {
		case r.held > r.share:
			holders = append(holders, r)
		case !p.claims(r):
		case r.held < r.share:
			below += r.share - r.held
		case r.short() > 0:
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
// where none can wait, it is owed slot-time. Refusals alone are no reason to take a slot that
// another request is about to use. With a queue, a request that comes back waits, and goes first if
// its node is owed: a slot kept for it meanwhile would lie idle, be fetched for a request
// elsewhere, and be kept again.
func (p *keyPlan) claims(r *row) bool {
	return r.present() || !p.limit.Queue.Enabled() && r.d.owed >= p.a.turn/2
}

// aimAtTurns brings holders down to their share and at most one extra slot, and passes the extra
// ones on: a node that has held one for a turn gives it to a node that has none.
func (p *keyPlan) aimAtTurns(holders []*row, claims int64) {
	surplus := int64(len(holders)) - p.extra
	for i, r := range holders {
		r.lower(r.share + 1)
		switch turn := r.d.extraSince + p.a.turn; {
		case int64(i) < surplus, claims > 0 && p.now >= turn:
			r.lower(r.share)
		case claims > 0:
			p.a.wakeAt(p.c, turn)
		}
	}
}

// aimAtIdle asks for slots that nodes hold without a use, also within their share, while requests
// wait elsewhere. Where a node has refused requests lately, the next is likely to come soon: the
// slot is fetched only once it has lain idle for as long as fetching it takes, so that neither
// choice can cost much more than the other (the ski-rental rule).
func (p *keyPlan) aimAtIdle(waiting int64) {
	for _, r := range p.rows {
		k := min(r.idle(), waiting)
		if k <= 0 || r.add > 0 || r.d.waiting > 0 {
			continue
		}
		if at := r.d.idleSince + min(p.a.commit, maxLinger); r.d.refused > 0 && p.now < at {
			p.a.wakeAt(p.c, at)
			continue
		}
		r.lower(r.held - k)
		waiting -= k
	}
}

// answer lets a node refuse the requests that asked whether anything is free, once nothing is:
// nothing can be granted, no idle slot is about to come back on the node itself, and every other
// holder has reported that it has none idle.
func (p *keyPlan) answer() {
	for _, r := range p.rows {
		d := r.d
		if d.ask == 0 {
			continue
		}
		if p.now < d.askSince+askPatience && r.d.waiting > 0 && (r.add > 0 || p.wait || d.parked > 0 || !p.othersBusy(r)) {
			if r.add < r.d.waiting { // otherwise all who wait are served, which the node will say
				p.a.wakeAt(p.c, d.askSince+askPatience)
			}
			continue
		}
		as := d.peer.assigning()
		as.Answers = append(as.Answers, &leasepb.Answer{Key: fsmpb.KeyOf(p.c.key), Ask: d.ask})
		d.ask = 0
	}
}

func (p *keyPlan) othersBusy(asking *row) bool {
	for _, r := range p.rows {
		if r == asking || r.held == 0 {
			continue
		}
		// A slot that the node has not reported yet may be one that it has no use for.
		if !r.d.sent.contended || r.d.acked != r.d.seq || r.idle() > 0 || r.held > r.d.held {
			return false
		}
	}
	return true
}

// setTarget tells a node what changes for it.
func (a *Allocator) setTarget(d *demand, t target) {
	if d.sent == t || d.peer.conn == 0 {
		return
	}
	d.sent = t
	d.seq++
	as := d.peer.assigning()
	as.Targets = append(as.Targets, &leasepb.Target{
		Key: fsmpb.KeyOf(d.c.key), Seq: d.seq, Slots: t.slots, Contended: t.contended, Evict: t.evict})
}
