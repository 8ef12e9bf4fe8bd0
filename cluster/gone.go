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

// goneEvery is the interval at which a server checks that its log is still where it was opened. A
// longer interval lets a leader whose directory was removed acknowledge for longer what a restart
// would lose. A shorter one costs an idle node more.
const goneEvery = time.Second

// errGone says that the log's file was removed: anything written to it ends with the process.
// Callers treat it like a full disk, because nothing was written.
var errGone = goneError{}

type goneError struct{}

// Error implements error.
func (goneError) Error() string {
	return "the data directory was removed or replaced while the server runs: put it back, or stop this node and start it again, as another server"
}

// Is implements the interface of [errors.Is].
func (goneError) Is(target error) bool { return target == ErrDiskFull }

// watchDataDir notices that the file of the Raft log is no longer in its directory. Writing and
// reading still succeed, but everything this server promises to remember ends with the process. So
// the server writes and votes no more and, if it leads, hands over. The node goes on, and leases
// from the next leader.
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

// isGone reports whether the opened file is no longer at its path. Any other error of looking is
// ignored.
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

// stepDown makes another server lead. If none takes over, it makes this one fail to append to its
// own log, which ends its leadership.
func (c *Cluster) stepDown(ctx context.Context) {
	if err := c.handOver(ctx, ""); err != nil {
		c.log.Warn("leadership could not be handed over: this server steps down", "error", err)
	}
	if c.raft.State() == raft.Leader {
		err := c.await(ctx, c.raft.Barrier(enqueueTimeout))
		c.log.Info("this server has stepped down", "reason", fmt.Sprint(err))
	}
}
