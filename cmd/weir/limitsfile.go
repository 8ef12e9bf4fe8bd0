package main

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
)

// limitsKeeper writes the newest known limits to a file. It does so in the background, because a
// stalled disk must not hold up the stream on which limits and keep-alives arrive: the session
// would expire.
type limitsKeeper struct {
	path string
	log  hclog.Logger

	mu   sync.Mutex
	next *fsm.Table    // the table to be written next; a newer one replaces it
	idle chan struct{} // closed when nothing is left to write; nil: idle
}

// keep writes t in the background.
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

// take returns the next table to write; nil ends the run.
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

// wait returns once everything is written, or ctx has ended.
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

// writeLimits replaces the file as a whole or not at all.
func writeLimits(path string, t *fsm.Table) error {
	b, err := lease.MarshalTable(t)
	if err != nil {
		return err
	}
	return cluster.ReplaceFile(path, b)
}
