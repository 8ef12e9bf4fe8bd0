package leasetest

import (
	"math"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// upstream is all hosts. It counts what is open, and judges.
//
// A host's connections may be as many as the limit that is committed, or, after that was lowered,
// as many as were open or granted at any moment since: a slot that was granted before is the node's
// until it has heard. Not counted are connections that were admitted by other limits, by which the
// host was counted elsewhere or not at all (a first limit on open connections closes none) until
// nothing has gone wrong for long; and those of a process that is stopped past its lease, which
// can't close them. Where on_expiry is not close, only those count whose session is open.
type upstream struct {
	w         *world
	hosts     []hostInfo
	keys      []keyInfo
	table     *limit.Table  // by which hosts and keys are described
	finalFrom time.Duration // since when nothing has gone wrong for long
	conns     []*conn       // from the dial to the end at the upstream
	asked     []*conn       // waiting now
	seen      []*conn       // in use by nodes: from the admission to the release. Kept only while nothing goes wrong
}

// hostInfo is a host, or what else limits count: a client, a user, or all that workers ask for.
type hostInfo struct {
	scope   limit.Scope
	name    string
	subject limit.Subject
	key     int
	capped  bool
	since   uint64 // index of the limits since which it is counted like this
	open    int
	peak    int
	area    time.Duration // of open over time
	last    time.Duration
}

type keyInfo struct {
	key      limit.Key
	limit    int64         // of connections that may be open; -1: none
	high     int64         // what may be open although the limit is lower
	heard    time.Duration // when all nodes have heard of the limits
	capacity int64         // what may be granted; -1: nothing
	granted  int64         // what may be although the limit is lower
	rate     *rateInfo
	freeFrom time.Duration
	full     bool
	// idleGrants is how many grants there were since a slot, or a token, was taken. See
	// [maxIdleGrants].
	idleGrants int
	ends       []time.Duration // when the last claims on it were given back, as many as there may be
	left       time.Duration   // when a request that waited for it left last
}

const evJudge uint8 = iota

func (u *upstream) act(uint8, int64) { u.judgeAll() }

// noPlace is the place of what is not counted.
const noPlace = -1

// hostOf finds or makes a host.
func (u *upstream) hostOf(name string) int {
	t, err := limit.ParseTarget(name, 443)
	if err != nil {
		u.w.fail(BreachPlan, "host %q: %v", name, err)
	}
	return u.place(limit.ScopeHost, name, &limit.Subject{Host: t})
}

// placeOf finds or makes what counts a subject's requests in a scope; noPlace: nothing can.
func (u *upstream) placeOf(scope limit.Scope, s *limit.Subject) int {
	switch scope {
	case limit.ScopeClient:
		if !s.Client.Addr.IsValid() {
			return noPlace
		}
		return u.place(scope, s.Client.Name, &limit.Subject{Client: s.Client})
	case limit.ScopeUser:
		if s.User == "" {
			return noPlace
		}
		return u.place(scope, s.User, &limit.Subject{User: s.User})
	case limit.ScopeTotal:
		return u.place(scope, "", &limit.Subject{})
	}
	return u.hostOf(s.Host.Host)
}

func (u *upstream) place(scope limit.Scope, name string, s *limit.Subject) int {
	for i := range u.hosts {
		if u.hosts[i].name == name && u.hosts[i].scope == scope {
			return i
		}
	}
	u.hosts = append(u.hosts, hostInfo{scope: scope, name: name, subject: *s, last: u.w.now})
	i := len(u.hosts) - 1
	if u.table == nil {
		u.hosts[i].key = u.keyOf(limit.Key{Scope: scope, Resource: limit.Connections, Name: name})
	} else {
		k, enforced := u.counts(&u.hosts[i])
		u.hosts[i].key, u.hosts[i].capped, u.hosts[i].since = k, enforced, u.table.ShapeIndex
	}
	return i
}

// counts is by which key something is counted now, and whether anything is refused for it.
func (u *upstream) counts(h *hostInfo) (key int, enforced bool) {
	l, name := u.table.Find(h.scope, &h.subject)
	return u.keyOf(limit.Key{Scope: h.scope, Resource: limit.Connections, Name: name}), l.Capped() && !l.Report
}

// keyIn is the key that counts a place.
func (u *upstream) keyIn(place int) limit.Key { return u.keys[u.hosts[place].key].key }

func (u *upstream) keyOf(key limit.Key) int {
	for i := range u.keys {
		if u.keys[i].key == key {
			return i
		}
	}
	u.keys = append(u.keys, keyInfo{key: key, limit: -1, capacity: -1, freeFrom: u.w.now})
	k := &u.keys[len(u.keys)-1]
	if key.Resource.IsRate() {
		k.rate = &rateInfo{}
	}
	if u.table != nil {
		u.measure(k)
	}
	return len(u.keys) - 1
}

// measure takes what may be of a key from the limits.
func (u *upstream) measure(k *keyInfo) {
	l := u.table.Governing(k.key)
	k.capacity, k.limit = l.Capacity(k.key.Resource), -1
	if k.key.Resource == limit.Connections && (l == nil || !l.Report) {
		k.limit = k.capacity
	}
	if k.rate != nil {
		u.rateChanged(k)
	}
}

// limitsChanged describes hosts and keys by new limits.
func (u *upstream) limitsChanged() {
	st := u.w.raft.head.state
	u.table = st.Table()
	for i := range u.hosts {
		h := &u.hosts[i]
		if k, enforced := u.counts(h); k != h.key || enforced != h.capped {
			h.key, h.capped, h.since = k, enforced, u.table.Index
		}
	}
	for i := range u.keys {
		k := &u.keys[i]
		u.measure(k)
		k.high, k.granted = u.taken(i), st.Granted(k.key)
		k.heard = u.w.now + hearing + 4*(u.w.rtt+u.w.commit)
	}
}

// hearing is the time in which nodes may use what they hold above a limit that was lowered, beside
// messages and entries: the leader gathers some changes first.
const hearing = 200 * ms

// applied lets an entry be applied, and checks the state machine's rules on it.
func (u *upstream) applied(e logEntry, apply func() fsm.Result) fsm.Result {
	st := u.w.raft.head.state
	closes := false
	switch e.cmd.(type) {
	case *fsm.CloseSessions, *fsm.OpenSession:
		closes = true
	}
	var before int64
	if closes {
		before = u.granted()
	}
	res := apply()
	if closes {
		for _, f := range res.Freed {
			before -= f.Delta
		}
		if now := u.granted(); now != before {
			u.w.fail(BreachFreed, "an entry that ends sessions leaves %d slots granted, want %d", now, before)
		}
	}
	if _, ok := e.cmd.(*fsm.Adjust); ok {
		u.adjusted(st, res)
	}
	if u.table != st.Table() && res.Changed {
		u.limitsChanged()
	}
	u.settle()
	return res
}

func (u *upstream) granted() (sum int64) {
	u.w.raft.head.state.Keys(func(_ limit.Key, n int64) bool {
		sum += n
		return true
	})
	return sum
}

// overfull names a key of which more is open than its limit, though that asks for what is above it
// to be closed: what another limit's end has brought later may stay.
func (u *upstream) overfull() (key limit.Key, n int64, found bool) {
	for i := range u.keys {
		k := &u.keys[i]
		if l := u.table.Governing(k.key); k.limit >= 0 && l.Evict && l.ModifyIndex >= u.table.ShapeIndex {
			if n := u.open(i, false); n > k.limit {
				return k.key, n, true
			}
		}
	}
	return limit.Key{}, 0, false
}

// settle lets the allowance above lowered limits fall with what is open and granted.
func (u *upstream) settle() {
	for i := range u.keys {
		k := &u.keys[i]
		if k.high > k.limit {
			k.high = min(k.high, u.taken(i))
		}
		if k.high > k.limit && k.key.Scope == limit.ScopeHost && u.w.calm && u.w.now > k.heard {
			k.high = min(k.high, max(k.limit, u.open(i, true))) // from then on nobody opens one, whatever is granted
		}
		if k.granted > k.capacity {
			k.granted = min(k.granted, u.w.raft.head.state.Granted(k.key))
		}
	}
}

// taken counts what of a key is granted, and what is open besides: of sessions that have ended,
// until the upstream has seen that.
func (u *upstream) taken(key int) int64 {
	st := u.w.raft.head.state
	n := st.Granted(u.keys[key].key)
	u.each(key, func(_ *conn, cl *claim, h *hostInfo) {
		if cl.table < h.since {
			if u.w.calm {
				n++
			}
			return
		}
		if _, open := st.Session(cl.session); !open {
			n++
		}
	})
	return max(n, u.open(key, true))
}

// each visits the claims on a key of the connections that are, or may become, open.
func (u *upstream) each(key int, visit func(*conn, *claim, *hostInfo)) {
	for _, c := range u.conns {
		for i := range c.claims {
			cl := &c.claims[i]
			if cl.place == noPlace || u.hosts[cl.place].key != key || i != hostClaim && !c.serves {
				continue
			}
			visit(c, cl, &u.hosts[cl.place])
		}
	}
}

// open counts a key's connections, or the requests that are served on them: those that the limit
// counts, or all that may become open.
func (u *upstream) open(key int, all bool) (n int64) {
	u.each(key, func(c *conn, cl *claim, h *hostInfo) {
		switch {
		case cl.table < h.since && !u.w.calm:
		case all || (c.visible || h.scope != limit.ScopeHost) && !u.excused(c, cl):
			n++
		}
	})
	return n
}

// excused reports whether a connection is one that the promise leaves out.
func (u *upstream) excused(c *conn, cl *claim) bool {
	if c.excused || c.x.losing || c.since <= c.x.excusedSince() {
		return true
	}
	if u.w.expiry == lease.ExpiryClose {
		return false
	}
	_, open := u.w.raft.head.state.Session(cl.session)
	return !open
}

// dials notes a connection that will soon be seen.
func (u *upstream) dials(c *conn) {
	c.listed = true
	u.conns = append(u.conns, c)
	u.lateOld(c, hostClaim)
	u.serves(c)
}

// serves is the moment at which a request has all that it needs.
func (u *upstream) serves(c *conn) {
	for i := range c.claims[:hostClaim] {
		if at := c.claims[i].place; at != noPlace {
			u.lateOld(c, i)
			u.judge(u.hosts[at].key, c)
		}
	}
}

// asks notes a request that begins to ask.
func (u *upstream) asks(c *conn) {
	if u.w.final {
		u.seen = append(u.seen, c)
	}
}

// forget takes one away that was never seen.
func (u *upstream) forget(c *conn) {
	if c.listed {
		c.listed = false
		u.conns = slices.DeleteFunc(u.conns, func(x *conn) bool { return x == c })
	}
}

// opened is the moment at which the upstream accepts.
func (u *upstream) opened(c *conn) {
	if !c.listed {
		return
	}
	c.visible = true
	h := &u.hosts[c.host]
	h.count(u.w.now, 1)
	u.w.trace.conn(u.w.now, c, "opens", h)
	u.judge(h.key, c)
}

func (h *hostInfo) count(now time.Duration, by int) {
	h.area += time.Duration(h.open) * (now - h.last)
	h.last = now
	h.open += by
	h.peak = max(h.peak, h.open)
}

// judge fails the run where more are open than may be.
func (u *upstream) judge(key int, by *conn) {
	k := &u.keys[key]
	if k.limit < 0 {
		return
	}
	allowed := max(k.limit, k.high)
	if n := u.open(key, false); n > allowed {
		if by != nil {
			u.w.fail(BreachOverLimit, "%d connections to %s are open, the limit is %d (allowed: %d): node %s opened the last", n, k.key, k.limit, allowed, by.x.name)
		} else {
			u.w.fail(BreachOverLimit, "%d connections to %s are open, the limit is %d (allowed: %d)", n, k.key, k.limit, allowed)
		}
	}
}

func (u *upstream) judgeAll() {
	for i := range u.keys {
		u.judge(i, nil)
	}
}

// ended is the moment at which the upstream sees the end.
func (u *upstream) ended(c *conn) {
	if !c.listed {
		return
	}
	c.listed = false
	at := slices.Index(u.conns, c)
	last := len(u.conns) - 1
	u.conns[at] = u.conns[last]
	u.conns[last] = nil
	u.conns = u.conns[:last]
	if c.visible {
		c.visible = false
		h := &u.hosts[c.host]
		h.count(u.w.now, -1)
		u.w.trace.conn(u.w.now, c, "ends", h)
	}
	u.settle()
}

// byte is one on a connection that is open. A process that was stopped past its lease must not send
// one.
func (u *upstream) byte(c *conn) {
	h := &u.hosts[c.host]
	cl := &c.claims[hostClaim]
	if u.w.expiry != lease.ExpiryClose || !cl.needed || c.x.losing || c.x.outlived || !h.capped || cl.table < h.since {
		return
	}
	if _, open := u.w.raft.head.state.Session(cl.session); !open {
		u.w.fail(BreachByte, "node %s moved a byte to %s on a connection of session %d, which has ended", c.x.name, h.name, cl.session)
	}
}

// agrees checks that a node believes to hold no more than the log grants it, and uses no more than
// it holds.
func (u *upstream) agrees(x *process) {
	w := u.w
	if w.expiry != lease.ExpiryClose || x.losing || x.outlived || w.rule == RuleNoFence {
		return
	}
	id := x.node.Session(x.clock()).ID
	if id == 0 {
		return
	}
	st := w.raft.head.state
	if _, open := st.Session(id); !open {
		return // it has yet to hear, and its time is short
	}
	for i := range u.keys {
		k := &u.keys[i]
		use, known := x.node.Use(x.clock(), k.key)
		if !known {
			continue
		}
		if g := st.GrantOf(id, k.key); use.Granted > g {
			w.fail(BreachBelief, "node %s believes to hold %d slots of %s, the log grants %d", x.name, use.Granted, k.key, g)
		}
	}
}

// forgotten stands for a session that the log knows no more.
const forgotten = math.MaxUint64

// forgetSessions detaches connections from sessions whose grants the log has just forgotten. Of
// those that it knows no more, the ids are given out again, to sessions that had nothing to do with
// the connections. Of the others, a node that hears nothing may go on with what is granted no more.
func (u *upstream) forgetSessions() {
	st := u.w.raft.head.state
	type share struct {
		session uint64
		key     int
	}
	held := map[share]int64{}
	each := func(visit func(cl *claim, s share)) {
		for _, c := range u.conns {
			for i := range c.claims {
				if cl := &c.claims[i]; cl.place != noPlace {
					visit(cl, share{cl.session, u.hosts[cl.place].key})
				}
			}
		}
	}
	each(func(cl *claim, s share) {
		if cl.has {
			held[s]++
		}
	})
	each(func(cl *claim, s share) {
		if _, open := st.Session(s.session); !open || held[s] > st.GrantOf(s.session, u.keys[s.key].key) {
			cl.session = forgotten
		}
	})
}
