package leader

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// Allocator is the deciding half of the leader's side: who holds how many slots, and which sessions
// have ended. It holds soft state only; the log has the grants. No goroutine, no clock, no I/O.
// [Server] is its shell in production; a simulation has another.
//
// Messages and moments go in (Receive, Verified, Applied, Gone, Tick), and what the shell has to do
// comes out: an entry to propose (Next), a leadership to verify (Verify), messages to send (Take),
// a time to be called again (NextWake).
//
// One entry is on its way at a time (inflight). Whatever arrives meanwhile goes into the next, so
// that the log's cost per connection falls as load rises. After an entry that changed much, the
// next waits a moment for more (gather): who asks now is not alone, and an entry costs all servers
// a write to their disks.
type Allocator struct {
	term  uint64
	ttl   time.Duration
	began time.Duration
	handshake
	roster
	demandBook
	schedule
	vacant        vacancies // the keys of rates that the log keeps for their levels alone
	evictions     evictions
	limits        *leasepb.LeaderMessage
	limitsVersion uint32 // the log version whose nodes can read them
	out           []Outbound
}

// Outbound is one message for one stream.
type Outbound struct {
	Conn uint64                 // the stream
	Msg  *leasepb.LeaderMessage // nil: only its end
	End  bool                   // the stream ends after it
}

// NewAllocator returns the leader's side for a term. Everything in the log up to the term's
// beginning must be in st.
func NewAllocator(now time.Duration, term uint64, st *fsm.State) *Allocator {
	a := &Allocator{
		term: term, ttl: st.TTL(), began: now,
		handshake:  handshake{partial: map[uint64]*leasepb.Hello{}},
		roster:     roster{peers: map[uint64]*peer{}, conns: map[uint64]*peer{}, ended: map[string]uint64{}},
		demandBook: demandBook{keys: map[limit.Key]*contest{}},
		schedule: schedule{
			turn: minTurn, rests: map[limit.Key]rest{},
			batch: st.Batch(term), // in a term that is led for the second time, lower ones would be void
		},
	}
	if !st.NeverGranted() { // a take-over may have freed slots a moment before
		a.notBefore = now + takeOverRest
	}
	for _, s := range st.Sessions() {
		a.addPeer(s, now)
	}
	a.setLimits(now, st)
	a.vacant.keys = map[limit.Key]*vacancy{}
	st.Kept(func(key limit.Key) bool {
		a.noteVacant(now, st, key)
		return true
	})
	return a
}

// Hold keeps every free slot back until a moment: the log may be an older copy, and sessions that
// it has forgotten may use them. Sessions may be opened and go on meanwhile, since a node never
// uses more than the log grants it: what it has was its own when the log was longer, too.
func (a *Allocator) Hold(until time.Duration) { a.notBefore = max(a.notBefore, until) }

// LastLed notes that no leader of an earlier term can have been verified after a moment: nor can it
// have answered a keep-alive that arrived later.
func (a *Allocator) LastLed(at time.Duration) { a.gap = max(a.gap, a.began-at) }

// Distrust passes on no levels of rates from the log for a while, but empty units: the log may be
// an older copy, in which there is still what has been taken since. from is when nobody can take
// any more by a grant that the log has forgotten. Once a unit has lain free for as long as its
// bucket takes to fill, its level says nothing that would not be true by then. That time begins
// anew where its limit changes.
func (a *Allocator) Distrust(from time.Duration) { a.distrusts, a.trustFrom = true, from }

// level is what may be passed on of a level that the log has for a grant of a key.
func (a *Allocator) level(now time.Duration, st *fsm.State, key limit.Key, level int64) int64 {
	if !a.distrusts || !key.Resource.IsRate() {
		return level
	}
	l, id := limitOfRate(st, key)
	if l != nil && now < max(a.trustFrom, a.limitSince[id.index])+fillTime(l, key.Resource, st.LargestBurst(key)) {
		return 0
	}
	return level
}

func (a *Allocator) send(conn uint64, m *leasepb.LeaderMessage) {
	if conn != 0 {
		a.out = append(a.out, Outbound{Conn: conn, Msg: m})
	}
}

func (a *Allocator) sendLast(conn uint64, m *leasepb.LeaderMessage) {
	if conn != 0 {
		a.out = append(a.out, Outbound{Conn: conn, Msg: m, End: true})
	}
}

// Take hands over what is to be sent.
func (a *Allocator) Take() []Outbound {
	for _, p := range a.order {
		if p.assign != nil {
			a.send(p.conn, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: p.assign}})
			p.assign = nil
		}
	}
	out := a.out
	a.out = nil
	return out
}

// Receive takes one message from a node, which arrived at a moment up to now.
func (a *Allocator) Receive(now time.Duration, conn uint64, m *leasepb.NodeMessage, arrived time.Duration) {
	switch m := m.Message.(type) {
	case *leasepb.NodeMessage_Hello:
		a.state(conn, m.Hello, m.Hello.More)
	case *leasepb.NodeMessage_Holdings:
		a.stateMore(conn, m.Holdings)
	case *leasepb.NodeMessage_KeepAlive:
		a.noteKeepAlive(unverified{conn: conn, seq: m.KeepAlive.Seq, arrived: arrived})
	case *leasepb.NodeMessage_Proof:
		a.proof(conn)
	case *leasepb.NodeMessage_Update:
		a.update(now, conn, m.Update)
	case *leasepb.NodeMessage_Bye:
		a.bye(conn)
	}
}

// Verify reports whether the shell must now verify that this server leads, once for all that wait
// for it.
func (a *Allocator) Verify() bool {
	if a.verification || len(a.unverified) == 0 {
		return false
	}
	a.verification, a.verifying, a.unverified = true, a.unverified, nil
	return true
}

// Verified takes the outcome: whether this server led at some moment since Verify. If it did not,
// who waits is sent to find who leads.
func (a *Allocator) Verified(now time.Duration, st *fsm.State, leads bool) {
	batch := a.verifying
	a.verification, a.verifying = false, nil
	for _, u := range batch {
		switch {
		case !leads:
			a.out = append(a.out, Outbound{Conn: u.conn, End: true})
		case u.hello != nil:
			a.hello(now, st, u.conn, u.hello)
		default:
			a.keepAlive(u.conn, u.seq, u.arrived)
		}
	}
}

// Tick lets time pass.
func (a *Allocator) Tick(now time.Duration) {
	for _, p := range a.order {
		if !p.closing && now > a.expiry(p) {
			p.closing = true
			a.closes = append(a.closes, p.ID)
		}
	}
	for len(a.waking) > 0 && a.waking[0].wake <= now {
		c := a.waking.Pop()
		c.wake = 0
		a.mark(c)
	}
	for key, r := range a.rests {
		if now >= r.until {
			delete(a.rests, key)
		}
	}
}

// NextWake is when tick must be called at the latest.
func (a *Allocator) NextWake(now time.Duration) time.Duration {
	at := now + time.Second
	if a.inflight == nil && len(a.dirty)+len(a.review) > 0 {
		at = max(now, a.gather)
	}
	for _, p := range a.order {
		if !p.closing {
			at = min(at, a.expiry(p)+1)
		}
	}
	if next, ok := a.waking.Next(); ok {
		at = min(at, next)
	}
	if due, any := a.vacant.heap.Next(); any && a.inflight == nil {
		at = min(at, max(due, a.gather))
	}
	return at
}

// Next returns the entry to propose now, or nil: one is on its way, or there is nothing to do.
func (a *Allocator) Next(now time.Duration, st *fsm.State) fsm.Command {
	if a.inflight != nil {
		return nil
	}
	switch {
	case len(a.closes) > 0:
		a.inflight = &fsm.CloseSessions{Term: a.term, Sessions: a.closes, Reason: fsm.CloseExpired}
		a.closes = nil
	case len(a.leaves) > 0:
		a.inflight = &fsm.CloseSessions{Term: a.term, Sessions: a.leaves, Reason: fsm.CloseLeft}
		a.leaves = nil
	default:
		if cmd := a.nextOpen(now, st); cmd != nil {
			a.inflight = cmd
		} else if now < a.gather {
			return nil
		} else if cmd := a.adjust(now, st); cmd != nil {
			a.inflight = cmd
		}
	}
	return a.inflight
}

// Applied takes the result of the entry that was on its way.
func (a *Allocator) Applied(now time.Duration, st *fsm.State, res fsm.Result) {
	cmd := a.inflight
	a.inflight = nil
	switch cmd := cmd.(type) {
	case *fsm.OpenSession:
		a.opened(now, st, res)
	case *fsm.CloseSessions:
		if res.Err != nil {
			a.reopen(cmd.Sessions)
			break
		}
		for _, id := range cmd.Sessions {
			a.noteEnd(id, cmd.Reason)
			a.closed(id, "the session has ended: "+closeText(cmd.Reason))
		}
		a.freed(now, st, res.Freed)
	case *fsm.Adjust:
		a.adjusted(now, st, cmd, res)
		if len(cmd.Adjustments)+len(cmd.Forget) >= gatherFrom {
			a.gather = now + min(a.commit, maxGather)
		}
	}
	for _, p := range a.order {
		if p.conn != 0 && p.hello != nil {
			a.resume(st, p)
		}
	}
}

// LimitsChanged goes by new limits.
func (a *Allocator) LimitsChanged(now time.Duration, st *fsm.State) {
	if st.Table().ShapeIndex != a.shape {
		for _, r := range a.rests { // what rests may count under another key now
			a.notBefore = max(a.notBefore, r.until)
		}
	}
	a.setLimits(now, st)
	for _, p := range a.order {
		switch {
		case p.conn == 0 || p.hello != nil:
		case canRead(p.reads, a.limitsVersion):
			a.send(p.conn, a.limits)
		default:
			a.outdated(p.conn, p.Node)
		}
	}
	a.vacantFollow(now, st)
	a.review = slices.Clone(a.contests)
}

func (a *Allocator) setLimits(now time.Duration, st *fsm.State) {
	a.evictions.see(st.Table().Index, now, a.ttl)
	a.gate.follow(now, a.ttl, st.Table())
	before := a.limitSince
	if st.Table().ShapeIndex != a.shape {
		before, a.shape = nil, st.Table().ShapeIndex // a key may have come under another limit, old itself
	}
	a.limitSince = make(map[uint64]time.Duration, len(before))
	limits := st.Table().Limits()
	for i := range limits {
		index := limits[i].ModifyIndex
		a.limitSince[index] = now
		if at, known := before[index]; known {
			a.limitSince[index] = at
		}
	}
	a.limits, a.limitsVersion = leasepb.LimitsMessage(st.ClusterID(), st.Table()), leasepb.VersionOf(st.Table())
}

// Health notes what gossip says of a node, and reports whether it has an open session and that is
// news.
func (a *Allocator) Health(node string, dead bool) (p *peer, news bool) {
	p = a.holderOf(node)
	if p == nil || p.dead == dead {
		return p, false
	}
	p.dead = dead
	a.review = slices.Clone(a.contests)
	return p, true
}
