package fsm

import (
	"errors"
	"time"
)

// Errors that a Result may carry.
var (
	ErrStaleTerm    = errors.New("the entry was judged in another term")
	ErrNameTaken    = errors.New("another process holds a live session under this name")
	ErrPrecondition = errors.New("the limit has changed since it was read")
	ErrNotFound     = errors.New("no such limit")
	ErrExists       = errors.New("the limit exists already")
)

// Result is what applying one command answered; the fields that belong to the command are set.
type Result struct {
	Err error
	// Session is, for OpenSession, the session opened; with ErrNameTaken, the one that stands in the way.
	Session uint64
	// TookOver is the session that an OpenSession closed, or 0.
	TookOver uint64
	// Freed are the grants that closing sessions (or a take-over) freed, sorted by session, then key.
	Freed []Adjustment
	// Adjusted answers Adjust: what was really applied, in the entry's order (Delta may be 0).
	Adjusted []Adjustment
	// Changed reports whether the entry changed the limits (or, for Init, anything).
	Changed bool
}

// Session is a node's live lease with the cluster.
type Session struct {
	ID       uint64 // the log index that opened it
	Node     string
	Identity string
}

// SessionSlots is one session's grant of some key.
type SessionSlots struct {
	Session uint64
	Slots   int64
}

// State is the replicated state. It is not safe for concurrent use: [Store] locks.
type State struct{}

// NewState returns the empty state.
func NewState() *State { panic("unwritten") }

// Apply applies one entry, stored in the log at index in term.
func (s *State) Apply(index, term uint64, c Command) Result { panic("unwritten") }

// Index is the index of the last entry applied.
func (s *State) Index() uint64 { panic("unwritten") }

// ClusterID is "" before Init.
func (s *State) ClusterID() string { panic("unwritten") }

// TTL is the lease length, 0 before Init.
func (s *State) TTL() time.Duration { panic("unwritten") }

// Table is the effective limits.
func (s *State) Table() *Table { panic("unwritten") }

// Sessions lists the open sessions by id.
func (s *State) Sessions() []Session { panic("unwritten") }

// Session returns an open session.
func (s *State) Session(id uint64) (Session, bool) { panic("unwritten") }

// Granted is the sum of a key's grants.
func (s *State) Granted(key Key) int64 { panic("unwritten") }

// Grants lists a key's grants, by session id. The slice is valid until the next Apply.
func (s *State) Grants(key Key) []SessionSlots { panic("unwritten") }

// GrantOf is one session's grant of a key.
func (s *State) GrantOf(session uint64, key Key) int64 { panic("unwritten") }

// SessionGrants lists all that a session holds, sorted by key (Delta is the slots held). It walks every key.
func (s *State) SessionGrants(session uint64) []Adjustment { panic("unwritten") }

// Keys calls f for each key with grants, sorted, until f returns false. It copies and sorts: not for hot paths.
func (s *State) Keys(f func(Key, int64) bool) { panic("unwritten") }

// Check verifies the invariants; for tests and for a snapshot that was just read.
func (s *State) Check() error { panic("unwritten") }
