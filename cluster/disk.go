package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	checksumSize      = 4
	diskRetryFirst    = 50 * time.Millisecond
	diskRetryLast     = time.Second
	diskFullReminders = 30 * time.Second
)

// errChecksum says that a value read from disk differs from the one written.
var errChecksum = errors.New("the checksum does not match")

// logStable is the store that a disk guards.
type logStable interface {
	raft.LogStore
	raft.StableStore
}

// disk stands between Raft and its store. It adds a checksum to every entry and value, waits while
// the disk is full where Raft would stop the process, and reports to the watchdog how long a write
// has been under way.
//
// Appending a log entry to a full disk fails at once: a leader then steps down, and a follower gets
// the entry again. Writing a vote or a term is retried until it succeeds or the disk is closed.
type disk struct {
	store logStable
	log   hclog.Logger

	closed    chan struct{}
	closeOnce sync.Once
	full      atomic.Bool
	gone      atomic.Bool               // the store's file was removed: nothing is written to it
	writing   atomic.Pointer[time.Time] // when the log write under way began; nil: none is
	noAppends atomic.Bool               // the last entry found no room

	mu       sync.Mutex
	reminded time.Time
	values   map[string][]byte // as last written or read: an equal value is not written again
}

func newDisk(store logStable, log hclog.Logger) *disk {
	return &disk{store: store, log: log, closed: make(chan struct{}), values: make(map[string][]byte)}
}

// close ends every wait for room. It does not close the store.
func (d *disk) close() { d.closeOnce.Do(func() { close(d.closed) }) }

// isFull reports whether the last write found the disk full, or the file system read-only.
func (d *disk) isFull() bool { return d.full.Load() }

// setGone records whether the store's file is gone, and reports whether that has changed.
func (d *disk) setGone(gone bool) bool { return d.gone.Swap(gone) != gone }

// unwritable returns why nothing can be written.
func (d *disk) unwritable() error {
	if d.gone.Load() {
		return errGone
	}
	return ErrDiskFull
}

// write writes to the store, unless its file is gone.
func (d *disk) write(f func() error) error {
	if d.gone.Load() {
		return errGone
	}
	return f()
}

// busyFor returns how long the present write of entries has taken.
func (d *disk) busyFor() time.Duration {
	began := d.writing.Load()
	if began == nil {
		return 0
	}
	return time.Since(*began) // monotonic: setting the wall clock neither causes nor hides a stall
}

// FirstIndex implements [raft.LogStore].
func (d *disk) FirstIndex() (uint64, error) { return d.store.FirstIndex() }

// LastIndex implements [raft.LogStore].
func (d *disk) LastIndex() (uint64, error) { return d.store.LastIndex() }

// GetLog implements [raft.LogStore].
func (d *disk) GetLog(index uint64, into *raft.Log) error {
	var stored raft.Log
	if err := d.store.GetLog(index, &stored); err != nil {
		return err
	}
	cut := len(stored.Data) - checksumSize
	if cut < 0 || stored.Index != index {
		return fmt.Errorf("log entry %d: %w", index, errChecksum)
	}
	sum := binary.BigEndian.Uint32(stored.Data[cut:])
	stored.Data = stored.Data[:cut:cut]
	if logChecksum(&stored) != sum {
		return fmt.Errorf("log entry %d: %w", index, errChecksum)
	}
	*into = stored
	return nil
}

// StoreLog implements [raft.LogStore].
func (d *disk) StoreLog(entry *raft.Log) error { return d.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements [raft.LogStore].
func (d *disk) StoreLogs(entries []*raft.Log) error {
	sealed := make([]*raft.Log, len(entries))
	for i, entry := range entries {
		c := *entry
		c.Data = make([]byte, len(entry.Data), len(entry.Data)+checksumSize)
		copy(c.Data, entry.Data)
		c.Data = binary.BigEndian.AppendUint32(c.Data, logChecksum(entry))
		sealed[i] = &c
	}
	began := time.Now()
	d.writing.Store(&began)
	err := d.write(func() error { return d.store.StoreLogs(sealed) })
	d.writing.Store(nil)
	d.noAppends.Store(noRoom(err))
	return d.outcome("append to the Raft log", err)
}

// DeleteRange implements [raft.LogStore].
func (d *disk) DeleteRange(first, last uint64) error {
	return d.outcome("shorten the Raft log", d.write(func() error { return d.store.DeleteRange(first, last) }))
}

// Set implements [raft.StableStore]. It returns once the value is durable. If the disk is closed
// first, it ends the calling goroutine, which is Raft's: an error would make Raft stop the process,
// and the process is shutting down in order.
func (d *disk) Set(key, value []byte) error {
	if d.unchanged(key, value) {
		return nil
	}
	sealed := binary.BigEndian.AppendUint32(bytes.Clone(value), valueChecksum(key, value))
	for wait := diskRetryFirst; ; wait = min(2*wait, diskRetryLast) {
		err := d.write(func() error { return d.store.Set(key, sealed) })
		if err != nil || !d.noAppends.Load() { // a term still fits where an entry does not
			err = d.outcome("save the Raft term or vote", err)
		}
		if err == nil {
			d.remember(key, value)
			return nil
		}
		if !noRoom(err) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-d.closed:
			runtime.Goexit()
		}
	}
}

// Get implements [raft.StableStore].
func (d *disk) Get(key []byte) ([]byte, error) {
	sealed, err := d.store.Get(key)
	if err != nil || len(sealed) == 0 {
		return nil, err
	}
	cut := len(sealed) - checksumSize
	if cut < 0 || valueChecksum(key, sealed[:cut]) != binary.BigEndian.Uint32(sealed[cut:]) {
		return nil, fmt.Errorf("the saved %s: %w", key, errChecksum)
	}
	d.remember(key, sealed[:cut])
	return sealed[:cut:cut], nil
}

// SetUint64 implements [raft.StableStore].
func (d *disk) SetUint64(key []byte, value uint64) error {
	return d.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 implements [raft.StableStore].
func (d *disk) GetUint64(key []byte) (uint64, error) {
	value, err := d.Get(key)
	if err != nil || len(value) == 0 {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("the saved %s has %d bytes instead of 8", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

// outcome records whether the disk has room. It logs each change, and repeats the line at
// intervals.
func (d *disk) outcome(what string, err error) error {
	if err == nil {
		if d.full.CompareAndSwap(true, false) {
			d.log.Info("the disk has room again")
		}
		return nil
	}
	if !noRoom(err) {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.full.Swap(true) || time.Since(d.reminded) >= diskFullReminders {
		d.reminded = time.Now()
		msg := "disk full: this server takes no writes until there is room"
		switch {
		case errors.Is(err, errGone):
			msg = "data directory removed: this server takes no writes"
		case errors.Is(err, syscall.EROFS):
			msg = "disk read-only: this server takes no writes; make its file system writable and start it again"
		}
		d.log.Error(msg, "failed_to", what, "error", err)
	}
	return err
}

func (d *disk) unchanged(key, value []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	known, ok := d.values[string(key)]
	return ok && bytes.Equal(known, value)
}

func (d *disk) remember(key, value []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.values[string(key)] = bytes.Clone(value)
}

// noRoom reports whether an error means that the disk is full or read-only.
func noRoom(err error) bool {
	return errors.Is(err, errGone) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}

func logChecksum(l *raft.Log) uint32 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, head[:])
	sum = crc32.Update(sum, table, l.Data)
	return crc32.Update(sum, table, l.Extensions)
}

func valueChecksum(key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, table, key), table, value)
}
