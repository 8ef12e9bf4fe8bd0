package lease

import (
	"fmt"
	"slices"
)

// Check returns an error where the node contradicts itself. It is for tests, which call it after
// every step: it walks all connections.
func (n *Node) Check() error {
	for i, p := range n.all {
		if err := n.checkPool(i, p); err != nil {
			return fmt.Errorf("node %s, %s: %w", n.name, p.key, err)
		}
	}
	if err := n.checkBook(); err != nil {
		return fmt.Errorf("node %s: %w", n.name, err)
	}
	for _, list := range [][]*pool{n.stream.dirty, n.hot, n.later} {
		for i, p := range list {
			if slices.Index(list, p) != i {
				return fmt.Errorf("node %s: %s is twice in a list", n.name, p.key)
			}
		}
	}
	return nil
}

func (n *Node) checkPool(index int, p *pool) error {
	n.lock(p)
	defer p.mu.Unlock()
	if p.index != index || n.lookup(p.key) != p {
		return fmt.Errorf("it is not where it says to be")
	}
	var uses [slotReleased + 1]int64
	for s := p.head; s != nil; s = s.next {
		if s.part.Load() != &p.part {
			return fmt.Errorf("a slot that is counted elsewhere is in its list")
		}
		uses[s.use]++
	}
	closing := uses[slotTaken] + uses[slotHalf]
	open := uses[slotBusy] + uses[slotParked] + closing
	if open != p.open || uses[slotParked] != p.parked || closing != p.taken || uses[slotReleased] != 0 {
		return fmt.Errorf("%d open, %d parked, %d closing are counted, and %v in its list", p.open, p.parked, p.taken, uses)
	}
	var waiting waiterList
	for w := p.waiters.head; w != nil; w = w.next {
		waiting.count(w, 1)
		if w.queued && w.over || w.told && !w.queued {
			return fmt.Errorf("a waiter is queued %v, over the queue %v, told %v", w.queued, w.over, w.told)
		}
	}
	if waiting.head, waiting.tail = p.waiters.head, p.waiters.tail; waiting != p.waiters {
		return fmt.Errorf("waiters %+v are counted, and %+v are in its list", p.waiters, waiting)
	}
	switch {
	case p.kept < 0 || p.kept > 0 && !p.key.Resource.IsRate():
		return fmt.Errorf("%d tokens are kept", p.kept)
	case p.granted < 0 || p.releasing < 0:
		return fmt.Errorf("%d slots granted, %d being released", p.granted, p.releasing)
	case n.isDirty(p) != slices.Contains(n.stream.dirty, p):
		return fmt.Errorf("it is marked as changed %v, and in the list %v", n.isDirty(p), !n.isDirty(p))
	case p.granted > 0 && !p.isHeld || p.isHeld && n.held[p.heldIndex] != p:
		return fmt.Errorf("it has %d slots, and its place among the held is wrong", p.granted)
	case p.busy != (n.parting() && p.enforced() && p.open > 0):
		return fmt.Errorf("it has %d connections, and is counted as one to wait for: %v", p.open, p.busy)
	case !p.capped() && p.granted != 0:
		return fmt.Errorf("%d slots are held without a limit", p.granted)
	}
	return nil
}

// checkBook looks whether each pool is in one list.
func (n *Node) checkBook() error {
	bare := 0
	for p := n.bare.head; p != nil; p = p.newer {
		if bare++; p.isHeld || n.lookup(p.key) != p {
			return fmt.Errorf("%s is listed as bare, and is not", p.key)
		}
	}
	if bare != n.bare.len || bare+len(n.held) != len(n.all) {
		return fmt.Errorf("of %d pools %d are held and %d bare, counted as %d", len(n.all), len(n.held), bare, n.bare.len)
	}
	return nil
}

// AtRest returns an error where the node holds, wants or has yet to say anything.
func (n *Node) AtRest() error {
	for _, p := range n.all {
		n.lock(p)
		open, granted, waiting, busy := p.open, p.granted, p.waiters.len(), p.releasing != 0 || p.parked != 0 || p.taken != 0 || n.isDirty(p)
		if p.kept != 0 || p.flows.head != nil {
			waiting++
		}
		p.mu.Unlock()
		if open != 0 || granted != 0 || waiting != 0 || busy {
			return fmt.Errorf("node %s, %s: %d open, %d granted, %d waiting, something to say: %v", n.name, p.key, open, granted, waiting, busy)
		}
	}
	if len(n.hot)+len(n.stream.dirty)+len(n.later) != 0 {
		return fmt.Errorf("node %s has %d refused, %d changed and %d asking hosts in hand", n.name, len(n.hot), len(n.stream.dirty), len(n.later))
	}
	return nil
}
