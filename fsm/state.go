package fsm

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/weirproxy/weir/limit"
)

// Errors that a Result may carry, besides those that wrap [limit.ErrInvalid].
var (
	ErrStaleTerm    = errors.New("the entry was judged in another term")
	ErrRepeated     = errors.New("the entry has been applied already")
	ErrNameTaken    = errors.New("another process holds a live session under this name")
	ErrPrecondition = errors.New("the condition does not hold")
	ErrNotFound     = errors.New("no such limit")
	ErrExists       = errors.New("the limit exists already")
)

// Result is what applying one command answered; the fields that belong to the command are set.
// With an Err the entry has changed nothing.
type Result struct {
	// Err is one of the errors above, or wraps it. A precondition that failed because the limit
	// is missing, or there, wraps ErrPrecondition and ErrNotFound, or ErrExists.
	Err error
	// Session is, for OpenSession, the session opened; with ErrNameTaken, the one that stands in
	// the way.
	Session uint64
	// TookOver is the session that an OpenSession closed, or 0.
	TookOver uint64
	// Freed are the grants that closing sessions (or a take-over) freed, sorted by session, then
	// key.
	Freed []Adjustment
	// Adjusted answers Adjust: what was really applied, in the entry's order (Delta may be 0). Level
	// is, of a rate, what came back and was kept, or what goes out with the shares.
	Adjusted []Adjustment
	// Changed reports whether the entry changed the limits (or, for Init, anything), also where
	// only a config limit changed that one of the API's covers.
	Changed bool
}

// Session is a node's live lease with the cluster.
type Session struct {
	ID       uint64 // the log index that opened it
	Node     string
	Identity string
}

// SessionSlots is one session's grant of some key: slots, or of a rate shares.
type SessionSlots struct {
	Session uint64
	Slots   int64
}

// State is the replicated state. It is not safe for concurrent use: [Store] locks.
type State struct {
	index     uint64
	clusterID string
	ttl       time.Duration

	layers layers
	table  *limit.Table // of layers; a new one at each change, so that others may keep it
	// limitsVersion is the version of the log that layers need.
	limitsVersion uint32

	sessions map[uint64]Session
	names    map[string]uint64 // node name → its open session

	grants    ledger
	batchTerm uint64 // the term of the last Adjust that was not void
	batch     uint64 // and its batch
}

// NewState returns the empty state.
func NewState() *State {
	s := &State{
		layers:   newLayers(),
		sessions: make(map[uint64]Session),
		names:    make(map[string]uint64),
		grants:   make(ledger),
	}
	s.setTable(limit.NewTable(0, 0, nil))
	return s
}

// Apply applies one entry, stored in the log at index in term. An index that is not
// above the last one is void: the entry was applied before.
func (s *State) Apply(index, term uint64, c Command) Result {
	if index <= s.index {
		return Result{Err: ErrRepeated}
	}
	s.index = index
	switch c := c.(type) {
	case *Init:
		return s.init(c)
	case *OpenSession:
		return s.openSession(term, c)
	case *CloseSessions:
		return s.closeSessions(term, c)
	case *Adjust:
		return s.adjust(term, c)
	case *PutLimit:
		return s.putLimit(c)
	case *DeleteLimit:
		return s.deleteLimit(c)
	case *ReplaceLimits:
		return s.replaceLimits(c)
	case *RestoreLimits:
		return s.restoreLimits(c)
	}
	return Result{Err: fmt.Errorf("%w: command %T", limit.ErrInvalid, c)}
}

func (s *State) init(c *Init) Result {
	if s.clusterID != "" {
		return Result{}
	}
	if c.ClusterID == "" || c.TTL <= 0 {
		return Result{Err: fmt.Errorf("%w: init needs a cluster id and a ttl above 0, not %q and %v", limit.ErrInvalid, c.ClusterID, c.TTL)}
	}
	if err := validateAll(c.Limits); err != nil {
		return Result{Err: err}
	}
	s.clusterID, s.ttl = c.ClusterID, c.TTL
	s.limitsChanged(s.layers.replaceConfig(s.index, c.Limits))
	return Result{Changed: true}
}

func (s *State) openSession(term uint64, c *OpenSession) Result {
	if c.Term != term {
		return Result{Err: ErrStaleTerm}
	}
	if c.Node == "" || c.Identity == "" {
		return Result{Err: fmt.Errorf("%w: a session needs a node's name and identity, not %q and %q", limit.ErrInvalid, c.Node, c.Identity)}
	}
	r := Result{Session: s.index}
	if old, ok := s.names[c.Node]; ok {
		if s.sessions[old].Identity != c.Identity {
			return Result{Err: ErrNameTaken, Session: old}
		}
		r.TookOver = old
		r.Freed = s.end([]uint64{old})
	}
	s.sessions[s.index] = Session{ID: s.index, Node: c.Node, Identity: c.Identity}
	s.names[c.Node] = s.index
	return r
}

func (s *State) closeSessions(term uint64, c *CloseSessions) Result {
	if c.Term != term {
		return Result{Err: ErrStaleTerm}
	}
	return Result{Freed: s.end(c.Sessions)}
}

// end closes sessions and frees what they hold; it ignores those that aren't open.
func (s *State) end(ids []uint64) []Adjustment {
	ended := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		if session, ok := s.sessions[id]; ok {
			ended[id] = true
			delete(s.sessions, id)
			delete(s.names, session.Node)
		}
	}
	if len(ended) == 0 {
		return nil
	}
	return s.grants.free(ended, s.table)
}

func (s *State) adjust(term uint64, c *Adjust) Result {
	if c.Term != term || c.Term < s.batchTerm {
		return Result{Err: ErrStaleTerm}
	}
	var last uint64
	if c.Term == s.batchTerm {
		last = s.batch
	}
	if c.Batch <= last {
		return Result{Err: ErrRepeated}
	}
	s.batchTerm, s.batch = c.Term, c.Batch

	adjusted := slices.Clone(c.Adjustments)
	for i := range adjusted {
		if a := &adjusted[i]; a.Delta < 0 {
			s.decrease(a)
		}
	}
	for i := range adjusted {
		// A decrease has been cut to at most 0 by now, so none is taken for an increase.
		if a := &adjusted[i]; a.Delta > 0 {
			s.increase(a)
		} else if c.Adjustments[i].Delta == 0 {
			a.Level = 0
		}
	}
	for _, key := range c.Forget {
		s.grants.forget(key)
	}
	return Result{Adjusted: adjusted}
}

// decrease takes at most what the session holds (invariant 3), and puts the level back that comes
// with it.
func (s *State) decrease(a *Adjustment) {
	h := s.grants[a.Key]
	a.Delta = max(a.Delta, -h.of(a.Session))
	s.grants.addTo(h, a.Session, a.Key, a.Delta)
	if !a.Key.Resource.IsRate() {
		a.Level = 0
		return
	}
	a.Level = h.putBack(s.table.Governing(a.Key), a.Key.Resource, -a.Delta, a.Level)
}

// increase gives at most what is free (invariant 1), and nothing to a session that isn't open
// (invariant 2). Only keys under a cap have grants. With shares of a rate goes what lies in them
// (invariant 4).
func (s *State) increase(a *Adjustment) {
	asked := a.Delta
	a.Delta, a.Level = 0, 0
	if _, open := s.sessions[a.Session]; !open {
		return
	}
	l := s.table.Governing(a.Key)
	// Where the limit was lowered, more may be granted than it allows.
	h := s.grants[a.Key]
	free := l.Capacity(a.Key.Resource) - h.sum() // below 0 without a cap, too
	if free <= 0 {
		return
	}
	a.Delta = min(asked, free)
	if a.Key.Resource.IsRate() {
		a.Level = s.takeOut(h, l, a)
		h = s.grants[a.Key]
	}
	s.grants.addTo(h, a.Session, a.Key, a.Delta)
}

// takeOut is the level that goes with an increase. A key's first one makes its entry: from then on,
// its level counts.
func (s *State) takeOut(h *holding, l *limit.Limit, a *Adjustment) int64 {
	if h == nil {
		h = s.grants.entry(a.Key)
		h.level = l.BurstGrains(a.Key.Resource)
	}
	h.noteBurst(l, a.Key.Resource)
	return h.takeOut(l, a.Key.Resource, a.Delta)
}

func (s *State) putLimit(c *PutLimit) Result {
	l := c.Limit
	if err := validateSource(l.Source); err != nil {
		return Result{Err: err}
	}
	if err := l.Validate(); err != nil {
		return Result{Err: err}
	}
	old, exists := s.layers.effective(l.Pattern)
	if err := c.Precondition.check(exists, old.ModifyIndex); err != nil {
		return Result{Err: err}
	}
	return s.limitsChanged(s.layers.put(s.index, l))
}

func (s *State) deleteLimit(c *DeleteLimit) Result {
	old, exists := s.layers.effective(c.Pattern)
	if err := c.Precondition.check(exists, old.ModifyIndex); err != nil {
		return Result{Err: err}
	}
	if !exists {
		return Result{Err: ErrNotFound}
	}
	return s.limitsChanged(s.layers.remove(s.index, c.Pattern))
}

func (s *State) replaceLimits(c *ReplaceLimits) Result {
	if err := validateSource(c.Source); err != nil {
		return Result{Err: err}
	}
	if err := validateAll(c.Limits); err != nil {
		return Result{Err: err}
	}
	// The table is there, however many limits it has.
	if err := c.Precondition.check(true, s.table.Index); err != nil {
		return Result{Err: err}
	}
	if c.Source == limit.SourceConfig {
		return s.limitsChanged(s.layers.replaceConfig(s.index, c.Limits))
	}
	return s.limitsChanged(s.layers.replaceAPI(s.index, c.Limits))
}

func (s *State) restoreLimits(c *RestoreLimits) Result {
	if err := validateLayers(c.Limits); err != nil {
		return Result{Err: err}
	}
	if err := c.Precondition.check(true, s.table.Index); err != nil {
		return Result{Err: err}
	}
	return s.limitsChanged(s.layers.restore(s.index, c.Limits))
}

// limitsChanged builds the new table, if the last write changed anything.
func (s *State) limitsChanged(changed bool) Result {
	if changed {
		limits, shape := s.layers.all(), s.table.ShapeIndex
		if !sameShape(limits, s.table.Limits()) {
			shape = s.index
		}
		s.setTable(limit.NewSortedTable(s.index, shape, limits))
		s.grants.noteBursts(s.table)
	}
	return Result{Changed: changed}
}

// setTable replaces the table by one of the layers as they are now.
func (s *State) setTable(t *limit.Table) { s.table, s.limitsVersion = t, s.layers.version(t.Limits()) }

func validateSource(source limit.Source) error {
	if source != limit.SourceAPI && source != limit.SourceConfig {
		return fmt.Errorf("%w: source %d", limit.ErrInvalid, source)
	}
	return nil
}

// check compares a precondition with what there is. What doesn't exist has no
// index, so that no MatchIndex fits it, 0 included.
func (p Precondition) check(exists bool, index uint64) error {
	switch {
	case !exists && (p.MustExist || p.MatchIndex != nil):
		return fmt.Errorf("%w: %w", ErrPrecondition, ErrNotFound)
	case exists && p.MustNotExist:
		return fmt.Errorf("%w: %w", ErrPrecondition, ErrExists)
	case p.MatchIndex != nil && *p.MatchIndex != index:
		return fmt.Errorf("%w: the index is %d now: read it again", ErrPrecondition, index)
	}
	return nil
}

// Index is the index of the last entry applied.
func (s *State) Index() uint64 { return s.index }

// ClusterID is "" before Init.
func (s *State) ClusterID() string { return s.clusterID }

// TTL is the lease length, 0 before Init.
func (s *State) TTL() time.Duration { return s.ttl }

// NeverGranted reports whether no leader has granted anything yet: nothing can have come free.
func (s *State) NeverGranted() bool { return s.batchTerm == 0 }

// Batch is the number of a term's last Adjust that was not void; 0 where there was none. The next
// one's is higher.
func (s *State) Batch(term uint64) uint64 {
	if s.batchTerm != term {
		return 0
	}
	return s.batch
}

// Table is the effective limits.
func (s *State) Table() *limit.Table { return s.table }

// Sessions lists the open sessions by id.
func (s *State) Sessions() []Session {
	return slices.SortedFunc(maps.Values(s.sessions), func(a, b Session) int { return cmp.Compare(a.ID, b.ID) })
}

// Session returns an open session.
func (s *State) Session(id uint64) (Session, bool) {
	session, ok := s.sessions[id]
	return session, ok
}

// Granted is the sum of a key's grants.
func (s *State) Granted(key limit.Key) int64 { return s.grants[key].sum() }

// Grants lists a key's grants, by session id. The slice is valid until the next Apply.
func (s *State) Grants(key limit.Key) []SessionSlots {
	if h := s.grants[key]; h != nil {
		return h.slots
	}
	return nil
}

// GrantOf is one session's grant of a key.
func (s *State) GrantOf(session uint64, key limit.Key) int64 { return s.grants[key].of(session) }

// SessionGrants lists all that a session holds, sorted by key (Delta is the slots held). It walks
// every key.
func (s *State) SessionGrants(session uint64) []Adjustment { return s.GrantsAbove(session, nil) }

// GrantsAbove lists what a session holds beyond what known says of each key, as SessionGrants does.
func (s *State) GrantsAbove(session uint64, known map[limit.Key]int64) []Adjustment {
	return s.grants.heldAbove(session, known)
}

// Keys calls f for each key with grants, sorted, until f returns false. It copies and sorts: not
// for hot paths.
func (s *State) Keys(f func(limit.Key, int64) bool) {
	for _, key := range s.grants.keys() {
		if n := s.grants[key].total; n > 0 && !f(key, n) {
			return
		}
	}
}

// Kept calls f for each key of a rate that is kept for its level alone, since nobody holds any of
// it, sorted, until f returns false: what an [Adjust] may forget. It copies and sorts, as Keys
// does.
func (s *State) Kept(f func(limit.Key) bool) {
	for _, key := range s.grants.keys() {
		if s.grants[key].total == 0 && !f(key) {
			return
		}
	}
}

// Capacity is how much of a key can be granted in all: slots, or [limit.Shares] of a rate;
// [limit.Unlimited] where no limit caps it.
func (s *State) Capacity(key limit.Key) int64 { return s.table.Governing(key).Capacity(key.Resource) }

// FreeLevel is how many grains lie in the shares of a rate that nobody holds, under the limit in
// force. Without one it is what would be left, were there one again that is large enough.
func (s *State) FreeLevel(key limit.Key) int64 {
	h, l := s.grants[key], s.table.Governing(key)
	switch {
	case !key.Resource.IsRate():
		return 0
	case l.Caps(key.Resource):
		return h.levelUnder(l, key.Resource)
	case h == nil:
		return 0
	}
	return h.level
}

// LargestBurst is the largest burst, in grains, under which any of a rate has been held since the
// log knows its level; 0 where it knows none. The key must not be forgotten before so much has come
// in, however small the burst is by then: a larger one would find it full.
func (s *State) LargestBurst(key limit.Key) int64 {
	if h := s.grants[key]; h != nil {
		return h.burst
	}
	return 0
}

// ConfigLimits lists the config layer, sorted by pattern: also what the API's limits cover.
func (s *State) ConfigLimits() []limit.Limit {
	all := make([]limit.Limit, 0, len(s.layers.config))
	for _, l := range s.layers.config {
		all = append(all, *l)
	}
	slices.SortFunc(all, func(a, b limit.Limit) int { return a.Pattern.Compare(b.Pattern) })
	return all
}
