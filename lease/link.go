package lease

import (
	"errors"
	"time"

	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// streamPhase is how far a stream to the leader has come.
type streamPhase uint8

const (
	streamNone    streamPhase = iota // there is none
	streamUp                         // the leader has yet to answer the hello
	streamWelcome                    // it has: updates may be said
	streamStale                      // to be given up: it serves no session any more
)

// stream is what the node knows of its stream to the leader. It ends with it, all at once.
type stream struct {
	phase     streamPhase
	helloDue  bool // the hello has yet to be begun
	helloAt   time.Duration
	statement statement
	dirty     []*pool // of which the leader has yet to hear
	proveDue  bool    // the leader asked whether the stream is still ours
	ackDue    bool    // the leader has yet to be told which limits we go by
	// due is a limits table that waits for the welcome: see takeLimits. One with a lower index than
	// ours may be of a leader that was deposed long ago, and would undo acknowledged changes. Only if
	// that leader answers the hello, and so has been verified since, its log is the cluster's, and
	// ours belonged to another.
	due *limit.Table
}

// isOpen reports whether anything may be said on the stream.
func (s *stream) isOpen() bool { return s.phase == streamUp || s.phase == streamWelcome }

// giveUp lets the shell end the stream, if there is one.
func (s *stream) giveUp() {
	if s.phase != streamNone {
		s.phase = streamStale
	}
}

// welcomed reports whether the leader has answered the hello.
func (n *Node) welcomed() bool { return n.stream.phase == streamWelcome }

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

// StreamUp notes a new stream to the leader.
func (n *Node) StreamUp(time.Duration) {
	n.stream = stream{phase: streamUp, helloDue: true, ackDue: n.table.Load() != nil && len(n.regoverning) == 0}
}

// StreamDown notes its end. What was to be said on it is void; the next hello states what is held.
func (n *Node) StreamDown(now time.Duration) {
	n.stream = stream{}
	n.sess.interrupted()
	n.era.streams++
	n.beginWalk(now)
}

// stale reports whether the stream must be given up: the session that it served has ended.
func (n *Node) stale() bool { return n.stream.phase == streamStale }

func (n *Node) welcome(now time.Duration, w *leasepb.Welcome) error {
	if !leasepb.Readable(w.Corrected, nil) {
		return errors.New("the leader corrects a key that this node can't read: is the node older? Upgrade it")
	}
	n.stream.phase, n.fresh = streamWelcome, false
	if w.Resumed {
		n.sess.term = w.Term
		n.correct(now, w.Corrected)
	} else {
		// The session was committed after the hello had arrived, so the hello counts as a
		// keep-alive.
		n.sess.begin(w.Session, w.Term, time.Duration(w.TtlNs), n.stream.helloAt)
		n.openGate()
		n.era.sessions++
	}
	if due := n.stream.due; due != nil && due.Index != n.table.Load().Index {
		n.setLimits(now, due)
	}
	n.stream.due = nil
	n.beginWalk(now)
	return nil
}

// correct gives up what the log does not grant us, connections included. What was given back since
// the hello, which is yet to be said, was of that first: the log can't take back what it lacks.
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
		if left := h.Slots - p.granted; p.releasing > left {
			p.leaving = min(p.leaving, int64(float64(p.leaving)*float64(left)/float64(p.releasing)))
			p.releasing = left
		}
		p.resize(now)
		n.severNewest(p, p.unsevered(), max(0, p.open-p.granted)-before, SeverFenced)
		n.noteSlow(p)
		p.mu.Unlock()
	}
}
