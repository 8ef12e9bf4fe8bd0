package lease

import (
	"container/heap"
	"fmt"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

const (
	// takeOverRest is how long slots freed by a take-over rest: the upstream has yet to see the old
	// sockets close.
	takeOverRest = 250 * time.Millisecond
	// askPatience bounds how long an ask is held back while other nodes are asked; below
	// askTimeout.
	askPatience = 600 * time.Millisecond
	// gatePatience bounds how long a newly counted key waits for all nodes to say what they have
	// open.
	gatePatience = time.Second
	// contendedFor is how long nodes go on reporting at once after the last shortage.
	contendedFor = time.Second
	// minTurn is the shortest time that a slot stays with a node while another waits for it. It
	// grows with the time of a commit, so that handing over costs a few percent at most.
	minTurn = 100 * time.Millisecond
	maxTurn = 2 * time.Second
	// maxLinger bounds how long an idle slot stays with a node that expects requests while others
	// wait for one.
	maxLinger = 20 * time.Millisecond
	// maxOwed bounds the slot-time that a node is owed.
	maxOwed = time.Second
	// turnCommits is how many commits' time a turn lasts at least.
	turnCommits = 40
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
	term     uint64
	ttl      time.Duration
	turn     time.Duration
	commit   time.Duration    // moving average
	peers    map[uint64]*peer // open sessions by id
	order    []*peer          // the same, by id
	conns    map[uint64]*peer // by stream
	keys     map[limit.Key]*contest
	contests []*contest // the same, in an order that depends on what came in alone
	dirty    []*contest
	review   []*contest // to be decided anew when there is time, some at once
	rests    map[limit.Key]rest

	batch    uint64
	inflight fsm.Command
	gather   time.Duration             // no slots are adjusted before this
	opening  *openRequest              // the inflight OpenSession's
	unproven []*openRequest            // asked whether they are still meant
	partial  map[uint64]*leasepb.Hello // by stream: those of which more is to come
	// Messages that need a VerifyLeader that began after they arrived: `verifying` waits for the
	// check under way, `unverified` for the next.
	unverified, verifying []unverified
	verification          bool
	opens                 []*openRequest
	closes                []uint64 // judged expired
	leaves                []uint64 // said goodbye

	ended map[string]uint64 // by node: the session that ran out, until the node has another

	notBefore time.Duration // a new leader grants nothing before this
	waking    wakes
	sheet     sheet
	limits    *leasepb.LeaderMessage
	out       []Outbound
}

// Outbound is one message for one stream.
type Outbound struct {
	Conn uint64                 // the stream
	Msg  *leasepb.LeaderMessage // nil: only its end
	End  bool                   // the stream ends after it
}

// unverified is a hello or, where that is nil, a keep-alive.
type unverified struct {
	conn    uint64
	hello   *leasepb.Hello
	seq     uint64
	arrived time.Duration
}

type openRequest struct {
	conn  uint64
	hello *leasepb.Hello
}

type rest struct {
	slots int64
	until time.Duration
}

// peer is an open session and, where attached, its stream.
type peer struct {
	fsm.Session
	conn  uint64 // 0: no stream
	hello *leasepb.Hello
	// proven is set once the node has sent a message after its welcome. Then this is the stream
	// that it lives by, and what it stated there is still true. A delayed hello may be older than
	// slots granted since, on a stream that it made us cut.
	proven  bool
	missing []fsm.Adjustment // what the log has and the hello did not state, to be released once it is proven
	seen    time.Duration    // arrival of the newest keep-alive that was verified
	closing bool
	dead    bool   // by gossip, which may be wrong
	limits  uint64 // log index of the limits that the node goes by
	demands map[limit.Key]*demand
	assign  *leasepb.Assign
}

// contest is what is known of a key that somebody wants or holds.
type contest struct {
	key            limit.Key
	index          int       // among the contests
	demands        []*demand // by session id
	dirty          bool
	wake           time.Duration // to be planned again at this time; 0: only when something happens
	wakeIndex      int           // among the wakes
	shape          uint64        // the table shape for which the key has passed the gate
	shapeSince     time.Duration
	contendedUntil time.Duration
	planned        time.Duration // when it was planned last
	tight          bool          // more was wanted then than there was
}

// demand is one session's interest in a key.
type demand struct {
	peer *peer
	c    *contest

	// As the node reported them last; until it has, nothing is known of it but its grant.
	reported                                        bool
	held, inUse, parked, waiting, refused, headroom int64

	releasing  int64 // out of use at the node, to go into the next entry
	ask        uint64
	askSince   time.Duration
	seq, acked uint64
	sent       target
	shortSince time.Duration // has had less than it asks for since; 0: has enough
	owed       time.Duration // slot-time that it had less (or, below 0, more) than its fair share of, while slots were short
	idleSince  time.Duration // has held a slot without a use since
	extraSince time.Duration // has held more than its share since; 0: does not
	grantedAt  time.Duration // was granted a slot last
}

// target is what a node was last told.
type target struct {
	slots     int64
	contended bool
	evict     bool
}

// NewAllocator returns the leader's side for a term. Everything in the log up to the term's
// beginning must be in st.
func NewAllocator(now time.Duration, term uint64, st *fsm.State) *Allocator {
	a := &Allocator{
		term: term, ttl: st.TTL(), turn: minTurn,
		peers: map[uint64]*peer{}, conns: map[uint64]*peer{}, keys: map[limit.Key]*contest{}, rests: map[limit.Key]rest{},
		ended: map[string]uint64{}, partial: map[uint64]*leasepb.Hello{},
		notBefore: now + takeOverRest,
		batch:     st.Batch(term), // in a term that is led for the second time, lower ones would be void
	}
	for _, s := range st.Sessions() {
		a.addPeer(s, now)
	}
	a.limits = limitsMessage(st.ClusterID(), st.Table())
	return a
}

// Hold keeps every free slot back until a moment: the log may be an older copy, and sessions that
// it has forgotten may use them. Sessions may be opened and go on meanwhile, since a node never
// uses more than the log grants it: what it has was its own when the log was longer, too.
func (a *Allocator) Hold(until time.Duration) { a.notBefore = max(a.notBefore, until) }

func (a *Allocator) addPeer(s fsm.Session, seen time.Duration) *peer {
	p := &peer{Session: s, seen: seen, demands: map[limit.Key]*demand{}}
	a.peers[s.ID] = p
	a.order = append(a.order, p)
	slices.SortFunc(a.order, func(x, y *peer) int { return cmpID(x.ID, y.ID) })
	return p
}

func cmpID(x, y uint64) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
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

// NoteCommit adapts the length of a turn to the cost of handing over: a moving average of the time
// of a commit. It falls faster than it rises. Otherwise turns would stay too long after a disk has
// been slow for a while, because few commits are made meanwhile.
func (a *Allocator) NoteCommit(took time.Duration) {
	if took < a.commit {
		a.commit += (took - a.commit) / 2
	} else {
		a.commit += (took - a.commit) / 8
	}
	a.turn = min(max(minTurn, turnCommits*a.commit), maxTurn)
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

// noteKeepAlive lets a keep-alive wait for the next verification. Of one stream only the newest
// waits: its answer makes the others' answers worthless, and while no verification comes back, they
// would become ever more.
func (a *Allocator) noteKeepAlive(k unverified) {
	for i, u := range a.unverified {
		if u.conn == k.conn && u.hello == nil {
			a.unverified[i] = k
			return
		}
	}
	a.unverified = append(a.unverified, k)
}

// maxHoldings bounds what a node may state in one hello: far above the keys that it can use at
// once. Without a bound, a node could fill the leader's memory.
const maxHoldings = 1 << 22

// state takes a hello, or what there is of it. It counts once all that the node holds is stated:
// until then the stream serves no session, and nothing is granted on it.
func (a *Allocator) state(conn uint64, h *leasepb.Hello, more bool) {
	if !more {
		delete(a.partial, conn)
		a.unverified = append(a.unverified, unverified{conn: conn, hello: h})
		return
	}
	a.partial[conn] = h
}

// stateMore takes the next part of a hello.
func (a *Allocator) stateMore(conn uint64, m *leasepb.Holdings) {
	h := a.partial[conn]
	if h == nil || len(h.Holdings)+len(m.Holdings) > maxHoldings {
		a.cut(conn)
		return
	}
	h.Holdings = append(h.Holdings, m.Holdings...)
	a.state(conn, h, m.More)
}

// cut ends a stream whose node broke the protocol. The node comes again, and states what it holds.
func (a *Allocator) cut(conn uint64) {
	a.out = append(a.out, Outbound{Conn: conn, End: true})
	a.Gone(conn)
}

// readable reports whether this server knows every key that a node names.
func readable(holdings []*leasepb.Holding, demands []*leasepb.Demand) bool {
	for _, h := range holdings {
		if _, err := fsmpb.ParseKey(h.GetKey()); err != nil {
			return false
		}
	}
	for _, d := range demands {
		if _, err := fsmpb.ParseKey(d.GetKey()); err != nil {
			return false
		}
	}
	return true
}

// misread ends a stream on which a node named a key that this server does not know. Passed over, a
// release would never come back, and a slot that the log does not grant would stay in use.
func (a *Allocator) misread(conn uint64) {
	a.sendLast(conn, refusal(leasepb.Refused_REASON_PROTOCOL,
		"the node names a key that this server can't read: is the server older? Upgrade it", 0))
	a.Gone(conn)
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

// hello takes a stream's first message. The leader has been verified since it arrived.
func (a *Allocator) hello(now time.Duration, st *fsm.State, conn uint64, h *leasepb.Hello) {
	if h.Protocol != protocolVersion && h.Protocol != protocolPaged {
		a.sendLast(conn, refusal(leasepb.Refused_REASON_PROTOCOL,
			fmt.Sprintf("this server speaks version %d of the lease protocol, the node %d: upgrade the older one", protocolPaged, h.Protocol), 0))
		return
	}
	if refused := mayServe(h, st.ClusterID()); refused != nil {
		a.sendLast(conn, refused)
		return
	}
	if h.Session == 0 {
		a.supersede(h)
		a.unproven = append(a.unproven, &openRequest{conn, h})
		a.send(conn, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Prove{Prove: &leasepb.Prove{}}})
		return
	}
	if !readable(h.Holdings, nil) {
		a.misread(conn)
		return
	}
	p := a.peers[h.Session]
	if p == nil || p.closing || p.Identity != h.Identity || p.Node != h.Node {
		a.sendLast(conn, refusal(leasepb.Refused_REASON_SESSION_GONE, "the session has ended", 0))
		return
	}
	if p.conn != 0 {
		a.out = append(a.out, Outbound{Conn: p.conn, End: true})
		a.Gone(p.conn)
	}
	p.conn, p.hello = conn, h
	a.conns[conn] = p
	if a.inflight == nil {
		a.resume(st, p)
	}
}

// supersede ends other streams on which the same process, or an earlier one of the same identity,
// wants a session. At most one of them belongs to a live process; if that is not the newest, the
// process reconnects.
func (a *Allocator) supersede(h *leasepb.Hello) {
	former := func(o *openRequest) bool {
		if o.hello.Node != h.Node || o.hello.Identity != h.Identity {
			return false
		}
		a.out = append(a.out, Outbound{Conn: o.conn, End: true})
		return true
	}
	a.unproven = slices.DeleteFunc(a.unproven, former)
	a.opens = slices.DeleteFunc(a.opens, former)
}

// proof lets a session be opened: the node lives by the stream that asked for it.
func (a *Allocator) proof(conn uint64) {
	for i, o := range a.unproven {
		if o.conn == conn {
			a.unproven = slices.Delete(a.unproven, i, i+1)
			a.opens = append(a.opens, o)
			return
		}
	}
}

// resume compares what a returning node states with the log. Where the log has more, the
// difference is released; where it has less, the node is told. Nothing is granted to it before.
func (a *Allocator) resume(st *fsm.State, p *peer) {
	stated := make(map[limit.Key]int64, len(p.hello.Holdings))
	var order []limit.Key
	for _, h := range p.hello.Holdings {
		key, err := fsmpb.ParseKey(h.Key)
		if err != nil {
			panic("a hello was let in with a key that can't be read: " + err.Error())
		}
		if _, twice := stated[key]; !twice {
			order = append(order, key)
		}
		stated[key] = h.Slots
	}
	p.hello = nil
	welcome := &leasepb.Welcome{Session: p.ID, Term: a.term, TtlNs: int64(a.ttl), Resumed: true}
	for _, g := range st.SessionGrants(p.ID) {
		if more := g.Delta - stated[g.Key]; more > 0 {
			p.missing = append(p.missing, fsm.Adjustment{Session: p.ID, Key: g.Key, Delta: more})
		}
	}
	for _, key := range order {
		if g := st.GrantOf(p.ID, key); g < stated[key] {
			welcome.Corrected = append(welcome.Corrected, &leasepb.Holding{Key: fsmpb.KeyOf(key), Slots: g})
		}
	}
	a.greet(p, welcome)
}

func (a *Allocator) greet(p *peer, w *leasepb.Welcome) {
	w.Cluster = a.limits.GetLimits().Cluster
	a.send(p.conn, a.limits)
	a.send(p.conn, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: w}})
}

// prove takes the first word after a welcome.
func (a *Allocator) prove(p *peer) {
	p.proven = true
	for _, m := range p.missing {
		d := a.demandOf(p, m.Key)
		d.releasing += m.Delta
		a.mark(d.c)
	}
	p.missing = nil
}

// keepAlive takes a keep-alive that arrived at a moment since which the leader has been verified.
func (a *Allocator) keepAlive(conn, seq uint64, arrived time.Duration) {
	p := a.conns[conn]
	if p == nil || p.closing {
		return
	}
	if arrived-p.seen > a.silence(p) {
		for _, d := range sortedDemands(p.demands) {
			a.mark(d.c) // it was passed over meanwhile, and has no reason to ask again
		}
	}
	p.seen = max(p.seen, arrived)
	a.send(conn, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_KeepAliveAck{KeepAliveAck: &leasepb.KeepAliveAck{Seq: seq}}})
}

// maxReported is the most that a node is believed to have, or to want, of one key: far above what
// it can, and far below what could make a sum overflow.
const maxReported = 1 << 30

// reported bounds what a node says of itself. The log decides in any case; this is for the others'
// shares.
func reported(n int64) int64 { return max(0, min(n, maxReported)) }

// update takes a node's releases and demands.
func (a *Allocator) update(now time.Duration, conn uint64, u *leasepb.Update) {
	p := a.conns[conn]
	if p == nil || p.closing || p.hello != nil {
		return
	}
	if !readable(u.Releases, u.Demands) {
		a.misread(conn)
		return
	}
	if !p.proven {
		a.prove(p)
	}
	for _, r := range u.Releases {
		if key, err := fsmpb.ParseKey(r.Key); err == nil && r.Slots > 0 { // none is unknown
			d := a.demandOf(p, key)
			d.releasing = reported(d.releasing + reported(r.Slots))
			a.mark(d.c)
		}
	}
	for _, m := range u.Demands {
		key, err := fsmpb.ParseKey(m.Key)
		if err != nil {
			panic("an update was let in with a key that can't be read: " + err.Error())
		}
		d := a.demandOf(p, key)
		d.reported = true
		d.held, d.inUse, d.parked = reported(m.Held), reported(m.InUse), reported(m.Parked)
		d.waiting, d.refused, d.headroom = reported(m.Waiting), reported(m.Refused), reported(m.Headroom)
		d.acked = m.TargetSeq
		switch {
		case d.held <= d.inUse+d.waiting:
			d.idleSince = 0
		case d.idleSince == 0:
			d.idleSince = now
		}
		switch {
		case m.Ask > d.ask:
			d.ask, d.askSince = m.Ask, now
		case m.Ask == 0:
			d.ask = 0 // nobody waits for it any more
		}
		a.mark(d.c)
	}
	if u.LimitsIndex > p.limits {
		p.limits = u.LimitsIndex
		for _, c := range a.waking {
			a.mark(c) // it may have waited for this
		}
	}
}

// bye ends a session by consent: nothing of it is in use.
func (a *Allocator) bye(conn uint64) {
	if p := a.conns[conn]; p != nil && !p.closing {
		p.closing = true
		a.leaves = append(a.leaves, p.ID)
	}
}

// Farewell is what a node said in gossip before it went: that it had given everything back.
type Farewell struct {
	Node    string
	Session uint64
}

// Left ends a session by what its node said. The id alone is not enough: where the log was put back
// to an older copy, an id that it has forgotten is given out again.
func (a *Allocator) Left(f Farewell) {
	if p := a.peers[f.Session]; p != nil && p.Node == f.Node && !p.closing {
		p.closing = true
		a.leaves = append(a.leaves, p.ID)
	}
}

// Gone notes that a stream has ended.
func (a *Allocator) Gone(conn uint64) {
	delete(a.partial, conn)
	ofStream := func(u unverified) bool { return u.conn == conn }
	a.unverified = slices.DeleteFunc(a.unverified, ofStream)
	a.verifying = slices.DeleteFunc(a.verifying, ofStream)
	ofConn := func(o *openRequest) bool { return o.conn == conn }
	a.unproven = slices.DeleteFunc(a.unproven, ofConn)
	a.opens = slices.DeleteFunc(a.opens, ofConn)
	if a.opening != nil && a.opening.conn == conn {
		a.opening.conn = 0
	}
	p := a.conns[conn]
	if p == nil {
		return
	}
	delete(a.conns, conn)
	p.conn, p.hello, p.assign = 0, nil, nil
	p.proven, p.missing = false, nil
	for _, d := range sortedDemands(p.demands) {
		a.drop(d)
		a.mark(d.c)
	}
}

func sortedDemands(m map[limit.Key]*demand) []*demand {
	out := make([]*demand, 0, len(m))
	for _, d := range m {
		out = append(out, d)
	}
	slices.SortFunc(out, func(x, y *demand) int { return x.c.key.Compare(y.c.key) })
	return out
}

// contest finds or makes a key's.
func (a *Allocator) contest(key limit.Key) *contest {
	c := a.keys[key]
	if c == nil {
		c = &contest{key: key, index: len(a.contests)}
		a.keys[key] = c
		a.contests = append(a.contests, c)
	}
	return c
}

func (a *Allocator) forget(c *contest) {
	delete(a.keys, c.key)
	last := len(a.contests) - 1
	a.contests[c.index] = a.contests[last]
	a.contests[c.index].index = c.index
	a.contests[last] = nil
	a.contests = a.contests[:last]
}

func (a *Allocator) demandOf(p *peer, key limit.Key) *demand {
	if d := p.demands[key]; d != nil {
		return d
	}
	c := a.contest(key)
	d := &demand{peer: p, c: c, sent: target{slots: noTarget}}
	p.demands[key] = d
	at, _ := slices.BinarySearchFunc(c.demands, p.ID, func(d *demand, id uint64) int { return cmpID(d.peer.ID, id) })
	c.demands = slices.Insert(c.demands, at, d)
	return d
}

func (a *Allocator) drop(d *demand) {
	delete(d.peer.demands, d.c.key)
	d.c.demands = slices.DeleteFunc(d.c.demands, func(x *demand) bool { return x == d })
}

func (a *Allocator) mark(c *contest) {
	if !c.dirty {
		c.dirty = true
		a.dirty = append(a.dirty, c)
	}
}

// wakeAt asks for another plan at a time, the earliest of those asked for.
func (a *Allocator) wakeAt(c *contest, at time.Duration) {
	switch {
	case c.wake == 0:
		c.wake = at
		heap.Push(&a.waking, c)
	case at < c.wake:
		c.wake = at
		heap.Fix(&a.waking, c.wakeIndex)
	}
}

// wakes is a heap (container/heap) of the keys that are to be planned again at some time, the next
// one first. Each waiting request adds one for a moment, so adding one must not cost time for all
// the others.
type wakes []*contest

func (w wakes) Len() int           { return len(w) }
func (w wakes) Less(i, j int) bool { return w[i].wake < w[j].wake }

func (w wakes) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].wakeIndex, w[j].wakeIndex = i, j
}

func (w *wakes) Push(c any) {
	c.(*contest).wakeIndex = len(*w)
	*w = append(*w, c.(*contest))
}

func (w *wakes) Pop() any {
	last := len(*w) - 1
	c := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	return c
}

// LimitsChanged goes by new limits.
func (a *Allocator) LimitsChanged(st *fsm.State) {
	a.limits = limitsMessage(st.ClusterID(), st.Table())
	for _, p := range a.order {
		if p.conn != 0 && p.hello == nil {
			a.send(p.conn, a.limits)
		}
	}
	a.review = slices.Clone(a.contests)
}

// expiry is the earliest moment at which a session may be ended without its consent.
func (a *Allocator) expiry(p *peer) time.Duration { return p.seen + a.ttl + Margin }

// Tick lets time pass.
func (a *Allocator) Tick(now time.Duration) {
	for _, p := range a.order {
		if !p.closing && now > a.expiry(p) {
			p.closing = true
			a.closes = append(a.closes, p.ID)
		}
	}
	for len(a.waking) > 0 && a.waking[0].wake <= now {
		c := heap.Pop(&a.waking).(*contest)
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
	if len(a.waking) > 0 {
		at = min(at, a.waking[0].wake)
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

const (
	// gatherFrom is how many changes an entry must have for the next one to wait for more. Lowering
	// it would make a few nodes that hand slots of one host to each other wait at each hand-over.
	gatherFrom = 12
	// maxGather bounds that wait, which is a commit: where that takes long, much arrives meanwhile
	// in any case.
	maxGather = 2 * time.Millisecond
)

// nextOpen returns the next session to open, having refused those that can't be.
func (a *Allocator) nextOpen(now time.Duration, st *fsm.State) fsm.Command {
	for len(a.opens) > 0 {
		o := a.opens[0]
		a.opens = a.opens[1:]
		if p := a.holderOf(o.hello.Node); p != nil && p.Identity != o.hello.Identity {
			a.refuseName(now, o.conn, p)
			continue
		}
		a.opening = o
		return &fsm.OpenSession{Term: a.term, Node: o.hello.Node, Identity: o.hello.Identity}
	}
	return nil
}

func (a *Allocator) holderOf(node string) *peer {
	for _, p := range a.order {
		if p.Node == node {
			return p
		}
	}
	return nil
}

func (a *Allocator) refuseName(now time.Duration, conn uint64, holder *peer) {
	wait := max(a.expiry(holder)-now, time.Millisecond)
	if a.eligible(now, holder) {
		a.sendLast(conn, refusal(leasepb.Refused_REASON_NAME_TAKEN,
			fmt.Sprintf("another live process holds the name %q in this cluster: give this node another name, or stop the other one", holder.Node), wait))
		return
	}
	a.sendLast(conn, refusal(leasepb.Refused_REASON_NAME_HELD,
		fmt.Sprintf("a former process named %q, with another identity, still has a session; it ends in %s", holder.Node, wait.Round(time.Millisecond)), wait))
}

// adjust plans all dirty keys and returns the entry, or nil where nothing changes.
func (a *Allocator) adjust(now time.Duration, st *fsm.State) fsm.Command {
	var less, more []fsm.Adjustment
	a.takeUp()
	k := 0
	for ; k < len(a.dirty) && len(less)+len(more) < maxBatch; k++ {
		c := a.dirty[k]
		c.dirty = false
		for _, d := range c.demands {
			if d.releasing > 0 {
				less = append(less, fsm.Adjustment{Session: d.peer.ID, Key: c.key, Delta: -d.releasing})
			}
		}
		more = append(more, a.plan(now, st, c)...)
		for _, d := range c.demands {
			d.releasing = 0 // in the entry now
		}
		a.tidy(c)
	}
	a.dirty = append(a.dirty[:0], a.dirty[k:]...)
	if len(less)+len(more) == 0 {
		return nil
	}
	a.batch++
	return &fsm.Adjust{Term: a.term, Batch: a.batch, Adjustments: append(less, more...)}
}

// reviewAtOnce bounds the keys that are decided anew, after new limits, before whoever asks has
// their turn.
const reviewAtOnce = 512

// takeUp marks the next keys of the review.
func (a *Allocator) takeUp() {
	k := min(len(a.review), reviewAtOnce)
	for _, c := range a.review[:k] {
		if a.keys[c.key] == c {
			a.mark(c)
		}
	}
	if a.review = a.review[k:]; len(a.review) == 0 {
		a.review = nil
	}
}

// tidy forgets demands that say nothing.
func (a *Allocator) tidy(c *contest) {
	for i := len(c.demands) - 1; i >= 0; i-- {
		d := c.demands[i]
		if d.held+d.inUse+d.parked+d.waiting+d.refused == 0 && d.ask == 0 && d.sent == (target{slots: noTarget}) && d.shortSince == 0 {
			a.drop(d)
		}
	}
	if len(c.demands) == 0 && !c.dirty && c.wake == 0 {
		a.forget(c)
	}
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
		a.freed(res.Freed)
	case *fsm.Adjust:
		a.adjusted(cmd, res)
		if len(cmd.Adjustments) >= gatherFrom {
			a.gather = now + min(a.commit, maxGather)
		}
	}
	for _, p := range a.order {
		if p.conn != 0 && p.hello != nil {
			a.resume(st, p)
		}
	}
}

// reopen takes back that sessions are closing: the entry was void, and they are open in the log.
// They are judged anew.
func (a *Allocator) reopen(ids []uint64) {
	for _, id := range ids {
		if p := a.peers[id]; p != nil {
			p.closing = false
		}
	}
}

// maxEnded bounds the memory of nodes whose sessions ran out.
const maxEnded = 1024

func (a *Allocator) noteEnd(id uint64, why fsm.CloseReason) {
	if p := a.peers[id]; p != nil && why == fsm.CloseExpired && len(a.ended) < maxEnded {
		a.ended[p.Node] = id
	}
}

func closeText(r fsm.CloseReason) string {
	if r == fsm.CloseLeft {
		return "the node left"
	}
	return "the node was silent for too long"
}

func (a *Allocator) opened(now time.Duration, st *fsm.State, res fsm.Result) {
	o := a.opening
	a.opening = nil
	if res.Err != nil {
		if holder := a.peers[res.Session]; holder != nil {
			a.refuseName(now, o.conn, holder)
		} else {
			a.sendLast(o.conn, refusal(leasepb.Refused_REASON_NOT_READY, res.Err.Error(), 0))
		}
		return
	}
	if res.TookOver != 0 {
		a.closed(res.TookOver, "the node has opened a new session")
		for _, f := range res.Freed {
			r := a.rests[f.Key]
			a.rests[f.Key] = rest{slots: r.slots + f.Delta, until: now + takeOverRest}
		}
		a.freed(res.Freed)
	}
	delete(a.ended, o.hello.Node)
	s, _ := st.Session(res.Session)
	p := a.addPeer(s, now)
	if o.conn == 0 {
		return // its stream broke meanwhile; it will come back and take over
	}
	p.conn, p.proven = o.conn, true
	a.conns[o.conn] = p
	a.greet(p, &leasepb.Welcome{Session: p.ID, Term: a.term, TtlNs: int64(a.ttl)})
}

// closed forgets a session and tells its stream, if there is one.
func (a *Allocator) closed(id uint64, why string) {
	p := a.peers[id]
	if p == nil {
		return
	}
	a.sendLast(p.conn, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Closed{Closed: &leasepb.Closed{Detail: why}}})
	a.Gone(p.conn)
	for _, d := range sortedDemands(p.demands) {
		a.drop(d)
		a.mark(d.c)
	}
	delete(a.peers, id)
	a.order = slices.DeleteFunc(a.order, func(x *peer) bool { return x == p })
}

// freed plans the keys again of which slots came back.
func (a *Allocator) freed(adjustments []fsm.Adjustment) {
	for _, f := range adjustments {
		if c := a.keys[f.Key]; c != nil {
			a.mark(c)
		}
	}
}

// adjusted tells nodes of their new slots, which are theirs only now that they are committed.
func (a *Allocator) adjusted(cmd *fsm.Adjust, res fsm.Result) {
	if res.Err != nil {
		a.restore(cmd)
		return
	}
	for _, adj := range res.Adjusted {
		c := a.keys[adj.Key]
		if c != nil {
			a.mark(c)
		}
		p := a.peers[adj.Session]
		if adj.Delta <= 0 || p == nil || p.conn == 0 || !p.proven {
			continue
		}
		as := p.assigning()
		as.Grants = append(as.Grants, &leasepb.Holding{Key: fsmpb.KeyOf(adj.Key), Slots: adj.Delta})
	}
}

// restore keeps what a void entry was to release: it had no effect, so the slots are still granted,
// and out of use at their nodes. A node whose stream has ended meanwhile states what it holds on
// the next.
func (a *Allocator) restore(cmd *fsm.Adjust) {
	for _, adj := range cmd.Adjustments {
		p := a.peers[adj.Session]
		if p == nil || p.conn == 0 || !p.proven {
			continue
		}
		d := a.demandOf(p, adj.Key)
		d.releasing += max(0, -adj.Delta)
		a.mark(d.c)
	}
}

func (p *peer) assigning() *leasepb.Assign {
	if p.assign == nil {
		p.assign = &leasepb.Assign{}
	}
	return p.assign
}

// eligible reports whether a session may be granted more and can be asked to give back: it has a
// stream, on which it has stated what it holds, and its keep-alives arrive.
func (a *Allocator) eligible(now time.Duration, p *peer) bool {
	return p.conn != 0 && p.proven && !p.closing && now-p.seen <= a.silence(p)
}

// silence is how long a node may be silent before it is granted nothing more: a little over two
// keep-alives, or one if gossip says that it is dead. As long as its keep-alives arrive, gossip is
// wrong.
func (a *Allocator) silence(p *peer) time.Duration {
	if p.dead {
		return a.ttl / keepAlives * 3 / 2
	}
	return a.ttl * 3 / 4
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

func refusal(why leasepb.Refused_Reason, detail string, after time.Duration) *leasepb.LeaderMessage {
	return &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Refused{
		Refused: &leasepb.Refused{Reason: why, Detail: detail, RetryAfterNs: int64(after)}}}
}

func keepAliveMessage(seq uint64) *leasepb.NodeMessage {
	return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_KeepAlive{KeepAlive: &leasepb.KeepAlive{Seq: seq}}}
}

func limitsMessage(cluster string, t *limit.Table) *leasepb.LeaderMessage {
	m := &leasepb.Limits{Cluster: cluster, Index: t.Index, ShapeIndex: t.ShapeIndex}
	all := t.Limits()
	m.Limits = make([]*fsmpb.Limit, len(all))
	for i := range all {
		m.Limits[i] = fsmpb.LimitOf(&all[i])
	}
	return &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Limits{Limits: m}}
}

func tableFromProto(m *leasepb.Limits) (*limit.Table, error) {
	limits := make([]limit.Limit, len(m.Limits))
	for i, pb := range m.Limits {
		l, err := fsmpb.ParseLimit(pb)
		if err != nil {
			return nil, fmt.Errorf("the leader sent a limit that this node can't read (is the node older?): %w", err)
		}
		limits[i] = l
	}
	return limit.NewTable(m.Index, m.ShapeIndex, limits), nil
}

// Sessions describes the open Sessions at a moment, and those that ran out.
func (a *Allocator) Sessions(now time.Duration) []SessionInfo {
	out := make([]SessionInfo, 0, len(a.order))
	for _, p := range a.order {
		info := SessionInfo{ID: p.ID, Node: p.Node, Identity: p.Identity, State: SessionLive}
		if now-p.seen > a.ttl {
			info.State = SessionFenced
		}
		if !a.eligible(now, p) {
			info.ReclaimedIn = max(0, a.expiry(p)-now)
		}
		out = append(out, info)
	}
	for node, id := range a.ended {
		out = append(out, SessionInfo{ID: id, Node: node, State: SessionExpired})
	}
	slices.SortFunc(out, func(x, y SessionInfo) int { return cmpID(x.ID, y.ID) })
	return out
}
