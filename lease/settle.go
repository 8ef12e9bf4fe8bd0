package lease

import (
	"sort"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// Release gives a slot back.
func (n *Node) Release(now time.Duration, s *Slot) {
	p := n.lockPool(s)
	defer p.mu.Unlock()
	if s.use == slotReleased {
		return
	}
	n.dropGhost(p, s)
	p.unlink(s)
	s.use = slotReleased
	slow := p.slow
	n.settle(now, p)
	if slow || p.slow {
		n.mark(p)
	}
}

// Parked is called when a connection was parked, comes to its end, or does not after all, while
// somebody waits.
func (n *Node) Parked(now time.Duration, s *Slot) {
	p := n.lockPool(s)
	defer p.mu.Unlock()
	n.settle(now, p)
	n.mark(p)
}

// settle gives free slots back or out: first to the leader, where the node holds more than its
// target; then to requests that wait here; then, where another node is short and nobody waits here,
// to the leader again. Needs the pool's lock.
func (n *Node) settle(now time.Duration, p *pool) {
	if p.key.Resource.IsRate() {
		n.settleRate(now, p)
		return
	}
	if !p.limit.Capped() {
		for p.waiters.head != nil {
			n.admit(now, p)
		}
		n.noteSlow(p)
		return
	}
	if p.limit.Report {
		n.admitAsGhosts(now, p)
	}
	if p.target >= 0 && p.granted > p.target {
		n.giveBack(now, p, min(p.free(), p.granted-p.target))
	}
	for p.free() > 0 && p.waiters.head != nil && n.mayAdmit(now, p) {
		n.admit(now, p)
	}
	if p.free() > 0 && (n.leaving() || p.contended) {
		if p.refused == [2]int64{} || n.leaving() {
			n.giveBack(now, p, p.free())
		} else {
			n.mark(p) // say that it lies idle
		}
	}
	n.closeParked(p)
	n.noteSlow(p)
}

// mayAdmit reports whether waiting requests may be admitted. It looks at the time, not only at the
// fence: a process that was stopped may find a grant on its stream before its timer says that the
// lease is over. Needs the pool's lock.
func (n *Node) mayAdmit(now time.Duration, p *pool) bool {
	return n.gate.admitsAt(now) && p.limit.Connections > 0 && !p.above()
}

func (n *Node) admit(now time.Duration, p *pool) {
	w := p.waiters.head
	if !w.ghost {
		w.slot.waited = now - w.since
		p.begin(now, w.slot)
	}
	n.answer(p, w, nil)
	n.mark(p)
}

// giveBack takes free slots out of use; the leader is told with the next Update. Needs the pool's
// lock.
func (n *Node) giveBack(now time.Duration, p *pool, k int64) {
	if k <= 0 {
		return
	}
	if p.key.Resource.IsRate() {
		p.leaveBucket(now, k)
	}
	p.granted -= k
	p.resize(now)
	p.low = min(p.low, p.free())
	p.releasing += k
	n.mark(p)
}

// closeParked asks for the slots of kept-alive connections where they are needed, the oldest first.
// A limit that only reports asks for none. Needs the pool's lock.
func (n *Node) closeParked(p *pool) {
	if p.limit.Report && !n.leaving() {
		return
	}
	need := p.waiters.len()
	if p.target >= 0 {
		need = max(need, max(p.granted, p.open)-p.target)
	}
	if n.leaving() {
		need = p.parked + p.taken
	}
	need = min(need-p.taken-max(0, p.free()), p.parked)
	for s := p.head; s != nil && need > 0; s = s.next {
		if s.use == slotParked {
			n.takeParked(p, s)
			need--
		}
	}
}

// takeParked asks for the slot of a kept-alive connection. Needs the pool's lock.
func (n *Node) takeParked(p *pool, s *Slot) {
	p.setUse(s, slotTaken)
	n.severs = append(n.severs, Severance{s, s.holder, SeverWanted})
}

// noteSlow decides whether releases and parked connections must go through the core. Needs the
// pool's lock.
func (n *Node) noteSlow(p *pool) {
	p.recalled = p.key.Resource.IsRate() && p.target >= 0 && p.granted > p.target
	p.slow = n.leaving() || p.waiters.len() > 0 || p.target >= 0 || p.contended ||
		(p.capped() && p.open > p.granted)
	if busy := n.parting() && p.enforced() && p.open > 0; busy != p.busy {
		p.busy = busy
		if busy {
			n.busy++
		} else {
			n.busy--
		}
	}
}

// assigned takes what the leader decided: grants first, then targets, then the answers that rest on
// both.
func (n *Node) assigned(now time.Duration, a *leasepb.Assign) error {
	touched := map[*pool]struct{}{}
	each := func(k *limit.Key) *pool {
		p := n.pool(now, *k)
		touched[p] = struct{}{}
		return p
	}
	if err := n.takeGrants(now, a.Grants, each); err != nil {
		return err
	}
	for _, t := range a.Targets {
		key, err := fsmpb.ParseKey(t.Key)
		if err != nil {
			return err
		}
		p := each(&key)
		n.lock(p)
		p.target, p.targetSeq, p.contended = t.Slots, t.Seq, t.Contended
		if t.Evict && t.Slots >= 0 {
			n.evict(p, t.Slots)
		}
		n.mark(p)
		p.mu.Unlock()
	}
	for _, p := range sortedPools(touched) {
		n.lock(p)
		n.settle(now, p)
		p.mu.Unlock()
	}
	for _, ans := range a.Answers {
		key, err := fsmpb.ParseKey(ans.Key)
		if err != nil {
			return err
		}
		n.answered(now, n.pool(now, key), ans)
	}
	return nil
}

func (n *Node) takeGrants(now time.Duration, grants []*leasepb.Holding, each func(*limit.Key) *pool) error {
	for _, g := range grants {
		key, err := fsmpb.ParseKey(g.Key)
		if err != nil {
			return err
		}
		if g.Slots <= 0 || !n.sess.live() {
			continue
		}
		p := each(&key)
		n.lock(p)
		n.hold(p)
		p.granted += g.Slots
		p.reported = true
		p.fillUp(now, g.Level)
		n.mark(p)
		if !p.capped() {
			n.giveBack(now, p, p.granted)
		}
		p.mu.Unlock()
	}
	return nil
}

// sortedPools gives a set an order, so that the same messages have the same effects.
func sortedPools(set map[*pool]struct{}) []*pool {
	out := make([]*pool, 0, len(set))
	for p := range set {
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].key.Compare(out[j].key) < 0 })
	return out
}
