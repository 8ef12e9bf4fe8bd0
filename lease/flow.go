package lease

import (
	"math"
	"time"

	"github.com/weirproxy/weir/limit"
)

// This is the core's half of a Meter: where flows wait, and how they take turns.

// keepFor is how long a piece is kept for a flow whose turn it is, and that does not come for it,
// while others wait: longer than any goroutine is late. Such a flow waits again.
const keepFor = time.Second

// find finds what counts a flow's bytes by a table. Only the core makes pools: without it, find
// reports false where one is missing. The flow must not wait, and nothing be kept for it.
func (n *Node) find(now time.Duration, f *Meter, table *limit.Table, core bool) bool {
	f.table, f.n = nil, 0
	for _, scope := range meterScopes {
		if table == nil || !table.Caps(scope, f.resource) {
			continue
		}
		l, name := table.Find(scope, f.subject)
		if !l.Caps(f.resource) {
			continue
		}
		if f.paced == nil {
			f.paced = new(paced)
		}
		p := n.meterPool(now, f, l, limit.Key{Scope: scope, Resource: f.resource, Name: name}, core)
		if p == nil {
			f.n = 0
			return false
		}
		f.pools[f.n] = p
		f.n++
	}
	f.table = table
	return true
}

// meterPool finds or makes the pool of a key; nil where only the core can. That of the connection
// alone is full at first.
func (n *Node) meterPool(now time.Duration, f *Meter, l *limit.Limit, key limit.Key, core bool) *pool {
	switch {
	case key.Scope != limit.ScopeConnection && core:
		p := n.pool(now, key)
		p.pinned = true
		return p
	case key.Scope != limit.ScopeConnection:
		return n.pools.of(key).find(key.Name)
	case f.own != nil:
		f.own.mu.Lock()
		defer f.own.mu.Unlock()
		if f.own.limit != l {
			if !core {
				return nil
			}
			f.own.limit = l
			f.own.resize(now)
		}
		return f.own
	}
	p := newPool(key)
	p.limit, p.granted, p.total = l, limit.Shares, &n.own[f.resource]
	p.resize(now)
	p.bucket.level = p.bucket.size
	f.own = p
	return p
}

// lockFresh locks a flow's pools once they have taken the events that concern them. It finds them
// anew where the limits have changed.
func (n *Node) lockFresh(now time.Duration, f *Meter) {
	if table := n.table.Load(); table != f.table {
		n.Unpace(now, f)
		n.find(now, f, table, true)
		f.unpin()
	}
	f.lockAll()
	for i := range f.n {
		if p := f.pools[i]; p.leased() && p.table == nil {
			f.unlockAll()
			n.findForgotten(now, f)
			f.lockAll()
			break
		}
	}
	for i := range f.n {
		if p := f.pools[i]; p.leased() && p.era != n.era {
			n.catchUp(p)
		}
	}
}

// findForgotten finds those pools of a flow anew that its node has forgotten, because the flow had
// not used them for long. What is kept for it in others stays.
func (n *Node) findForgotten(now time.Duration, f *Meter) {
	for i := range f.n {
		f.pools[i].pinned = f.pools[i].leased()
	}
	for i := range f.n {
		if p := f.pools[i]; p.leased() && n.lookup(p.key) != p {
			f.pools[i], f.kept[i] = n.pool(now, p.key), keptPiece{}
			f.pools[i].pinned = true
		}
	}
	f.unpin()
}

// unpin lets a flow's pools be forgotten again.
func (f *Meter) unpin() {
	for i := range f.n {
		f.pools[i].pinned = false
	}
}

// Piece is the slow path of [Meter.Take]: the flow takes a piece of each limit at once, or waits
// where one is lacking, and 0 is returned. Where nobody goes on with it, Unpace must follow.
func (n *Node) Piece(now time.Duration, f *Meter, most int) int {
	if f.n > 0 && f.waits != nil && f.table == n.table.Load() {
		return 0 // woken for nothing: it keeps its place
	}
	n.lockFresh(now, f)
	if f.n == 0 || most <= 0 {
		f.unlockAll()
		return most
	}
	f.goOn(now)
	var got float64
	f.most = float64(most)
	short, found := f.behind()
	if found {
		f.pieceOfAll(now, &n.gate, f.most)
	} else {
		got, short = f.takeAll(now, &n.gate, f.most)
	}
	if got > 0 {
		heard := f.heard()
		f.unlockAll()
		n.noteExceeds(f)
		n.noteOwn(f, int(got))
		if heard {
			n.Pieced(now, f)
		}
		return int(got)
	}
	if f.keepsAny() {
		f.unlockAll()
		n.unkeepOthers(now, f, short)
		n.lockFlow(f.pools[short])
	} else {
		f.unlockBut(short)
	}
	n.waitAt(now, f, short)
	f.pools[short].mu.Unlock()
	return 0
}

// behind finds the first pool in which others wait who came earlier. Needs all locks.
func (f *Meter) behind() (i int, found bool) {
	for i := range f.n {
		p := f.pools[i]
		if first := p.flows.head; first != nil && p.enforced() && f.kept[i].in(p) == 0 && first.since <= f.since {
			return i, true
		}
	}
	return 0, false
}

func (f *Meter) keepsAny() bool {
	for i := range f.n {
		if f.kept[i].bytes > 0 {
			return true
		}
	}
	return false
}

// unkeepOthers leaves to others what is kept for a flow that must wait, so that a slow limit holds
// up nobody who is not under it. But where the flow has been before, it keeps that of slower
// limits, or flows could take each other's turns away for ever: see [Draw].
func (n *Node) unkeepOthers(now time.Duration, f *Meter, short int) {
	for i := range f.n {
		if f.kept[i].bytes > 0 && !(f.met[short] && n.slowerFlow(f.pools[i], f.pools[short])) {
			n.unkeepPiece(now, f, i)
		}
	}
}

// waitAt lets a flow wait in one of its pools. Needs the pool's lock.
func (n *Node) waitAt(now time.Duration, f *Meter, short int) {
	p := f.pools[short]
	f.met[short] = true
	f.waits, f.at = p, short
	p.flowing.pass(now, p.flows.n)
	if gap := now - f.wokenAt; f.wokenBy == p && gap < hungryGap {
		p.flowing.area += gap
	}
	p.flows.push(f)
	if !p.told { // a flow that draws all that it gets waits again and again
		n.markFlow(p)
	}
	n.feed(now, p)
	n.noteDue(now, p)
}

// slowerFlow reports whether p's bytes come more slowly than q's.
func (n *Node) slowerFlow(p, q *pool) bool {
	x, y := n.speed(p), n.speed(q)
	return x < y || x == y && p.key.Scope < q.key.Scope
}

func (n *Node) speed(p *pool) float64 {
	n.lockFlow(p)
	defer p.mu.Unlock()
	return p.limit.PerSecond(p.key.Resource)
}

// unkeepPiece leaves a piece to others that was kept for a flow.
func (n *Node) unkeepPiece(now time.Duration, f *Meter, i int) {
	p := f.pools[i]
	n.lockFlow(p)
	defer p.mu.Unlock()
	p.kept -= f.kept[i].in(p)
	f.kept[i] = keptPiece{}
	n.settleFlow(now, p)
}

// Pieced follows up what a flow has taken: others may go on, what the leader asked for goes back,
// and the leader hears of what was taken beyond a limit that only reports.
func (n *Node) Pieced(now time.Duration, f *Meter) {
	for i := range f.n {
		p := f.pools[i]
		n.lockFlow(p)
		if p.exceeded {
			n.noteWanted(now, p)
		}
		p.exceeded = false
		if p.recalled || p.flows.head != nil {
			n.settleFlow(now, p)
		}
		p.mu.Unlock()
	}
}

// Unpace ends a flow's wait, and leaves to others what is kept for it. What the leader has asked
// for goes back where it stayed for this flow.
func (n *Node) Unpace(now time.Duration, f *Meter) {
	if f.n == 0 {
		return
	}
	if p := f.waits; p != nil {
		n.lockFlow(p)
		p.flowing.pass(now, p.flows.n)
		p.flows.remove(f)
		f.waits = nil
		n.markFlow(p)
		n.settleFlow(now, p)
		p.mu.Unlock()
	}
	for i := range f.n {
		if f.kept[i].bytes > 0 {
			n.unkeepPiece(now, f, i)
		}
	}
	f.countExceeds()
	f.begun, f.rest, f.met = false, 0, [len(meterScopes)]bool{}
}

// settleFlow is settle for a pool that may be of a connection alone. Needs the pool's lock.
func (n *Node) settleFlow(now time.Duration, p *pool) {
	if p.leased() {
		n.settle(now, p)
		return
	}
	n.feed(now, p)
	n.noteDue(now, p)
}

// lockFlow locks a pool that may be of a connection alone.
func (n *Node) lockFlow(p *pool) {
	if p.leased() {
		n.lock(p)
		return
	}
	p.mu.Lock()
}

func (n *Node) markFlow(p *pool) {
	if p.leased() {
		n.mark(p)
	}
}

// feed keeps a piece for each of those who wait, in turns, and wakes them. Needs the pool's lock.
func (n *Node) feed(now time.Duration, p *pool) {
	if p.flows.head == nil || p.leased() && !n.gate.admitsAt(now) {
		return
	}
	if p.kept > 0 && now >= p.keptAt+keepFor {
		p.kept = 0
		p.lost++
	}
	p.flowing.pass(now, p.flows.n)
	whole := p.bucket.whole(now)
	for f := p.flows.head; f != nil; f = p.flows.head {
		piece := p.pieceOf(f)
		if whole < piece+float64(p.kept) {
			return
		}
		keep := int64(min(piece, f.most))
		p.kept += keep
		p.keptAt = now
		f.kept[f.at] = keptPiece{p.lost, keep}
		f.wokenBy, f.wokenAt = p, now
		n.wakeFlow(p, f)
	}
}

// pieceOf is what must be there for a flow that waits. One that moves less at once moves several
// times before it waits again, and leaves no rest. Needs the pool's lock.
func (p *pool) pieceOf(f *Meter) float64 {
	piece := min(f.want, p.piece())
	if f.most >= piece {
		return piece
	}
	if more := math.Ceil(piece/f.most) * f.most; more <= p.bucket.size/2 {
		return more
	}
	return piece
}

// wakeFlow ends a flow's wait: it tries again. Needs the pool's lock.
func (n *Node) wakeFlow(p *pool, f *Meter) {
	p.flows.remove(f)
	f.waits = nil
	n.woken = append(n.woken, f.waker)
}

// wakeFlows lets all who wait look again. Needs the pool's lock.
func (n *Node) wakeFlows(p *pool) {
	for p.flows.head != nil {
		n.wakeFlow(p, p.flows.head)
	}
}

// flowDue is when the first flow that waits can go on; ever is false where none waits, or it has to
// wait for units. Needs the pool's lock.
func (p *pool) flowDue() (at time.Duration, ever bool) {
	if p.flows.head == nil {
		return 0, false
	}
	at, ever = p.bucket.until(p.pieceOf(p.flows.head) + float64(p.kept) + slack)
	if late := p.keptAt + keepFor; p.kept > 0 && (!ever || late < at) {
		return late, true
	}
	return at, ever
}

// meterList is first come first served: in the order in which flows began to wait for a piece, be
// it elsewhere.
type meterList struct {
	head, tail *Meter
	n          int32
}

func (l *meterList) push(f *Meter) {
	l.n++
	after := l.tail
	for after != nil && after.since > f.since {
		after = after.prev
	}
	f.prev, f.next = after, l.head
	if after != nil {
		f.next = after.next
		after.next = f
	} else {
		l.head = f
	}
	if f.next != nil {
		f.next.prev = f
	} else {
		l.tail = f
	}
}

func (l *meterList) remove(f *Meter) {
	l.n--
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		l.head = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		l.tail = f.prev
	}
	f.prev, f.next = nil, nil
}
