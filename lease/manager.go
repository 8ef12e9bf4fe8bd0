package lease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// ErrNameTaken ends Run: another live process holds this node's name.
var ErrNameTaken = errors.New("the node's name is taken")

// Stream is one lease stream, as the node sees it. Close ends it and unblocks both other methods.
type Stream interface {
	Send(*leasepb.NodeMessage) error
	Recv() (*leasepb.LeaderMessage, error)
	Close()
}

// Connector opens a stream to the leader. hint is the address that the last server asked named as
// the leader's, or "".
type Connector func(ctx context.Context, hint string) (Stream, error)

// ManagerConfig is what a Manager needs.
type ManagerConfig struct {
	// Name is the node's, unique in the cluster.
	Name string
	// Identity is random and made with the data directory, whose lock proves that the former
	// process is gone. A process that states it takes the former's session over at once.
	Identity string
	// Affiliation, if not nil, keeps of which cluster the node is.
	Affiliation Affiliation
	// OnExpiry says what becomes of open connections when the lease has run out.
	OnExpiry Expiry
	Connect  Connector
	Clock    Clock
	Log      hclog.Logger
	// Limits, if not nil, are those that the node last knew, to go by until it hears from the
	// cluster.
	Limits *limit.Table
	// OnLimits, if not nil, is told of each table that the cluster sends.
	OnLimits func(*limit.Table)
	// OnFence, if not nil, is told when the node fences, and how many connections it severs for
	// that. It must not block.
	OnFence func(severed int)
}

// Manager is the node's side of the lease: it admits connections from the slots that the node
// holds.
type Manager struct {
	cfg  ManagerConfig
	node *Node

	mu      sync.Mutex
	stream  Stream
	changed chan struct{} // closed and made anew when the session or the limits change
	kick    chan struct{} // something is to be sent
	alarm   chan struct{} // the time must be looked at earlier than planned
	wakeAt  time.Duration // when it is planned
	ticked  time.Duration // when it was looked at last
	hint    string

	metOther time.Duration // when a leader of another cluster was logged last; Run's alone
}

// NewManager returns a Manager; Run makes it live.
func NewManager(cfg ManagerConfig) *Manager {
	m := &Manager{
		cfg:     cfg,
		node:    NewNode(cfg.Name, cfg.Identity, cfg.OnExpiry, cfg.Limits),
		changed: make(chan struct{}),
		kick:    make(chan struct{}, 1),
		alarm:   make(chan struct{}, 1),
		ticked:  cfg.Clock.Now(),
	}
	return m
}

// Acquire makes s the right to one connection to target, which h will use. Where the node holds a
// free slot, or the host has no limit, it returns at once. Otherwise it waits: in the limit's
// queue, or for the leader's word that nothing is free. It ends early when ctx does.
//
// The memory is the caller's, so that admitting costs no allocation: s is new, or released, and
// must not be copied afterwards. On an error it may be used again at once.
func (m *Manager) Acquire(ctx context.Context, s *Slot, target limit.Target, h Holder) error {
	s.manager, s.target, s.holder, s.waited = m, target, h, 0
	ok, err := m.node.TryAcquire(s, m.cfg.Clock)
	if ok || err != nil {
		return err
	}
	return m.wait(ctx, s)
}

// wait is Acquire's slow path.
func (m *Manager) wait(ctx context.Context, s *Slot) error {
	answer := make(chan error, 1)
	var w *Waiter
	var err error
	m.do(func(now time.Duration) {
		w, err = m.node.Acquire(now, s, func(err error) { answer <- err })
	})
	if w == nil {
		return err
	}
	timer := time.NewTimer(w.patience)
	defer timer.Stop()
	select {
	case err = <-answer:
	case <-timer.C:
		m.do(func(now time.Duration) { m.node.Expire(now, w) })
		err = <-answer
	case <-ctx.Done():
		var cancelled bool
		m.do(func(time.Duration) { cancelled = m.node.Cancel(w) })
		if !cancelled && <-answer == nil {
			s.Release()
		}
		err = ctx.Err()
	}
	return err
}

// do runs f under the core's lock and carries out what it decided. Where that began a walk, it ends
// before do returns: a fence has severed all that it must sever. The lock is free between its
// pages.
func (m *Manager) do(f func(now time.Duration)) {
	if m.step(f) {
		for m.walkOn() {
		}
	}
}

// walkOn visits the next page of a walk, and reports whether more are left.
func (m *Manager) walkOn() (more bool) {
	m.step(func(now time.Duration) {
		m.node.Walk(now)
		more = m.node.Walking()
	})
	return more
}

// step is one turn under the core's lock. It reports whether a walk began in it that goes on.
func (m *Manager) step(f func(now time.Duration)) (walking bool) {
	m.mu.Lock()
	now := m.cfg.Clock.Now()
	fences, fenced, walks := m.node.fences, m.node.fenced, m.node.walks
	f(now)
	severs := m.node.TakeSevers()
	pending := m.node.Pending(now)
	stream := m.stream
	stale := m.node.Stale()
	early := false
	if at := max(m.node.NextWake(now), now+minTick); at < m.wakeAt {
		m.wakeAt, early = at, true
	}
	if fences != m.node.fences || m.node.parting {
		m.notify() // who parts waits for the last release, too
	}
	hasFenced, severed := fenced != m.node.fenced && !m.node.parting, m.node.fenceSevered
	if hasFenced {
		m.cfg.Log.Warn("fenced: the session with the cluster can't be proven any more", "severed", severed, "on_expiry", m.cfg.OnExpiry.String())
	}
	walking = m.node.Walking() && walks != m.node.walks
	m.mu.Unlock()
	for _, sv := range severs {
		sv.Slot.holder.Sever(sv.Reason)
	}
	if hasFenced && m.cfg.OnFence != nil {
		m.cfg.OnFence(severed)
	}
	if stale && stream != nil {
		stream.Close()
	}
	if pending {
		poke(m.kick)
	}
	if early {
		poke(m.alarm)
	}
	return walking
}

// poke leaves a note, unless one is there.
func poke(note chan<- struct{}) {
	select {
	case note <- struct{}{}:
	default:
	}
}

// notify wakes who waits for a change of the session or the limits. Needs the lock.
func (m *Manager) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Manager) release(s *Slot) {
	if !m.node.TryRelease(s) {
		m.do(func(now time.Duration) { m.node.Release(now, s) })
	}
}

func (m *Manager) park(s *Slot) {
	if m.node.Park(s) {
		m.do(func(now time.Duration) { m.node.Parked(now, s) })
	}
}

func (m *Manager) closing(s *Slot) {
	if m.node.Closing(s) {
		m.do(func(now time.Duration) { m.node.Parked(now, s) })
	}
}

func (m *Manager) unpark(s *Slot) bool { return m.node.Unpark(s, m.cfg.Clock) }

// String is the configuration's word.
func (e Expiry) String() string {
	switch e {
	case ExpiryDrain:
		return "drain"
	case ExpiryKeep:
		return "keep"
	}
	return "close"
}

const (
	minTick    = time.Millisecond       // the shortest: what is due sooner must not make the timer spin
	tickEvery  = 250 * time.Millisecond // the longest between looks at the clock: a suspended machine's timers are late
	minBackoff = 20 * time.Millisecond
	maxBackoff = 100 * time.Millisecond // a lease may be about to run out, and a server knows by itself who leads
)

// Run keeps a session with the cluster until ctx ends. It returns nil then, or [ErrNameTaken] where
// the name belongs to another live process. Connections that use slots are severed, unless they
// have ended.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { m.keepTime(ctx) })
	defer wg.Wait()
	defer cancel()
	backoff := minBackoff
	for ctx.Err() == nil {
		began := m.cfg.Clock.Now()
		err := m.converse(ctx)
		if m.parting() {
			<-ctx.Done()
			break
		}
		var refused *refusedError
		switch {
		case ctx.Err() != nil:
		case errors.As(err, &refused) && refused.reason == leasepb.Refused_REASON_NAME_TAKEN && m.isFresh():
			return fmt.Errorf("%w: %s", ErrNameTaken, refused.detail)
		case errors.Is(err, ErrOtherCluster), refused != nil && refused.reason == leasepb.Refused_REASON_OTHER_CLUSTER:
			m.meetsOther(err)
		default:
			m.cfg.Log.Debug("lease stream ended", "reason", err)
		}
		if m.cfg.Clock.Now()-began > time.Second || errors.Is(err, errSessionGone) {
			backoff = minBackoff
		}
		wait := backoff/2 + rand.N(backoff)
		if refused != nil && refused.retryAfter > 0 {
			if refused.reason != leasepb.Refused_REASON_OTHER_CLUSTER {
				m.cfg.Log.Info("the cluster does not open a session yet", "reason", refused.detail)
			}
			wait = max(wait, min(refused.retryAfter, time.Second))
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		backoff = min(2*backoff, maxBackoff)
	}
	m.do(func(now time.Duration) { m.node.Lose(now) })
	return nil
}

func (m *Manager) parting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node.parting
}

func (m *Manager) isFresh() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node.fresh
}

// keepTime lets the core see the time pass.
func (m *Manager) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.alarm:
		}
		var wait time.Duration
		m.do(func(now time.Duration) {
			m.node.Tick(now, m.cfg.Clock.Wall())
			wait = min(max(m.node.NextWake(now)-now, minTick), tickEvery)
			m.wakeAt, m.ticked = now+wait, now
		})
		timer.Reset(wait)
	}
}

// converse opens one stream and serves it to its end.
func (m *Manager) converse(ctx context.Context) error {
	m.mu.Lock()
	hint := m.hint
	m.hint = ""
	m.mu.Unlock()
	stream, err := m.cfg.Connect(ctx, hint)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stream.Close()
	defer cancel()
	stop := context.AfterFunc(ctx, stream.Close)
	defer stop()

	m.do(func(now time.Duration) {
		m.stream = stream
		if m.cfg.Affiliation != nil {
			m.node.SetCluster(m.cfg.Affiliation.ClusterID())
		}
		m.node.StreamUp(now)
	})
	defer m.do(func(now time.Duration) {
		m.stream = nil
		m.node.StreamDown(now)
		m.notify()
	})
	wg.Go(func() {
		m.sendAll(ctx, stream)
		stream.Close()
	})
	return m.receiveAll(stream)
}

func (m *Manager) sendAll(ctx context.Context, stream Stream) {
	for {
		var out []*leasepb.NodeMessage
		m.do(func(now time.Duration) { out = m.node.Outgoing(now) })
		for _, msg := range out {
			if err := stream.Send(msg); err != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-m.kick:
			runtime.Gosched() // whoever is about to ask, too, comes first: the busier the machine, the more goes into one message
		}
	}
}

func (m *Manager) receiveAll(stream Stream) error {
	for {
		msg, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errNotLeader
			}
			return err
		}
		if err := m.affiliate(msg); err != nil {
			return fmt.Errorf("%w: %w", ErrOtherCluster, err)
		}
		var table *limit.Table
		m.do(func(now time.Duration) {
			before := m.node.Table()
			err = m.node.Receive(now, msg)
			if nl := msg.GetNotLeader(); nl != nil {
				m.hint = nl.LeaderAddr
			}
			if t := m.node.Table(); t != before {
				table = t
			}
			if table != nil || msg.GetWelcome() != nil {
				m.notify()
			}
		})
		if w := msg.GetWelcome(); w != nil {
			m.cfg.Log.Info("session live", "session", w.Session, "resumed", w.Resumed, "ttl", time.Duration(w.TtlNs))
		}
		if table != nil && m.cfg.OnLimits != nil {
			m.cfg.OnLimits(table)
		}
		if err != nil {
			return err
		}
	}
}

// Table is the limits that the node goes by, nil until it knows any.
func (m *Manager) Table() *limit.Table { return m.node.Table() }

// WaitTable waits until the node goes by limits at least as new as index.
func (m *Manager) WaitTable(ctx context.Context, index uint64) error {
	return m.await(ctx, func() bool {
		t := m.node.Table()
		return t != nil && t.Index >= index
	})
}

// WaitLive waits until the node has a live session.
func (m *Manager) WaitLive(ctx context.Context) error {
	return m.await(ctx, func() bool { return m.node.sess.live() && m.node.welcomed })
}

// await waits until ok, which is called under the lock.
func (m *Manager) await(ctx context.Context, ok func() bool) error {
	for {
		m.mu.Lock()
		done, changed := ok(), m.changed
		m.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Session returns the node's own view of its session.
func (m *Manager) Session() SessionStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node.Session(m.cfg.Clock.Now())
}

// Late is for how long the Manager has not looked at the clock. While it runs, that is a quarter of
// a second at most on a machine that is not overloaded: more says that it is stuck.
func (m *Manager) Late() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cfg.Clock.Now() - m.ticked
}

// Hosts lists the use of every host that this node knows, by name.
func (m *Manager) Hosts() []HostUse {
	m.mu.Lock()
	pools := slices.Clone(m.node.all)
	m.mu.Unlock()
	out := make([]HostUse, 0, len(pools))
	for page := range slices.Chunk(pools, pageSize) {
		m.mu.Lock()
		out = m.node.uses(out, page)
		m.mu.Unlock()
	}
	return sortedUses(out)
}

// Host returns the use of one; ok is false where this node knows nothing of it.
func (m *Manager) Host(key limit.Key) (use HostUse, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node.Host(key)
}

// GiveUp ends the session at the node, as if it could not be proven any more: nothing that it
// allowed is used from now on. Run goes on looking for a leader that opens another.
func (m *Manager) GiveUp() { m.do(m.node.Lose) }

// Drain makes the node keep nothing idle: free slots go back at once, kept-alive connections are
// closed.
func (m *Manager) Drain() {
	m.do(m.node.Drain)
}

// Undrain ends what Drain began. It does nothing after Goodbye.
func (m *Manager) Undrain() { m.do(m.node.Undrain) }

// Goodbye ends the session by consent. It admits nothing to limited hosts from now on, waits until
// all connections that use slots have ended, and tells the leader. It returns the id of the session
// of which nothing is in use any more, also where the cluster could not be told before ctx ended; 0
// where there is none, or connections still use it.
func (m *Manager) Goodbye(ctx context.Context) (uint64, error) {
	var id uint64
	m.do(func(now time.Duration) {
		id = m.node.sess.id
		m.node.Part(now)
	})
	if id == 0 {
		return 0, nil
	}
	if err := m.await(ctx, func() bool { return m.node.AllEnded() }); err != nil {
		return 0, fmt.Errorf("connections that use slots are still open: %w", err)
	}
	if err := m.await(ctx, func() bool { return !m.node.sess.live() || !m.node.welcomed }); err != nil {
		return id, fmt.Errorf("the leader has not answered the goodbye: %w", err)
	}
	if m.Session().ID == id {
		return id, errors.New("no leader could be told that the node leaves")
	}
	return id, nil
}
