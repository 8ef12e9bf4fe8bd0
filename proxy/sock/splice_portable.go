//go:build !linux || portable

package sock

import "sync/atomic"

// MaxPipes is 0, because everything is copied.
const MaxPipes = 0

// Pipes is empty.
type Pipes struct{}

// Close does nothing.
func (Pipes) Close() {}

// Splice does nothing: the caller copies everything.
func Splice(_, _ *Conn, _ *Pipes, _ *atomic.Uint64) (readErr, writeErr error) { return nil, nil }
