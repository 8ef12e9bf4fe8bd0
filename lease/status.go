package lease

import (
	"cmp"
	"slices"
	"time"

	"github.com/weirproxy/weir/limit"
)

// SessionStatus is a node's own view of its session.
type SessionStatus struct {
	ID        uint64        // 0: none
	State     string        // live, fenced or none
	ExpiresIn time.Duration // until the node must stop, unless the cluster answers
	Connected bool          // to the leader
	Age       time.Duration // since it was asked for; 0 unless live
	Fences    uint64        // how often this process has fenced
}

// Session returns the node's own view of its session.
func (n *Node) Session(now time.Duration) SessionStatus {
	st := SessionStatus{ID: n.sess.id, State: SessionNone, Connected: n.welcomed, Fences: n.fences}
	switch {
	case n.sess.live():
		st.State = SessionLive
		st.ExpiresIn = max(0, n.sess.deadline-now)
		st.Age = max(0, now-n.sess.begun)
	case !n.fresh && !n.parting:
		st.State = SessionFenced
	}
	return st
}

// HostUse is the use of one host on this node.
type HostUse struct {
	Key      limit.Key
	Limit    *limit.Limit // nil: none
	Granted  int64
	InUse    int64
	Idle     int64 // of those in use: kept for reuse, or being closed, without a request
	Waiting  int64
	Admitted uint64
	Rejected uint64
}

// Hosts lists the use of every host that this node knows, by name.
func (n *Node) Hosts() []HostUse {
	return sortedUses(n.uses(make([]HostUse, 0, len(n.all)), n.all))
}

// uses appends the use of some pools.
func (n *Node) uses(to []HostUse, pools []*pool) []HostUse {
	for _, p := range pools {
		to = append(to, n.usage(p))
	}
	return to
}

// sortedUses sorts by name, in place.
func sortedUses(all []HostUse) []HostUse {
	slices.SortFunc(all, func(x, y HostUse) int { return cmp.Compare(x.Key.Name, y.Key.Name) })
	return all
}

// Host returns the use of one; ok is false where this node knows nothing of it.
func (n *Node) Host(key limit.Key) (use HostUse, ok bool) {
	p := n.lookup(key)
	if p == nil {
		return HostUse{}, false
	}
	return n.usage(p), true
}

// usage describes a pool.
func (n *Node) usage(p *pool) HostUse {
	n.lock(p)
	defer p.mu.Unlock()
	return HostUse{
		Key: p.key, Limit: p.limit, Granted: p.granted, InUse: p.open, Idle: p.parked + p.taken,
		Waiting: p.waiters.len(), Admitted: p.admitted, Rejected: p.rejected,
	}
}
