package lease

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
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

const (
	protocolVersion = 2
	// protocolPaged is the version of a hello that states holdings in several messages. A leader
	// that does not know it must not take the first message for the whole: it would release slots
	// that are in use.
	protocolPaged = 3

	// askTimeout bounds the wait for the leader's answer whether anything is free. It is long
	// enough for the election of another leader, and for a busy machine: no request is refused with
	// "limit reached" unless it is.
	askTimeout = 3 * time.Second
	// askEvery is the pause between asks for a key that has just been denied. Requests that come
	// meanwhile share the next ask, and take a slot that comes free before it. So a storm of
	// requests costs the leader a few answers.
	askEvery = 5 * time.Millisecond
	// refusedWindow is how long a refusal counts as demand: whoever was refused tends to come
	// again.
	refusedWindow = 250 * time.Millisecond
	// maxAsking bounds the requests that wait for the leader's answer about one key. More are
	// refused at once, as without an answer: a leader that is silent for askTimeout must not let
	// them fill the memory.
	maxAsking = 4096
	// maxBatch bounds the keys of one Update.
	maxBatch = 2048
	// clockJump is how far the wall clock may move ahead of the other before that counts as lost
	// time.
	clockJump = Margin
)

// Node is the deciding half of the node's side: no goroutine, no clock, no I/O. [Manager] is its
// shell in production; a simulation has another.
//
// TryAcquire, TryRelease, Park, Closing, Unpark and Live are the fast path and may be called at any
// time. All other methods need the core's lock, which is the shell's. Time is an argument, and what
// the shell has to do is a result: slots to sever (TakeSevers), messages to send (Outgoing), a
// stream to give up (Stale), a time to be called again (NextWake).
type Node struct {
	name     string
	identity string
	cluster  string // the id of the node's cluster; "" until its first session
	expiry   Expiry

	gate  gate
	table atomic.Pointer[limit.Table] // nil until the limits are known
	pools sync.Map                    // fsm.Key → *pool; the book has the order
	hosts sync.Map                    // host → *pool, where that counts all connections to the host

	book
	walk
	statement statement
	dirty     []*pool // of which the leader has yet to hear, on this stream
	hot       []*pool // refused lately
	later     []*pool // with requests that wait to be asked for
	// regoverning is what the core has yet to let follow the newest limits.
	regoverning []*pool

	sess     session
	attached bool          // a stream is up
	welcomed bool          // and the leader has answered its hello
	stale    bool          // the stream must be given up: it serves no session any more
	said     bool          // hello has been said on it
	helloAt  time.Duration // when
	fresh    bool          // no session was ever had
	leaving  bool          // no headroom, nothing idle is kept
	parting  bool          // goodbye was said: no session is wanted any more
	bye      bool          // the leader has yet to be told, once nothing is in use
	proveDue bool          // the leader asked whether the stream is still ours
	ackDue   bool          // the leader has yet to be told which limits we go by
	opened   bool          // this stream's leader has opened the session, in a log that is the cluster's
	// older is a limits table with a lower index than ours, from a leader that has not proved its
	// leadership. It may have been deposed long ago, and its table would undo acknowledged changes.
	// We adopt it only if that leader opens a session: then its log is the cluster's, and ours
	// belonged to another.
	older *limit.Table

	nextSecond  time.Duration
	nextQuarter time.Duration
	nextAsk     time.Duration
	lastNow     time.Duration
	lastWall    time.Duration

	severs []Severance // for the shell to carry out once the locks are free
	fences uint64
}

// Severance is a slot that its holder must give up, and why.
type Severance struct {
	Slot   *Slot
	Reason Reason
}

// NewNode returns a node without a stream or a session. limits, if not nil, are those to go by
// until it hears from the cluster.
func NewNode(name, identity string, expiry Expiry, limits *limit.Table) *Node {
	n := &Node{name: name, identity: identity, expiry: expiry, fresh: true}
	n.SetBounds(Bounds{Page: pageSize, Stated: maxStated, Bare: maxBare})
	n.era.streams = 1
	n.table.Store(limits)
	return n
}

// TakeSevers hands the effects over.
func (n *Node) TakeSevers() []Severance {
	s := n.severs
	n.severs = nil
	return s
}

// noteSlow decides whether releases and parked connections must go through the core. Needs the
// pool's lock.
func (n *Node) noteSlow(p *pool) {
	p.slow = n.leaving || p.waiters.len() > 0 || p.target >= 0 || p.contended ||
		(p.limit.Capped() && p.open > p.granted)
	if busy := n.parting && p.limit.Capped() && p.open > 0; busy != p.busy {
		p.busy = busy
		if busy {
			n.busy++
		} else {
			n.busy--
		}
	}
}

// mark notes that the leader has yet to hear of a pool. Before the leader's welcome it does
// nothing: the welcome marks all that the leader must hear of.
func (n *Node) mark(p *pool) {
	if n.welcomed && !n.isDirty(p) {
		p.marked = n.era.streams
		n.dirty = append(n.dirty, p)
	}
}

// isDirty reports whether a pool is among the dirty ones. A mark made on an earlier stream is void.
func (n *Node) isDirty(p *pool) bool { return p.marked == n.era.streams }

// Pending reports whether there is something to send.
func (n *Node) Pending(now time.Duration) bool {
	if !n.attached {
		return false
	}
	if !n.said {
		return !n.fencing
	}
	if n.proveDue || n.statement.hello != nil {
		return true
	}
	return n.welcomed && (len(n.dirty) > 0 || n.acks() || n.byeDue() || now >= n.sess.nextSend)
}

// Acquire is the slow path: the request waits, unless a slot has come free since the fast path
// looked. It returns the waiter, or, where the answer is known at once, nil and the answer.
func (n *Node) Acquire(now time.Duration, s *Slot, done func(error)) (*Waiter, error) {
	table := n.table.Load()
	if table == nil {
		return nil, ErrNoLease
	}
	_, key := table.Match(s.target)
	p := n.pool(now, key)
	n.lock(p)
	defer p.mu.Unlock()
	switch p.tryLocked(now, s, table, &n.gate) {
	case verdictAdmitted:
		return nil, nil
	case verdictBlocked:
		return nil, ErrOverLimit
	case verdictNoLease:
		p.rejected++
		if n.parting {
			return nil, ErrDraining
		}
		return nil, ErrNoLease
	}
	w := &Waiter{slot: s, since: now, queued: p.limit.Queue.Enabled(), patience: askTimeout, done: func(error) {}}
	if w.queued {
		w.patience = p.limit.Queue.Timeout
	}
	if w.queued && p.waiters.queued >= int64(p.limit.Queue.Size) {
		n.noteRefused(now, p)
		return nil, ErrQueueFull
	}
	if !w.queued && p.waiters.len()-p.waiters.queued >= maxAsking {
		p.rejected++
		return nil, ErrNoLease
	}
	n.enqueue(p, w)
	n.settle(now, p)
	if w.pool == nil {
		return nil, nil // settled at once
	}
	w.done = done
	return w, nil
}

func (n *Node) enqueue(p *pool, w *Waiter) {
	w.pool = p
	p.waiters.push(w)
	n.noteSlow(p)
	n.mark(p)
}

// answer ends a wait. Needs the pool's lock.
func (n *Node) answer(p *pool, w *Waiter, err error) {
	p.waiters.remove(w)
	w.pool = nil
	w.done(err)
}

// Cancel ends the wait of somebody who went away. It reports false where the answer has come
// already.
func (n *Node) Cancel(w *Waiter) bool {
	p := w.pool
	if p == nil {
		return false
	}
	n.lock(p)
	defer p.mu.Unlock()
	if w.pool == nil {
		return false // a fence or the end answered it just now
	}
	p.waiters.remove(w)
	w.pool = nil
	n.noteSlow(p)
	n.mark(p)
	return true
}

// Expire ends a wait that has lasted long enough, with the reason.
func (n *Node) Expire(now time.Duration, w *Waiter) {
	p := w.pool
	if p == nil {
		return
	}
	n.lock(p)
	defer p.mu.Unlock()
	if w.pool == nil {
		return
	}
	err := ErrNoLease // nobody could be asked, or nobody has answered: the limit need not be reached
	if w.queued && n.welcomed {
		err = ErrQueueTimeout
	}
	n.answer(p, w, err)
	n.noteRefused(now, p)
	n.noteSlow(p)
}

// noteRefused counts a refusal, and as demand for a while. Needs the pool's lock.
func (n *Node) noteRefused(now time.Duration, p *pool) {
	p.rejected++
	if p.refused[0] == 0 && p.refused[1] == 0 {
		if len(n.hot) == 0 {
			n.nextQuarter = now + refusedWindow
		}
		n.hot = append(n.hot, p)
	}
	p.refused[0]++
	n.mark(p)
}

// Release gives a slot back.
func (n *Node) Release(now time.Duration, s *Slot) {
	p := n.lockPool(s)
	defer p.mu.Unlock()
	if s.use == slotReleased {
		return
	}
	p.unlink(s)
	s.use = slotReleased
	slow := p.slow
	n.settle(now, p)
	if slow || p.slow {
		n.mark(p)
	}
}

// Parked is called when a connection was parked, or comes to its end, while somebody waits.
func (n *Node) Parked(now time.Duration, s *Slot) {
	p := n.lockPool(s)
	defer p.mu.Unlock()
	n.settle(now, p)
	n.mark(p)
}

// settle gives free slots back or out: first to the leader, where the node holds more than its
// target; then to requests that wait here; then, where another node is short and nobody waits here,
// to the leader again. Needs the pool's lock.
func (n *Node) settle(now time.Duration, p *pool) {
	if !p.limit.Capped() {
		for p.waiters.head != nil {
			n.admit(now, p)
		}
		n.noteSlow(p)
		return
	}
	if p.target >= 0 && p.granted > p.target {
		n.giveBack(p, min(p.free(), p.granted-p.target))
	}
	for p.free() > 0 && p.waiters.head != nil && n.mayAdmit(now, p) {
		n.admit(now, p)
	}
	if p.free() > 0 && (n.leaving || p.contended) {
		if p.refused == [2]int64{} || n.leaving {
			n.giveBack(p, p.free())
		} else {
			n.mark(p) // say that it lies idle
		}
	}
	n.closeParked(p)
	n.noteSlow(p)
}

// mayAdmit reports whether waiting requests may be admitted. It looks at the time, not only at the
// fence: a process that was stopped may find a grant on its stream before its timer says that the
// lease is over. Needs the pool's lock.
func (n *Node) mayAdmit(now time.Duration, p *pool) bool {
	return n.gate.admitsAt(now) && p.limit.Connections > 0 && (p.target < 0 || p.granted <= p.target)
}

func (n *Node) admit(now time.Duration, p *pool) {
	w := p.waiters.head
	w.slot.waited = now - w.since
	p.begin(now, w.slot)
	n.answer(p, w, nil)
	n.mark(p)
}

// giveBack takes free slots out of use; the leader is told with the next Update. Needs the pool's
// lock.
func (n *Node) giveBack(p *pool, k int64) {
	if k <= 0 {
		return
	}
	p.granted -= k
	p.low = min(p.low, p.free())
	p.releasing += k
	n.mark(p)
}

// closeParked asks for the slots of kept-alive connections where they are needed, the oldest first.
// Needs the pool's lock.
func (n *Node) closeParked(p *pool) {
	need := p.waiters.len()
	if p.target >= 0 {
		need = max(need, p.granted-p.target)
	}
	if n.leaving {
		need = p.parked + p.taken
	}
	need = min(need-p.taken-max(0, p.free()), p.parked)
	for s := p.head; s != nil && need > 0; s = s.next {
		if s.use == slotParked {
			p.setUse(s, slotTaken)
			n.severs = append(n.severs, Severance{s, SeverWanted})
			need--
		}
	}
}

// setLimits installs new limits, and moves the connections that are counted elsewhere now. Every
// pool has the new limits before anything moves: no request may be admitted by a limit that its new
// count no longer has.
//
// Where only numbers have changed, nothing moves: the fast path follows by itself, and the core
// follows some pools at a time (regovernSome), so that nothing waits for a hundred thousand of
// them.
func (n *Node) setLimits(now time.Duration, table *limit.Table) {
	old := n.table.Load()
	n.table.Store(table)
	if old != nil && old.ShapeIndex == table.ShapeIndex && old.Index < table.Index {
		n.regoverning = slices.Clone(n.all)
		n.regovernSome(now)
		return
	}
	n.regoverning = nil
	all := slices.Clone(n.all) // moving may add more, which have the new limits already
	moved := make([]moving, len(all))
	for i, p := range all {
		moved[i] = n.applyTable(p, table)
	}
	for i, p := range all {
		n.moveSlots(now, p, moved[i].slots, table)
	}
	for _, m := range moved {
		n.moveWaiters(now, m.waiters, table)
	}
	for _, p := range all {
		n.lock(p)
		n.regovern(now, p)
		p.mu.Unlock()
	}
	n.ackDue = true
}

// regovernAtOnce bounds the pools that the core lets follow new limits before others have their
// turn.
const regovernAtOnce = 512

// regovernSome lets the next pools follow the limits. The limits are acknowledged when all have.
func (n *Node) regovernSome(now time.Duration) {
	table := n.table.Load()
	k := min(len(n.regoverning), regovernAtOnce)
	for _, p := range n.regoverning[:k] {
		n.lock(p)
		if p.table != nil && p.table != table {
			p.follow(table)
		}
		n.regovern(now, p)
		p.mu.Unlock()
	}
	if n.regoverning = n.regoverning[k:]; len(n.regoverning) == 0 {
		n.regoverning = nil
		n.ackDue = true
	}
}

// moving is what new limits count elsewhere.
type moving struct {
	slots   []*Slot
	waiters []*Waiter
}

// moveSlots moves connections to the pools that count them now.
func (n *Node) moveSlots(now time.Duration, p *pool, slots []*Slot, table *limit.Table) {
	for _, s := range slots {
		_, key := table.Match(s.target)
		q := n.pool(now, key)
		n.lock(p)
		if s.use == slotReleased {
			p.mu.Unlock()
			continue
		}
		n.lock(q)
		p.unlink(s)
		q.link(s)
		n.noteSlow(q)
		n.mark(q)
		q.mu.Unlock()
		p.mu.Unlock()
	}
}

// moveWaiters lets those who wait go on waiting where their connections will be counted.
func (n *Node) moveWaiters(now time.Duration, waiters []*Waiter, table *limit.Table) {
	for _, w := range waiters {
		_, key := table.Match(w.slot.target)
		q := n.pool(now, key)
		n.lock(q)
		w.ask = 0
		n.enqueue(q, w)
		n.settle(now, q)
		q.mu.Unlock()
	}
}

// regovern draws the consequences of a pool's new limit. Needs the pool's lock.
func (n *Node) regovern(now time.Duration, p *pool) {
	if !p.limit.Capped() {
		n.giveBack(p, p.granted)
		p.target, p.contended, p.evict = noTarget, false, false
	}
	if p.limit.Capped() && p.limit.Connections == 0 {
		for w := p.waiters.head; w != nil; w = p.waiters.head {
			n.answer(p, w, ErrOverLimit)
			n.noteRefused(now, p)
		}
	}
	n.settle(now, p)
	if p.open > 0 || p.granted > 0 || p.reported {
		n.mark(p)
	}
}

// applyTable installs a table in a pool and returns what has to move to another.
func (n *Node) applyTable(p *pool, table *limit.Table) (m moving) {
	n.lock(p)
	defer p.mu.Unlock()
	n.govern(p, table)
	for s := p.head; s != nil; s = s.next {
		if _, key := table.Match(s.target); key != p.key {
			m.slots = append(m.slots, s)
		} else {
			s.guarded.Store(p.limit.Capped())
		}
	}
	var next *Waiter
	for w := p.waiters.head; w != nil; w = next {
		next = w.next
		if _, key := table.Match(w.slot.target); key != p.key {
			p.waiters.remove(w)
			m.waiters = append(m.waiters, w)
		}
	}
	n.noteSlow(p)
	return m
}

// StreamUp notes a new stream to the leader.
func (n *Node) StreamUp(now time.Duration) {
	n.attached, n.said, n.welcomed, n.stale = true, false, false, false
	n.opened, n.older = false, nil
	n.ackDue = n.table.Load() != nil && len(n.regoverning) == 0
}

// StreamDown notes its end. What was to be said on it is void; the next hello states what is held.
func (n *Node) StreamDown(now time.Duration) {
	n.attached, n.said, n.welcomed, n.proveDue = false, false, false, false
	n.statement = statement{}
	n.sess.interrupted()
	n.dirty = nil
	n.era.streams++
	n.beginWalk(now)
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
	if now >= n.nextSecond {
		n.nextSecond = now + time.Second
		n.second(now)
	}
	n.sweepSome(now)
}

// Stale reports whether the stream must be given up: the session that it served has ended.
func (n *Node) Stale() bool { return n.stale && n.attached }

// NextWake is when tick must be called at the latest.
func (n *Node) NextWake(now time.Duration) time.Duration {
	at := n.nextSecond
	if len(n.regoverning)+n.unswept > 0 || n.Walking() {
		return now
	}
	if n.sess.live() {
		at = min(at, n.sess.fenceAt())
		// One that is due is with the stream's sender: it may be stuck there, and waking more often
		// does not help.
		if n.welcomed && n.sess.nextSend > now {
			at = min(at, n.sess.nextSend)
		}
	}
	if len(n.hot) > 0 {
		at = min(at, n.nextQuarter)
	}
	if len(n.later) > 0 {
		at = min(at, n.nextAsk)
	}
	return at
}

// quarter ages the refusals.
func (n *Node) quarter(now time.Duration) {
	n.nextQuarter = now + refusedWindow
	keep := n.hot[:0]
	for _, p := range n.hot {
		n.lock(p)
		p.refused[0], p.refused[1] = 0, p.refused[0]
		if p.refused[1] > 0 {
			keep = append(keep, p)
		} else {
			n.settle(now, p)
			n.mark(p)
		}
		p.mu.Unlock()
	}
	n.hot = keep
}

// fence ends everything that the lease allowed. From here on the closed gate refuses all requests.
// The walk severs the connections; the shell carries it on at once.
func (n *Node) fence(now time.Duration) {
	n.sess.end()
	n.welcomed, n.stale = false, true
	n.fences++
	n.fencing, n.fenceSevered = true, 0
	if n.expiry != ExpiryKeep {
		n.gate.close()
		n.era.fences++
	}
	n.beginWalk(now)
}

// fencePool takes away what the lease allowed of one key. Needs the pool's lock.
func (n *Node) fencePool(p *pool) {
	p.granted, p.releasing = 0, 0
	for w := p.waiters.head; w != nil; w = p.waiters.head {
		p.rejected++
		n.answer(p, w, ErrNoLease)
	}
	if n.expiry == ExpiryClose {
		before := len(n.severs)
		for s := p.head; s != nil; s = s.next {
			n.severSlot(s, SeverFenced)
		}
		n.fenceSevered += len(n.severs) - before
	}
}

func (n *Node) severSlot(s *Slot, why Reason) {
	if !s.severed.Swap(true) {
		n.severs = append(n.severs, Severance{s, why})
	}
}

// severNewest resets the k newest connections that have not been yet. Needs the pool's lock.
func (n *Node) severNewest(p *pool, k int64, why Reason) {
	if k <= 0 {
		return
	}
	var newest []*Slot
	for s := p.tail; s != nil; s = s.prev {
		newest = append(newest, s)
	}
	slices.SortStableFunc(newest, func(x, y *Slot) int { return cmp.Compare(y.since, x.since) })
	for _, s := range newest[:min(k, int64(len(newest)))] {
		if !s.severed.Load() {
			n.severSlot(s, why)
		}
	}
}

// Outgoing returns what is to be sent now, in order. A keep-alive's time is noted here: it must be
// sent afterwards.
func (n *Node) Outgoing(now time.Duration) []*leasepb.NodeMessage {
	n.lapse(now)
	if !n.attached || n.stale {
		return nil
	}
	if !n.said {
		if n.fencing {
			return nil // what the former session allowed is out of use before the next is asked for
		}
		n.said = true
		n.beginHello(now)
	}
	if n.statement.hello != nil {
		return n.stateSome()
	}
	if n.proveDue {
		n.proveDue = false
		return []*leasepb.NodeMessage{{Message: &leasepb.NodeMessage_Proof{Proof: &leasepb.Proof{}}}}
	}
	if !n.welcomed {
		return nil
	}
	var out []*leasepb.NodeMessage
	if now >= n.sess.nextSend {
		out = append(out, keepAliveMessage(n.sess.keepAlive(now)))
	}
	if len(n.dirty) > 0 || n.acks() {
		out = append(out, n.update(now))
	}
	if n.byeDue() && len(n.dirty) == 0 {
		n.bye = false
		out = append(out, &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Bye{Bye: &leasepb.Bye{}}})
	}
	return out
}

// lapse fences a node whose deadline has passed, before it sends or takes a message. Where a
// machine wakes up, the stream may be read before the timer fires, and a keep-alive sent after the
// deadline must not bring the session back.
func (n *Node) lapse(now time.Duration) {
	if n.sess.live() && now >= n.sess.fenceAt() {
		n.fence(now)
	}
}

// update takes up to maxBatch dirty keys. The limits are acknowledged with the last of them, so
// that the leader knows our demands under these limits when it hears that we go by them.
func (n *Node) update(now time.Duration) *leasepb.NodeMessage {
	k := min(len(n.dirty), maxBatch)
	u := &leasepb.Update{}
	for _, p := range n.dirty[:k] {
		n.lock(p)
		p.marked = 0
		if p.releasing > 0 {
			u.Releases = append(u.Releases, &leasepb.Holding{Key: fsmpb.KeyOf(p.key), Slots: p.releasing})
			p.releasing = 0
		}
		if d := n.demand(now, p); d != nil {
			u.Demands = append(u.Demands, d)
		}
		p.mu.Unlock()
	}
	n.dirty = append(n.dirty[:0], n.dirty[k:]...)
	if len(n.dirty) == 0 && n.acks() {
		n.ackDue = false
		u.LimitsIndex = n.table.Load().Index
	}
	return &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Update{Update: u}}
}

// acks reports whether the node may acknowledge its limits: not while the walk has yet to mark
// demands.
func (n *Node) acks() bool { return n.ackDue && !n.Walking() }

// demand says what a pool wants; nil where the leader need not know. Needs the pool's lock.
func (n *Node) demand(now time.Duration, p *pool) *leasepb.Demand {
	if !p.limit.Capped() && !p.reported {
		return nil
	}
	d := &leasepb.Demand{Key: fsmpb.KeyOf(p.key), Held: p.granted, TargetSeq: p.targetSeq}
	if p.limit.Capped() {
		d.InUse = p.open - p.parked - p.taken
		d.Parked = p.parked + p.taken
		d.Waiting = p.waiters.len()
		d.Refused = p.refused[0] + p.refused[1]
		if d.Waiting > 0 && !n.leaving {
			d.Headroom = min(max((p.open+d.Waiting)/4, 1), 32)
		}
		d.Ask = n.askFor(now, p)
	}
	p.reported = d.Held > 0 || p.open > 0 || d.Waiting > 0 || d.Refused > 0
	return d
}

// askFor numbers the waiters that are to be refused if nothing is free anywhere, one ask at a time.
// Needs the pool's lock.
func (n *Node) askFor(now time.Duration, p *pool) uint64 {
	if p.asking {
		return p.ask
	}
	for w := p.waiters.head; w != nil; w = w.next {
		if w.queued || w.ask != 0 {
			continue
		}
		if due := p.askedAt + askEvery; !p.asking && p.denied && now < due {
			n.askLater(p, due)
			return 0
		}
		if !p.asking {
			p.asking, p.askedAt = true, now
			p.ask++
		}
		w.ask = p.ask
	}
	if p.asking {
		return p.ask
	}
	return 0
}

// askLater puts an ask off until due.
func (n *Node) askLater(p *pool, due time.Duration) {
	if p.putOff {
		return
	}
	p.putOff = true
	if len(n.later) == 0 || due < n.nextAsk {
		n.nextAsk = due
	}
	n.later = append(n.later, p)
}

// askNow lets the asks be sent that are due.
func (n *Node) askNow(now time.Duration) {
	keep := n.later[:0]
	n.nextAsk = now + askEvery
	for _, p := range n.later {
		if due := p.askedAt + askEvery; due > now {
			n.nextAsk = min(n.nextAsk, due)
			keep = append(keep, p)
			continue
		}
		p.putOff = false
		n.mark(p)
	}
	n.later = keep
}

// Errors that end a stream; the shell decides where to go next.
var (
	errSessionGone = errors.New("the session has ended")
	errNotLeader   = errors.New("not the leader")
)

// refusedError is a leader's refusal to open a session.
type refusedError struct {
	reason     leasepb.Refused_Reason
	detail     string
	retryAfter time.Duration
}

func (e *refusedError) Error() string { return "session refused: " + e.detail }

// Receive takes one message from the leader. An error ends the stream.
func (n *Node) Receive(now time.Duration, m *leasepb.LeaderMessage) error {
	n.lapse(now)
	if n.stale {
		return errSessionGone // fenced meanwhile: what comes on this stream is about a session that we gave up
	}
	if err := n.checkCluster(m); err != nil {
		return err
	}
	switch m := m.Message.(type) {
	case *leasepb.LeaderMessage_Welcome:
		return n.welcome(now, m.Welcome)
	case *leasepb.LeaderMessage_Prove:
		n.proveDue = true
	case *leasepb.LeaderMessage_KeepAliveAck:
		if n.sess.answered(m.KeepAliveAck.Seq) {
			n.openGate()
		}
	case *leasepb.LeaderMessage_Limits:
		table, err := tableFromProto(m.Limits)
		if err != nil {
			return err
		}
		switch old := n.table.Load(); {
		case old != nil && table.Index < old.Index && !n.opened:
			n.older = table
		case old == nil || old.Index != table.Index:
			n.setLimits(now, table)
		}
		n.ackDue = len(n.regoverning) == 0
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

// Lose notes that the session has ended in the log: nothing is held any more.
func (n *Node) Lose(now time.Duration) {
	if n.sess.live() {
		n.fence(now)
	}
}

// Part asks to end the session by consent. From now on nothing is admitted; the leader hears of it
// once nothing that the session allowed is in use.
func (n *Node) Part(now time.Duration) {
	n.leaving, n.parting, n.bye = true, true, true
	n.gate.close()
	n.era.parts++
	n.beginWalk(now)
}

// AllEnded reports whether a node that parts has no connection left that its session allowed.
func (n *Node) AllEnded() bool { return n.parting && !n.Walking() && n.busy == 0 }

// byeDue reports whether the leader can be told that the session has ended.
func (n *Node) byeDue() bool { return n.bye && n.AllEnded() }

// openGate lets the fast path admit until the lease's end.
func (n *Node) openGate() {
	if n.parting {
		return
	}
	if n.expiry == ExpiryKeep {
		n.gate.open(math.MaxInt64)
		return
	}
	n.gate.open(n.sess.fenceAt())
}

func (n *Node) welcome(now time.Duration, w *leasepb.Welcome) error {
	if !readable(w.Corrected, nil) {
		return errors.New("the leader corrects a key that this node can't read: is the node older? Upgrade it")
	}
	n.welcomed, n.fresh = true, false
	if w.Resumed {
		n.sess.term = w.Term
		n.correct(now, w.Corrected)
	} else {
		// The session was committed after the hello had arrived, so the hello counts as a
		// keep-alive.
		n.sess.begin(w.Session, w.Term, time.Duration(w.TtlNs), n.helloAt)
		n.opened = true
		if n.older != nil {
			n.setLimits(now, n.older)
		}
		n.openGate()
		n.era.sessions++
	}
	n.beginWalk(now)
	return nil
}

// correct gives up what the log does not grant us, connections included.
func (n *Node) correct(now time.Duration, granted []*leasepb.Holding) {
	for _, h := range granted {
		key, err := fsmpb.ParseKey(h.Key)
		if err != nil {
			panic("a welcome was let in with a key that can't be read: " + err.Error())
		}
		p := n.lookup(key)
		if p == nil {
			continue
		}
		n.lock(p)
		before := max(0, p.open-p.granted)
		p.granted = min(p.granted, h.Slots)
		n.severNewest(p, max(0, p.open-p.granted)-before, SeverFenced)
		n.noteSlow(p)
		p.mu.Unlock()
	}
}

// assigned takes what the leader decided: grants first, then targets, then the answers that rest on
// both.
func (n *Node) assigned(now time.Duration, a *leasepb.Assign) error {
	touched := map[*pool]struct{}{}
	each := func(k *limit.Key) *pool {
		p := n.pool(now, *k)
		touched[p] = struct{}{}
		return p
	}
	if err := n.takeGrants(a.Grants, each); err != nil {
		return err
	}
	for _, t := range a.Targets {
		key, err := fsmpb.ParseKey(t.Key)
		if err != nil {
			return err
		}
		p := each(&key)
		n.lock(p)
		p.target, p.targetSeq, p.contended, p.evict = t.Slots, t.Seq, t.Contended, t.Evict
		if t.Evict && t.Slots >= 0 {
			n.severNewest(p, p.open-t.Slots, SeverEvicted)
		}
		n.mark(p)
		p.mu.Unlock()
	}
	for _, p := range sortedPools(touched) {
		n.lock(p)
		n.settle(now, p)
		p.mu.Unlock()
	}
	for _, ans := range a.Answers {
		key, err := fsmpb.ParseKey(ans.Key)
		if err != nil {
			return err
		}
		n.answered(now, n.pool(now, key), ans.Ask)
	}
	return nil
}

func (n *Node) takeGrants(grants []*leasepb.Holding, each func(*limit.Key) *pool) error {
	for _, g := range grants {
		key, err := fsmpb.ParseKey(g.Key)
		if err != nil {
			return err
		}
		if g.Slots <= 0 || !n.sess.live() {
			continue
		}
		p := each(&key)
		n.lock(p)
		n.hold(p)
		p.granted += g.Slots
		p.reported = true
		n.mark(p)
		if !p.limit.Capped() {
			n.giveBack(p, p.granted)
		}
		p.mu.Unlock()
	}
	return nil
}

// answered refuses those who waited for an ask and got nothing.
func (n *Node) answered(now time.Duration, p *pool, ask uint64) {
	n.lock(p)
	defer p.mu.Unlock()
	if !p.asking || ask != p.ask {
		return
	}
	p.asking, p.denied = false, false
	closing := p.taken // about to be free, for as many of those who wait
	var next *Waiter
	for w := p.waiters.head; w != nil; w = next {
		next = w.next
		if closing > 0 {
			closing--
			w.ask = 0
			continue
		}
		if w.ask != 0 && w.ask <= ask {
			p.denied = true
			n.answer(p, w, ErrOverLimit)
			n.noteRefused(now, p)
		}
	}
	n.noteSlow(p)
	if p.waiters.len() > 0 {
		n.mark(p)
	}
}

// sortedPools gives a set an order, so that the same messages have the same effects.
func sortedPools(set map[*pool]struct{}) []*pool {
	out := make([]*pool, 0, len(set))
	for p := range set {
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].key.Compare(out[j].key) < 0 })
	return out
}

// Drain makes the node keep nothing idle from now on.
func (n *Node) Drain(now time.Duration) { n.setLeaving(now, true) }

// Undrain ends what Drain began: free slots and kept-alive connections stay again. After Part it
// does nothing, because a session that is being given back must not grow.
func (n *Node) Undrain(now time.Duration) {
	if !n.parting {
		n.setLeaving(now, false)
	}
}

// setLeaving visits every pool: the demand of a key that requests wait for has headroom, or has
// none, from now on.
func (n *Node) setLeaving(now time.Duration, leaving bool) {
	n.leaving = leaving
	n.beginWalk(now)
}
