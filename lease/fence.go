package lease

import (
	"cmp"
	"slices"
	"time"
)

// lapse fences a node whose deadline has passed, before it sends or takes a message. Where a
// machine wakes up, the stream may be read before the timer fires, and a keep-alive sent after the
// deadline must not bring the session back.
func (n *Node) lapse(now time.Duration) {
	if n.sess.live() && now >= n.sess.fenceAt() {
		n.fence(now)
	}
}

// Lose notes that the session has ended in the log: nothing is held any more.
func (n *Node) Lose(now time.Duration) {
	if n.sess.live() {
		n.fence(now)
	}
}

// fence ends everything that the lease allowed. From here on the closed gate refuses all requests.
// The walk severs the connections; the shell carries it on at once.
func (n *Node) fence(now time.Duration) {
	n.sess.end()
	n.stream.giveUp()
	n.fences++
	n.fencing, n.fenceSevered = true, 0
	if n.expiry == ExpiryKeep {
		n.gate.outlive()
	} else {
		n.gate.close()
		n.era.fences++
	}
	n.beginWalk(now)
}

// fencePool takes away what the lease allowed of one key. Needs the pool's lock.
func (n *Node) fencePool(p *pool) {
	p.lose()
	for w := p.waiters.head; w != nil; w = p.waiters.head {
		n.answer(p, w, ErrNoLease)
	}
	if n.expiry == ExpiryClose && p.enforced() {
		before := len(n.severs)
		for s := p.head; s != nil; s = s.next {
			n.severSlot(s, SeverFenced)
		}
		n.fenceSevered += len(n.severs) - before
	}
}

func (n *Node) severSlot(s *Slot, why Reason) {
	if !s.severed.Swap(true) {
		n.severs = append(n.severs, Severance{s, s.holder, why})
	}
}

// unsevered lists the connections that have not been severed, the newest first. Needs the pool's
// lock.
func (p *pool) unsevered() (newest []*Slot) {
	for s := p.tail; s != nil; s = s.prev {
		if !s.severed.Load() {
			newest = append(newest, s)
		}
	}
	slices.SortStableFunc(newest, func(x, y *Slot) int {
		if x.request != nil { // a limit that was set later has counted all of them at one moment
			return cmp.Compare(y.request.order, x.request.order)
		}
		return cmp.Compare(y.since, x.since)
	})
	return newest
}

// severNewest resets the first k of a pool's connections; none where the limit only reports. Needs
// the pool's lock.
func (n *Node) severNewest(p *pool, newest []*Slot, k int64, why Reason) {
	if p.limit != nil && p.limit.Report {
		return
	}
	for _, s := range newest[:max(0, min(k, int64(len(newest))))] {
		n.severSlot(s, why)
	}
}

// evict brings a pool's connections down to so many: those that no request uses go first, as
// wherever a slot is needed, and then the newest. If the newest went whatever they are, the lower
// target would close the unused ones besides, and fewer would be left than the limit allows. Needs
// the pool's lock.
func (n *Node) evict(p *pool, target int64) {
	if p.limit != nil && p.limit.Report {
		return
	}
	closing := func(s *Slot) bool { return s.use == slotTaken }
	live := slices.DeleteFunc(p.unsevered(), closing) // the others are on their way out
	k := int64(len(live)) - target
	for _, s := range slices.Backward(live) {
		if k > 0 && s.use == slotParked {
			n.takeParked(p, s)
			k--
		}
	}
	n.severNewest(p, slices.DeleteFunc(live, closing), k, SeverEvicted)
}

// openGate lets the fast path admit until the lease's end.
func (n *Node) openGate() {
	if n.parting() {
		return
	}
	if n.expiry == ExpiryKeep {
		n.gate.open(openEnded)
		return
	}
	n.gate.open(n.sess.fenceAt())
}
