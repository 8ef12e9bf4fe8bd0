package lease

import "errors"

// Reason says why a slot's holder must give it up.
type Reason uint8

// The reasons for a Sever.
const (
	// SeverFenced: the node can't prove its session any more. Reset both sides, now.
	SeverFenced Reason = iota + 1
	// SeverEvicted: the limit was lowered with evict. Reset both sides.
	SeverEvicted
	// SeverWanted: an idle, kept-alive connection's slot is wanted. Close it gracefully, then Release.
	SeverWanted
)

// Holder is what uses a slot: the proxy's tunnel or upstream connection. Sever is called from another goroutine,
// at any time between Acquire and Release, also before the dial has ended, and must not block: it starts the end,
// and Release follows when the upstream has seen it. It may be called more than once.
type Holder interface{ Sever(Reason) }

// Errors of Acquire. All but ErrNoLease mean that the limit has been reached.
var (
	ErrNoLease      = errors.New("no lease: the node has no live session with the cluster")
	ErrOverLimit    = errors.New("the connection limit is reached")
	ErrQueueFull    = errors.New("the connection limit is reached and its queue is full")
	ErrQueueTimeout = errors.New("the connection limit is reached and no slot came free in time")
	ErrDraining     = errors.New("the node is draining")
)
