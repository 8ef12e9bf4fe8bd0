package lease

import (
	"math"
	"time"

	"github.com/weirproxy/weir/limit"
)

// meterScopes are the scopes in which bytes are counted, in the order in which they are taken. That
// of the connection alone is first: it is no one else's.
var meterScopes = [...]limit.Scope{limit.ScopeConnection, limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeHost, limit.ScopeKey}

const (
	// pieceTime is how much of a rate one flow takes at once: flows of one key take turns by pieces.
	// Longer costs fewer turns, and lets flows run in jerks.
	pieceTime = 20 * time.Millisecond
	// leastPiece is the least that is worth a system call.
	leastPiece = float64(limit.MinByteBurst)
	// roomyTime is how long a bucket takes to fill that holds enough for a flow to sleep until there
	// is a piece, and a timer that is late.
	roomyTime = pieceTime / 2
)

// Waker is told, at most once for each time that a Meter gave nothing, that it is worth to try
// again. It is called from another goroutine, and must not block.
type Waker interface{ Wake() }

// Meter paces the bytes of one connection in one direction. Bytes are taken before they are read.
// It is not safe for concurrent use, but for the wake-up.
type Meter struct {
	manager  *Manager
	subject  *limit.Subject
	resource limit.Resource
	waker    Waker

	table  *limit.Table // by which pools were found
	n      int          // of pools
	*paced              // nil where there never was a limit: most connections are under none
}

// paced is what a meter needs under a limit.
type paced struct {
	pools [len(meterScopes)]*pool
	have  [len(meterScopes)]float64 // taken from each and not moved; guarded by the pool's lock while waiting there
	back  [len(meterScopes)]from
	own   *pool // of the connection alone

	// Guarded by the core's lock.
	waits      *pool // nil: it does not wait
	at         int   // for which of pools
	prev, next *Meter
}

// Init makes m the meter of one direction of a connection: [limit.Upload] is from the worker. The
// subject must stay as it is until End.
func (m *Manager) Init(f *Meter, subject *limit.Subject, r limit.Resource, w Waker) {
	*f = Meter{manager: m, subject: subject, resource: r, waker: w}
}

// Take returns how many of at most n bytes may be moved now. Where that is 0, the Waker is woken
// when it is worth to try again. What is not moved goes back with Put, before the next Take.
func (f *Meter) Take(n int) int {
	if t := f.manager.node.table.Load(); t != f.table {
		f.look(t)
	}
	if f.n == 0 {
		return n
	}
	return f.take(n)
}

// look finds what counts the bytes under new limits.
func (f *Meter) look(table *limit.Table) {
	f.End()
	f.table, f.n = table, 0
	if f.paced != nil {
		f.have = [len(meterScopes)]float64{}
	}
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
		f.pools[f.n] = f.manager.meterPool(f, l, limit.Key{Scope: scope, Resource: f.resource, Name: name})
		f.n++
	}
}

// meterPool finds or makes the pool of a key. That of the connection alone is in no book: it is
// leased from nobody, and full at first.
func (m *Manager) meterPool(f *Meter, l *limit.Limit, key limit.Key) *pool {
	if key.Scope != limit.ScopeConnection {
		if p := m.node.lookup(key); p != nil {
			return p
		}
		var p *pool
		m.do(func(now time.Duration) { p = m.node.pool(now, key) })
		return p
	}
	now := m.cfg.Clock.Now()
	if f.own == nil {
		f.own = newPool(key)
		f.own.limit, f.own.granted = l, limit.Shares
		f.own.resize(now)
		f.own.bucket.level = f.own.bucket.size
		return f.own
	}
	m.do(func(now time.Duration) {
		f.own.mu.Lock()
		f.own.limit = l
		f.own.resize(now)
		f.own.mu.Unlock()
	})
	return f.own
}

func (f *Meter) take(n int) int {
	now := f.manager.cfg.Clock.Now()
	most := float64(n)
	for i := range f.n {
		if f.have[i] == 0 && !f.takeFrom(now, i, most) && !f.manager.waitFor(f, i, most) {
			return 0
		}
		most = min(most, f.have[i])
	}
	for i := range f.n {
		f.giveBack(now, i, f.have[i]-most)
		f.have[i] = 0
	}
	return int(most)
}

// takeFrom takes a piece from one pool, unless others wait there.
func (f *Meter) takeFrom(now time.Duration, i int, most float64) bool {
	p := f.pools[i]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.key.Scope != limit.ScopeConnection {
		switch {
		case p.table != f.table && !p.follow(now, f.table):
			return false
		case !p.capped():
			f.have[i] = most
			return true
		case p.flows.head != nil || !f.manager.node.gate.admitsAt(now):
			if !p.limit.Report {
				return false
			}
			p.wouldReject++
			f.have[i], f.back[i] = most, from{}
			return true
		}
	}
	return p.serve(now, f, i, most)
}

// serve gives a meter a piece of one pool. Needs the pool's lock.
func (p *pool) serve(now time.Duration, f *Meter, i int, most float64) bool {
	piece := min(p.piece(), most)
	got := p.bucket.takeUpTo(now, piece, min(piece, p.worth()))
	if got == 0 {
		if !p.limit.Report {
			return false
		}
		p.wouldReject++
		f.have[i], f.back[i] = most, from{}
		return true
	}
	p.drawn(now, got)
	p.admitted += uint64(got)
	p.usedAt = now
	f.have[i] = got
	f.back[i] = from{p, p.bucket.receipt()}
	return true
}

// piece is what one flow takes at once: whole bytes, and at most half of what the bucket holds, so
// that nothing runs over while a flow that waits for it is woken. Needs the pool's lock.
func (p *pool) piece() float64 {
	return math.Floor(min(max(p.bucket.fill*float64(pieceTime), leastPiece), max(p.bucket.size/2, leastPiece)))
}

// worth is the least that a flow takes instead of waiting for a piece. A flow that took what has
// come since its last call would never sleep, and move a fast rate's bytes by some kilobytes; but
// a bucket that fills within a timer's accuracy leaves no choice. Needs the pool's lock.
func (p *pool) worth() float64 {
	if p.bucket.size < p.bucket.fill*float64(roomyTime) {
		return leastPiece
	}
	return p.piece()
}

// from is where bytes were taken, to give them back; without a pool they are of no limit's.
type from struct {
	pool *pool
	receipt
}

// giveBack returns bytes to where they were taken. Needs no lock.
func (r from) giveBack(now time.Duration, bytes float64) {
	if r.pool == nil || bytes <= 0 {
		return
	}
	p := r.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draws.add(now, -bytes)
	p.admitted -= uint64(bytes)
	p.bucket.giveBack(now, r.receipt, bytes)
}

func (f *Meter) giveBack(now time.Duration, i int, grains float64) { f.back[i].giveBack(now, grains) }

// Put gives back bytes of the last Take that were not moved.
func (f *Meter) Put(n int) {
	if f.n == 0 || n <= 0 {
		return
	}
	now := f.manager.cfg.Clock.Now()
	for i := range f.n {
		f.giveBack(now, i, float64(n))
	}
}

// End gives up a wait, and what was taken for it. Nothing is woken afterwards.
func (f *Meter) End() {
	if f.n == 0 {
		return
	}
	f.manager.do(func(now time.Duration) {
		f.manager.node.leave(now, f)
		for i := range f.n {
			f.giveBack(now, i, f.have[i])
			f.have[i] = 0
		}
	})
}

// waitFor lets a flow wait for its next piece. It reports true where that has come meanwhile.
func (m *Manager) waitFor(f *Meter, i int, most float64) (got bool) {
	m.do(func(now time.Duration) {
		m.node.findAgain(now, f, i)
		got = m.node.flow(now, f, i, most)
	})
	return got
}

// findAgain finds the pool of a flow anew that was idle for so long that its pool was forgotten.
func (n *Node) findAgain(now time.Duration, f *Meter, i int) {
	p := f.pools[i]
	if p.key.Scope == limit.ScopeConnection {
		return
	}
	if q := n.lookup(p.key); q != p {
		f.pools[i] = n.pool(now, p.key)
	}
}

// flow lets a meter wait behind the others.
func (n *Node) flow(now time.Duration, f *Meter, i int, most float64) (got bool) {
	p := f.pools[i]
	n.lockFlow(p)
	defer p.mu.Unlock()
	switch {
	case f.waits != nil:
		return false // woken for nothing: it keeps its place
	case p.key.Scope != limit.ScopeConnection && !p.capped():
		f.have[i], f.back[i] = most, from{}
		return true
	case p.flows.head == nil && n.mayFeed(now, p) && p.serve(now, f, i, most):
		return true
	}
	f.waits, f.at = p, i
	p.flows.push(f)
	if !p.told { // a flow that draws all that it gets waits again and again
		n.markFlow(p)
	}
	n.noteDue(now, p)
	return false
}

// lockFlow locks a pool that may be of a connection alone.
func (n *Node) lockFlow(p *pool) {
	if p.key.Scope == limit.ScopeConnection {
		p.mu.Lock()
		return
	}
	n.lock(p)
}

func (n *Node) markFlow(p *pool) {
	if p.key.Scope != limit.ScopeConnection {
		n.mark(p)
	}
}

// mayFeed reports whether bytes may be taken from a pool. Needs the pool's lock.
func (n *Node) mayFeed(now time.Duration, p *pool) bool {
	return p.key.Scope == limit.ScopeConnection || n.gate.admitsAt(now)
}

// feed gives those who wait a piece each, in turns. Needs the pool's lock.
func (n *Node) feed(now time.Duration, p *pool) {
	if !n.mayFeed(now, p) {
		return
	}
	for p.flows.head != nil {
		f := p.flows.head
		piece := p.piece()
		got := p.bucket.takeUpTo(now, piece, piece)
		if got == 0 {
			return
		}
		p.drawn(now, got)
		p.admitted += uint64(got)
		p.usedAt = now
		f.have[f.at] = got
		f.back[f.at] = from{p, p.bucket.receipt()}
		p.flows.remove(f)
		f.waits = nil
		n.woken = append(n.woken, f.waker)
	}
}

// wakeFlows lets all who wait look again. Needs the pool's lock.
func (n *Node) wakeFlows(p *pool) {
	for p.flows.head != nil {
		f := p.flows.head
		p.flows.remove(f)
		f.waits = nil
		n.woken = append(n.woken, f.waker)
	}
}

// leave ends a meter's wait. What the leader has asked for goes back where it stayed for this flow.
func (n *Node) leave(now time.Duration, f *Meter) {
	p := f.waits
	if p == nil {
		return
	}
	n.lockFlow(p)
	defer p.mu.Unlock()
	p.flows.remove(f)
	f.waits = nil
	if p.key.Scope == limit.ScopeConnection {
		n.noteDue(now, p)
		return
	}
	n.mark(p)
	n.settle(now, p)
}

// meterList is first come first served.
type meterList struct{ head, tail *Meter }

func (l *meterList) push(f *Meter) {
	f.prev, f.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = f
	} else {
		l.head = f
	}
	l.tail = f
}

func (l *meterList) remove(f *Meter) {
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
