package lease

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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
	drained chan struct{} // closed while the node drains: nobody waits then
	kick    chan struct{} // something is to be sent
	alarm   chan struct{} // the time must be looked at earlier than planned
	wakeAt  time.Duration // when it is planned
	ticked  time.Duration // when it was looked at last
	hint    string

	unlogged []int         // how many connections each fence severed of which the log has yet to tell
	tell     chan struct{} // there is one

	metOther time.Duration // when a leader of another cluster was logged last; Run's alone
}

// NewManager returns a Manager; Run makes it live.
func NewManager(cfg ManagerConfig) *Manager {
	m := &Manager{
		cfg:     cfg,
		node:    NewNode(cfg.Name, cfg.Identity, cfg.OnExpiry, cfg.Limits),
		changed: make(chan struct{}),
		drained: make(chan struct{}),
		kick:    make(chan struct{}, 1),
		alarm:   make(chan struct{}, 1),
		tell:    make(chan struct{}, 1),
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
	return m.waitForSlot(ctx, s)
}

// waitForSlot is the slow path of a slot of any scope.
func (m *Manager) waitForSlot(ctx context.Context, s *Slot) error {
	return m.wait(ctx, func(now time.Duration, done func(error)) (*Waiter, error) {
		return m.node.Acquire(now, s, done)
	}, s.Release)
}

// wait is the slow path: it begins to wait, and keeps the time. What has come when nobody wants it
// any more is undone.
func (m *Manager) wait(ctx context.Context, begin func(time.Duration, func(error)) (*Waiter, error), undo func()) error {
	answer := make(chan error, 1)
	var w *Waiter
	var err error
	var timer *time.Timer
	var retimed bool
	var drained chan struct{}
	m.do(func(now time.Duration) {
		drained = m.drained
		if w, err = begin(now, func(err error) { answer <- err }); w != nil {
			timer = time.NewTimer(w.Patience(now))
			w.Retime(func(left time.Duration) {
				timer.Reset(left)
				retimed = true
			})
		}
	})
	if w == nil {
		return err
	}
	defer timer.Stop()
	for {
		select {
		case err = <-answer:
			return err
		case <-timer.C:
			m.do(func(now time.Duration) {
				if left := w.Patience(now); retimed && left > 0 {
					timer.Reset(left) // it fired just before it was set anew
					return
				}
				m.node.Expire(now, w)
			})
		case <-drained:
			return m.giveUp(w, answer, undo, ErrDraining)
		case <-ctx.Done():
			return m.giveUp(w, answer, undo, ctx.Err())
		}
	}
}

// giveUp ends a wait because of ended.
func (m *Manager) giveUp(w *Waiter, answer <-chan error, undo func(), ended error) (err error) {
	var cancelled bool
	m.do(func(now time.Duration) {
		err = m.node.Overdue(now, w, ended)
		cancelled = m.node.Cancel(now, w)
	})
	if !cancelled && <-answer == nil {
		undo()
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
func (m *Manager) step(f func(now time.Duration)) (walks bool) {
	m.mu.Lock()
	now := m.cfg.Clock.Now()
	f(now)
	e := m.node.Effects(now)
	stream := m.stream
	early := false
	if at := max(e.Wake, now+minTick); at < m.wakeAt {
		m.wakeAt, early = at, true
	}
	if e.Changed {
		m.notify()
	}
	if e.Fenced {
		m.unlogged = append(m.unlogged, e.Severed)
		poke(m.tell)
	}
	m.mu.Unlock()
	for _, sv := range e.Severs {
		sv.Holder.Sever(sv.Reason)
	}
	for _, w := range e.Woken {
		w.Wake()
	}
	if e.Fenced && m.cfg.OnFence != nil {
		m.cfg.OnFence(e.Severed)
	}
	if e.Stale && stream != nil {
		stream.Close()
	}
	if e.Pending {
		poke(m.kick)
	}
	if early {
		poke(m.alarm)
	}
	return e.Walks
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

func (m *Manager) release(s *Slot) {
	if !m.node.TryRelease(s) {
		m.do(func(now time.Duration) { m.node.Release(now, s) })
		runtime.Gosched() // whoever waited goes first: what the end of a connection still does can wait
	}
}

func (m *Manager) park(s *Slot)       { m.changedUse(s, m.node.Park(s)) }
func (m *Manager) closing(s *Slot)    { m.changedUse(s, m.node.Closing(s)) }
func (m *Manager) halfClosed(s *Slot) { m.changedUse(s, m.node.HalfClosed(s)) }
func (m *Manager) lasts(s *Slot)      { m.changedUse(s, m.node.Lasts(s)) }

// changedUse lets the core hear of another use of a slot, if somebody waits.
func (m *Manager) changedUse(s *Slot, wanted bool) {
	if wanted {
		m.do(func(now time.Duration) { m.node.Parked(now, s) })
	}
}

func (m *Manager) unpark(s *Slot) bool { return m.node.Unpark(s, m.cfg.Clock) }

// GiveUp ends the session at the node, as if it could not be proven any more: nothing that it
// allowed is used from now on. Run goes on looking for a leader that opens another.
func (m *Manager) GiveUp() { m.do(m.node.Lose) }

// Drain makes the node keep nothing idle: free slots go back at once, kept-alive connections are
// closed. Those that wait for slots or tokens, now or later, get ErrDraining: another node may
// serve them sooner.
func (m *Manager) Drain() {
	m.do(func(now time.Duration) {
		if !m.node.leaving() {
			close(m.drained)
		}
		m.node.Drain(now)
	})
}

// Undrain ends what Drain began. It does nothing after Goodbye.
func (m *Manager) Undrain() {
	m.do(func(now time.Duration) {
		drained := m.node.leaving()
		m.node.Undrain(now)
		if drained && !m.node.leaving() {
			m.drained = make(chan struct{})
		}
	})
}

// Goodbye ends the session by consent. It admits nothing to limited hosts from now on, waits until
// all connections that use slots have ended, and tells the leader. It returns the id of the session
// of which nothing is in use any more, also where the cluster could not be told before ctx ended; 0
// where there is none, or connections still use it.
func (m *Manager) Goodbye(ctx context.Context) (uint64, error) {
	var id uint64
	m.do(func(now time.Duration) {
		id = m.node.Session(now).ID
		m.node.Part(now)
	})
	if id == 0 {
		return 0, nil
	}
	if err := m.await(ctx, func() bool { return m.node.AllEnded() }); err != nil {
		return 0, fmt.Errorf("connections that use slots are still open: %w", err)
	}
	if err := m.await(ctx, func() bool { return !m.node.InSession() }); err != nil {
		return id, fmt.Errorf("the leader has not answered the goodbye: %w", err)
	}
	if m.Session().ID == id {
		return id, errors.New("no leader could be told that the node leaves")
	}
	return id, nil
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
	return m.await(ctx, m.node.InSession)
}
