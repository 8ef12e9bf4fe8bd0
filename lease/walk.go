package lease

import (
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
)

// pageSize is how many pools one page of a walk visits: some tenths of a millisecond, in which
// nothing else that needs the core's lock can run, keep-alives included.
const pageSize = 1024

// walk is a visit to every pool, a page at a time, after an event that concerns all of them: a
// fence, the end of a stream, a welcome, a drain.
//
// The core never sees a pool that has not taken such an event: lock makes the pool catch up first.
// So a walk may be interrupted by anything, and is there for promptness: what waits in the pools is
// answered, severed or given back. Only the fast path can meet a pool before the walk does. For it
// the gate is what counts, which a fence closes at once, and which no new session opens before the
// fence's walk has ended. With ExpiryKeep no gate closes: a pool goes on without a lease until the
// walk of the next session has come to it.
type walk struct {
	era          era
	unvisited    int    // so many of the first of all the pools have yet to be visited
	walks        uint64 // begun so far
	fencing      bool   // a fence's walk has yet to end
	fenced       uint64 // fences whose walk has ended
	fenceSevered int    // connections that the last fence severed
	busy         int    // pools with connections that a parting node waits for
}

// era counts the events that concern every pool.
type era struct{ fences, streams, hellos, sessions, parts uint64 }

// lock takes a pool's lock, and lets the pool take all events that concern it. All of the core
// locks pools in this way.
func (n *Node) lock(p *pool) {
	p.lock()
	if p.era != n.era {
		n.catchUp(p)
	}
}

// lockPool locks the pool that a slot is in.
func (n *Node) lockPool(s *Slot) *pool {
	for {
		p := s.part.Load().pool
		n.lock(p)
		if s.part.Load() == &p.part {
			return p
		}
		p.mu.Unlock()
	}
}

// catchUp lets a pool take the events since it was last locked. The order among them does not
// matter: a fence leaves nothing that the others could act on, and grants come only after all of
// them. Needs the pool's lock.
func (n *Node) catchUp(p *pool) {
	had := p.era
	p.era = n.era
	if had.fences != n.era.fences && p.capped() {
		n.fencePool(p)
	}
	if had.parts != n.era.parts && p.enforced() {
		for w := p.waiters.head; w != nil; w = p.waiters.head {
			n.answer(p, w, ErrDraining)
		}
	}
	if had.streams != n.era.streams {
		p.told = false
		p.reported = false
		p.target, p.targetSeq, p.contended = leasepb.NoTarget, 0, false
		p.ask, p.asking, p.denied = 0, false, false
		for w := p.waiters.head; w != nil; w = w.next {
			w.ask = 0
		}
	}
	if had.streams != n.era.streams || had.hellos != n.era.hellos {
		p.releasing, p.leaving = 0, 0 // the leader finds it in the difference between the hello and the log
	}
	if had.sessions != n.era.sessions {
		p.lose() // slots of the former session, where they were kept beyond its end
	}
	n.noteSlow(p)
}

// beginWalk visits the first page; the shell calls Walk for the others.
func (n *Node) beginWalk(now time.Duration) {
	n.unvisited = len(n.all)
	n.walks++
	n.Walk(now)
}

// Walking reports whether a walk has pages left.
func (n *Node) Walking() bool { return n.unvisited > 0 }

// Walk visits the next page, from the last pool to the first. A pool made meanwhile comes behind
// those to visit, and has nothing to catch up with; where one is forgotten, another takes its
// place, and may be visited twice.
func (n *Node) Walk(now time.Duration) {
	n.unvisited = min(n.unvisited, len(n.all))
	severs := len(n.severs)
	for k := 0; n.unvisited > 0 && k < n.bounds.Page && len(n.severs)-severs < n.bounds.Page; k++ {
		n.unvisited--
		p := n.all[n.unvisited]
		n.lock(p)
		n.settle(now, p)
		if n.concernsLeader(p) {
			n.mark(p)
		}
		p.mu.Unlock()
	}
	if n.unvisited == 0 && n.fencing {
		n.fencing = false
		n.fenced = n.fences
	}
}

// concernsLeader reports whether a pool has something to say on a new stream. What a key without a
// limit gives back is left from a limit that it had. Needs the pool's lock.
func (n *Node) concernsLeader(p *pool) bool {
	if !p.capped() {
		return p.releasing > 0
	}
	return p.flows.head != nil || p.open > 0 || p.granted > 0 || p.waiters.len() > 0 || p.releasing > 0 || p.refused != [2]int64{}
}
