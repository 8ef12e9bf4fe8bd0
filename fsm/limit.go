package fsm

import "time"

// Unlimited is the value of [Limit.Connections] that sets no cap.
const Unlimited int64 = -1

// Source says where a limit came from.
type Source uint8

// The sources of a limit. One set through the API wins over the same pattern in
// the config until it is deleted.
const (
	SourceAPI    Source = 1
	SourceConfig Source = 2
)

// String is the source's name in the API: "api" or "config".
func (s Source) String() string {
	switch s {
	case SourceAPI:
		return "api"
	case SourceConfig:
		return "config"
	}
	return "unknown"
}

// Queue lets requests above a limit wait for a slot. The zero Queue is none: they
// are refused.
type Queue struct {
	Timeout time.Duration // the longest wait, > 0 where the queue exists
	Size    int           // the most that wait on one node
}

// Enabled reports whether anybody may wait at all.
func (q Queue) Enabled() bool { return q.Timeout > 0 && q.Size > 0 }

// Limit is one rule of the replicated table.
type Limit struct {
	Pattern Pattern
	// Connections is the most concurrent upstream connections: 0 blocks,
	// [Unlimited] sets no cap.
	Connections int64
	Queue       Queue
	// Shared makes all hosts that match a wildcard, a CIDR or "*" share one count.
	Shared bool
	// Evict asks that connections above a lowered limit be closed, on each node its
	// newest. It belongs to the last write: the next one sets it anew.
	Evict  bool
	Source Source
	// ModifyIndex is the log index of the last write: the limit's ETag.
	ModifyIndex uint64
}

// Capped reports whether connections that match are counted against a number.
func (l *Limit) Capped() bool { return l != nil && l.Connections >= 0 }
