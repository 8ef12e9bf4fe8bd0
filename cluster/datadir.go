package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/gofrs/flock"

	"github.com/weirproxy/weir/cluster/handshake"
)

const (
	lockFile       = "LOCK"
	identityFile   = "identity.json"
	raftDirectory  = "raft"
	identityFormat = 1
	maxIdentity    = 64 << 10
)

// DataDir is a node's directory, locked while the process runs, with the identity that was made
// with it. A DataDir of [MemoryDataDir] stores nothing on disk.
type DataDir struct {
	path string
	lock *flock.Flock
	// name and identity never change.
	name     string
	identity string
	// moved is why the directory may be an older copy that was put back; nil: it is not one. The
	// check comes before any write, because later writes hide some of the evidence.
	moved error

	mu    sync.Mutex
	saved identity
}

// identity is the content of the identity file.
type identity struct {
	Format   int    `json:"format"`
	Name     string `json:"name"`
	Identity string `json:"identity"`
	Cluster  string `json:"cluster,omitempty"` // the cluster's id, once known
	// FormedAlone says that this server wrote the first configuration of its cluster, with itself
	// as the only server.
	FormedAlone bool `json:"formed_alone,omitempty"`
	HasRaft     bool `json:"has_raft,omitempty"` // a Raft log was made here: it must not be missing
	// Pledge names the one bootstrap that this server has promised to take part in.
	Pledge pledge `json:"pledge,omitzero"`
}

// OpenDataDir makes the directory if it is missing, locks it, and reads or makes its identity. An
// error is one line that says what to do.
func OpenDataDir(path, name string) (*DataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir %q can't be made: %w", path, err)
	}
	moved := (&DataDir{path: path}).checkPlace()
	lock := flock.New(filepath.Join(path, lockFile), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("data_dir %q can't be locked: %w", path, err)
	}
	if !locked {
		return nil, &inUseError{fmt.Sprintf("data_dir %q is in use by %s, or give this node a data_dir of its own", path, lockHolder(path))}
	}
	d := &DataDir{path: path, lock: lock, moved: moved}
	if err := d.load(name); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return d, nil
}

// MemoryDataDir returns a directory that is kept in memory: the identity is new at each start.
func MemoryDataDir(name string) *DataDir {
	d := &DataDir{}
	d.adopt(newIdentity(name))
	return d
}

// Close unlocks the directory.
func (d *DataDir) Close() error {
	if d.lock == nil {
		return nil
	}
	if err := d.lock.Close(); err != nil {
		return fmt.Errorf("data_dir %q can't be unlocked: %w", d.path, err)
	}
	return nil
}

// Path is the directory, or "" for one in memory.
func (d *DataDir) Path() string { return d.path }

// Name is the node's name.
func (d *DataDir) Name() string { return d.name }

// Identity is 32 hexadecimal digits, made with the directory.
func (d *DataDir) Identity() string { return d.identity }

// ServerID is the node's id in the Raft configuration.
func (d *DataDir) ServerID() string { return handshake.ServerID(d.name, d.identity) }

// state returns the stored facts beside the identity.
func (d *DataDir) state() identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.saved
}

// update changes the stored facts, durably, before it returns. On an error nothing has changed.
func (d *DataDir) update(change func(*identity)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.saved
	change(&next)
	if next == d.saved {
		return nil
	}
	if err := d.write(next); err != nil {
		return err
	}
	d.saved = next
	return nil
}

func (d *DataDir) load(name string) error {
	path := filepath.Join(d.path, identityFile)
	raw, err := readBounded(path, maxIdentity)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.create(name)
	case err != nil:
		return fmt.Errorf("the node's identity can't be read: %w", err)
	}
	var id identity
	if err := json.Unmarshal(raw, &id); err != nil || !id.valid() {
		return fmt.Errorf("the node's identity in %s is damaged: remove %s as a whole, and the node starts again as a new server", path, d.path)
	}
	if id.Name != name {
		return fmt.Errorf("data_dir %q belongs to node %q, but this node's name is %q: set name = %q, or another data_dir", d.path, id.Name, name, id.Name)
	}
	d.adopt(id)
	d.writePID()
	return nil
}

// adopt sets the identity. It is called before anybody else has the directory.
func (d *DataDir) adopt(id identity) {
	d.name, d.identity, d.saved = id.Name, id.Identity, id
}

func (d *DataDir) create(name string) error {
	if _, err := os.Stat(filepath.Join(d.path, raftDirectory)); err == nil {
		return fmt.Errorf("data_dir %q holds a Raft log but no %s: put that file back, or remove %s as a whole, and the node starts again as a new server",
			d.path, identityFile, d.path)
	}
	id := newIdentity(name)
	if err := d.write(id); err != nil {
		return err
	}
	d.adopt(id)
	d.writePID()
	return nil
}

func newIdentity(name string) identity {
	random := make([]byte, handshake.IdentityBytes)
	_, _ = rand.Read(random) // never fails
	return identity{Format: identityFormat, Name: name, Identity: hex.EncodeToString(random)}
}

func (id identity) valid() bool {
	raw, err := hex.DecodeString(id.Identity)
	return err == nil && len(raw) == handshake.IdentityBytes && id.Format == identityFormat
}

// write replaces the identity file: after a crash it holds the old content or the new.
func (d *DataDir) write(id identity) error {
	if d.path == "" {
		return nil
	}
	raw, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("the node's identity can't be encoded: %w", err)
	}
	path := filepath.Join(d.path, identityFile)
	if err := ReplaceFile(path, append(raw, '\n')); err != nil {
		return fmt.Errorf("the node's identity can't be written: %w", err)
	}
	return nil
}

// thisProcess tells this process from others that have its id, as those of other containers may.
var thisProcess = rand.Text()

// writePID stores the process id of the lock's holder, and which process that is, for the error of
// a second node. It may fail without harm.
func (d *DataDir) writePID() {
	_ = os.WriteFile(filepath.Join(d.path, lockFile), fmt.Appendf(nil, "%d\n%s\n", os.Getpid(), thisProcess), 0o600)
}

// lockHolder says who holds the lock, and what to do about that.
func lockHolder(path string) string {
	raw, err := readBounded(filepath.Join(path, lockFile), 64)
	if err != nil {
		return "another process: stop that one"
	}
	id, process, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(id))
	switch {
	case strings.TrimSpace(process) == thisProcess:
		return "another node of this process: close that one"
	case err != nil || pid <= 0:
		return "another process: stop that one"
	}
	return fmt.Sprintf("another process (pid %d): stop that one", pid)
}

func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than it can have", path, info.Size())
	}
	return os.ReadFile(path)
}

// ReplaceFile writes a file beside path that only its owner may read, syncs it, and renames it over
// path. After a loss of power, path holds either the old or the new content, whole.
func ReplaceFile(path string, content []byte) (err error) {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
