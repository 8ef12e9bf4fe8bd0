package leasetest

import (
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
)

// stream is one stream between a node and a leader. In each direction nothing overtakes; what is on
// its way when it breaks is lost, or arrives late, also after what a newer stream brought.
type stream struct {
	x        *process
	lead     *leadership
	id       uint64
	late     bool // what is on its way when it breaks still arrives
	ended    bool // at the node
	gone     bool // at the leader
	broken   bool // something was lost on it: nothing else arrives
	welcomed bool
	session  uint64
	told     int64 // the losses of its node that the welcome on it takes in
	upward   fifo[*leasepb.NodeMessage]
	downward fifo[leader.Outbound]
	lastUp   time.Duration
	lastDown time.Duration
}

// fifo is a queue.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

func (f *fifo[T]) pop() (v T) {
	v = f.items[f.head]
	f.head++
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	}
	return v
}

// The events of a stream.
const (
	evUp uint8 = iota
	evDown
	evImpatient
	evHang
	evGone
)

func (s *stream) act(kind uint8, _ int64) {
	switch kind {
	case evUp:
		s.arriveUp()
	case evDown:
		s.arriveDown()
	case evImpatient:
		if !s.welcomed {
			s.hangUp()
		}
	case evHang:
		s.hangUp()
	case evGone:
		if !s.gone {
			s.gone = true
			s.lead.lose(s)
		}
	}
}

// own reports whether node and leader are one process: nothing is lost or late between them.
func (s *stream) own() bool { return s.x == s.lead.p }

// lateBy is a delay of the upper half of what a fault allows.
func (x *process) lateBy(most time.Duration) time.Duration { return most/2 + x.dice.upTo(most/2) }

func (s *stream) delay(last time.Duration, lag time.Duration) time.Duration {
	w := s.x.w
	at := w.now + 10*time.Microsecond
	if !s.own() {
		at = w.now + w.jitter(&s.x.dice) + lag
	}
	return max(at, last)
}

func (s *stream) toLeader(m *leasepb.NodeMessage) {
	w := s.x.w
	if k := m.GetKeepAlive(); k != nil {
		s.x.sentAt[k.Seq%uint64(len(s.x.sentAt))] = s.x.clock()
	}
	if u := m.GetUpdate(); u != nil {
		w.trace.update(w.now, s.x.name, u)
	}
	for _, d := range m.GetUpdate().GetDemands() {
		if d.Ask > s.x.asked {
			s.x.asked = d.Ask
		}
	}
	m = w.spoilUp(s, m)
	s.upward.push(m)
	s.lastUp = s.delay(s.lastUp, s.x.lateBy(s.x.lagUp))
	p := s.lead.p
	w.q.push(s.lastUp, event{who: s, proc: p, life: p.life, kind: evUp})
}

func (s *stream) arriveUp() {
	w, l := s.x.w, s.lead
	if !s.own() && !w.canStream(s.x, l.p) {
		if s.late && !s.broken { // sent again until it gets through
			s.lastUp = w.now + s.x.dice.between(20*ms, second)
			p := l.p
			w.q.push(s.lastUp, event{who: s, proc: p, life: p.life, kind: evUp})
			return
		}
		s.broken = true
		s.x.at(s.x.dice.upTo(2*second), true, s, evHang, 0)
	}
	m := s.upward.pop()
	if s.gone || l.dead || s.broken || s.ended && !s.late {
		return
	}
	l.receive(s, m)
}

func (s *stream) fromLeader(o leader.Outbound) {
	w := s.x.w
	if o.Msg.GetWelcome() != nil {
		s.told = s.x.losses
	}
	s.downward.push(o)
	s.lastDown = s.delay(s.lastDown, s.x.lateBy(s.x.lag))
	w.q.push(s.lastDown, event{who: s, proc: s.x, life: s.x.life, kind: evDown})
}

func (s *stream) arriveDown() {
	x, w := s.x, s.x.w
	if !s.own() && !w.canStream(s.lead.p, x) {
		if s.late && !s.broken {
			s.lastDown = w.now + x.dice.between(20*ms, second)
			x.at(s.lastDown-w.now, false, s, evDown, 0)
			return
		}
		s.broken = true
		x.at(x.dice.upTo(2*second), true, s, evHang, 0)
	}
	o := s.downward.pop()
	if s.ended || s.broken {
		return
	}
	if o.Msg != nil && !s.take(o.Msg) {
		return
	}
	if o.End {
		s.hangUp()
		return
	}
	x.after()
}

// take hands one message to the core; false: the stream has ended.
func (s *stream) take(m *leasepb.LeaderMessage) bool {
	x, w := s.x, s.x.w
	m = w.spoilDown(s, m)
	if wl := m.GetWelcome(); wl != nil {
		s.welcomed, s.session = true, wl.Session
		x.greeted++
		if s.lead.putBacks == w.raft.putBacks { // else it was on its way since before
			x.outlived = false
		}
		if !s.lead.foreign {
			x.cluster = wl.Cluster
		}
		w.trace.note(w.now, x.name, "is welcome: session", wl.Session, "resumed", wl.Resumed, "corrected", len(wl.Corrected))
	}
	if t := m.GetAssign(); t != nil && w.trace != nil {
		w.trace.assign(w.now, x.name, t)
	}
	if m.GetWelcome() != nil && x.losing && s.told == x.losses { // an older one was on its way while the node stood still
		w.at(x.wakeTime(), w, evFound, int64(x.index)|x.losses<<8)
		w.q.push(w.now+x.wakeTime(), event{who: &w.up, kind: evJudge})
	}
	err := x.keepLevels(m, func() error { return x.node.Receive(x.Now(), m) })
	if ack := m.GetKeepAliveAck(); ack != nil && w.rule == RuleFromAnswer {
		x.back = 0
		x.back = max(0, x.clock()-x.sentAt[ack.Seq%uint64(len(x.sentAt))])
		x.alarmAt = 0
	}
	if m.GetLimits() != nil {
		w.up.followed()
	}
	if r := m.GetRefused(); r != nil {
		w.trace.note(w.now, x.name, "is refused:", r.Detail)
		s.refused(r)
		return false
	}
	if err != nil {
		w.trace.note(w.now, x.name, "leaves the stream:", err)
		s.hangUp()
		return false
	}
	if w.expiry == lease.ExpiryClose && w.every == 1 {
		w.up.agrees(x)
	}
	return true
}

// refused ends the stream, and the process where its name belongs to another.
func (s *stream) refused(r *leasepb.Refused) {
	x := s.x
	s.hangUpFor(min(time.Duration(r.RetryAfterNs), second))
	if r.Reason == leasepb.Refused_REASON_NAME_TAKEN && x.greeted == 0 && x.running {
		x.crash()
		if !x.twin {
			x.w.at(x.dice.between(200*ms, second), x, evStart, 0)
		}
	}
}

// hangUp ends a stream at the node; the leader hears of it later.
func (s *stream) hangUp() { s.hangUpFor(0) }

func (s *stream) hangUpFor(wait time.Duration) {
	x := s.x
	if s.ended {
		return
	}
	s.ended = true
	x.stream = nil
	x.node.StreamDown(x.clock())
	x.after()
	s.leave(x.w.jitter(&x.dice))
	x.redial(wait)
}

// leave lets the leader hear of the stream's end.
func (s *stream) leave(after time.Duration) {
	w := s.x.w
	if !s.own() && !w.canStream(s.x, s.lead.p) {
		after += s.x.dice.upTo(2 * second)
	}
	at := max(w.now+after, s.lastUp)
	if s.late && s.x.dice.one(2) { // the end itself gets lost, and the leader's own patience ends the stream
		at += s.x.dice.upTo(2 * second)
	}
	p := s.lead.p
	w.q.push(at, event{who: s, proc: p, life: p.life, kind: evGone})
}
