//go:build !linux || portable

package proxy

import "sync/atomic"

// maxPipes is 0, because everything is copied.
const maxPipes = 0

// pipePool is empty.
type pipePool struct{}

func (pipePool) close() {}

// splice does nothing: the caller copies everything.
func splice(_, _ *sock, _ *pipePool, _ *atomic.Uint64) (readErr, writeErr error) { return nil, nil }
