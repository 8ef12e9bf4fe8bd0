package lease

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
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
	st := SessionStatus{ID: n.sess.id, State: leasepb.SessionNone, Connected: n.welcomed(), Fences: n.fences}
	switch {
	case n.sess.live():
		st.State = leasepb.SessionLive
		st.ExpiresIn = max(0, n.sess.deadline-now)
		st.Age = max(0, now-n.sess.begun)
	case !n.fresh && !n.parting():
		st.State = leasepb.SessionFenced
	}
	return st
}

// Session returns the node's own view of its session.
func (m *Manager) Session() SessionStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node.Session(m.cfg.Clock.Now())
}

// Late is for how long the Manager has not looked at the clock. While it runs, that is a quarter of
// a second at most on a machine that is not overloaded: more says that it is stuck.
func (m *Manager) Late() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cfg.Clock.Now() - m.ticked
}

// InSession reports whether the node has a live session, and the leader of its stream knows it.
func (n *Node) InSession() bool { return n.sess.live() && n.welcomed() }

// Use is the use of one key on this node.
type Use struct {
	Key         limit.Key
	Limit       *limit.Limit // nil: none
	Granted     int64        // slots; of a rate, shares of it
	InUse       int64        // slots; of a rate 0
	Idle        int64        // of those in use: kept for reuse, without a request
	Waiting     int64        // requests, or flows of bytes
	Admitted    uint64       // connections, requests or bytes
	Rejected    uint64
	WouldReject uint64  // by a limit that only reports
	Now         float64 // of a rate: requests or bytes in about the last second, a second
	Level       float64 // of a rate: requests or bytes that the node could let through at once
}

// Uses lists the use of every key that this node knows, in the order of the keys.
func (n *Node) Uses(now time.Duration) []Use {
	return sortedUses(n.uses(now, make([]Use, 0, len(n.all)), n.all))
}

// Use returns the use of one key; ok is false where this node knows nothing of it.
func (n *Node) Use(now time.Duration, key limit.Key) (use Use, ok bool) {
	p := n.lookup(key)
	if p == nil {
		return Use{}, false
	}
	return n.usage(now, p), true
}

// Uses lists the use of every key that this node knows, in the order of the keys.
func (m *Manager) Uses() []Use {
	m.mu.Lock()
	pools := slices.Clone(m.node.all)
	m.mu.Unlock()
	out := make([]Use, 0, len(pools))
	for page := range slices.Chunk(pools, pageSize) {
		m.mu.Lock()
		out = m.node.uses(m.cfg.Clock.Now(), out, page)
		m.mu.Unlock()
	}
	return sortedUses(append(out, m.node.ownUses()...))
}

// Use returns the use of one key; ok is false where this node knows nothing of it.
func (m *Manager) Use(key limit.Key) (use Use, ok bool) {
	if key.Scope == limit.ScopeConnection {
		return m.node.ownUse(key)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node.Use(m.cfg.Clock.Now(), key)
}

// uses appends the use of some pools.
func (n *Node) uses(now time.Duration, to []Use, pools []*pool) []Use {
	for _, p := range pools {
		to = append(to, n.usage(now, p))
	}
	return to
}

// sortedUses sorts by key, in place.
func sortedUses(all []Use) []Use {
	slices.SortFunc(all, func(x, y Use) int { return x.Key.Compare(y.Key) })
	return all
}

// usage describes a pool.
func (n *Node) usage(now time.Duration, p *pool) Use {
	n.lock(p)
	defer p.mu.Unlock()
	u := Use{
		Key: p.key, Limit: p.limit, Granted: p.granted, InUse: p.open, Idle: p.parked,
		Waiting: p.waiters.len() - int64(p.waiters.ghosts+p.waiters.over), Admitted: p.admitted, Rejected: p.rejected, WouldReject: p.wouldReject,
	}
	if !p.key.Resource.IsRate() {
		return u
	}
	for f := p.flows.head; f != nil; f = f.next {
		u.Waiting++
	}
	grains := float64(1)
	if p.key.Resource == limit.Requests {
		grains = oneRequest
	}
	p.bucket.settle(now)
	u.Now, u.Level = p.draws.lastSecond(now)/grains, p.bucket.level/grains
	return u
}
