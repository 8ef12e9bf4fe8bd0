package leasetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// process is one node's process, its machine and its clocks. The shell around the core is here; the
// core is the real one.
type process struct {
	w        *world
	index    int
	name     string
	identity string
	cluster  string // as its data has it
	stray    int    // so many of its next dials lead to another cluster
	second   bool   // it has formed a cluster of its own
	twin     bool   // uses the name of another
	dice     dice

	node    *lease.Node
	known   *limit.Table // the limits that it went by when it ended
	running bool
	life    uint32 // rises with every start and end
	stream  *stream
	parting bool
	idle    bool // its workers have stopped
	conns   []*conn
	flows   []*flow
	more    map[limit.Key]float64 // what its buckets hold besides, where that rule is broken
	lag     time.Duration         // of what comes from leaders
	lagUp   time.Duration         // of what goes to them
	greeted int                   // welcomes, for who waits for the next
	losses  int64
	losing  bool        // a grant was taken from it, and it has not been told: its connections are excused
	lostKey limit.Key   // whose that was
	served  map[int]int // by host

	// Clocks: their rate, and what they have stood still.
	ppm      int64
	bootLost time.Duration
	monoLost time.Duration
	wallSet  time.Duration
	back     time.Duration // rule 1, broken
	looked   time.Duration // the clock at the last tick

	pausedAt    time.Duration
	pausedUntil time.Duration
	frozen      bool          // all its clocks stand still meanwhile
	fenceAt     time.Duration // when the node must have fenced, by a clock that always runs, as it knew when it was stopped

	alarmAt  time.Duration // when the core is woken next, in the world's time; 0: not at all
	alarmNum int64
	sentAt   [16]time.Duration // keep-alives, by number

	asked uint64 // the newest ask

	outlived bool // the log has forgotten what it holds, and it has not been told

	// A server's replica of the log.
	doubted bool          // the log was put back to an older copy
	born    time.Duration // the leader's clock when the process started
	contact contact
	state   *fsm.State
	applied int
	batches batches
}

// The events of a process.
const (
	evTick uint8 = iota
	evDial
	evStart
	evPart
	evEnd
	evWake
)

func (x *process) act(kind uint8, n int64) {
	switch kind {
	case evTick:
		if n == x.alarmNum {
			x.alarmAt = 0
			x.tick()
		}
	case evDial:
		x.dial()
	case evStart:
		if !x.running {
			x.boot()
		}
	case evPart:
		x.part()
	case evEnd:
		x.crash()
		x.w.at(time.Duration(n), x, evStart, 0)
	case evWake:
		x.wake()
	}
}

// at plans something in the process: it does not happen while it is stopped, nor once it has ended.
// Timers come last when it wakes.
func (x *process) at(d time.Duration, timer bool, who actor, kind uint8, n int64) {
	x.w.q.push(x.w.now+d, event{who: who, proc: x, life: x.life, kind: kind, timer: timer, n: n})
}

// postpone puts an event off until the process goes on.
func (x *process) postpone(e event) {
	at := x.pausedUntil
	if e.timer {
		at += wakeLate
	}
	x.w.q.push(at, e)
}

func drifted(d time.Duration, ppm int64) time.Duration {
	return d + time.Duration(int64(d)/1000*ppm/1000)
}

// real is a clock that always runs, at the machine's rate.
func (x *process) real() time.Duration {
	return seatOf*time.Duration(x.index+1) + drifted(x.w.now, x.ppm)
}

// clock is what the core is told: it runs while the machine is suspended.
func (x *process) clock() time.Duration { return x.real() - x.bootLost - x.back }

// Now implements [lease.Clock].
func (x *process) Now() time.Duration {
	if x.w.rule == RuleTimerOnly {
		return x.looked
	}
	return x.clock()
}

// Wall implements [lease.Clock].
func (x *process) Wall() time.Duration {
	if x.w.rule == RuleWallIgnored {
		return x.clock()
	}
	return x.real() - x.back + x.wallSet
}

// mono stands still while the machine is suspended. Leaders read it.
func (x *process) mono() time.Duration { return x.real() - x.monoLost }

// realWait is how long the world's clock takes for a while on the machine's.
func (x *process) realWait(d time.Duration) time.Duration {
	return time.Duration(int64(d)/1000*1_000_000_000/(1_000_000+x.ppm)) + time.Microsecond
}

func (x *process) boot() {
	w := x.w
	if x.identity == "" {
		x.known, x.cluster = nil, ""
		x.identity = fmt.Sprintf("%s-%x", x.name, x.dice.next())
	}
	expiry := w.expiry
	if w.rule == RuleNoFence {
		expiry = lease.ExpiryKeep
	}
	x.node = lease.NewNode(x.name, x.identity, expiry, x.known)
	x.node.SetCluster(x.cluster)
	bounds := lease.Bounds{Page: w.page, Stated: w.page, Bare: w.page, Requests: 1}
	if len(w.plan.Flows) > 0 {
		bounds.Forget = time.Duration(1+w.plan.Seed%3) * second // flows are idle for longer
	}
	x.node.SetBounds(bounds)
	x.life++
	x.running, x.parting, x.idle = true, false, false
	x.alarmAt, x.back, x.losing = 0, 0, false
	x.greeted = 0
	if x.served == nil {
		x.served = map[int]int{}
	}
	x.pausedUntil, x.frozen = 0, false
	x.born, x.outlived = x.mono(), false
	if x.contact = (contact{former: x.born}); w.rule == RuleForgetsContact {
		x.contact.former = 0
	}
	w.left = slices.DeleteFunc(w.left, func(f leader.Farewell) bool { return f.Node == x.name })
	w.trace.note(w.now, x.name, "starts", x.identity)
	w.gossip(x.name, false)
	w.raft.evaluate()
	x.tick()
	x.redial(0)
	x.startWorkers()
	x.startFlows()
}

func (x *process) tick() {
	x.looked = x.clock()
	x.node.Tick(x.looked, x.Wall())
	x.after()
}

// after carries out what the core has decided, as [lease.Manager] does.
func (x *process) after() {
	e := x.effects()
	if s := x.stream; s != nil {
		if e.Stale {
			x.w.trace.note(x.w.now, x.name, "fenced")
			s.hangUp()
			return
		}
		if e.Pending {
			for _, m := range x.node.Outgoing(x.clock()) {
				s.toLeader(m)
			}
		}
	}
	if x.parting && x.node.AllEnded() {
		x.sayLeft()
	}
	x.alarm()
}

// effects takes the core's effects, until nothing is left to be severed.
func (x *process) effects() lease.Effects {
	for {
		e := x.node.Effects(x.clock())
		for _, f := range e.Woken {
			f.Wake()
		}
		if len(e.Severs) == 0 {
			return e
		}
		for _, s := range e.Severs {
			x.w.up.severed(x, s)
			s.Holder.Sever(s.Reason)
		}
	}
}

// alarm wakes the core when it asks for it, or earlier.
func (x *process) alarm() {
	now := x.clock()
	wait := min(max(x.node.NextWake(now)-now, ms), tickEvery)
	if x.node.Walking() {
		wait = pageGap
	}
	at := x.w.now + x.realWait(wait)
	if x.alarmAt != 0 && x.alarmAt <= at {
		return
	}
	x.alarmAt = at
	x.alarmNum++
	x.at(at-x.w.now, true, x, evTick, x.alarmNum)
}

// redial looks for a leader after a while, at least as long as it said.
func (x *process) redial(least time.Duration) {
	x.at(max(least, 10*ms+x.dice.upTo(60*ms)), false, x, evDial, 0)
}

func (x *process) dial() {
	w := x.w
	if x.stream != nil || x.parting {
		return
	}
	l := w.raft.someLeader(&x.dice)
	if other := x.astray(); other != nil {
		l = other
	}
	switch {
	case l == nil:
		x.redial(50 * ms)
		return
	case !w.canStream(x, l.p) || !w.canStream(l.p, x) || !l.p.awake():
		x.redial(x.dice.between(200*ms, 800*ms)) // nobody answers
		return
	}
	w.seat++
	s := &stream{x: x, lead: l, id: w.seat, late: x.dice.one(2)}
	x.stream = s
	l.streams = append(l.streams, s)
	x.node.StreamUp(x.clock())
	x.after()
	x.at(500*ms, true, s, evImpatient, 0)
}

func (x *process) awake() bool { return x.running && x.pausedUntil <= x.w.now }

// crash ends the process: the upstream sees its connections end a moment later.
func (x *process) crash() {
	if !x.running {
		return
	}
	w := x.w
	w.trace.note(w.now, x.name, "is killed")
	excused := x.excusedSince()
	if x.losing {
		excused = w.now // nobody was left to be told of the grant that it lost
	}
	x.remember()
	x.life++
	x.running = false
	if s := x.stream; s != nil {
		s.ended = true
		x.stream = nil
		s.leave(w.jitter(&x.dice))
	}
	w.raft.killed(x)
	for _, c := range x.conns {
		c.die(excused)
	}
	x.conns = x.conns[:0]
	for _, f := range x.flows {
		f.gone = true
	}
	x.flows, x.more = x.flows[:0], nil
	x.pausedUntil = 0
	if !x.twin {
		w.at(x.dice.between(second, 2*second), w, evBuried, int64(x.index))
	}
}

// remember keeps the limits that the node goes by for its next start, if its data is there then.
func (x *process) remember() {
	x.known = x.node.Table()
	if x.known == nil || !x.w.plan.Codec {
		return
	}
	b, err := leasepb.MarshalTable(x.known)
	if err == nil {
		x.known, err = leasepb.UnmarshalTable(b)
	}
	if err != nil {
		x.w.fail(BreachEncoding, "node %s can't keep its limits: %v", x.name, err)
	}
}

// pause stops the process: what comes for it waits. lost is what its clocks stand still.
func (x *process) pause(d, bootLost, monoLost time.Duration) {
	w := x.w
	if !x.running {
		return
	}
	// What it could not close in a former stop, a moment ago, it has still not closed.
	if x.pausedUntil <= w.now && x.excusedSince() < 0 {
		x.pausedAt = w.now
		left := x.node.Session(x.clock()).ExpiresIn
		if x.node.Session(x.clock()).State != leasepb.SessionLive {
			left = time.Hour
		}
		x.fenceAt = w.now + x.realWait(max(0, left-guard(w.plan.TTL.D())))
	}
	until := max(x.pausedUntil, w.now+d)
	more := until - max(x.pausedUntil, w.now) // where it is stopped already, its clocks have stood still for that
	x.pausedUntil = until
	if w.rule == RuleClockStops {
		bootLost = d
	} else {
		x.frozen = x.frozen || bootLost > 0
	}
	x.bootLost += drifted(min(bootLost, more), x.ppm)
	x.monoLost += drifted(min(monoLost, more), x.ppm)
	w.trace.note(w.now, x.name, "stops for", d)
	x.w.q.push(x.pausedUntil, event{who: x, kind: evWake, n: int64(x.life)})
	w.q.push(x.pausedUntil+x.wakeTime(), event{who: &w.up, kind: evJudge})
	w.raft.evaluate()
}

// wakeTime is how long after it goes on a process may take until the upstream has seen that it
// fenced.
func (x *process) wakeTime() time.Duration {
	late := wakeLate
	return late + x.w.plan.Upstream.D() + 2*ms
}

// wake is what a process does first when it goes on: those who move bytes go on.
func (x *process) wake() {
	w := x.w
	if !x.awake() {
		return
	}
	w.trace.note(w.now, x.name, "goes on")
	if x.frozen {
		x.frozen = false
		x.tick() // what is lost shows only there; until then, up to a tick's time, nothing tells
	}
	for _, c := range x.conns {
		c.moveBytes()
	}
	w.raft.evaluate()
}

// guard is the time before the deadline that a node keeps for the fence's own work.
func guard(ttl time.Duration) time.Duration { return min(max(ttl/10, 50*ms), 500*ms) }

// excusedSince is up to when a connection must have been made to be one that the stopped process
// could not close: in a process that is stopped, or was a moment ago, past its lease. A negative
// time excuses nothing.
func (x *process) excusedSince() time.Duration {
	now := x.w.now
	if x.pausedUntil == 0 || now >= x.pausedUntil+x.wakeTime() || now < x.fenceAt {
		return -1
	}
	return x.pausedAt
}

// drain starts the end by consent.
func (x *process) drain() {
	x.idle = true
	x.w.trace.note(x.w.now, x.name, "drains")
	x.node.Drain(x.clock())
	x.endFlows(second)
	x.after()
}

func (x *process) part() {
	x.w.trace.note(x.w.now, x.name, "parts")
	x.parting = true
	x.node.Part(x.clock())
	x.after()
}

// sayLeft lets gossip tell that the session is not used any more.
func (x *process) sayLeft() {
	w := x.w
	id := x.node.Session(x.clock()).ID
	if id == 0 {
		return
	}
	for _, said := range w.left {
		if said.Session == id {
			return
		}
	}
	w.left = append(w.left, leader.Farewell{Node: x.name, Session: id})
	w.at(x.dice.scale(10*ms, 5*second), w, evLeft, int64(id))
}
