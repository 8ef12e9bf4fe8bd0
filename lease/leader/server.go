package leader

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// ErrNotProposed is wrapped by a Log where an entry certainly did not get into the log: it may be
// proposed again.
var ErrNotProposed = errors.New("the entry was not proposed")

// Log is what the leader's side needs of Raft.
type Log interface {
	// Propose appends an entry and waits until it is applied here. An error that wraps
	// ErrNotProposed says that it was not appended; any other leaves that open.
	Propose(ctx context.Context, term uint64, c fsm.Command) (fsm.Result, error)
	// VerifyLeader returns nil if this server led at some moment after the call.
	VerifyLeader(ctx context.Context) error
	// LastLed returns how long ago, at the latest, a leader of an earlier term can have been
	// verified. It may take until ctx ends to find out.
	LastLed(ctx context.Context, term uint64) (ago time.Duration, err error)
}

// Store is the part of [fsm.Store] that the leader's side reads.
type Store interface {
	Read(func(*fsm.State))
	Changed() <-chan struct{}
}

// Server is the leader's side. Every server registers it; it serves streams while Lead runs.
type Server struct {
	leasepb.UnimplementedLeaseServer
	log    Log
	store  Store
	leader func() string
	logger hclog.Logger

	// OnEnd, if not nil, is told of each session that ended while this server leads, once that is
	// committed. It must not block, and is set before Lead is called.
	OnEnd func(SessionEnd)

	led   chan struct{} // closed once Lead has been called
	first sync.Once

	mu   sync.Mutex
	lead *leadership
	dead map[string]bool // nodes that gossip calls dead
	left []lateFarewell  // those that came while nobody led here, the newest last
	// heldUntil is up to when this server was to grant nothing, since its log may be an older copy;
	// zero: it was not.
	heldUntil time.Time
}

// maxDead bounds the memory of nodes that gossip calls dead: names may be new with each start of a
// process.
const maxDead = 4096

const (
	// maxFarewells bounds the farewells that wait for this server to lead.
	maxFarewells = 4096
	// farewellFor is how long they wait: longer than it takes from a look at the members to the
	// first entry.
	farewellFor = time.Minute
)

// lateFarewell is one that came after the next leader here had looked who left, or is about to.
type lateFarewell struct {
	Farewell
	at time.Time
}

// SessionEnd is one session's end.
type SessionEnd struct {
	Node    string
	Session uint64
	Why     string        // "expired", "left" or "taken over"
	Slots   int64         // that came back
	Rates   int           // of which it held a part
	Silent  time.Duration // since the node was last heard
}

// New returns a Server. leader names the leader's rpc address as far as it is known, for
// nodes that ask the wrong server.
func New(log Log, store Store, leader func() string, logger hclog.Logger) *Server {
	return &Server{log: log, store: store, leader: leader, logger: logger, led: make(chan struct{})}
}

// Lead serves as the leader of a term until ctx ends. Everything in the log up to the term's
// beginning must have been applied. For hold it grants nothing: the log may have forgotten sessions
// that are alive until then, and what it says of the levels of rates is passed on only once that
// can do no harm. left is what nodes said in gossip before they went.
func (s *Server) Lead(ctx context.Context, term uint64, hold time.Duration, left ...Farewell) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &leadership{
		server: s, ctx: ctx, term: term, start: time.Now(), logger: s.logger,
		changed: s.store.Changed(), // before the limits are read, or a change in between would be missed
		in:      make(chan func(time.Duration, *fsm.State), 256),
		conns:   map[uint64]*conn{},
		refused: map[string]time.Duration{},
	}
	s.store.Read(func(st *fsm.State) { l.alloc = NewAllocator(l.now(), term, st) })
	if hold > 0 {
		s.logger.Warn("leading, but granting nothing yet: the log may be an older copy", "term", term, "for", hold.Round(time.Millisecond))
		l.alloc.Hold(l.now() + hold)
	}
	s.mu.Lock()
	if hold > 0 {
		s.heldUntil = time.Now().Add(hold)
	}
	if !s.heldUntil.IsZero() { // also of an earlier term
		l.alloc.Distrust(l.now() + time.Until(s.heldUntil))
	}
	for _, f := range left {
		l.alloc.Left(f)
	}
	for _, f := range s.left {
		if time.Since(f.at) < farewellFor {
			l.alloc.Left(f.Farewell)
		}
	}
	s.left = nil
	s.lead = l
	for node := range s.dead {
		l.alloc.Health(node, true)
	}
	s.mu.Unlock()
	if hold == 0 { // or the log says nothing of who led
		l.askLastLed()
	}
	s.first.Do(func() { close(s.led) })
	s.logger.Info("leading: sessions are waited for", "term", term, "sessions", len(l.alloc.peers))
	defer func() {
		s.mu.Lock()
		s.lead = nil
		s.mu.Unlock()
		cancel()
		l.outstanding.Wait()
		s.logger.Info("leading no more", "term", term)
	}()
	l.loop()
}

// Left ends a session whose node said in gossip, before it went, that nothing of it is in use.
// Where this server does not lead, the farewell waits a while: this server may be about to.
func (s *Server) Left(f Farewell) {
	if f.Session == 0 {
		return
	}
	s.mu.Lock()
	l := s.lead
	if l == nil {
		s.left = append(s.left[max(0, len(s.left)-maxFarewells+1):], lateFarewell{f, time.Now()})
	}
	s.mu.Unlock()
	if l != nil {
		l.post(func(time.Duration, *fsm.State) { l.alloc.Left(f) })
	}
}

// Health takes what gossip says of a node. A dead one is granted nothing more, unless its
// keep-alives go on arriving; its session ends all the same no earlier than its silence allows.
func (s *Server) Health(node string, dead bool) {
	s.mu.Lock()
	if s.dead[node] == dead {
		s.mu.Unlock()
		return
	}
	if dead {
		if s.dead == nil {
			s.dead = map[string]bool{}
		}
		if len(s.dead) >= maxDead {
			for other := range s.dead { // any: at worst its slots come back after its silence instead of before
				delete(s.dead, other)
				break
			}
		}
		s.dead[node] = true
	} else {
		delete(s.dead, node)
	}
	l := s.lead
	s.mu.Unlock()
	if l == nil {
		return
	}
	l.post(func(now time.Duration, _ *fsm.State) {
		p, news := l.alloc.Health(node, dead)
		switch {
		case !news || !dead:
		case l.alloc.eligible(now, p):
			l.logger.Warn("gossip calls a node dead whose keep-alives arrive: it is served on", "node", node, "session", p.ID)
		default:
			l.logger.Info("a node is dead: its slots come back", "node", node, "session", p.ID, "in", max(0, l.alloc.expiry(p)-now).Round(time.Millisecond))
		}
	})
}
