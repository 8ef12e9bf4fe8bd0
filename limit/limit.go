package limit

import (
	"errors"
	"fmt"
	"time"
)

// Unlimited is the value of [Limit.Connections] that sets no cap.
const Unlimited int64 = -1

// Bounds of a limit. Whether an entry of the log is valid depends on them: to move
// one needs a new version of the encoding, or servers of two versions drift apart.
const (
	MaxConnections  int64 = 1_000_000
	MaxQueueSize          = 1_000_000
	MaxQueueTimeout       = time.Hour
)

// ErrInvalid is wrapped by the errors of values that can't be: see [Limit.Validate].
var ErrInvalid = errors.New("invalid value")

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
	// newest. It belongs to the last write that changed the limit, or that asked for
	// it again: ModifyIndex tells one from the next.
	Evict  bool
	Source Source
	// ModifyIndex is the log index of the last change of the effective limit: its
	// ETag. It only ever rises.
	ModifyIndex uint64
}

// Capped reports whether connections that match are counted against a number.
func (l *Limit) Capped() bool { return l != nil && l.Connections >= 0 }

// Validate names everything that is wrong with the limit; the error wraps
// [ErrInvalid]. A queue without a cap is refused, since nobody could ever wait in
// it: whoever wrote one forgot the cap. A queue on a limit of 0 is allowed, so that
// a host can be blocked and opened again without losing its queue.
func (l *Limit) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: limit %q: %s", ErrInvalid, l.Pattern.text, fmt.Sprintf(format, args...)))
	}
	if l.Pattern.text == "" {
		bad("it has no pattern")
	}
	if l.Connections < Unlimited || l.Connections > MaxConnections {
		bad("connections is %d: write 0 to %d, or leave it out for no cap", l.Connections, MaxConnections)
	}
	if l.Shared && !l.Pattern.Wildcard() {
		bad("shared has no meaning on a single host: leave it out, or write a pattern such as *.example.com")
	}
	if q := l.Queue; q != (Queue{}) {
		if q.Timeout <= 0 || q.Timeout > MaxQueueTimeout {
			bad("queue timeout is %v: write more than 0s, at most %v", q.Timeout, MaxQueueTimeout)
		}
		if q.Size < 1 || q.Size > MaxQueueSize {
			bad("queue size is %d: write 1 to %d", q.Size, MaxQueueSize)
		}
		if l.Connections == Unlimited {
			bad("a queue needs a cap to wait for: set connections, or leave the queue out")
		}
	}
	return errors.Join(errs...)
}

// SameValue compares what a limit allows, not when or where it was written.
func (l *Limit) SameValue(o *Limit) bool {
	return l.Connections == o.Connections && l.Queue == o.Queue && l.Shared == o.Shared
}
