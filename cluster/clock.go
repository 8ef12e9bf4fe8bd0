package cluster

import (
	"context"
	"time"
)

// sleep waits, and reports false if the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// waiter is the common part of Raft's futures.
type waiter interface{ Error() error }

// await waits for a future until the context ends. The future's own goroutine ends with Raft.
func await(ctx context.Context, f waiter) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
