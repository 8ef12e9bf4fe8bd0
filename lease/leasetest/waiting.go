package leasetest

import (
	"errors"
	"slices"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// waits notes a request that waits; over one that does so no more.
func (u *upstream) waits(c *conn) {
	if u.w.final {
		u.asked = append(u.asked, c)
		if r := u.keys[u.keyOf(c.key)].rate; r != nil {
			r.waits(u.w.now, 1)
			for _, key := range c.tokenKeys() {
				if key != c.key {
					r.mixed = mixed{u.w.now, u.keyOf(key)}
				}
			}
		}
		u.circle()
	}
}

func (u *upstream) unwait(c *conn) {
	if i := slices.Index(u.asked, c); i >= 0 {
		u.asked = slices.Delete(u.asked, i, i+1)
		if r := u.keys[u.keyOf(c.key)].rate; r != nil {
			r.waits(u.w.now, -1)
		}
	}
}

func (u *upstream) over(c *conn) {
	u.unwait(c)
	if i := slices.Index(u.seen, c); i >= 0 {
		u.seen = slices.Delete(u.seen, i, i+1)
	}
}

// watch notes since when something has had a slot that nobody uses.
func (u *upstream) watch(place int) {
	if !u.w.final {
		return
	}
	key := u.hosts[place].key
	k := &u.keys[key]
	if k.limit < 0 {
		return
	}
	full := u.inHand(key) >= k.limit
	if k.full && !full {
		k.freeFrom = u.w.now
	}
	k.full = full
}

// freed notes that a claim has been given back.
func (u *upstream) freed(place int) {
	if u.w.final {
		k := &u.keys[u.hosts[place].key]
		k.ends = append(k.ends, u.w.now)
		if n := len(k.ends) - int(max(k.limit, 0)); n > 0 {
			k.ends = slices.Delete(k.ends, 0, n) // more are not looked at
		}
	}
	u.watch(place)
}

// servedMeanwhile reports whether as many requests as there are slots had one since another asked,
// or just before, be it one after the other: slots, and the news of them, take a while to go from
// node to node, and meanwhile nobody uses them.
func (u *upstream) servedMeanwhile(key int, asked time.Duration) bool {
	k := &u.keys[key]
	n := u.inHand(key)
	for _, at := range k.ends {
		if at >= asked-u.w.rtt-u.w.commit {
			n++
		}
	}
	return n >= k.limit
}

// left notes that a request waits no more because its worker went away.
func (u *upstream) left(c *conn) { u.keys[u.keyOf(c.key)].left = u.w.now }

// underway reports whether slots may have been on their way to a node for a request that had left,
// and back, when another asked: the leader could only say that they were held.
func (u *upstream) underway(key int, asked time.Duration) bool {
	k := &u.keys[key]
	return k.left > 0 && asked-k.left < 2*(u.w.rtt+u.w.commit)
}

// inHand is how many claims on a key are held.
func (u *upstream) inHand(key int) (n int64) {
	for _, c := range u.seen {
		if c.holds(key) {
			n++
		}
	}
	return n
}

// holds reports whether a connection, or the request on it, holds a claim on a key. What a request
// waits for comes before those that a limit has added since, in the scopes behind it.
func (c *conn) holds(key int) bool {
	most := hostClaim
	if c.waiter != nil && c.key.Resource == limit.Connections {
		most = slices.Index(claimedScopes[:], c.key.Scope)
	}
	for i, cl := range c.claims {
		late := cl.late && i < most
		if (cl.has || late) && cl.place != noPlace && c.w.up.hosts[cl.place].key == key {
			return true
		}
	}
	return false
}

// circle fails the run where requests wait for each other: each for a slot of which all are held by
// others of them.
func (u *upstream) circle() {
	waits := map[*conn]int{}
	for _, c := range u.asked {
		if k := u.keyOf(c.key); c.key.Resource == limit.Connections && c.waiter != nil && u.keys[k].limit > 0 {
			waits[c] = k
		}
	}
	for again := true; again; {
		again = false
		for _, c := range u.asked {
			key, found := waits[c]
			if !found {
				continue
			}
			n, free := int64(0), false
			for _, other := range u.seen {
				if !other.holds(key) {
					continue
				}
				n++
				if _, stuck := waits[other]; !stuck || other.state != connWaits {
					free = true
				}
			}
			if free || n < u.keys[key].limit {
				delete(waits, c)
				again = true
			}
		}
	}
	for _, c := range u.asked {
		if key, stuck := waits[c]; stuck {
			u.w.fail(BreachCircle, "node %s waits for %s, of which all is held by requests that wait for what others of them hold", c.x.name, u.keys[key].key)
			return
		}
	}
}

// patience is how long somebody may wait, or how long a slot must have been free for a refusal to
// be wrong, while nothing fails.
func (w *world) patience() time.Duration {
	return 1500*ms + 20*w.rtt + 6*w.commit + 6*w.plan.Upstream.D()
}

// refused judges a refusal: a limit that only reports refuses nobody, and with slots free for long,
// there should be none.
func (u *upstream) refused(c *conn) {
	e, over := isLimit(c.err)
	if over && e.Limit.Report {
		u.w.fail(BreachReport, "node %s was refused by %s, which only reports: %v", c.x.name, e.Key, c.err)
	}
	switch {
	case !u.w.final:
	case errors.Is(c.err, lease.ErrNoLease):
		u.w.fail(BreachNoSession, "node %s has no lease long after the last fault", c.x.name)
	case !over || errors.Is(c.err, lease.ErrQueueFull) || e.Key.Resource != limit.Connections:
	default:
		key := u.keyOf(e.Key)
		if k := &u.keys[key]; k.limit > 0 && !k.full && u.w.now-k.freeFrom > u.w.patience() && !u.servedMeanwhile(key, c.asked) && !u.underway(key, c.asked) {
			u.w.fail(BreachStarved, "node %s refused a request for %s (%v) while a slot has been free for %v", c.x.name, k.key, c.err, u.w.now-k.freeFrom)
		}
	}
}

// severed judges the end of a connection: a limit that only reports asks for none.
func (u *upstream) severed(x *process, s lease.Severance) {
	key := s.Slot.Key()
	if l := x.node.Table().Governing(key); l != nil && l.Report && !x.idle {
		u.w.fail(BreachReport, "node %s is to give up a slot of %s (%s), which only reports", x.name, key, s.Reason)
	}
}

// watchAll judges those who wait.
func (u *upstream) watchAll() {
	for i := range u.keys {
		if k := &u.keys[i]; k.rate != nil {
			u.watchRate(k)
		}
	}
	for _, c := range u.asked {
		k := &u.keys[u.keyOf(c.key)]
		if k.limit > 0 && !k.full && u.w.now-max(k.freeFrom, c.asked) > u.w.patience() {
			u.w.fail(BreachStarved, "node %s has had a request for %s waiting for %v while a slot was free", c.x.name, k.key, u.w.now-max(k.freeFrom, c.asked))
		}
	}
}
