package leader

import (
	"fmt"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// handshake is the streams that serve no session yet, and who waits for the leader's verification.
type handshake struct {
	partial  map[uint64]*leasepb.Hello // by stream: those of which more is to come
	unproven []*openRequest            // asked whether they are still meant
	opens    []*openRequest            // to be opened
	opening  *openRequest              // the one that is on its way
	// Messages that need a VerifyLeader that began after they arrived: `verifying` waits for the
	// check under way, `unverified` for the next.
	unverified, verifying []unverified
	verification          bool
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

// misread ends a stream on which a node named a key that this server does not know. Passed over, a
// release would never come back, and a slot that the log does not grant would stay in use.
func (a *Allocator) misread(conn uint64, node string) {
	a.sendLast(conn, refusal(leasepb.Refused_REASON_PROTOCOL,
		fmt.Sprintf("node %s names a key that this server can't read: is the server older? Upgrade it", node), 0))
	a.Gone(conn)
}

// canRead reports whether a node can read limits that need a version. One of before versions were
// stated can read the first.
func canRead(stated, version uint32) bool { return max(stated, 1) >= version }

// outdated ends the stream of a node that can't read the limits in force. It must not go by others,
// and would end the stream itself, but not say why, and come again at once with a new session.
func (a *Allocator) outdated(conn uint64, node string) {
	a.sendLast(conn, refusal(leasepb.Refused_REASON_PROTOCOL, fmt.Sprintf(
		"node %s runs an older version of weir, which can't read the limits in force (some are of requests, of bandwidth, of a scope other than host, or only report): upgrade weir on it", node), time.Second))
	a.Gone(conn)
}

// hello takes a stream's first message. The leader has been verified since it arrived.
func (a *Allocator) hello(now time.Duration, st *fsm.State, conn uint64, h *leasepb.Hello) {
	if h.Protocol != leasepb.Version && h.Protocol != leasepb.VersionPaged {
		a.sendLast(conn, refusal(leasepb.Refused_REASON_PROTOCOL,
			fmt.Sprintf("this server speaks version %d of the lease protocol, node %s version %d: upgrade the older one", leasepb.VersionPaged, h.Node, h.Protocol), 0))
		return
	}
	if refused := mayServe(h, st.ClusterID()); refused != nil {
		a.sendLast(conn, refused)
		return
	}
	if !canRead(h.LimitsVersion, a.limitsVersion) {
		a.outdated(conn, h.Node)
		return
	}
	if h.Session == 0 {
		a.supersede(h)
		a.unproven = append(a.unproven, &openRequest{conn, h})
		a.send(conn, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Prove{Prove: &leasepb.Prove{}}})
		return
	}
	if !leasepb.Readable(h.Holdings, nil) {
		a.misread(conn, h.Node)
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
	p.conn, p.hello, p.reads = conn, h, h.LimitsVersion
	a.conns[conn] = p
	if a.inflight == nil {
		a.resume(st, p)
	}
}

// mayServe refuses a node of another cluster.
func mayServe(h *leasepb.Hello, cluster string) *leasepb.LeaderMessage {
	if h.Cluster == "" || h.Cluster == cluster {
		return nil
	}
	return refusal(leasepb.Refused_REASON_OTHER_CLUSTER,
		fmt.Sprintf("this server leads cluster %s, and node %s is of cluster %s", cluster, h.Node, h.Cluster), time.Second)
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
		a.freed(now, st, res.Freed)
	}
	delete(a.ended, o.hello.Node)
	s, _ := st.Session(res.Session)
	p := a.addPeer(s, now)
	p.heard = true
	if o.conn == 0 {
		return // its stream broke meanwhile; it will come back and take over
	}
	p.conn, p.proven, p.reads = o.conn, true, o.hello.LimitsVersion
	a.conns[o.conn] = p
	a.greet(p, &leasepb.Welcome{Session: p.ID, Term: a.term, TtlNs: int64(a.ttl)})
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
	p.missing = append(p.missing, st.GrantsAbove(p.ID, stated)...)
	for _, key := range order {
		if g := st.GrantOf(p.ID, key); g < stated[key] {
			welcome.Corrected = append(welcome.Corrected, &leasepb.Holding{Key: fsmpb.KeyOf(key), Slots: g})
		}
	}
	a.greet(p, welcome)
}

func (a *Allocator) greet(p *peer, w *leasepb.Welcome) {
	if !canRead(p.reads, a.limitsVersion) { // the limits have changed since its hello
		a.outdated(p.conn, p.Node)
		return
	}
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

func refusal(why leasepb.Refused_Reason, detail string, after time.Duration) *leasepb.LeaderMessage {
	return &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Refused{
		Refused: &leasepb.Refused{Reason: why, Detail: detail, RetryAfterNs: int64(after)}}}
}
