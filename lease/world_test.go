package lease

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// world runs the real cores of nodes and leaders, and the real FSM, on a virtual clock and network, in one
// goroutine: the same seed gives the same run. The upstream is part of it, and judges.
//
// The network may lose what is on its way when a stream breaks, or deliver it late, after what a newer stream brought. A leader
// may not know that it has been deposed, and its last entry may be committed by its successor. Every clock runs
// at its own rate. A process may be stopped for a while, and acts on what it finds before its timers run.
type world struct {
	t       testing.TB
	rng     *rand.Rand
	now     time.Duration
	seq     uint64
	events  eventQueue
	state   *fsm.State
	index   uint64
	term    uint64
	lead    *wlead   // whom the log listens to; nil during an election
	leads   []*wlead // all that still serve streams
	nodes   []*wnode
	up      map[string]int
	peak    map[string]int
	use     map[string]*meter // time-weighted
	caps    map[string]int
	lowered map[string]int // caps that hold once what is open and granted has come down to them
	open    map[*wconn]bool
	entries int
	commit  time.Duration
	rtt     time.Duration
	broken  breakage
	breach  string // the first; where a breach is expected, it does not fail the test
	expect  bool
}

// breakage switches the rules off, one by one, to show that the world can fail.
type breakage struct {
	ackExtendsFromArrival bool // rule 1
	ackUnverified         bool // rule 2
	closeEarly            bool // rule 3
	newLeaderForgets      bool // rule 3
	noFence               bool // rule 4
	fenceLate             bool // rule 4
	clockStops            bool // rule 5
	grantUncommitted      bool // rule 6
	releaseEarly          bool // rule 6
	noRest                bool // rule 7
	staleHelloOpens       bool // rule 7
	staleHelloResumes     bool // rule 8
	keepMissing           bool // rule 8
}

type meter struct {
	last time.Duration
	area time.Duration
}

type wevent struct {
	at  time.Duration
	seq uint64
	f   func()
}
type eventQueue []wevent

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(wevent)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

// wnode is one process and its workers.
type wnode struct {
	w        *world
	index    int
	name     string
	identity string
	expiry   Expiry
	n        *Node
	life     int // rises with every crash
	stream   *wstream
	rate     float64       // of its clock
	stopped  time.Duration // that its clock has lost
	cut      bool          // off from all leaders
	mute     bool          // heard by no leader, though it hears
	lag      time.Duration // of what comes from a leader

	pausedAt    time.Duration
	pausedUntil time.Duration
	pauseLease  time.Duration // the lease's end on its own clock when it was stopped

	idle    bool // its workers have stopped
	served  map[string]int
	refused map[string]int
	expired int
	noLease int
	wakeAt  time.Duration // on its clock: when the core is woken next
}

// wstream is one stream between a node and a leader.
type wstream struct {
	x       *wnode
	lead    *wlead
	id      uint64
	ended   bool // at the node
	gone    bool // at the leader
	late    bool // what is on its way when it breaks still arrives
	lastIn  time.Duration
	lastOut time.Duration
}

// wlead is one leader's shell.
type wlead struct {
	w        *world
	term     uint64
	alloc    *Allocator
	rate     float64 // of its clock
	wake     time.Duration
	inflight fsm.Command
	dead     bool
}

// driftRate is the most that a clock may be off so that two differ by less than the margin in a ttl of 3 s.
const driftRate = 0.07

func (x *wnode) Now() time.Duration {
	return time.Duration(x.index+1)*time.Hour + time.Duration(float64(x.w.now-x.stopped)*x.rate)
}
func (x *wnode) Wall() time.Duration { return x.Now() }

// at lets something happen in the process: not while it is stopped. Timers come last when it wakes.
func (x *wnode) at(d time.Duration, timer bool, f func()) {
	life := x.life
	var fire func()
	fire = func() {
		switch {
		case x.life != life:
		case x.pausedUntil > x.w.now:
			d := x.pausedUntil - x.w.now
			if timer {
				d += 10 * time.Millisecond
			}
			x.w.at(d, fire)
		default:
			f()
		}
	}
	x.w.at(d, fire)
}

func newWorld(t testing.TB, seed uint64, nodes int, expiry Expiry, limits ...fsm.Limit) *world {
	return newBrokenWorld(t, seed, nodes, expiry, breakage{}, limits...)
}

func newBrokenWorld(t testing.TB, seed uint64, nodes int, expiry Expiry, broken breakage, limits ...fsm.Limit) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), state: fsm.NewState(), term: 1,
		up: map[string]int{}, peak: map[string]int{}, use: map[string]*meter{}, caps: map[string]int{}, lowered: map[string]int{},
		open: map[*wconn]bool{}, broken: broken,
		commit: 2 * time.Millisecond, rtt: 400 * time.Microsecond,
	}
	w.apply(w.term, &fsm.Init{ClusterID: "test", TTL: 3 * time.Second, Limits: limits})
	for _, l := range limits {
		if l.Capped() {
			w.caps[l.Pattern.String()] = int(l.Connections)
		}
	}
	w.newLeader()
	for i := range nodes {
		x := &wnode{w: w, index: i, name: string(rune('a' + i)), rate: 1, served: map[string]int{}, refused: map[string]int{}}
		w.nodes = append(w.nodes, x)
		x.boot(expiry)
	}
	return w
}

func (w *world) apply(term uint64, c fsm.Command) fsm.Result {
	w.index++
	r := w.state.Apply(w.index, term, c)
	if err := w.state.Check(); err != nil {
		w.t.Fatalf("t=%v: the state breaks an invariant: %v", w.now, err)
	}
	return r
}

func (w *world) at(d time.Duration, f func()) {
	w.seq++
	heap.Push(&w.events, wevent{w.now + d, w.seq, f})
}

func (w *world) run(d time.Duration) {
	end := w.now + d
	for len(w.events) > 0 && w.events[0].at <= end && w.breach == "" {
		e := heap.Pop(&w.events).(wevent)
		w.now = e.at
		e.f()
	}
	w.now = end
}

// jitter is a delay around half a round trip.
func (w *world) jitter() time.Duration {
	return w.rtt/4 + time.Duration(w.rng.Int64N(int64(w.rtt/2)+1))
}

func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d) + 1)) }

// The leader's shell.

func (w *world) newLeader() {
	w.term++
	l := &wlead{w: w, term: w.term, rate: 1}
	if len(w.leads) > 0 {
		l.rate = w.drift()
	}
	l.alloc = NewAllocator(l.now(), w.term, w.state)
	if w.broken.newLeaderForgets {
		for _, p := range l.alloc.order {
			p.seen -= l.alloc.ttl + Margin
		}
	}
	w.lead = l
	w.leads = append(w.leads, l)
	l.pump()
}

func (w *world) drift() float64 { return 1 + driftRate*float64(w.rng.IntN(3)-1) }

func (l *wlead) now() time.Duration { return time.Duration(float64(l.w.now) * l.rate) }

// depose elects another leader after a while. The former dies at once or, cut off from its followers, goes on for a while without
// knowing. The entry that it had on its way may be committed all the same.
func (w *world) depose(after, linger time.Duration) {
	old := w.lead
	if old == nil {
		return
	}
	w.lead = nil
	if linger == 0 {
		old.die()
	} else {
		w.at(linger, old.die)
	}
	survives := w.rng.IntN(2) == 0
	w.at(after, func() {
		if cmd := old.inflight; cmd != nil && survives {
			w.apply(old.term, cmd)
		}
		w.newLeader()
	})
}

func (l *wlead) die() {
	if l.dead {
		return
	}
	l.dead = true
	l.w.leads = slices.DeleteFunc(l.w.leads, func(x *wlead) bool { return x == l })
	for _, x := range l.w.nodes {
		if s := x.stream; s != nil && s.lead == l {
			x.at(l.w.jitter(), false, s.hangUp)
		}
	}
}

func (l *wlead) pump() {
	if l.dead {
		return
	}
	w, now := l.w, l.now()
	if w.broken.closeEarly {
		l.alloc.Tick(now + 2*time.Second)
	}
	l.alloc.Tick(now)
	if cmd := l.alloc.Next(now, w.state); cmd != nil {
		l.propose(cmd)
	}
	for _, o := range l.alloc.Take() {
		for _, x := range w.nodes {
			if s := x.stream; s != nil && s.id == o.Conn {
				s.fromLeader(o)
			}
		}
	}
	l.check()
	l.alarm()
}

func (l *wlead) propose(cmd fsm.Command) {
	w := l.w
	w.entries++
	began := w.now
	l.inflight = cmd
	if adj, ok := cmd.(*fsm.Adjust); ok && w.broken.grantUncommitted {
		l.alloc.adjusted(adj, fsm.Result{Adjusted: adj.Adjustments})
	}
	w.at(w.commit/2+w.upTo(w.commit), func() {
		if l != w.lead {
			return // its fate is the next leader's to decide
		}
		l.inflight = nil
		res := w.apply(l.term, cmd)
		w.settleCaps()
		l.alloc.NoteCommit(w.now - began)
		l.alloc.Applied(l.now(), w.state, res)
		if w.broken.grantUncommitted {
			for _, p := range l.alloc.order {
				if p.assign != nil {
					p.assign.Grants = nil
				}
			}
		}
		if w.broken.noRest {
			clear(l.alloc.rests)
			l.alloc.notBefore = 0
		}
		l.pump()
	})
}

// check verifies the leadership for all who wait: they are answered if it led at some moment since, also when it has lost the
// lead again by the time it hears of that. One that is cut off from its followers never hears.
func (l *wlead) check() {
	w := l.w
	if l != w.lead && !w.broken.ackUnverified || !l.alloc.Verify() {
		return
	}
	w.at(w.rtt+w.jitter(), func() {
		l.alloc.Verified(l.now(), w.state, true)
		l.pump()
	})
}

// alarm wakes the leader when its core asks for it.
func (l *wlead) alarm() {
	w := l.w
	wait := time.Duration(float64(l.alloc.NextWake(l.now())-l.now()) / l.rate)
	wake := w.now + max(wait, 100*time.Microsecond)
	if l.wake > w.now && l.wake <= wake {
		return
	}
	l.wake = wake
	w.at(wake-w.now, func() {
		if l.wake == wake {
			l.wake = 0
			l.pump()
		}
	})
}

func (s *wstream) fromLeader(o Outbound) {
	x := s.x
	at := max(x.w.now+x.w.jitter()+x.w.upTo(x.lag), s.lastIn)
	s.lastIn = at
	x.at(at-x.w.now, false, func() {
		if s.ended || x.cut {
			return
		}
		if o.Msg != nil {
			if err := x.n.Receive(x.Now(), o.Msg); err != nil {
				s.hangUp()
				return
			}
			x.breakLease(o.Msg)
		}
		if o.End {
			s.hangUp()
			return
		}
		x.after()
	})
}

// breakLease breaks the node's rules, where the test wants it.
func (x *wnode) breakLease(m *leasepb.LeaderMessage) {
	sess := &x.n.sess
	switch {
	case !sess.live():
		return
	case x.w.broken.ackExtendsFromArrival && m.GetKeepAliveAck() != nil:
		sess.deadline = x.Now() + sess.ttl
	case x.w.broken.fenceLate && (m.GetKeepAliveAck() != nil || m.GetWelcome() != nil && !m.GetWelcome().Resumed):
		sess.deadline += 1500 * time.Millisecond
	default:
		return
	}
	x.n.openGate()
}

// The node's shell.

func (x *wnode) boot(expiry Expiry) {
	if x.identity == "" {
		x.identity = fmt.Sprintf("%s-%d", x.name, x.w.rng.Uint64())
	}
	x.expiry = expiry
	if x.w.broken.noFence {
		expiry = ExpiryKeep
	}
	x.n = NewNode(x.name, x.identity, expiry, nil)
	x.life++
	x.pausedUntil, x.idle = 0, false
	x.tick()
	x.dial()
}

func (x *wnode) tick() {
	x.n.Tick(x.Now(), x.Wall())
	x.wakeAt = 1<<63 - 1
	x.after()
}

// alarm wakes the core when it asks for it, or earlier.
func (x *wnode) alarm() {
	wait := min(max(x.n.NextWake(x.Now())-x.Now(), time.Millisecond), tickEvery)
	at := x.Now() + wait
	if at >= x.wakeAt {
		return
	}
	x.wakeAt = at
	x.at(time.Duration(float64(wait)/x.rate), true, func() {
		if x.wakeAt == at {
			x.tick()
		}
	})
}

func (x *wnode) dial() {
	w := x.w
	x.at(10*time.Millisecond+w.upTo(20*time.Millisecond), false, func() {
		if x.n.attached || x.n.parting {
			return
		}
		if len(w.leads) == 0 {
			x.dial()
			return
		}
		w.seq++
		s := &wstream{x: x, lead: w.leads[w.rng.IntN(len(w.leads))], id: w.seq, late: w.rng.IntN(2) == 0}
		x.stream = s
		x.n.StreamUp(x.Now())
		x.after()
		// A stream that nobody answers on is given up.
		x.at(500*time.Millisecond, true, func() {
			if !x.n.welcomed {
				s.hangUp()
			}
		})
	})
}

// hangUp ends a stream at the node; the leader hears of it later.
func (s *wstream) hangUp() {
	if s.ended {
		return
	}
	s.ended = true
	x, w := s.x, s.x.w
	x.stream = nil
	x.n.StreamDown(x.Now())
	x.after()
	s.leave(w.jitter())
	x.dial()
}

// leave lets the leader hear of the stream's end.
func (s *wstream) leave(after time.Duration) {
	w := s.x.w
	if s.x.cut {
		after += w.upTo(2 * time.Second)
	}
	w.at(max(after, s.lastOut-w.now), func() {
		s.gone = true
		if !s.lead.dead {
			s.lead.alloc.Gone(s.id)
			s.lead.pump()
		}
	})
}

// after carries out the core's effects.
func (x *wnode) after() {
	for _, s := range x.n.TakeSevers() {
		s.Slot.holder.Sever(s.Reason)
	}
	if s := x.stream; s != nil {
		if x.n.stale && x.n.attached {
			s.hangUp()
			return
		}
		for _, m := range x.n.Outgoing(x.Now()) {
			s.toLeader(m)
		}
	}
	x.alarm()
}

func (s *wstream) toLeader(m *leasepb.NodeMessage) {
	x, w, l := s.x, s.x.w, s.lead
	delay := w.jitter()
	lost := false
	if x.cut || x.mute { // on its way until the network is whole again, or for good
		delay += w.upTo(3 * time.Second)
		lost = !s.late
	}
	at := max(w.now+delay, s.lastOut)
	s.lastOut = at
	w.at(at-w.now, func() {
		if s.gone || l.dead || lost || s.ended && !s.late || (x.cut || x.mute) && !s.late {
			return
		}
		l.receive(s, m)
	})
}

// receive is one message from a node.
func (l *wlead) receive(s *wstream, m *leasepb.NodeMessage) {
	w, now := l.w, l.now()
	if h := m.GetHello(); h != nil && (w.broken.staleHelloOpens || w.broken.staleHelloResumes || w.broken.keepMissing) {
		l.takeUnproven(s, h)
		return
	}
	l.alloc.Receive(now, s.id, m, now)
	l.pump()
}

// takeUnproven takes a hello at its word.
func (l *wlead) takeUnproven(s *wstream, h *leasepb.Hello) {
	w := l.w
	w.at(w.rtt, func() {
		if s.gone {
			return
		}
		l.alloc.hello(l.now(), w.state, s.id, h)
		if w.broken.staleHelloOpens {
			l.alloc.proof(s.id)
		}
		if p := l.alloc.conns[s.id]; p != nil && w.broken.staleHelloResumes && p.hello == nil {
			l.alloc.prove(p)
		}
		if p := l.alloc.conns[s.id]; p != nil && w.broken.keepMissing {
			p.missing = nil
		}
		l.pump()
	})
}

// crash ends the process: the upstream sees its connections end a moment later.
func (x *wnode) crash() {
	for c := range x.w.open {
		c.frozen = c.frozen || c.x == x && x.excused(c)
	}
	x.life++
	if s := x.stream; s != nil {
		s.ended = true
		x.stream = nil
		s.leave(x.w.jitter())
	}
	x.n.attached = false
	for _, p := range x.n.all {
		for s := p.head; s != nil; s = s.next {
			s.holder.(*wconn).die()
		}
	}
}

// pause stops the process: what comes for it waits.
func (x *wnode) pause(d time.Duration) {
	x.pausedAt, x.pausedUntil, x.pauseLease = x.w.now, x.w.now+d, x.n.sess.deadline
	if x.w.broken.clockStops {
		x.stopped += d
		x.pauseLease -= time.Duration(float64(d) * x.rate) // as a clock that runs would have it
	}
}

// excused reports whether a connection is one that a stopped process could not close.
func (x *wnode) excused(c *wconn) bool {
	return x.w.now < x.pausedUntil+30*time.Millisecond && c.since <= x.pausedAt && x.Now() >= x.pauseLease-guard(3*time.Second)
}

// partition cuts the node off from everybody but the upstream. Nobody is told; the node may notice.
func (x *wnode) partition() {
	x.cut = true
	if s := x.stream; s != nil && x.w.rng.IntN(2) == 0 {
		x.at(x.w.upTo(time.Second), true, s.hangUp)
	}
}

func (x *wnode) heal() {
	if !x.cut && !x.mute {
		return
	}
	x.cut, x.mute = false, false
	if x.stream != nil {
		x.stream.hangUp() // what was lost on the way broke the stream
	}
}

// wconn is one connection of a worker.
type wconn struct {
	x      *wnode
	host   string
	slot   *Slot
	open   bool
	dead   bool
	frozen bool // could not be closed in time, since the process was stopped when it was killed
	since  time.Duration
	life   int
	done   func()
}

// request is one worker's: acquire, hold, end, then again.
func (x *wnode) request(host string, hold time.Duration, next func(served bool)) {
	w := x.w
	target, err := fsm.ParseTarget(host, 443)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &wconn{x: x, host: host, life: x.life, done: func() { next(true) }}
	c.slot = &Slot{target: target, holder: c}
	answered := func(err error) {
		x.at(0, false, func() {
			if err == nil {
				c.dial(hold)
				return
			}
			switch err {
			case ErrQueueTimeout:
				x.expired++
			case ErrNoLease, ErrDraining:
				x.noLease++
			default:
				x.refused[host]++
			}
			next(false)
		})
	}
	waiter, err := x.n.Acquire(x.Now(), c.slot, answered)
	switch {
	case waiter != nil:
		x.at(waiter.patience, true, func() {
			x.n.Expire(x.Now(), waiter)
			x.after()
		})
	case err != nil:
		answered(err)
	default:
		x.at(0, false, func() { c.dial(hold) })
	}
	x.after()
}

func (c *wconn) dial(hold time.Duration) {
	x := c.x
	if c.open || c.dead {
		return
	}
	x.at(x.w.jitter(), false, func() {
		if c.dead || c.slot.severed.Load() || c.slot.guarded.Load() && !x.n.gate.admits(x) {
			c.release(false)
			return
		}
		c.open, c.since = true, x.w.now
		x.w.opened(c, 1)
		x.at(hold, false, func() {
			if !c.dead {
				c.end(true)
			}
		})
	})
}

// end closes the connection; the slot is free once the upstream has seen it and said so.
func (c *wconn) end(served bool) {
	x := c.x
	c.dead = true
	if x.w.broken.releaseEarly {
		c.release(served)
		x.w.at(x.w.upTo(20*time.Millisecond), func() { x.w.opened(c, -1) })
		return
	}
	x.w.at(x.w.jitter(), func() {
		x.w.opened(c, -1)
		if c.life == x.life {
			x.at(x.w.jitter(), false, func() { c.release(served) })
		}
	})
}

func (c *wconn) release(served bool) {
	c.dead = true
	if served {
		c.x.served[c.host]++
	}
	c.x.n.Release(c.x.Now(), c.slot)
	c.x.after()
	c.done()
}

// die is the kernel closing a dead process's socket; the upstream may be busy for a moment.
func (c *wconn) die() {
	if c.open && !c.dead {
		c.x.w.at(c.x.w.jitter()+c.x.w.upTo(takeOverRest-20*time.Millisecond), func() { c.x.w.opened(c, -1) })
	}
	c.dead = true
}

// Sever implements Holder.
func (c *wconn) Sever(Reason) {
	if c.open && !c.dead {
		c.end(false)
	}
}

func (w *world) opened(c *wconn, d int) {
	host := c.host
	m := w.use[host]
	if m == nil {
		m = &meter{last: w.now}
		w.use[host] = m
	}
	m.area += time.Duration(w.up[host]) * (w.now - m.last)
	m.last = w.now
	w.up[host] += d
	w.peak[host] = max(w.peak[host], w.up[host])
	if d < 0 {
		delete(w.open, c)
		w.settleCaps()
		return
	}
	w.open[c] = true
	if cap, ok := w.caps[host]; ok && w.up[host]-w.excused(host) > cap {
		w.fail("t=%v: %d connections to %s, limit %d", w.now, w.up[host], host, cap)
	}
}

// excused counts connections that belong to processes that are stopped, or have just been woken, past their lease.
func (w *world) excused(host string) (n int) {
	for c := range w.open {
		if c.host == host && (c.frozen || c.x.excused(c)) {
			n++
		}
	}
	return n
}

func (w *world) fail(format string, args ...any) {
	if w.breach == "" {
		w.breach = fmt.Sprintf(format, args...)
	}
	if !w.expect {
		w.t.Fatal(w.breach)
	}
}

// settleCaps lets lowered caps hold once what is granted and open has come down to them.
func (w *world) settleCaps() {
	for host, n := range w.lowered {
		if w.up[host] <= n && w.state.Granted(fsm.HostConnections(host)) <= int64(n) {
			w.caps[host] = n
			delete(w.lowered, host)
		}
	}
}

// work starts a worker that goes on until its node is told to be idle.
func (x *wnode) work(host string, hold, pause time.Duration) {
	var again func(bool)
	again = func(served bool) {
		wait := time.Duration(0)
		if !served {
			wait = pause/2 + x.w.upTo(pause)
		}
		x.at(wait, false, func() {
			if !x.idle {
				x.request(host, hold, again)
			}
		})
	}
	x.at(x.w.upTo(hold), false, func() { again(true) })
}

func (w *world) mean(host string, from, area time.Duration) float64 {
	m := w.use[host]
	return float64(m.area+time.Duration(w.up[host])*(w.now-m.last)-area) / float64(w.now-from)
}

func (w *world) area(host string) time.Duration {
	m := w.use[host]
	if m == nil {
		return 0
	}
	return m.area + time.Duration(w.up[host])*(w.now-m.last)
}

func limit(t testing.TB, pattern string, n int64, q fsm.Queue) fsm.Limit {
	p, err := fsm.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return fsm.Limit{Pattern: p, Connections: n, Queue: q, Source: fsm.SourceConfig}
}

var seeds = flag.Int("seeds", 6, "seeds of each random world")

func jain(xs []int) float64 {
	var sum, squares float64
	for _, x := range xs {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	return sum * sum / (float64(len(xs)) * squares)
}

// With more demand than slots, all slots are in use and nodes get equally, also where there are fewer slots than nodes.
func TestContendedUseAndFairness(t *testing.T) {
	for _, n := range []int64{1, 2, 3, 10, 25} {
		for _, q := range []fsm.Queue{{}, {Timeout: 2 * time.Second, Size: 100}} {
			t.Run(fmt.Sprintf("limit=%d/queue=%v", n, q.Enabled()), func(t *testing.T) {
				w := newWorld(t, 7, 3, ExpiryClose, limit(t, "up", n, q))
				for i := range 64 {
					w.nodes[i%3].work("up", 30*time.Millisecond, 4*time.Millisecond)
				}
				w.run(time.Second)
				from, area, entries := w.now, w.area("up"), w.entries
				start := []int{}
				for _, x := range w.nodes {
					start = append(start, x.served["up"])
				}
				w.run(4 * time.Second)
				use := w.mean("up", from, area) / float64(n)
				got := []int{}
				for i, x := range w.nodes {
					got = append(got, x.served["up"]-start[i])
				}
				t.Logf("use %.3f, jain %.4f, served %v, entries %d, peak %d", use, jain(got), got, w.entries-entries, w.peak["up"])
				if use < 0.95 {
					t.Errorf("mean use %.3f of the limit, want at least 0.95", use)
				}
				if j := jain(got); j < 0.95 {
					t.Errorf("Jain's index %.3f over %v, want at least 0.95", j, got)
				}
			})
		}
	}
}
