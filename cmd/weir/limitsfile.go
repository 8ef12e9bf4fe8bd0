package main

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
)

// limitsKeeper writes the limits that the node last heard of to a file. It writes beside the
// lease's own work: a disk that has stalled must not hold up the stream on which the limits came,
// or the session would run out.
type limitsKeeper struct {
	path string
	log  hclog.Logger

	mu   sync.Mutex
	next *fsm.Table    // waits to be written; a newer one takes its place
	idle chan struct{} // closed when nothing is left to write; nil: nothing is
}

// keep has t written, in the background.
func (k *limitsKeeper) keep(t *fsm.Table) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next = t
	if k.idle == nil {
		k.idle = make(chan struct{})
		go k.run()
	}
}

func (k *limitsKeeper) run() {
	for t := k.take(); t != nil; t = k.take() {
		if err := writeLimits(k.path, t); err != nil {
			k.log.Warn("the limits can't be kept for the next start", "error", err)
		}
	}
}

// take returns what is to be written next; nil ends the run.
func (k *limitsKeeper) take() *fsm.Table {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.next
	k.next = nil
	if t == nil {
		close(k.idle)
		k.idle = nil
	}
	return t
}

// wait returns once all has been written that was to be kept, or ctx has ended.
func (k *limitsKeeper) wait(ctx context.Context) {
	k.mu.Lock()
	idle := k.idle
	k.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// writeLimits replaces the file at once or not at all.
func writeLimits(path string, t *fsm.Table) error {
	b, err := lease.MarshalTable(t)
	if err != nil {
		return err
	}
	return cluster.ReplaceFile(path, b)
}
