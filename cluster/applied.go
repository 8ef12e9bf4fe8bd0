package cluster

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// appliedFSM tracks the index up to which the FSM has applied entries. Raft only knows which
// entries it has handed over.
type appliedFSM struct {
	raft.FSM
	restored func() uint64 // the index that the FSM has after a snapshot was restored

	mu      sync.Mutex
	index   uint64
	changed chan struct{}
}

func newAppliedFSM(fsm raft.FSM, restored func() uint64) *appliedFSM {
	return &appliedFSM{FSM: fsm, restored: restored, changed: make(chan struct{})}
}

// Apply implements [raft.FSM].
func (f *appliedFSM) Apply(l *raft.Log) any {
	response := f.FSM.Apply(l)
	f.reached(l.Index)
	return response
}

// Restore implements [raft.FSM].
func (f *appliedFSM) Restore(r io.ReadCloser) error {
	if err := f.FSM.Restore(r); err != nil {
		return err
	}
	if f.restored != nil {
		f.reached(f.restored())
	}
	return nil
}

func (f *appliedFSM) reached(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index <= f.index {
		return
	}
	f.index = index
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *appliedFSM) wait(ctx context.Context, index uint64) error {
	for {
		f.mu.Lock()
		at, changed := f.index, f.changed
		f.mu.Unlock()
		if at >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("this server has applied entry %d, but not yet %d: %w", at, index, ctx.Err())
		}
	}
}

// WaitApplied returns once this server's FSM has applied the proposed entry at index, and all
// before it.
func (c *Cluster) WaitApplied(ctx context.Context, index uint64) error {
	if c.raft == nil {
		return ErrNoRaft
	}
	return c.fsm.wait(ctx, index)
}
