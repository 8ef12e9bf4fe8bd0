package lease

import (
	"errors"
	"fmt"
	"time"

	"github.com/weirproxy/weir/limit"
)

// Errors of Acquire, Begin and Take. ErrNoLease and ErrDraining are about the node; the others come
// in a [*LimitError], and mean that a limit is in the way.
var (
	ErrNoLease      = errors.New("no lease: the node has no live session with the cluster, or has no answer from it")
	ErrDraining     = errors.New("the node is draining and takes no new connections")
	ErrBlocked      = errors.New("the limit is 0")
	ErrOverLimit    = errors.New("the limit is reached")
	ErrQueueFull    = errors.New("the limit is reached and its queue is full")
	ErrQueueTimeout = errors.New("the limit is reached and nothing came free in time")
)

// LimitError says which limit was in the way, and when it is worth to come again.
type LimitError struct {
	Key   limit.Key
	Limit limit.Limit // that governs the key
	Why   error       // ErrBlocked, ErrOverLimit, ErrQueueFull or ErrQueueTimeout
	// RetryAfter is, for a rate, when the next token comes at the earliest. 0: it can't be known,
	// as with connections, which end when they like.
	RetryAfter time.Duration
}

// Error names the key and the reason.
func (e *LimitError) Error() string { return fmt.Sprintf("%s: %v", e.Key, e.Why) }

// Unwrap is the reason.
func (e *LimitError) Unwrap() error { return e.Why }
