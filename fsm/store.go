package fsm

import (
	"io"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Store adapts a State to [raft.FSM] and lets others read it while entries are applied.
type Store struct{}

// NewStore returns an empty store. fatal is called, once, when an entry or snapshot can't be understood:
// the process must stop rather than let replicas drift apart.
func NewStore(log hclog.Logger, fatal func(error)) *Store { panic("unwritten") }

// Apply implements [raft.FSM]; the response is a *[Result].
func (s *Store) Apply(l *raft.Log) any { panic("unwritten") }

// Snapshot implements [raft.FSM].
func (s *Store) Snapshot() (raft.FSMSnapshot, error) { panic("unwritten") }

// Restore implements [raft.FSM].
func (s *Store) Restore(r io.ReadCloser) error { panic("unwritten") }

// Read calls f with the state, locked for reading. f must not keep it.
func (s *Store) Read(f func(*State)) { panic("unwritten") }

// Table returns the effective limits without taking the lock.
func (s *Store) Table() *Table { panic("unwritten") }

// Changed returns a channel that is closed when the limits, or the settings, next change.
func (s *Store) Changed() <-chan struct{} { panic("unwritten") }
