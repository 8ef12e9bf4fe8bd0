package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	raftDBFile        = "raft.db"
	retainedSnapshots = 2
	cachedEntries     = 512
	boltLockTimeout   = time.Second
)

// stores holds Raft's log, votes and snapshots.
type stores struct {
	log       raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	disk      *disk
	closer    func() error
}

// openStores opens or makes the stores in the data directory, and reads them once: damage becomes
// one line that says what to do, and not a later panic. wrap, if set, stands between the disk and
// the store.
func openStores(dir *DataDir, log hclog.Logger, wrap func(logStable) logStable) (*stores, error) {
	if wrap == nil {
		wrap = func(s logStable) logStable { return s }
	}
	if dir.Path() == "" {
		return memoryStores(log, wrap)
	}
	base := filepath.Join(dir.Path(), raftDirectory)
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, fmt.Errorf("the Raft directory can't be made: %w", err)
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(base, retainedSnapshots, log.Named("snapshot"))
	if err != nil {
		return nil, fmt.Errorf("the snapshot directory in %s can't be used: %w", base, err)
	}
	store, err := openBolt(dir, filepath.Join(base, raftDBFile), latestIndex(snapshots))
	if err != nil {
		return nil, err
	}
	if err := dir.update(func(id *identity) { id.HasRaft = true }); err != nil {
		_ = store.Close()
		return nil, err
	}
	s, err := guard(wrap(store), log)
	if err != nil {
		_ = store.Close()
		return nil, err
	}
	s.snapshots, s.closer = snapshots, store.Close
	return s, nil
}

func memoryStores(log hclog.Logger, wrap func(logStable) logStable) (*stores, error) {
	s, err := guard(wrap(raft.NewInmemStore()), log)
	if err != nil {
		return nil, err
	}
	s.snapshots, s.closer = raft.NewInmemSnapshotStore(), func() error { return nil }
	return s, nil
}

func guard(store logStable, log hclog.Logger) (*stores, error) {
	d := newDisk(store, log)
	cache, err := raft.NewLogCache(cachedEntries, d)
	if err != nil {
		return nil, err
	}
	return &stores{log: cache, stable: d, disk: d}, nil
}

// close closes the files. Raft must have stopped.
func (s *stores) close() error {
	s.disk.close()
	if err := s.closer(); err != nil {
		return fmt.Errorf("the Raft log can't be closed: %w", err)
	}
	return nil
}

// hasState reports whether this server has been part of a cluster.
func (s *stores) hasState() (bool, error) {
	has, err := raft.HasExistingState(s.log, s.stable, s.snapshots)
	if err != nil {
		return false, fmt.Errorf("the Raft state can't be read: %w", err)
	}
	return has, nil
}

// openBolt opens the log. An existing log is first read through without writing to it.
func openBolt(dir *DataDir, path string, snapshot uint64) (*raftboltdb.BoltStore, error) {
	if dir.state().HasRaft {
		if err := trapped(func() error { return verifyBolt(path, snapshot) }); err != nil {
			return nil, damaged(dir, path, err)
		}
	}
	var store *raftboltdb.BoltStore
	err := trapped(func() (err error) {
		store, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(false)})
		return err
	})
	switch {
	case noRoom(err):
		return nil, fmt.Errorf("the Raft log %s can't be opened: %w", path, ErrDiskFull)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("the Raft log can't be opened: %w", err)
	case err != nil:
		return nil, damaged(dir, path, err)
	}
	return store, nil
}

func boltOptions(readOnly bool) *bbolt.Options {
	return &bbolt.Options{
		Timeout:        boltLockTimeout,
		NoFreelistSync: true, // otherwise each commit rewrites the list of free pages
		FreelistType:   bbolt.FreelistMapType,
		ReadOnly:       readOnly,
	}
}

// verifyBolt reads every entry after the newest snapshot. None may be missing.
func verifyBolt(path string, snapshot uint64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return errors.New("the file is empty")
	}
	store, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(true)})
	if err != nil {
		return err
	}
	defer store.Close()
	d := newDisk(store, hclog.NewNullLogger())
	if _, err := d.GetUint64([]byte("CurrentTerm")); err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return err
	}
	first, err := d.FirstIndex()
	if err != nil {
		return err
	}
	last, err := d.LastIndex()
	if err != nil {
		return err
	}
	if last > snapshot && first > snapshot+1 {
		return fmt.Errorf("it starts at entry %d, but the newest snapshot ends at %d", first, snapshot)
	}
	for index := max(first, snapshot+1); index <= last && last > 0; index++ {
		var entry raft.Log
		if err := d.GetLog(index, &entry); err != nil {
			return fmt.Errorf("entry %d of %d: %w", index, last, err)
		}
	}
	return nil
}

// latestIndex returns the last index that the newest readable snapshot covers.
func latestIndex(snapshots raft.SnapshotStore) uint64 {
	list, err := snapshots.List()
	if err != nil || len(list) == 0 {
		return 0
	}
	return list[0].Index
}

// trapped turns a panic of a store on damaged data into an error. Reading a truncated mapped file
// faults; trapped makes that a panic too.
func trapped(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return f()
}

// damaged explains why Raft's state can't be used.
func damaged(dir *DataDir, path string, err error) error {
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return &inUseError{fmt.Sprintf("the Raft log in %s is in use by another process: stop that one, or give this node a data_dir of its own", dir.Path())}
	}
	return fmt.Errorf("the Raft state %s is damaged (%w): remove %s as a whole and start this node again: it joins as a new server "+
		"and copies the state from the others (if there are no others, put back a copy of the directory)", path, err, dir.Path())
}
