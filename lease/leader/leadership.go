package leader

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// leadership is one term of this server as the leader.
type leadership struct {
	server  *Server
	ctx     context.Context
	term    uint64
	start   time.Time
	alloc   *Allocator
	changed <-chan struct{} // the limits have
	in      chan func(now time.Duration, st *fsm.State)
	logger  hclog.Logger

	// Owned by the loop.
	refused     map[string]time.Duration // by detail: when it was logged
	conns       map[uint64]*conn
	lastConn    uint64
	outstanding sync.WaitGroup
}

// conn is one node's stream.
type conn struct {
	id     uint64
	out    chan Outbound
	cancel context.CancelFunc
}

// now is on the runtime's monotonic clock. Where that stands still while the machine is suspended,
// sessions end later, never earlier.
func (l *leadership) now() time.Duration { return time.Since(l.start) }

func (l *leadership) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var first func(time.Duration, *fsm.State)
		select {
		case <-l.ctx.Done():
			return
		case first = <-l.in:
			runtime.Gosched() // what is about to arrive goes into the same entry
		case <-l.changed:
			l.changed = l.server.store.Changed()
			first = l.alloc.LimitsChanged
		case <-timer.C:
		}
		var wake time.Duration
		l.server.store.Read(func(st *fsm.State) {
			now := l.now()
			if first != nil {
				first(now, st)
			}
			l.drain(now, st)
			l.alloc.Tick(now)
			l.propose(l.alloc.Next(now, st))
			wake = l.alloc.NextWake(now) - now
		})
		l.dispatch()
		l.verify()
		timer.Reset(max(wake, minWake))
	}
}

// minWake keeps a loop that has nothing to do yet from turning.
const minWake = 200 * time.Microsecond

// drain takes what else has arrived: the more at once, the fewer entries.
func (l *leadership) drain(now time.Duration, st *fsm.State) {
	for range cap(l.in) {
		select {
		case f := <-l.in:
			f(now, st)
		default:
			return
		}
	}
}

// post hands an event to the loop.
func (l *leadership) post(f func(now time.Duration, st *fsm.State)) bool {
	select {
	case l.in <- f:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// propose puts an entry on its way. One that certainly was not appended is tried again; after any
// other error the term is over, or the outcome is unknown: a new leadership finds out from the log.
func (l *leadership) propose(cmd fsm.Command) {
	if cmd == nil {
		return
	}
	l.outstanding.Go(func() {
		said := "" // once, and not ten times a second
		for {
			began := time.Now()
			res, err := l.server.log.Propose(l.ctx, l.term, cmd)
			if err == nil {
				took := time.Since(began)
				l.post(func(now time.Duration, st *fsm.State) {
					l.noteEnds(now, cmd, res)
					l.alloc.NoteCommit(took)
					l.alloc.Applied(now, st, res)
				})
				return
			}
			if !errors.Is(err, ErrNotProposed) {
				l.logger.Warn("an entry's fate is unknown; waiting for the end of the term", "term", l.term, "error", err)
				return
			}
			if why := err.Error(); why != said {
				l.logger.Warn("the log takes no entries; trying again", "error", err)
				said = why
			}
			select {
			case <-l.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

// noteEnds says whose slots came back, and why. It is called before the allocator forgets who they
// were.
func (l *leadership) noteEnds(now time.Duration, cmd fsm.Command, res fsm.Result) {
	if res.Err != nil {
		if _, opens := cmd.(*fsm.OpenSession); !opens { // the node of that is told
			l.logger.Warn("an entry had no effect", "term", l.term, "reason", res.Err)
		}
		return
	}
	switch cmd := cmd.(type) {
	case *fsm.CloseSessions:
		for _, id := range cmd.Sessions {
			l.noteEnd(now, id, endWord(cmd.Reason), res.Freed)
		}
	case *fsm.OpenSession:
		if res.TookOver != 0 {
			l.noteEnd(now, res.TookOver, "taken over", res.Freed)
		}
		l.logger.Info("session opened", "node", cmd.Node, "session", res.Session)
	}
}

func (l *leadership) noteEnd(now time.Duration, id uint64, why string, freed []fsm.Adjustment) {
	p := l.alloc.peers[id]
	if p == nil {
		return // it had ended before
	}
	end := SessionEnd{Node: p.Node, Session: id, Why: why, Silent: l.alloc.unheard(now, p)}
	for _, f := range freed {
		switch {
		case f.Session != id:
		case f.Key.Resource.IsRate():
			end.Rates++
		default:
			end.Slots += f.Delta
		}
	}
	l.logger.Info("session ended", "node", end.Node, "session", id, "why", why, "slots_reclaimed", end.Slots, "rates_reclaimed", end.Rates, "silent", end.Silent)
	if l.server.OnEnd != nil {
		l.server.OnEnd(end)
	}
}

func endWord(r fsm.CloseReason) string {
	if r == fsm.CloseLeft {
		return "left"
	}
	return "expired"
}

// verify proves, once for all that wait, that this server still leads; only then are they answered.
func (l *leadership) verify() {
	if !l.alloc.Verify() {
		return
	}
	l.outstanding.Go(func() {
		err := l.server.log.VerifyLeader(l.ctx)
		if err != nil {
			l.logger.Debug("leadership could not be verified", "error", err)
		}
		l.post(func(now time.Duration, st *fsm.State) { l.alloc.Verified(now, st, err == nil) })
	})
}

// askLastLed finds out when somebody led before, so that who was lost with the former leader is not
// waited for from this one's beginning on.
func (l *leadership) askLastLed() {
	l.outstanding.Go(func() {
		ago, err := l.server.log.LastLed(l.ctx, l.term)
		if err != nil {
			l.logger.Debug("sessions run from the term's beginning", "term", l.term, "reason", err)
			return
		}
		l.post(func(now time.Duration, _ *fsm.State) {
			l.alloc.LastLed(now - ago)
			l.logger.Debug("sessions run from the former leader's last moment", "term", l.term, "ago", ago)
		})
	})
}

// dispatch hands messages to the streams.
func (l *leadership) dispatch() {
	for _, o := range l.alloc.Take() {
		l.noteRefusal(o.Msg.GetRefused())
		c := l.conns[o.Conn]
		if c == nil {
			continue
		}
		select {
		case c.out <- o:
		default:
			l.logger.Warn("a node does not read its lease stream; it is cut", "stream", c.id)
			c.cancel()
		}
	}
}

const (
	// refusalEvery is how often the log says that one node is refused: it comes again each second.
	refusalEvery = 5 * time.Minute
	maxRefused   = 1024
)

// noteRefusal logs which node is refused for its version, and why.
func (l *leadership) noteRefusal(r *leasepb.Refused) {
	if r.GetReason() != leasepb.Refused_REASON_PROTOCOL {
		return
	}
	now := l.now()
	if last, said := l.refused[r.Detail]; said && now-last < refusalEvery {
		return
	}
	if len(l.refused) >= maxRefused {
		clear(l.refused) // names may be new with each start of a process
	}
	l.refused[r.Detail] = now
	l.logger.Warn("a node's lease stream is ended", "reason", r.Detail)
}
