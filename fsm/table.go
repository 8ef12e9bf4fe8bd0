package fsm

// Table is the effective limits (API over config), immutable and indexed for matching.
type Table struct {
	Index      uint64 // log index of the last change
	ShapeIndex uint64 // log index of the last change of the set of patterns, or of a Shared flag: keys may have moved
}

// NewTable indexes limits; a pattern that stands twice is an error in the caller.
func NewTable(index, shape uint64, limits []Limit) *Table { panic("unwritten") }

// Match returns the most specific limit for a target, and the key that counts it. Without one
// the limit is nil and the key is the target's host.
func (t *Table) Match(target Target) (*Limit, Key) { panic("unwritten") }

// Governing returns the limit that governs a key; nil where none does, or where no target
// gives this key any more (a pattern became shared, or lost its port).
func (t *Table) Governing(key Key) *Limit { panic("unwritten") }

// Limits lists the effective limits, sorted by pattern. The slice is shared: don't change it.
func (t *Table) Limits() []Limit { panic("unwritten") }

// Get returns the effective limit with exactly this pattern.
func (t *Table) Get(p Pattern) (*Limit, bool) { panic("unwritten") }
