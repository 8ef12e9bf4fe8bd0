package lease

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
)

const (
	// maxOutstanding bounds the keep-alives that may be unanswered at once: more than a ttl's
	// worth.
	maxOutstanding = 8
)

// gate tells the fast path until when it may admit to limited hosts.
type gate struct{ until atomic.Int64 }

// What gate.until is with ExpiryKeep, instead of a time.
const (
	openEnded = math.MaxInt64
	outlived  = math.MaxInt64 - 1 // the session has ended, and the node goes on with what it holds
)

func (g *gate) admits(c Clock) bool {
	switch until := g.until.Load(); until {
	case 0:
		return false
	case openEnded, outlived:
		return true
	default:
		return int64(c.Now()) < until
	}
}

// admitsAt is admits at a time that has been read already.
func (g *gate) admitsAt(now time.Duration) bool {
	until := g.until.Load()
	return until != 0 && int64(now) < until
}

func (g *gate) close() { g.until.Store(0) }

// outlive notes that the session of a gate without an end is over. One that a leaving node has
// closed stays closed.
func (g *gate) outlive() { g.until.CompareAndSwap(openEnded, outlived) }

// outlived reports whether it admits without a session.
func (g *gate) outlived() bool { return g.until.Load() == outlived }

func (g *gate) open(to time.Duration) { g.until.Store(int64(to)) }

// session is the node's own view of its lease: how long it may believe in it.
//
// Times are readings of one clock, the node's. A keep-alive extends the lease to the moment it was
// sent plus the ttl, once it is answered: the answer proves that a leader, verified as such after
// the keep-alive had arrived, had heard of us at a later moment than that.
type session struct {
	id       uint64
	term     uint64
	ttl      time.Duration
	begun    time.Duration // when it was asked for
	deadline time.Duration // live before this

	seq      uint64
	sent     [maxOutstanding]sentKeepAlive // by seq, modulo
	nextSend time.Duration
}

type sentKeepAlive struct {
	seq uint64
	at  time.Duration
}

// guard is the time before the deadline that is kept for the fence's own work.
func guard(ttl time.Duration) time.Duration {
	return min(max(ttl/10, 50*time.Millisecond), 500*time.Millisecond)
}

func (s *session) live() bool { return s.id != 0 }

// fenceAt is when the node must stop, to be done before the deadline.
func (s *session) fenceAt() time.Duration { return s.deadline - guard(s.ttl) }

// begin notes a session that was asked for at t0.
func (s *session) begin(id, term uint64, ttl, t0 time.Duration) {
	*s = session{id: id, term: term, ttl: ttl, begun: t0, deadline: t0 + ttl, seq: s.seq, nextSend: t0 + ttl/leasepb.KeepAlives}
}

// keepAlive notes one that is sent right after now, and returns its number.
func (s *session) keepAlive(now time.Duration) uint64 {
	s.seq++
	s.sent[s.seq%maxOutstanding] = sentKeepAlive{seq: s.seq, at: now}
	s.nextSend = now + s.ttl/leasepb.KeepAlives
	return s.seq
}

// answered extends the lease by an answer, and reports whether it did.
func (s *session) answered(seq uint64) bool {
	k := s.sent[seq%maxOutstanding]
	if k.seq != seq || seq == 0 || s.id == 0 || k.at+s.ttl <= s.deadline {
		return false
	}
	s.deadline = k.at + s.ttl
	return true
}

// interrupted forgets the keep-alives of a stream that broke; one is due on the next.
func (s *session) interrupted() {
	s.sent = [maxOutstanding]sentKeepAlive{}
	s.nextSend = 0
}

func (s *session) end() { *s = session{seq: s.seq, ttl: s.ttl} }
