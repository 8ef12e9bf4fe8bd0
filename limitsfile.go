package weir

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// keepWithin bounds how long the answer to a write of limits waits for this node's own copy of
// them. The write is in the cluster's log by then: a disk that has stalled must not make it look
// failed.
const keepWithin = time.Second

// limitsKeeper writes the limits that the node last heard of to a file. It writes beside the
// lease's own work: a disk that has stalled must not hold up the stream on which the limits came,
// or the session would run out.
type limitsKeeper struct {
	path string
	log  hclog.Logger

	mu      sync.Mutex
	next    *limit.Table  // waits to be written; a newer one takes its place
	running bool          // somebody writes
	done    uint64        // index of the table that was written last, or could not be
	changed chan struct{} // closed and made anew at each write; nil: nobody waits for one
}

// keep has t written, in the background.
func (k *limitsKeeper) keep(t *limit.Table) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next = t
	if !k.running {
		k.running = true
		go k.run()
	}
}

func (k *limitsKeeper) run() {
	for t := k.take(); t != nil; t = k.take() {
		if err := writeLimits(k.path, t); err != nil {
			k.log.Warn("the limits can't be kept for the next start", "error", err)
		}
		k.note(t.Index)
	}
}

// take returns what is to be written next; nil ends the run.
func (k *limitsKeeper) take() *limit.Table {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.next
	k.next = nil
	if t == nil {
		k.running = false
		k.wake()
	}
	return t
}

func (k *limitsKeeper) note(index uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done = index
	k.wake()
}

// wake lets those who wait look again. Needs the lock.
func (k *limitsKeeper) wake() {
	if k.changed != nil {
		close(k.changed)
		k.changed = nil
	}
}

// await returns once limits at least as new as index have been written, or could not be, or ctx has
// ended.
func (k *limitsKeeper) await(ctx context.Context, index uint64) {
	k.until(ctx, func() bool { return k.done >= index })
}

// wait returns once all has been written that was to be kept, or ctx has ended.
func (k *limitsKeeper) wait(ctx context.Context) {
	k.until(ctx, func() bool { return !k.running })
}

// until waits for ok, which is called under the lock.
func (k *limitsKeeper) until(ctx context.Context, ok func() bool) {
	for {
		k.mu.Lock()
		done := ok()
		if !done && k.changed == nil {
			k.changed = make(chan struct{})
		}
		changed := k.changed
		k.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// writeLimits replaces the file at once or not at all.
func writeLimits(path string, t *limit.Table) error {
	b, err := leasepb.MarshalTable(t)
	if err != nil {
		return err
	}
	return cluster.ReplaceFile(path, b)
}
