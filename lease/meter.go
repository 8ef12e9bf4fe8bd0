package lease

import (
	"math"
	"time"

	"github.com/weirproxy/weir/limit"
)

// meterScopes are the scopes in which bytes are counted, in the order in which a flow waits. That
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

// Init makes m the meter of one direction of a connection: [limit.Upload] is from the worker. The
// subject must stay as it is until End.
func (m *Manager) Init(f *Meter, subject *limit.Subject, r limit.Resource, w Waker) {
	*f = Meter{manager: m, subject: subject, resource: r, waker: w}
}

// GoOn makes a meter that has ended that of another subject, in the same direction of the same
// connection: what it took of the connection's own bandwidth stays taken.
func (m *Manager) GoOn(f *Meter, subject *limit.Subject, w Waker) {
	p := f.paced
	m.Init(f, subject, f.resource, w)
	if p != nil {
		*p = paced{own: p.own}
		f.paced = p
	}
}

// Take returns how many of at most n bytes may be moved now. Where that is 0, the Waker is woken
// when it is worth to try again. What is not moved goes back with Put, before the next Take.
func (f *Meter) Take(n int) int {
	m := f.manager
	if f.n == 0 && f.table == m.node.table.Load() {
		return n
	}
	got, heard := m.node.TryPiece(f, n, m.cfg.Clock)
	switch {
	case got == 0:
		return m.waitForPiece(f, n)
	case heard:
		m.do(func(now time.Duration) { m.node.Pieced(now, f) })
	}
	return got
}

// waitForPiece is the slow path of Take.
func (m *Manager) waitForPiece(f *Meter, n int) (got int) {
	m.do(func(now time.Duration) { got = m.node.Piece(now, f, n) })
	return got
}

// Put gives back bytes of the last Take that were not moved.
func (f *Meter) Put(n int) {
	if f.n > 0 && n > 0 {
		f.PutBack(f.manager.cfg.Clock.Now(), n)
		f.manager.node.noteOwn(f, -n)
	}
}

// End gives up a wait, and what is kept for it. Nothing is woken afterwards.
func (f *Meter) End() {
	if f.n > 0 {
		f.manager.do(func(now time.Duration) { f.manager.node.Unpace(now, f) })
	}
}

// Admit reports, by its error, whether bytes of a request that is about to begin could move.
// Without a lease those under a limit on bandwidth could not, and the request would wait for as
// long as the node is cut off. What has begun before goes on waiting.
func (m *Manager) Admit(s *limit.Subject) (err error) {
	if !m.node.Moves(s, m.cfg.Clock) {
		m.do(func(time.Duration) { err = m.node.shut() })
	}
	return err
}

// Moves is the fast path of [Manager.Admit]. With ExpiryKeep a node without a session moves what
// the units that it held bring, and has nothing for other keys.
func (n *Node) Moves(s *limit.Subject, clock Clock) bool {
	table := n.table.Load()
	if table == nil || !table.CapsAny(limit.Upload) && !table.CapsAny(limit.Download) {
		return true
	}
	admits := n.gate.admits(clock)
	if admits && !n.gate.outlived() {
		return true
	}
	for _, r := range [...]limit.Resource{limit.Upload, limit.Download} {
		for _, scope := range meterScopes {
			l, name := table.Find(scope, s)
			if scope == limit.ScopeConnection || !l.Caps(r) || l.Report {
				continue
			}
			if !admits || !n.fills(limit.Key{Scope: scope, Resource: r, Name: name}) {
				return false
			}
		}
	}
	return true
}

// fills reports whether the node holds units of a rate.
func (n *Node) fills(key limit.Key) bool {
	p := n.lookup(key)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bucket.fill > 0
}

// NewMeter returns a meter for [Node.TryPiece] and [Node.Piece]. It has no [Manager]: Take, Put and
// End must not be called.
func NewMeter(subject *limit.Subject, r limit.Resource, w Waker) *Meter {
	return &Meter{subject: subject, resource: r, waker: w}
}

// TryPiece is the fast path of [Meter.Take]. Where it returns 0, the core must be asked: Piece.
// Otherwise heard says whether the core must hear of it: Pieced.
func (n *Node) TryPiece(f *Meter, most int, clock Clock) (got int, heard bool) {
	table, now := n.table.Load(), clock.Now()
	if table != f.table && (f.n > 0 || !n.find(now, f, table, false)) {
		return 0, false
	}
	if f.n == 0 {
		return most, false
	}
	bytes, heard := f.tryAll(now, &n.gate, float64(most))
	if bytes > 0 {
		n.noteExceeds(f)
		n.noteOwn(f, int(bytes))
	}
	return int(bytes), heard
}

// PutBack is [Meter.Put], of a number above 0.
func (f *Meter) PutBack(now time.Duration, n int) {
	if f.n == 0 {
		return
	}
	f.rest += float64(n)
	f.passed -= float64(n)
	for i := range f.n {
		f.back[i].giveBack(now, float64(n))
	}
	f.countExceeds()
}

// countExceeds counts the last piece at those limits that only report, and would have held it back.
// That waits until all that was not moved has come back: bytes are taken before each read, and of
// many reads nothing comes. Needs no lock of a pool.
func (f *Meter) countExceeds() {
	for i := range f.n {
		if f.exceeds[i] {
			p := f.pools[i]
			p.mu.Lock()
			f.countExceed(i)
			p.mu.Unlock()
		}
	}
}

// countExceed is countExceeds for one limit. Needs the pool's lock.
func (f *Meter) countExceed(i int) {
	if f.exceeds[i] && f.passed > 0 {
		p := f.pools[i]
		p.wouldReject++
		if p.total != nil {
			p.total.wouldReject.Add(1)
		}
	}
	f.exceeds[i] = false
}

// paced is what a meter needs under a limit. A flow takes a piece of each limit that it is under at
// one moment, or waits for one of them and has taken nothing of any: what it had would be moved
// later than it was taken, and windows of time hold more than the rate allows.
//
// It waits in one pool at a time, in the order in which flows came. When it is its turn, a piece is
// kept for it there, as for requests: see [Draw], which also says what becomes of it where another
// limit has none.
//
// A turn goes on until its piece has been moved, or nobody else waits: systems hand bytes over in
// batches, so that every few turns a flow has less at hand than a piece, and a moment later it has
// the rest. This is deficit round robin (M. Shreedhar and G. Varghese, 1995), but that a flow which
// was idle still has its rest; it has never more than a piece.
type paced struct {
	pools [len(meterScopes)]*pool
	back  [len(meterScopes)]from      // of the last piece
	kept  [len(meterScopes)]keptPiece // each is guarded by the lock of its pool
	own   *pool                       // of the connection alone

	exceeds [len(meterScopes)]bool // the last piece is above what the limit, which only reports, has; yet to be counted
	passed  float64                // of the last piece: what has not come back

	// Of the piece that is to come. While the flow waits, the core's lock guards it; otherwise it
	// belongs to the flow.
	begun bool                   // to wait for it, or to take the rest of one
	since time.Duration          // when that was
	rest  float64                // of the last piece: what was put back
	met   [len(meterScopes)]bool // it has waited there for it
	want  float64                // of the limits' pieces the least
	most  float64                // that it can move at once

	// Guarded by the core's lock.
	waits      *pool // nil: it does not wait
	at         int   // for which of pools
	wokenBy    *pool // for a piece
	wokenAt    time.Duration
	prev, next *Meter
}

// keptPiece is a piece that is kept in a pool for a flow whose turn it is; 0: none.
type keptPiece struct {
	lost  uint32 // of the pool then
	bytes int64
}

// in is how much of it is still kept in its pool. Needs the pool's lock.
func (k keptPiece) in(p *pool) int64 {
	if k.lost != p.lost {
		return 0
	}
	return k.bytes
}

// leased reports whether a pool's units come from the leader. That of a connection alone is in no
// book: it has all units, of nobody.
func (p *pool) leased() bool { return p.key.Scope != limit.ScopeConnection }

// lockAll locks the pools of a flow, the narrowest first: that of all flows is locked for the
// shortest time. Nobody else holds the locks of two pools of bytes.
func (f *Meter) lockAll() {
	for i := f.n - 1; i >= 0; i-- {
		f.pools[i].mu.Lock()
	}
}

func (f *Meter) unlockAll() { f.unlockBut(f.n) }

func (f *Meter) unlockBut(one int) {
	for i := range f.n {
		if i != one {
			f.pools[i].mu.Unlock()
		}
	}
}

// tryAll is takeAll on the fast path, where whoever waits goes first.
func (f *Meter) tryAll(now time.Duration, gate *gate, most float64) (got float64, heard bool) {
	f.lockAll()
	for i := range f.n {
		p := f.pools[i]
		if p.leased() && (p.table != f.table && !p.follow(now, f.table) || p.flows.head != nil && f.kept[i].in(p) == 0) {
			f.unlockAll()
			return 0, false
		}
	}
	got, _ = f.takeAll(now, gate, most)
	heard = f.heard()
	f.unlockAll()
	return got, heard
}

// heard reports whether the core must hear that a flow has taken a piece. Needs all locks.
func (f *Meter) heard() bool {
	for i := range f.n {
		if p := f.pools[i]; p.recalled || p.exceeded || p.flows.head != nil {
			return true
		}
	}
	return false
}

// takeAll takes a piece from each pool, or nothing: then short is the first that has none. Needs
// all locks. No byte is taken past the deadline: now was read before, and the gate is read under
// the locks.
func (f *Meter) takeAll(now time.Duration, gate *gate, most float64) (got float64, short int) {
	going := f.goesOn()
	if going {
		most = min(most, f.rest)
	} else if !f.begun {
		f.since = now
	}
	piece := f.pieceOfAll(now, gate, most)
	got = piece
	for i := range f.n {
		p := f.pools[i]
		if f.back[i].pool == nil {
			continue
		}
		free := p.freeFor(now, gate, f, i)
		need := min(p.worth(), piece)
		if kept := f.kept[i].in(p); kept > 0 {
			need = min(need, float64(kept))
		}
		if free < need {
			return 0, i
		}
		got = min(got, free)
	}
	for i := range f.n {
		f.takeFrom(now, i, got)
	}
	f.passed = got
	if f.rest -= got; !going || f.rest < leastPiece {
		f.rest = 0
	}
	f.begun, f.met = false, [len(meterScopes)]bool{}
	return got, 0
}

// goesOn reports whether the flow has begun to take the rest of its last piece.
func (f *Meter) goesOn() bool { return f.begun && f.rest >= leastPiece }

// goOn begins to take the rest of the last piece, if there is one, and others wait. Otherwise the
// flow begins anew. Needs all locks.
func (f *Meter) goOn(now time.Duration) {
	if f.begun {
		return
	}
	f.begun = true
	for i := range f.n {
		if p := f.pools[i]; f.rest >= leastPiece && p.flows.head != nil && p.enforced() {
			return
		}
	}
	f.since, f.rest = now, 0
}

// pieceOfAll is the largest piece of at most so many bytes that no limit finds too large. It notes
// which of the pools count it: not one whose limit only reports, and which has nothing. Needs all
// locks.
func (f *Meter) pieceOfAll(now time.Duration, gate *gate, most float64) float64 {
	want := math.MaxFloat64
	for i := range f.n {
		p := f.pools[i]
		f.back[i].pool, f.back[i].over = nil, nil
		if !p.capped() || p.limit.Report && p.freeFor(now, gate, f, i) < min(p.worth(), most) {
			continue
		}
		f.back[i].pool = p
		want = min(want, p.piece())
	}
	if f.goesOn() {
		want = min(want, f.rest)
	}
	f.want = want
	return min(want, most)
}

// freeFor is how many bytes a flow may take from a pool: what is kept for others stays. Needs the
// pool's lock.
func (p *pool) freeFor(now time.Duration, gate *gate, f *Meter, i int) float64 {
	if p.leased() && !gate.admitsAt(now) {
		return 0
	}
	return p.bucket.whole(now) - float64(p.kept-f.kept[i].in(p))
}

// takeFrom takes a piece from one pool, if it counts there. Needs the pool's lock.
func (f *Meter) takeFrom(now time.Duration, i int, bytes float64) {
	p := f.pools[i]
	p.kept -= f.kept[i].in(p)
	f.kept[i] = keptPiece{}
	f.countExceed(i)
	f.exceeds[i] = f.back[i].pool == nil && p.exceed(now, bytes)
	if !p.capped() {
		return
	}
	p.admitted += uint64(bytes)
	p.usedAt = now
	if f.back[i].pool == nil {
		p.draws.exceed(now, bytes)
		f.back[i].over = p
		return
	}
	p.bucket.level -= bytes
	p.drawn(now, bytes)
	f.back[i].receipt = p.bucket.receipt()
}

// patientFor is how long a node without units has waited for some when a piece counts as held up.
// Those that lie unused elsewhere come within a fraction of it.
const patientFor = time.Second

// exceed notes a piece that is taken above a limit which only reports, and says whether it counts
// as held up. Where the node has no units, it has yet to ask for some, or to get them: until then
// only what all units together could not have let through counts. Needs the pool's lock.
func (p *pool) exceed(now time.Duration, bytes float64) (counts bool) {
	if !p.capped() {
		return false
	}
	p.exceeded = p.leased() && p.refused[0] == 0
	if p.granted == 0 {
		if p.refused == [2]int64{} {
			p.shortAt, p.uncovered = now, 0
		}
		p.uncovered += bytes
	}
	return p.granted > 0 || now-p.shortAt >= patientFor || p.uncovered > p.most(now-p.shortAt)
}

// most is what all units of a rate let through in a time. Needs the pool's lock.
func (p *pool) most(t time.Duration) float64 {
	r := p.key.Resource
	return float64(p.limit.BurstGrains(r)) + p.limit.PerSecond(r)*t.Seconds()
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

// from is where bytes were taken, to give them back; without a pool they were taken of no limit's.
type from struct {
	pool *pool
	over *pool // whose limit only reports: the bytes pass above it, and are counted as passed
	receipt
}

// giveBack returns bytes to where they were taken. Needs no lock.
func (r *from) giveBack(now time.Duration, bytes float64) {
	if p := r.over; p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.admitted -= uint64(bytes)
		p.draws.exceed(now, -bytes)
		p.uncovered = max(p.uncovered-bytes, 0)
		return
	}
	if r.pool == nil {
		return
	}
	p := r.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draws.add(now, -bytes)
	p.admitted -= uint64(bytes)
	p.bucket.giveBack(now, r.receipt, bytes)
}
