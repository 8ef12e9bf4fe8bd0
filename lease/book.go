package lease

import (
	"time"

	"github.com/weirproxy/weir/limit"
)

const (
	// maxBare bounds the pools that a node keeps without holding a slot in them, beyond those in
	// use. A pool takes 0.5 KB, or 0.75 KB of a rate: raising it keeps the totals of more hosts,
	// lowering it saves memory.
	maxBare = 16_384
	// forgetAfter is how long a host is remembered, with its totals, after its last use.
	forgetAfter = 10 * time.Minute
	// looksToForget is how often in that time the book looks whether a bare pool is used.
	looksToForget = 20
	// looksPerPool bounds the looks for a pool to forget when another is made. Above one, the book
	// comes back to its bound after a time in which most pools were in use.
	looksPerPool = 8
)

// book is a node's pools. A pool is held while the node holds a slot of its key, as far as the last
// sweep knows, and bare otherwise. The held ones are bounded by what the leader grants, the bare
// ones by maxBare and by what is in use: the name of a host comes from a client, who may make up as
// many as it likes.
//
// The fast path does not touch the book. So the order of the bare pools is that of the last look at
// them, and a pool that was used since gets a second chance (the CLOCK algorithm).
type book struct {
	all     []*pool
	held    []*pool
	rates   int // of the held ones
	bare    bareList
	bounds  Bounds
	unswept int // so many of the first of the held ones has the sweep yet to visit
}

// entry is a pool's place in the book.
type entry struct {
	isHeld       bool
	heldIndex    int
	older, newer *pool         // among the bare ones
	looked       time.Duration // when the book looked at it last
}

// Bounds are how much a node does in one go, and keeps. Only tests and simulations set them: there
// a handful of pools must make several pages.
type Bounds struct {
	Page   int // pools that one page of a walk visits
	Stated int // holdings in one message of the hello, to the next page
	Bare   int // pools without a slot that are kept unused
	// Forget is how long a pool is remembered after its last use; 0: as in production.
	Forget time.Duration
	// Requests is how many lists of requests there are: with one, all that happens to them has an
	// order.
	Requests int
}

// SetBounds replaces a node's bounds.
func (n *Node) SetBounds(b Bounds) {
	if b.Forget == 0 {
		b.Forget = forgetAfter
	}
	n.bounds = b
}

// lookup finds a key's pool without any lock; nil where there is none yet.
func (n *Node) lookup(key limit.Key) *pool {
	return n.pools.of(key).load(key.Name)
}

// pool finds or makes a key's pool. The caller must hold no pool's lock.
func (n *Node) pool(now time.Duration, key limit.Key) *pool {
	if p := n.lookup(key); p != nil {
		return p
	}
	table := n.table.Load()
	p := newPool(key)
	p.slow, p.era = n.leaving(), n.era
	p.looked, p.usedAt = now, now
	if table != nil {
		n.govern(now, p, table)
	}
	n.trim(now, looksPerPool) // before the new one is listed: it has yet to be used
	p.index = len(n.all)
	n.all = append(n.all, p)
	n.bare.push(p)
	n.pools.of(key).add(p)
	return p
}

// govern lets a pool go by a table. Needs the pool's lock.
func (n *Node) govern(now time.Duration, p *pool, table *limit.Table) {
	p.table, p.limit = table, table.Governing(p.key)
	if p.key.Scope != limit.ScopeHost || p.key.Resource != limit.Connections {
		p.resize(now)
		return
	}
	if p.direct = table.Direct(p.key); p.direct {
		n.hosts.add(p)
	} else {
		n.hosts.remove(p)
	}
}

// settleTable makes the core's table a pool's. They differ where the log was put back: a request on
// the fast path, which still had the table of before, may have let the pool follow that again.
// Needs the pool's lock.
func (n *Node) settleTable(now time.Duration, p *pool, table *limit.Table) {
	if p.table != table {
		n.govern(now, p, table)
	}
}

// hold notes that a bare pool is to get slots. Its time without use begins now. Needs the pool's
// lock.
func (n *Node) hold(p *pool) {
	if p.isHeld {
		return
	}
	n.bare.remove(p)
	p.isHeld, p.heldIndex = true, len(n.held)
	n.held = append(n.held, p)
	p.low, p.lows = p.free(), [idleBuckets]int64{}
	if p.key.Resource.IsRate() {
		n.rates++
	}
}

// unhold makes a pool without slots bare. Needs the pool's lock.
func (n *Node) unhold(now time.Duration, p *pool) {
	last := len(n.held) - 1
	n.held[p.heldIndex] = n.held[last]
	n.held[p.heldIndex].heldIndex = p.heldIndex
	n.held[last] = nil
	n.held = n.held[:last]
	p.isHeld, p.looked = false, now
	n.bare.push(p)
	if p.key.Resource.IsRate() {
		n.rates--
	}
}

// second begins a sweep over the held pools, and looks at the bare ones that are due.
func (n *Node) second(now time.Duration) {
	if n.unswept == 0 {
		n.unswept = len(n.held)
	}
	for range n.bounds.Page {
		p := n.bare.head
		if p == nil || now < p.looked+n.bounds.Forget/looksToForget {
			break
		}
		n.look(now, p)
	}
	n.trim(now, n.bounds.Page)
}

// sweepSome visits the next held pools: slots that have been idle throughout the window go back.
func (n *Node) sweepSome(now time.Duration) {
	n.unswept = min(n.unswept, len(n.held))
	for k := 0; n.unswept > 0 && k < n.bounds.Page; k++ {
		n.unswept--
		p := n.held[n.unswept]
		n.lock(p)
		n.sweep(now, p)
		p.mu.Unlock()
	}
}

// sweep gives back what one pool has not used. Needs the pool's lock.
func (n *Node) sweep(now time.Duration, p *pool) {
	p.lows[p.lowAt] = p.low
	p.lowAt = (p.lowAt + 1) % idleBuckets
	p.low = p.idle(now)
	if p.capped() && n.welcomed() {
		least := p.low
		for _, l := range p.lows {
			least = min(least, l)
		}
		n.giveBack(now, p, least)
	}
	if p.granted == 0 {
		n.unhold(now, p)
	}
}

// look forgets the bare pool that comes first if it has not been used for long. Otherwise it goes
// to the end.
func (n *Node) look(now time.Duration, p *pool) {
	n.lock(p)
	defer p.mu.Unlock()
	if n.isNeeded(p) {
		p.usedAt = now
	}
	if now-p.usedAt >= n.bounds.Forget {
		n.forget(p)
		return
	}
	n.passOver(now, p)
}

// trim forgets bare pools above the bound, those first that were used least lately.
func (n *Node) trim(now time.Duration, looks int) {
	for ; looks > 0 && n.bare.len > n.bounds.Bare; looks-- {
		p := n.bare.head
		n.lock(p)
		if n.isNeeded(p) || p.usedAt > p.looked {
			n.passOver(now, p)
		} else {
			n.forget(p)
		}
		p.mu.Unlock()
	}
}

func (n *Node) passOver(now time.Duration, p *pool) {
	p.looked = now
	n.bare.remove(p)
	n.bare.push(p)
}

// isNeeded reports whether anything refers to a bare pool, the leader has yet to hear of it, or the
// pool has what the leader told it and does not tell again. Needs the pool's lock.
func (n *Node) isNeeded(p *pool) bool {
	told := p.reported || p.contended || p.target >= 0
	return p.pinned || p.kept > 0 || p.open > 0 || p.waiters.len() > 0 || p.flows.head != nil || p.dueAt != 0 || p.putOff || p.releasing > 0 || told && n.welcomed() || p.refused != [2]int64{} || n.isDirty(p)
}

// forget drops a bare pool. Needs the pool's lock.
func (n *Node) forget(p *pool) {
	p.table = nil // a caller of the fast path that has it in hand looks again
	if p.direct {
		n.hosts.remove(p)
	}
	n.pools.of(p.key).remove(p)
	n.bare.remove(p)
	last := len(n.all) - 1
	n.all[p.index] = n.all[last]
	n.all[p.index].index = p.index
	n.all[last] = nil
	n.all = n.all[:last]
}

// bareList is the bare pools, the one first that was looked at least lately.
type bareList struct {
	head, tail *pool
	len        int
}

func (l *bareList) push(p *pool) {
	p.older, p.newer = l.tail, nil
	if l.tail != nil {
		l.tail.newer = p
	} else {
		l.head = p
	}
	l.tail = p
	l.len++
}

func (l *bareList) remove(p *pool) {
	if p.older != nil {
		p.older.newer = p.newer
	} else {
		l.head = p.newer
	}
	if p.newer != nil {
		p.newer.older = p.older
	} else {
		l.tail = p.older
	}
	p.older, p.newer = nil, nil
	l.len--
}
