package fsm

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/limit"
)

// Store adapts a State to [raft.FSM] and lets others read it while entries are applied.
type Store struct {
	log   hclog.Logger
	fatal func(error)

	table atomic.Pointer[limit.Table] // the state's, published after each change

	mu      sync.RWMutex
	state   *State
	changed chan struct{} // closed, and a new one made, when limits or settings change
	failed  error         // once set, nothing is applied any more
}

// NewStore returns an empty store. fatal is called, once, when an entry or snapshot can't be
// understood: the process must stop rather than let replicas drift apart. It is called without a
// lock held, from raft's goroutine, and may return before the process ends: nothing is applied
// after it.
func NewStore(log hclog.Logger, fatal func(error)) *Store {
	s := &Store{log: log, fatal: fatal, state: NewState(), changed: make(chan struct{})}
	s.table.Store(s.state.Table())
	return s
}

// Apply implements [raft.FSM]; the response is a *[Result].
func (s *Store) Apply(l *raft.Log) any {
	if l.Type != raft.LogCommand {
		return &Result{}
	}
	c, err := Decode(l.Data)
	if err != nil {
		return &Result{Err: s.fail(fmt.Errorf("apply log entry %d of term %d: %w", l.Index, l.Term, err))}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return &Result{Err: s.failed}
	}
	r := s.state.Apply(l.Index, l.Term, c)
	if r.Changed {
		s.publish()
	}
	return &r
}

// Commit applies a command as the log's entry at index, of term, for a log that is not Raft's.
func (s *Store) Commit(index, term uint64, c Command) *Result {
	return s.Apply(&raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: Encode(c)}).(*Result)
}

// fail stops applying for good. It returns the first failure, which is the cause.
func (s *Store) fail(err error) error {
	s.mu.Lock()
	first := s.failed == nil
	if first {
		s.failed = err
	}
	err = s.failed
	s.mu.Unlock()
	if first {
		s.log.Info("the replicated state can't go on", "error", err) // whoever is told prints it as the process's last word
		s.fatal(err)
	}
	return err
}

// publish lets readers see the limits and settings; the lock is held.
func (s *Store) publish() {
	s.table.Store(s.state.Table())
	close(s.changed)
	s.changed = make(chan struct{})
}

// Snapshot implements [raft.FSM]. It copies the state's lists; encoding waits for Persist.
func (s *Store) Snapshot() (raft.FSMSnapshot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.failed != nil {
		return nil, s.failed
	}
	return s.state.image(), nil
}

// Frozen is the state as it was at one index.
type Frozen struct{ image *image }

// Freeze copies the state's lists, as Snapshot does for raft.
func (s *Store) Freeze() (*Frozen, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.failed != nil {
		return nil, s.failed
	}
	return s.state.Freeze(), nil
}

// Freeze copies what a snapshot needs.
func (s *State) Freeze() *Frozen { return &Frozen{s.image()} }

// Index is the index of the last entry that the frozen state includes.
func (f *Frozen) Index() uint64 { return f.image.head.GetIndex() }

// WriteSnapshot writes the frozen state as a snapshot.
func (f *Frozen) WriteSnapshot(w io.Writer) error { return f.image.write(w) }

// Restore implements [raft.FSM]. A snapshot that is damaged is an error that leaves the state as it
// was: raft tries an older one, or asks for another. One that this version can't understand is
// fatal.
func (s *Store) Restore(r io.ReadCloser) error {
	defer r.Close()
	state, err := ReadSnapshot(r)
	if errors.Is(err, ErrNewer) {
		return s.fail(err)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	s.state = state
	s.publish()
	s.log.Info("snapshot restored", "index", state.Index(), "limits", len(state.Table().Limits()), "sessions", len(state.sessions))
	return nil
}

// Read calls f with the state, locked for reading. f must not keep it, and must not call the store.
func (s *Store) Read(f func(*State)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f(s.state)
}

// Table returns the effective limits without taking the lock.
func (s *Store) Table() *limit.Table { return s.table.Load() }

// Changed returns a channel that is closed when the limits, or the settings, next change. Take it
// before reading what is to be watched.
func (s *Store) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}
