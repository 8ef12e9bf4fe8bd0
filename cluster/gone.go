package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

// goneEvery is how often a server looks whether its log is still where it was opened. Longer, a
// leader whose directory was removed promises for longer what a restart would lose; shorter costs
// an idle node more.
const goneEvery = time.Second

// errGone says that the file which holds the log has no name any more: what is written to it ends
// with the process. To whoever asks for a write it is the same as a full disk: nothing was written.
var errGone = goneError{}

type goneError struct{}

// Error implements error.
func (goneError) Error() string {
	return "the data directory was removed or replaced while the server runs: put it back, or stop this node and start it again, as another server"
}

// Is implements the interface of [errors.Is].
func (goneError) Is(target error) bool { return target == ErrDiskFull }

// watchDataDir notices that the file of the Raft log is not in its directory any more. Writing to
// it still succeeds, and reading too, but what this server promises to remember is lost with the
// process. So it takes no more writes, votes for nobody, and if it leads, it makes room for another
// leader; the node goes on, and leases from that one.
func (c *Cluster) watchDataDir(ctx context.Context) {
	dir := c.cfg.Data.Path()
	if dir == "" {
		return
	}
	path := filepath.Join(dir, raftDirectory, raftDBFile)
	opened, err := os.Stat(path)
	if err != nil {
		opened = nil // removed already
	}
	for sleep(ctx, c.cfg.goneEvery) {
		gone := isGone(path, opened)
		if !c.stores.disk.setGone(gone) || !gone {
			continue
		}
		c.log.Error("data directory removed: this server takes no writes and votes for nobody", "data_dir", dir, "error", errGone)
		if c.leadingTerm() != 0 {
			c.background(func() { c.stepDown(ctx) })
		}
	}
}

// isGone reports whether the file that was opened is not at its path any more. An error that does
// not say so is none of this watch's business.
func isGone(path string, opened os.FileInfo) bool {
	now, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true
	case err != nil:
		return false
	}
	return opened == nil || !os.SameFile(opened, now)
}

// stepDown makes another server lead, or at least none: a leader gives up where it can't append to
// its own log.
func (c *Cluster) stepDown(ctx context.Context) {
	if err := c.handOver(ctx, ""); err != nil {
		c.log.Warn("leadership could not be handed over: this server steps down", "error", err)
	}
	if c.raft.State() == raft.Leader {
		err := await(ctx, c.raft.Barrier(enqueueTimeout))
		c.log.Info("this server has stepped down", "reason", fmt.Sprint(err))
	}
}
