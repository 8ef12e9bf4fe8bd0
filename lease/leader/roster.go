package leader

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// roster is the open sessions, and those that are to end.
type roster struct {
	peers  map[uint64]*peer  // by id
	order  []*peer           // the same, by id
	conns  map[uint64]*peer  // by stream
	closes []uint64          // judged expired
	leaves []uint64          // said goodbye
	ended  map[string]uint64 // by node: the session that ran out, until the node has another
	gap    time.Duration     // before the term began, in which certainly nobody led
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
	seen    time.Duration    // arrival of the newest keep-alive that was verified, or the beginning
	heard   bool             // in this term: seen is not the term's beginning
	closing bool
	dead    bool   // by gossip, which may be wrong
	limits  uint64 // log index of the limits that the node goes by
	reads   uint32 // the log version whose limits it can read, as it stated
	demands map[limit.Key]*demand
	assign  *leasepb.Assign
}

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

func (a *Allocator) holderOf(node string) *peer {
	for _, p := range a.order {
		if p.Node == node {
			return p
		}
	}
	return nil
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
	p.seen, p.heard = max(p.seen, arrived), true
	a.send(conn, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_KeepAliveAck{KeepAliveAck: &leasepb.KeepAliveAck{Seq: seq}}})
}

// expiry is the earliest moment at which a session may be ended without its consent. One of which
// this leader has not heard was kept alive before the gap at the latest. After a long one, its node
// has a while to come back, although it has fenced: what it then keeps need not be granted anew.
func (a *Allocator) expiry(p *peer) time.Duration {
	if p.heard {
		return p.seen + a.ttl + leasepb.Margin
	}
	return p.seen + max(a.ttl+leasepb.Margin-a.gap, min(a.ttl/2, comeBack))
}

// unheard is how long a session has not been heard of, as far as this leader knows.
func (a *Allocator) unheard(now time.Duration, p *peer) time.Duration {
	if p.heard {
		return max(0, now-p.seen)
	}
	return max(0, now-p.seen+a.gap)
}

// comeBack is how long a new leader waits, at least, for nodes to reach it.
const comeBack = time.Second

// eligible reports whether a session may be granted more and can be asked to give back: it has a
// stream, on which it has stated what it holds, and its keep-alives arrive.
func (a *Allocator) eligible(now time.Duration, p *peer) bool {
	return p.conn != 0 && p.proven && !p.closing && now-p.seen <= a.silence(p)
}

// silence is how long a node may be silent before it is granted nothing more: three keep-alives, or
// one and a half if gossip says that it is dead. As long as its keep-alives arrive, gossip is wrong.
func (a *Allocator) silence(p *peer) time.Duration {
	if p.dead {
		return a.ttl / leasepb.KeepAlives * 3 / 2
	}
	return a.ttl * 3 / 4
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

func (p *peer) assigning() *leasepb.Assign {
	if p.assign == nil {
		p.assign = &leasepb.Assign{}
	}
	return p.assign
}
