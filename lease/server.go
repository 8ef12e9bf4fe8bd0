package lease

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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

	mu   sync.Mutex
	lead *leadership
	dead map[string]bool // nodes that gossip calls dead
	left []lateFarewell  // those that came while nobody led here, the newest last
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
	Silent  time.Duration // since the node was last heard
}

// NewServer returns a Server. leader names the leader's rpc address as far as it is known, for
// nodes that ask the wrong server.
func NewServer(log Log, store Store, leader func() string, logger hclog.Logger) *Server {
	return &Server{log: log, store: store, leader: leader, logger: logger}
}

// streamBuffer bounds the messages that wait for one node. A node that does not read loses its
// stream, not the leader's time.
const streamBuffer = 512

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

// Lead serves as the leader of a term until ctx ends. Everything in the log up to the term's
// beginning must have been applied. For hold it grants nothing: the log may have forgotten sessions
// that are alive until then. left is what nodes said in gossip before they went.
func (s *Server) Lead(ctx context.Context, term uint64, hold time.Duration, left ...Farewell) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &leadership{
		server: s, ctx: ctx, term: term, start: time.Now(), logger: s.logger,
		changed: s.store.Changed(), // before the limits are read, or a change in between would be missed
		in:      make(chan func(time.Duration, *fsm.State), 256),
		conns:   map[uint64]*conn{},
	}
	s.store.Read(func(st *fsm.State) { l.alloc = NewAllocator(l.now(), term, st) })
	if hold > 0 {
		s.logger.Warn("leading, but granting nothing yet: the log may be an older copy", "term", term, "for", hold.Round(time.Millisecond))
		l.alloc.Hold(l.now() + hold)
	}
	s.mu.Lock()
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
			first = func(_ time.Duration, st *fsm.State) { l.alloc.LimitsChanged(st) }
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
			l.logger.Warn("the log takes no entries", "error", err)
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
	end := SessionEnd{Node: p.Node, Session: id, Why: why, Silent: max(0, now-p.seen)}
	for _, f := range freed {
		if f.Session == id {
			end.Slots += f.Delta
		}
	}
	l.logger.Info("session ended", "node", end.Node, "session", id, "why", why, "slots_reclaimed", end.Slots, "silent", end.Silent)
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

// dispatch hands messages to the streams.
func (l *leadership) dispatch() {
	for _, o := range l.alloc.Take() {
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

// Session serves one node's stream.
func (s *Server) Session(stream leasepb.Lease_SessionServer) error {
	s.mu.Lock()
	l := s.lead
	s.mu.Unlock()
	if l == nil {
		return stream.Send(&leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_NotLeader{
			NotLeader: &leasepb.NotLeader{LeaderAddr: s.leader()}}})
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	c := &conn{out: make(chan Outbound, streamBuffer), cancel: cancel}
	registered := make(chan struct{})
	if !l.post(func(time.Duration, *fsm.State) {
		l.lastConn++
		c.id = l.lastConn
		l.conns[c.id] = c
		close(registered)
	}) {
		return errLeadershipEnded
	}
	select {
	case <-registered:
	case <-l.ctx.Done():
		return errLeadershipEnded
	}
	defer l.post(func(time.Duration, *fsm.State) {
		delete(l.conns, c.id)
		l.alloc.Gone(c.id)
	})
	go func() {
		defer cancel()
		l.receive(stream, c)
	}()
	return l.transmit(ctx, stream, c)
}

var errLeadershipEnded = status.Error(codes.Unavailable, "this server leads no more")

// transmit sends until the stream or the leadership ends.
func (l *leadership) transmit(ctx context.Context, stream leasepb.Lease_SessionServer, c *conn) error {
	for {
		select {
		case o := <-c.out:
			if o.Msg != nil {
				if err := stream.Send(o.Msg); err != nil {
					return err
				}
			}
			if o.End {
				return nil
			}
		case <-l.ctx.Done():
			return errLeadershipEnded
		case <-ctx.Done():
			return status.Error(codes.Canceled, "the stream has ended")
		}
	}
}

// receive hands a node's messages to the loop. The time of arrival is noted here, before any wait.
func (l *leadership) receive(stream leasepb.Lease_SessionServer, c *conn) {
	said := false
	for {
		m, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				l.logger.Debug("lease stream ended", "stream", c.id, "error", err)
			}
			return
		}
		arrived := l.now()
		if (m.GetHello() != nil) == said {
			l.logger.Warn("a node broke the lease protocol: hello comes first, and once", "stream", c.id)
			return
		}
		said = true
		if !l.post(func(now time.Duration, _ *fsm.State) {
			if l.conns[c.id] == c { // its end may have been posted first: the stream's two ends don't wait for each other
				l.alloc.Receive(now, c.id, m, arrived)
			}
		}) {
			return
		}
	}
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

// SessionInfo is the leader's view of one session.
type SessionInfo struct {
	ID          uint64
	Node        string
	Identity    string
	State       string        // live, fenced or expired
	ReclaimedIn time.Duration // > 0: until its slots are taken back, if it stays silent
}

// Sessions lists the open sessions, and those that ran out in this term, by id; ok is false where
// this server does not lead.
func (s *Server) Sessions(ctx context.Context) (infos []SessionInfo, ok bool) {
	s.mu.Lock()
	l := s.lead
	s.mu.Unlock()
	if l == nil {
		return nil, false
	}
	done := make(chan []SessionInfo, 1)
	if !l.post(func(now time.Duration, _ *fsm.State) { done <- l.alloc.Sessions(now) }) {
		return nil, false
	}
	select {
	case infos = <-done:
		return infos, true
	case <-ctx.Done():
	case <-l.ctx.Done():
	}
	return nil, false
}
