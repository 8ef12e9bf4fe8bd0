package fsm

import (
	"time"

	"github.com/weirproxy/weir/limit"
)

// Command is one log entry's content: *Init, *OpenSession, *CloseSessions, *Adjust,
// *PutLimit, *DeleteLimit, *ReplaceLimits or *RestoreLimits.
type Command interface{ isCommand() }

// Init fixes what the whole cluster shares, once: a second one changes nothing.
type Init struct {
	ClusterID string
	TTL       time.Duration
	Limits    []limit.Limit // the first leader's config limits
}

// OpenSession opens a session for a node, and takes over the one that the same node with the same
// identity left open.
type OpenSession struct {
	Term     uint64
	Node     string
	Identity string // random, made with the data directory
}

// CloseReason says why a session ended. Numbers are written to the log.
type CloseReason uint8

// The reasons.
const (
	CloseExpired CloseReason = 1
	CloseLeft    CloseReason = 2
)

// CloseSessions ends sessions and frees their grants.
type CloseSessions struct {
	Term     uint64
	Sessions []uint64
	Reason   CloseReason
}

// Adjustment changes one session's grant of one key. Decreases of an Adjust are applied before its
// increases, so that freed slots can be given out by the same entry.
type Adjustment struct {
	Session uint64
	Key     limit.Key
	Delta   int64 // slots, or of a rate [limit.Shares]
	// Level is, of a decrease of a rate, how many grains come back in the shares; see
	// [limit.TokenGrains]. Of an increase it is only in the [Result]: how many go out with them.
	Level int64
}

// Adjust changes grants.
type Adjust struct {
	Term        uint64
	Batch       uint64 // rises with each Adjust of a term, from 1: a repeated entry is void
	Adjustments []Adjustment
	// Forget names keys of rates of which nobody holds anything, and that must be full by now: their
	// levels are removed. For any other key it is void.
	Forget []limit.Key
}

// Precondition makes a write of limits conditional.
type Precondition struct {
	MatchIndex   *uint64
	MustExist    bool
	MustNotExist bool
}

// PutLimit sets one limit (Limit.Source is the layer, Limit.ModifyIndex is ignored).
type PutLimit struct {
	Limit        limit.Limit
	Precondition Precondition
}

// DeleteLimit removes the API's limit with this pattern, of its scope, which uncovers the config's,
// if there is one; where there is only the config's, it removes that, until the next reload.
type DeleteLimit struct {
	Pattern      limit.Pattern
	Precondition Precondition
}

// ReplaceLimits replaces limits. Source config: the config layer as a whole. Source api: makes the
// effective limits equal Limits; one that equals the config's stays the config's, all others become
// the API's.
type ReplaceLimits struct {
	Source       limit.Source
	Limits       []limit.Limit
	Precondition Precondition
}

// RestoreLimits makes both layers what a snapshot had. Each limit's Source is its layer;
// ModifyIndex is ignored. One whose value stays the same keeps its index.
type RestoreLimits struct {
	Limits       []limit.Limit
	Precondition Precondition // of the table, as in ReplaceLimits
}

func (*Init) isCommand()          {}
func (*OpenSession) isCommand()   {}
func (*CloseSessions) isCommand() {}
func (*Adjust) isCommand()        {}
func (*PutLimit) isCommand()      {}
func (*DeleteLimit) isCommand()   {}
func (*ReplaceLimits) isCommand() {}
func (*RestoreLimits) isCommand() {}
