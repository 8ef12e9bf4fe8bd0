package lease

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/lease/due"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// Expiry says what a node does with connections that use slots when its lease has run out.
type Expiry uint8

// The choices of lease.on_expiry.
const (
	ExpiryClose Expiry = iota // reset them: the cap is hard
	ExpiryDrain               // admit no new ones
	ExpiryKeep                // go on as if nothing had happened: availability first
)

// String is the configuration's word.
func (e Expiry) String() string {
	switch e {
	case ExpiryDrain:
		return "drain"
	case ExpiryKeep:
		return "keep"
	}
	return "close"
}

// clockJump is how far the wall clock may move ahead of the other before that counts as lost time.
const clockJump = leasepb.Margin

// Node is the deciding half of the node's side: no goroutine, no clock, no I/O. [Manager] is its
// shell in production; a simulation has another.
//
// TryAcquire, TryRelease, Park, Closing, Unpark, Live, Enter, Leave, Serves, TryTake, TryPiece and
// PutBack are the fast path and may be called at any time. All other methods need the core's lock,
// which is the shell's. Time is an argument, and what the shell has to do after each call is a
// result: [Effects].
type Node struct {
	name     string
	identity string
	cluster  string // the id of the node's cluster; "" until its first session
	expiry   Expiry

	gate     gate
	table    atomic.Pointer[limit.Table] // nil until the limits are known
	limitsAt atomic.Int64                // when they came last
	pools    pools
	hosts    byName // where a pool counts all connections to the host

	book
	walk
	hot   []*pool // refused lately
	later []*pool // with requests that wait to be asked for
	// regoverning is what the core has yet to let follow the newest limits.
	regoverning []*pool

	sess      session
	fresh     bool // no session was ever had
	stream    stream
	departure departure

	nextSecond  time.Duration
	nextQuarter time.Duration
	nextAsk     time.Duration
	lastNow     time.Duration
	lastWall    time.Duration

	requests  [requestShards]requestShard
	begun     counter         // requests
	dues      due.Heap[*pool] // the rates in which somebody waits for time to pass
	nextMeter time.Duration   // when the rates are looked at next
	unmetered int             // so many of the first of the held pools have yet to be looked at

	woken    []Waker     // for the shell to wake
	severs   []Severance // for the shell to carry out once the locks are free
	fences   uint64
	reported reported
	exceeded exceeded
	own      ownTotals
}

// Severance is a slot that its holder must give up, and why.
type Severance struct {
	Slot *Slot
	// Holder is who used the slot then: its memory may be another's until it is told.
	Holder Holder
	Reason Reason
}

// NewNode returns a node without a stream or a session. limits, if not nil, are those to go by
// until it hears from the cluster.
func NewNode(name, identity string, expiry Expiry, limits *limit.Table) *Node {
	n := &Node{name: name, identity: identity, expiry: expiry, fresh: true}
	n.SetBounds(Bounds{Page: pageSize, Stated: maxStated, Bare: maxBare, Requests: requestShards})
	n.era.streams = 1
	n.table.Store(limits)
	return n
}

// Table is the limits that the node goes by, nil until it knows any.
func (n *Node) Table() *limit.Table { return n.table.Load() }

// Receive takes one message from the leader. An error ends the stream.
func (n *Node) Receive(now time.Duration, m *leasepb.LeaderMessage) error {
	n.lapse(now)
	if n.stale() {
		return errSessionGone // fenced meanwhile: what comes on this stream is about a session that we gave up
	}
	if err := n.checkCluster(m); err != nil {
		return err
	}
	switch m := m.Message.(type) {
	case *leasepb.LeaderMessage_Welcome:
		return n.welcome(now, m.Welcome)
	case *leasepb.LeaderMessage_Prove:
		n.stream.proveDue = true
	case *leasepb.LeaderMessage_KeepAliveAck:
		if n.sess.answered(m.KeepAliveAck.Seq) {
			n.openGate()
		}
	case *leasepb.LeaderMessage_Limits:
		return n.takeLimits(now, m.Limits)
	case *leasepb.LeaderMessage_Assign:
		return n.assigned(now, m.Assign)
	case *leasepb.LeaderMessage_Closed:
		n.Lose(now)
		return fmt.Errorf("%w: %s", errSessionGone, m.Closed.Detail)
	case *leasepb.LeaderMessage_Refused:
		if m.Refused.Reason == leasepb.Refused_REASON_SESSION_GONE {
			n.Lose(now)
		}
		return &refusedError{m.Refused.Reason, m.Refused.Detail, time.Duration(m.Refused.RetryAfterNs)}
	case *leasepb.LeaderMessage_NotLeader:
		return errNotLeader
	}
	return nil
}

// Outgoing returns what is to be sent now, in order. A keep-alive's time is noted here: it must be
// sent afterwards.
func (n *Node) Outgoing(now time.Duration) []*leasepb.NodeMessage {
	n.lapse(now)
	st := &n.stream
	if !st.isOpen() {
		return nil
	}
	if st.helloDue {
		if n.fencing {
			return nil // what the former session allowed is out of use before the next is asked for
		}
		st.helloDue = false
		n.beginHello(now)
	}
	if st.statement.hello != nil {
		return n.stateSome()
	}
	if st.proveDue {
		st.proveDue = false
		return []*leasepb.NodeMessage{{Message: &leasepb.NodeMessage_Proof{Proof: &leasepb.Proof{}}}}
	}
	if !n.welcomed() {
		return nil
	}
	var out []*leasepb.NodeMessage
	if now >= n.sess.nextSend {
		out = append(out, &leasepb.NodeMessage{Message: &leasepb.NodeMessage_KeepAlive{
			KeepAlive: &leasepb.KeepAlive{Seq: n.sess.keepAlive(now)}}})
	}
	if len(st.dirty) > 0 || n.acks() {
		out = append(out, n.update(now))
	}
	if n.byeDue() && len(st.dirty) == 0 {
		n.departure = parted
		out = append(out, &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Bye{Bye: &leasepb.Bye{}}})
	}
	return out
}

// pending reports whether there is something to send.
func (n *Node) pending(now time.Duration) bool {
	st := &n.stream
	switch {
	case !st.isOpen():
		return false
	case st.helloDue:
		return !n.fencing
	case st.proveDue || st.statement.hello != nil:
		return true
	}
	return n.welcomed() && (len(st.dirty) > 0 || n.acks() || n.byeDue() || now >= n.sess.nextSend)
}

// Tick lets time pass: the lease runs out, idle slots go back.
func (n *Node) Tick(now, wall time.Duration) {
	jumped := n.lastNow != 0 && (wall-n.lastWall)-(now-n.lastNow) > clockJump
	n.lastNow, n.lastWall = now, wall
	if n.sess.live() && jumped {
		n.fence(now)
	}
	n.lapse(now)
	n.Walk(now)
	if len(n.regoverning) > 0 {
		n.regovernSome(now)
	}
	if len(n.hot) > 0 && now >= n.nextQuarter {
		n.quarter(now)
	}
	if len(n.later) > 0 && now >= n.nextAsk {
		n.askNow(now)
	}
	n.comeDue(now)
	if n.rates > 0 && now >= n.nextMeter {
		n.nextMeter = now + drawInterval
		n.unmetered = len(n.held)
	}
	n.meterSome(now)
	if now >= n.nextSecond {
		n.nextSecond = now + time.Second
		n.second(now)
	}
	n.sweepSome(now)
}

// NextWake is when Tick must be called at the latest.
func (n *Node) NextWake(now time.Duration) time.Duration {
	at := n.nextSecond
	if len(n.regoverning)+n.unswept+n.unmetered > 0 || n.Walking() {
		return now
	}
	if n.sess.live() {
		at = min(at, n.sess.fenceAt())
		// One that is due is with the stream's sender: it may be stuck there, and waking more often
		// does not help.
		if n.welcomed() && n.sess.nextSend > now {
			at = min(at, n.sess.nextSend)
		}
	}
	if len(n.hot) > 0 {
		at = min(at, n.nextQuarter)
	}
	if len(n.later) > 0 {
		at = min(at, n.nextAsk)
	}
	if next, ok := n.dues.Next(); ok {
		at = min(at, next)
	}
	if n.rates > 0 {
		at = min(at, n.nextMeter)
	}
	return at
}
