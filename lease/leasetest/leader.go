package leasetest

import (
	"slices"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
)

// leadership is one term's leader as its process sees it, and the shell around the real core. It
// may outlive its term.
type leadership struct {
	w       *world
	p       *process
	term    uint64
	alloc   *leader.Allocator
	streams []*stream
	dead    bool
	foreign bool // it leads another cluster

	putBacks int           // of the log, when it began
	since    time.Duration // when it began, by its process's clock

	inflight fsm.Command // what was proposed, wild additions included
	honest   int         // so many of an Adjust's are the core's own
	proposal int64
	began    time.Duration
	stuck    bool          // the proposal waits for a quorum
	unheard  bool          // so does the verification
	deaf     bool          // will not hear of its proposal
	proven   time.Duration // when it was verified last
	lossFrom *process      // who is to lose a grant with the entry on its way
	alarmAt  time.Duration
	alarmNum int64
}

// The events of a leadership.
const (
	evPump uint8 = iota
	evCommit
	evProve
	evProven
	evDie
	evDeaf
	evAskLastLed
	evLastLed
)

func newLeadership(x *process, term uint64) *leadership {
	w := x.w
	l := &leadership{w: w, p: x, term: term, putBacks: w.raft.putBacks, proven: w.now}
	now := x.mono()
	l.since = now
	switch w.rule {
	case RuleNewLeaderForgets:
		now -= w.plan.TTL.D() + leaseMargin
	case RuleNewLeaderNoRest:
		now -= rest
	}
	l.alloc = leader.NewAllocator(now, term, x.state)
	for _, f := range w.left {
		if w.dice.one(2) { // gossip may not have told it
			l.alloc.Left(f)
		}
	}
	if x.doubted && w.rule != RulePutBackGrants {
		l.alloc.Hold(x.born + w.plan.TTL.D() + leaseMargin)
	}
	if x.doubted && w.rule != RulePutBackLevels {
		l.alloc.Distrust(x.born + w.plan.TTL.D() + leaseMargin)
	}
	for _, y := range w.nodes {
		if w.dead[y.name] {
			l.alloc.Health(y.name, true)
		}
	}
	return l
}

func (l *leadership) act(kind uint8, n int64) {
	switch kind {
	case evPump:
		if n == l.alarmNum {
			l.alarmAt = 0
			l.pump()
		}
	case evCommit:
		if n == l.proposal {
			l.committed()
		}
	case evProve:
		l.prove()
	case evProven:
		if !l.dead {
			l.alloc.Verified(l.p.mono(), l.p.state, n == 1)
			l.pump()
		}
	case evDie:
		l.die()
	case evAskLastLed:
		l.askLastLed()
	case evLastLed:
		l.hearLastLed(time.Duration(n))
	case evDeaf:
		if r := &l.w.raft; r.lead == l {
			r.depose(l.w.dice.upTo(second), r.linger)
		}
	}
}

// pump does all that there is to do.
func (l *leadership) pump() {
	if l.dead || !l.p.awake() {
		return
	}
	w, now := l.w, l.p.mono()
	switch w.rule {
	case RuleCloseEarly, RuleUnitsFreedEarly:
		l.alloc.Tick(now + 2*second)
	case RuleNoMargin:
		l.alloc.Tick(now + leaseMargin)
	}
	l.alloc.Tick(now)
	if cmd := l.alloc.Next(now, l.p.state); cmd != nil {
		l.propose(cmd)
	}
	for _, o := range l.alloc.Take() {
		for _, s := range l.streams {
			if s.id == o.Conn {
				l.send(s, o)
				break
			}
		}
	}
	if l.alloc.Verify() {
		l.verify()
	}
	l.alarm()
}

func (l *leadership) send(s *stream, o leader.Outbound) {
	w := l.w
	if o.Msg.GetProve() != nil && w.rule == RuleUnproven {
		l.alloc.Receive(l.p.mono(), s.id, &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Proof{Proof: &leasepb.Proof{}}}, l.p.mono())
	}
	if o.Msg.GetWelcome().GetResumed() && w.rule == RuleStaleStatement {
		l.alloc.Receive(l.p.mono(), s.id, &leasepb.NodeMessage{Message: &leasepb.NodeMessage_Update{Update: &leasepb.Update{}}}, l.p.mono())
	}
	if a := o.Msg.GetAssign(); a != nil && w.rule == RuleUncommitted {
		a.Grants = nil // they have been told already
	}
	s.fromLeader(o)
}

func (l *leadership) propose(cmd fsm.Command) {
	w := l.w
	l.began = w.now
	l.proposal++
	if adj, ok := cmd.(*fsm.Adjust); ok {
		l.honest = len(adj.Adjustments)
		cmd = l.addWild(adj)
		l.tellEarly(adj)
	}
	l.inflight = cmd
	if l.foreign {
		w.at(w.commit, l, evCommit, l.proposal)
		return
	}
	w.raft.note(judged{l.term, cmd, l.lossFrom != nil})
	w.at(w.commit/2+w.dice.upTo(w.commit), l, evCommit, l.proposal)
}

// committed is the moment of the commit, if it comes: the fate of a deposed leader's entry is for
// its successor to decide.
func (l *leadership) committed() {
	w := l.w
	if l.foreign {
		l.commitForeign()
		return
	}
	if l != w.raft.lead || l.inflight == nil {
		return
	}
	if !w.raft.quorum(l.p) {
		l.stuck = true
		return
	}
	cmd := l.inflight
	l.inflight = nil
	if l.deaf && w.dice.one(2) {
		return // it was not appended, after all
	}
	if l.lossFrom != nil {
		l.lossFrom.lose()
	}
	w.raft.answered(l)
	res := w.raft.commit(l.term, cmd)
	w.trace.entry(w.now, l.term, cmd, res)
	l.suffer(cmd, res)
	if l.deaf {
		return
	}
	res = l.told(cmd, res)
	l.alloc.NoteCommit(w.now - l.began)
	l.alloc.Applied(l.p.mono(), l.p.state, res)
	l.tellUnasked(cmd, res)
	l.pump()
}

// told is what of an entry's result the core hears: nothing of what it did not propose.
func (l *leadership) told(cmd fsm.Command, res fsm.Result) fsm.Result {
	if _, ok := cmd.(*fsm.Adjust); ok && len(res.Adjusted) > l.honest {
		res.Adjusted = res.Adjusted[:l.honest]
	}
	if l.w.rule == RuleNoRest && res.TookOver != 0 {
		res.Freed = nil
	}
	return l.spoilLevels(res)
}

// verify asks whether this is still the leader.
func (l *leadership) verify() {
	w := l.w
	if w.rule == RuleStaleProof && w.now-l.proven < 2*second {
		l.p.at(w.jitter(&w.dice), false, l, evProven, 1)
		return
	}
	w.at(w.rtt/2+w.jitter(&w.dice), l, evProve, 0)
}

// prove is the moment at which a majority confirms it, if it does. The word of that takes a while,
// in which the lead may be lost.
func (l *leadership) prove() {
	w := l.w
	switch {
	case w.rule == RuleUnverified:
		l.p.at(w.jitter(&w.dice), false, l, evProven, 1)
	case l.foreign:
		l.p.at(w.jitter(&l.p.dice), false, l, evProven, 1)
	case l != w.raft.lead:
		if w.dice.one(2) {
			l.p.at(w.jitter(&w.dice), false, l, evProven, 0)
		}
	case !w.raft.quorum(l.p):
		l.unheard = true
	default:
		l.proven = w.now
		w.raft.answered(l)
		l.p.at(w.jitter(&w.dice), false, l, evProven, 1)
	}
}

// unstick lets go on what waited for a quorum.
func (l *leadership) unstick() {
	w := l.w
	if l.stuck {
		l.stuck = false
		w.at(w.dice.upTo(w.commit), l, evCommit, l.proposal)
	}
	if l.unheard {
		l.unheard = false
		w.at(w.rtt/2, l, evProve, 0)
	}
}

// alarm wakes the leader when its core asks for it.
func (l *leadership) alarm() {
	now := l.p.mono()
	at := l.w.now + l.p.realWait(max(l.alloc.NextWake(now)-now, ms))
	if l.alarmAt > l.w.now && l.alarmAt <= at {
		return
	}
	l.alarmAt = at
	l.alarmNum++
	l.p.at(at-l.w.now, true, l, evPump, l.alarmNum)
}

// receive takes one message from a node.
func (l *leadership) receive(s *stream, m *leasepb.NodeMessage) {
	now := l.p.mono()
	l.alloc.Receive(now, s.id, m, now)
	if h := m.GetHello(); h != nil {
		l.w.trace.note(l.w.now, l.p.name, "hears hello of", h.Node, "session", h.Session, "holdings", len(h.Holdings))
	}
	l.pump()
}

// lose notes the end of a stream.
func (l *leadership) lose(s *stream) {
	l.streams = slices.DeleteFunc(l.streams, func(x *stream) bool { return x == s })
	if !l.dead {
		l.alloc.Gone(s.id)
		l.pump()
	}
}

// die ends the leadership, and its streams.
func (l *leadership) die() {
	if l.dead {
		return
	}
	w := l.w
	l.dead = true
	r := &w.raft
	if r.lead == l {
		r.linger = 0
		r.dethrone()
	}
	r.leaderships = slices.DeleteFunc(r.leaderships, func(x *leadership) bool { return x == l })
	w.trace.note(w.now, l.p.name, "leads no more: term", l.term)
	for _, s := range l.streams {
		if !s.ended {
			after := w.jitter(&s.x.dice)
			if !s.own() && !w.canStream(l.p, s.x) {
				after = s.x.dice.upTo(2 * second)
			}
			s.x.at(after, false, s, evHang, 0)
		}
	}
}

// addWild adds to an entry what the core did not ask for: what a buggy leader might, and the grant
// that a fault takes.
func (l *leadership) addWild(adj *fsm.Adjust) fsm.Command {
	w, st := l.w, l.p.state
	if l != w.raft.lead {
		return adj
	}
	l.lossFrom = nil
	var extra []fsm.Adjustment
	if x := w.loss; x != nil && x.running {
		if held := st.SessionGrants(x.node.Session(x.clock()).ID); len(held) > 0 {
			g := held[w.dice.below(len(held))]
			g.Delta = -g.Delta
			extra = append(extra, g)
			l.lossFrom, w.loss = x, nil
			x.lostKey = g.Key
		}
	}
	if w.now < w.wild {
		extra = append(extra, l.wildly()...)
	}
	if len(extra) == 0 {
		return adj
	}
	c := *adj
	c.Adjustments = append(slices.Clone(adj.Adjustments), extra...)
	return &c
}

// wildly makes up a few adjustments, of sessions that are open or not. What somebody holds is not
// taken away: no rule would help.
func (l *leadership) wildly() (out []fsm.Adjustment) {
	w, st := l.w, l.p.state
	sessions := st.Sessions()
	for range 1 + w.dice.below(3) {
		a := fsm.Adjustment{Session: 1 + uint64(w.dice.below(max(1, len(w.raft.log))))*indexStep, Key: w.up.keys[w.dice.below(len(w.up.keys))].key}
		if len(sessions) > 0 && !w.dice.one(3) {
			a.Session = sessions[w.dice.below(len(sessions))].ID
		}
		a.Delta = 1 + int64(w.dice.below(4))
		if w.dice.one(3) && st.GrantOf(a.Session, a.Key) == 0 {
			a.Delta = -a.Delta
		}
		out = append(out, a)
	}
	return out
}

// lose notes that a grant is taken from it of which it will hear with its next welcome.
func (x *process) lose() {
	x.losing = true
	x.losses++
	session := x.node.Session(x.clock()).ID
	for _, c := range x.w.up.conns {
		if c.x == x && (slices.ContainsFunc(c.claims[:], func(cl claim) bool { return cl.has && cl.session != session }) || !x.running) {
			c.excused = true // killed meanwhile: nobody is left to be told
		}
	}
}

// suffer carries out what follows from an entry's additions: who was granted what it does not know
// of finds out on its next stream.
func (l *leadership) suffer(cmd fsm.Command, res fsm.Result) {
	w := l.w
	if _, ok := cmd.(*fsm.Adjust); !ok || len(res.Adjusted) <= l.honest {
		return
	}
	if x := l.lossFrom; x != nil {
		l.lossFrom = nil
		x.at(0, false, w, evHangAll, int64(x.index))
	}
	for _, a := range res.Adjusted[l.honest:] {
		for _, x := range w.everybody() {
			if a.Delta <= 0 || !x.running || x.stream == nil {
				continue
			}
			// A session that has just been opened is one whose welcome is on its way.
			if !x.stream.welcomed || x.node.Session(x.clock()).ID == a.Session {
				x.at(x.dice.upTo(2*second), false, x.stream, evHang, 0)
			}
		}
	}
}
