package limit

import (
	"errors"
	"fmt"
	"strings"
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

// Queue lets requests above a limit wait for a slot or a token. The zero Queue is none: they are
// refused.
type Queue struct {
	Timeout time.Duration // the longest wait, > 0 where the queue exists
	Size    int           // the most that wait on one node
}

// Enabled reports whether anybody may wait at all.
func (q Queue) Enabled() bool { return q.Timeout > 0 && q.Size > 0 }

// Limit is one rule of the replicated table. It is comparable; see [Limit.SameValue].
type Limit struct {
	// Pattern says of which scope the limit is, and what it is for.
	Pattern Pattern
	// Connections is the most at once: of scope host, upstream connections; of client, user and
	// total, requests in hand; of key, permits. 0 blocks, [Unlimited] sets no cap.
	Connections int64
	Requests    Rate
	Bandwidth   Bandwidth
	Queue       Queue
	// Shared makes all that match a wildcard, a CIDR, a prefix or "*" share one count.
	Shared bool
	// Report makes the limit refuse and slow down nothing: what it would have is counted.
	Report bool
	// Evict asks that connections above a lowered limit be closed, on each node its
	// newest. It belongs to the last write that changed the limit, or that asked for
	// it again: what the end of another limit brings above this one later stays.
	Evict  bool
	Source Source
	// ModifyIndex is the log index of the last change of the effective limit: its
	// ETag. It only ever rises.
	ModifyIndex uint64
}

// Caps reports whether a resource is counted against a number.
func (l *Limit) Caps(r Resource) bool {
	if l == nil {
		return false
	}
	switch r {
	case Connections:
		return l.Connections >= 0
	case Requests:
		return l.Requests.Thousandths > 0
	}
	return l.Bandwidth.of(r) > 0
}

// Capped is Caps of connections.
func (l *Limit) Capped() bool { return l != nil && l.Connections >= 0 }

// Capacity is how much of a resource can be granted: connections, or the [Shares] of a rate;
// [Unlimited] where it is not capped.
func (l *Limit) Capacity(r Resource) int64 {
	switch {
	case !l.Caps(r):
		return Unlimited
	case r == Connections:
		return l.Connections
	}
	return Shares
}

// PerSecond is what a rate fills in, in grains a second: see [TokenGrains]. It is 0 where there is
// no cap.
func (l *Limit) PerSecond(r Resource) float64 {
	if !l.Caps(r) {
		return 0
	}
	if r == Requests {
		return l.Requests.PerSecond() * float64(TokenGrains)
	}
	return float64(l.Bandwidth.of(r))
}

// BurstGrains is the most that a rate lets through at once, in grains.
func (l *Limit) BurstGrains(r Resource) int64 {
	switch {
	case !l.Caps(r) || !r.IsRate():
		return 0
	case r == Requests:
		return l.Requests.Burst * TokenGrains
	case l.Bandwidth.Burst != 0:
		return l.Bandwidth.Burst
	}
	return max(l.Bandwidth.of(r), leastByteBurst)
}

// Units is how many parts a rate is leased in. Each is a token bucket of its own that holds at
// least one request, or 4 KiB.
func (l *Limit) Units(r Resource) int64 {
	switch {
	case !l.Caps(r) || !r.IsRate():
		return 0
	case r == Requests:
		return min(l.Requests.Burst, maxUnits)
	}
	return min(l.BurstGrains(r)/minBytesPerUnit, maxUnits)
}

// UnitShares is how many [Shares] make one unit. What a node holds beyond whole units is of no use
// to it.
func (l *Limit) UnitShares(r Resource) int64 { return Shares / max(l.Units(r), 1) }

// WholeUnits is how many whole units lie in so many shares.
func (l *Limit) WholeUnits(r Resource, shares int64) int64 {
	return min(shares/l.UnitShares(r), l.Units(r))
}

// Validate names everything that is wrong with the limit, in one line; the error wraps
// [ErrInvalid]. A queue in which nobody could ever wait is refused: whoever wrote one forgot the
// cap. A queue on a limit of 0 is allowed, so that a host can be blocked and opened again without
// losing its queue.
func (l *Limit) Validate() error {
	var wrong []string
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !l.Pattern.IsValid() {
		bad("it has no pattern")
	}
	if l.Connections < Unlimited || l.Connections > MaxConnections {
		bad("connections is %d: write 0 to %d, or leave it out for no cap", l.Connections, MaxConnections)
	}
	for _, err := range []error{l.Requests.validate(), l.Bandwidth.validate()} {
		if err != nil {
			bad("%s", strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": "))
		}
	}
	bandwidthAlone := l.Pattern.scope == ScopeConnection
	if bandwidthAlone && (l.Connections != Unlimited || l.Requests != (Rate{}) || l.Queue != (Queue{})) {
		bad("scope connection limits the bandwidth of each connection alone: set bandwidth, and nothing else")
	}
	if l.Shared && !l.Pattern.Wildcard() {
		bad("shared has no meaning on a single %s: leave it out, or write %s", l.Pattern.scope, l.Pattern.scope.WildcardForms())
	}
	if q := l.Queue; q != (Queue{}) {
		if q.Timeout <= 0 || q.Timeout > MaxQueueTimeout {
			bad("queue timeout is %v: write more than 0s, at most %v", q.Timeout, MaxQueueTimeout)
		}
		if q.Size < 1 || q.Size > MaxQueueSize {
			bad("queue size is %d: write 1 to %d", q.Size, MaxQueueSize)
		}
		if l.Connections == Unlimited && l.Requests == (Rate{}) && !bandwidthAlone {
			bad("a queue needs a cap to wait for: set connections or requests, or leave the queue out")
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return invalidf("limit %q: %s", l.Name(), strings.Join(wrong, "; "))
}

// Name names the limit in messages: its pattern, with the scope in front where that is not host.
func (l *Limit) Name() string { return l.Pattern.Name() }

// SameValue compares what a limit allows, not when or where it was written.
func (l *Limit) SameValue(o *Limit) bool {
	x, y := *l, *o
	x.Pattern, x.Evict, x.Source, x.ModifyIndex = y.Pattern, y.Evict, y.Source, y.ModifyIndex
	return x == y
}

// SameShape reports whether two limits count the same things in the same way: only numbers differ.
func (l *Limit) SameShape(o *Limit) bool {
	if l.Pattern != o.Pattern || l.Shared != o.Shared || l.Report != o.Report {
		return false
	}
	for _, r := range Resources {
		if l.Caps(r) != o.Caps(r) {
			return false
		}
	}
	return true
}
