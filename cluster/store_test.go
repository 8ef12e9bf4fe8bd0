package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster/handshake"
)

func TestDataDirIsOneProcessAndOneName(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data")
	d, err := OpenDataDir(path, "a")
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Identity()) != 32 || handshake.NameOf(d.ServerID()) != "a" || d.ServerID() != "a."+d.Identity()[:16] {
		t.Errorf("identity %q, server id %q", d.Identity(), d.ServerID())
	}
	// The id alone does not tell: in another container, another process may have this one's.
	lock, ours := filepath.Join(path, lockFile), fmt.Sprintf("%d\n%s\n", os.Getpid(), thisProcess)
	if raw, err := os.ReadFile(lock); err != nil || string(raw) != ours {
		t.Errorf("the lock file has %q, %v", raw, err)
	}
	for content, want := range map[string]string{
		ours: "another node of this process: close that one,",
		fmt.Sprintf("%d\nANOTHER\n", os.Getpid()): fmt.Sprintf("another process (pid %d): stop that one,", os.Getpid()),
		"17\n": "another process (pid 17): stop that one,",
		"":     "another process: stop that one,",
	} {
		overwrite(t, lock, []byte(content))
		_, err = OpenDataDir(path, "a")
		want = fmt.Sprintf("data_dir %q is in use by %s or give this node a data_dir of its own", path, want)
		if !errors.Is(err, ErrDataDirInUse) || err.Error() != want {
			t.Errorf("a directory in use: %v; want %s", err, want)
		}
	}
	if err := d.update(func(id *identity) { id.Cluster = "c" }); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = OpenDataDir(path, "b"); err == nil || !strings.Contains(err.Error(), `name = "a"`) {
		t.Errorf("another node's directory: %v", err)
	}
	again, err := OpenDataDir(path, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Identity() != d.Identity() || again.state().Cluster != "c" {
		t.Error("the identity did not survive")
	}
}

func TestDamagedDataDirSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(t *testing.T, dir string){
		"torn identity": func(t *testing.T, dir string) {
			overwrite(t, filepath.Join(dir, identityFile), []byte(`{"format":1,"na`))
		},
		"lost identity": func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, identityFile))) },
		"lost log":      func(t *testing.T, dir string) { must(t, os.Remove(raftDB(dir))) },
		"empty log":     func(t *testing.T, dir string) { overwrite(t, raftDB(dir), nil) },
		"garbage log":   func(t *testing.T, dir string) { overwrite(t, raftDB(dir), bytes.Repeat([]byte("x"), 64<<10)) },
		"torn log":      func(t *testing.T, dir string) { must(t, os.Truncate(raftDB(dir), 8292)) },
		"flipped entry": func(t *testing.T, dir string) {
			raw, err := os.ReadFile(raftDB(dir))
			must(t, err)
			if !bytes.Contains(raw, []byte("precious")) {
				t.Fatal("the entry is not in the file")
			}
			overwrite(t, raftDB(dir), bytes.ReplaceAll(raw, []byte("precious"), []byte("pernicio")))
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "data")
			n := startNode(t, "a", path, expecting(1))
			eventually(t, 5*time.Second, "leads", func() bool { return n.leads() != 0 })
			propose(t, n, "precious")
			n.halt()
			spoil(t, path)
			_, err := tryNode(t, "a", path, expecting(1))
			if err == nil || !strings.Contains(err.Error(), "remove "+path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestDamagedSnapshotsSayWhatToDo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data")
	n := startNode(t, "a", path, expecting(1))
	eventually(t, 5*time.Second, "leads", func() bool { return n.leads() != 0 })
	propose(t, n, "precious")
	must(t, n.raft.Snapshot().Error())
	n.halt()

	whole := startNode(t, "a", path, expecting(1))
	if got := whole.fsm.total(); got != 8 {
		t.Errorf("the snapshot gave %d, want 8", got)
	}
	whole.halt()

	states, err := filepath.Glob(filepath.Join(path, raftDirectory, "snapshots", "*", "state.bin"))
	if err != nil || len(states) == 0 {
		t.Fatalf("no snapshot: %v", err)
	}
	for _, state := range states {
		overwrite(t, state, []byte("garbage"))
	}
	if _, err := tryNode(t, "a", path, expecting(1)); err == nil || !strings.Contains(err.Error(), "remove "+path) {
		t.Errorf("%v", err)
	}
}

func raftDB(dir string) string { return filepath.Join(dir, raftDirectory, raftDBFile) }

func overwrite(t *testing.T, path string, content []byte) {
	t.Helper()
	must(t, os.WriteFile(path, content, 0o600))
}

// faultyStore fails or stalls its writes when told to.
type faultyStore struct {
	logStable
	full  atomic.Bool
	stall atomic.Pointer[chan struct{}] // writes of entries wait for it
}

func (s *faultyStore) err() error {
	if s.full.Load() {
		return &os.PathError{Op: "write", Path: "raft.db", Err: syscall.ENOSPC}
	}
	return nil
}

func (s *faultyStore) StoreLogs(entries []*raft.Log) error {
	if gate := s.stall.Load(); gate != nil {
		<-*gate
	}
	if err := s.err(); err != nil {
		return err
	}
	return s.logStable.StoreLogs(entries)
}

func (s *faultyStore) Set(key, value []byte) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.logStable.Set(key, value)
}

func faulty(into **faultyStore) option {
	return func(c *Config) {
		c.wrapStore = func(s logStable) logStable {
			*into = &faultyStore{logStable: s}
			return *into
		}
	}
}

func TestAFullDiskIsWaitedOut(t *testing.T) {
	t.Parallel()
	var store *faultyStore
	n := startNode(t, "a", t.TempDir(), expecting(1), faulty(&store))
	eventually(t, 5*time.Second, "leads", func() bool { return n.leads() != 0 })
	propose(t, n, "x")
	term := n.leads()
	store.full.Store(true)
	for range 3 {
		if _, _, err := n.Propose(t.Context(), 0, []byte("y")); !errors.Is(err, ErrDiskFull) || errors.Is(err, ErrUnknownOutcome) {
			t.Fatalf("a write on a full disk: %v", err)
		}
	}
	if !n.RaftStatus().DiskFull {
		t.Error("the status does not say that the disk is full")
	}
	eventually(t, 10*time.Second, "it has tried to save a vote", func() bool { return n.RaftStatus().State != "leader" })
	store.full.Store(false)
	eventually(t, 10*time.Second, "leads again", func() bool { return n.leads() > term })
	propose(t, n, "z")
	if n.RaftStatus().DiskFull {
		t.Error("the status still says that the disk is full")
	}
	if got := n.fsm.total(); got != 2 {
		t.Errorf("the FSM holds %d, want 2: a refused write took effect", got)
	}
}

func TestAServerWithAFullDiskStopsInTime(t *testing.T) {
	t.Parallel()
	var store *faultyStore
	n := startNode(t, "a", t.TempDir(), expecting(1), faulty(&store))
	eventually(t, 5*time.Second, "leads", func() bool { return n.leads() != 0 })
	store.full.Store(true)
	if _, _, err := n.Propose(t.Context(), 0, []byte("y")); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("a write on a full disk: %v", err)
	}
	eventually(t, 10*time.Second, "it waits to save a vote", func() bool { return n.RaftStatus().State == "candidate" })
	began := time.Now()
	n.halt()
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("shutting down took %s", took)
	}
}

func TestDiskDoesNotWriteWhatIsThere(t *testing.T) {
	t.Parallel()
	store := &faultyStore{logStable: raft.NewInmemStore()}
	d := newDisk(store, hclog.NewNullLogger())
	must(t, d.SetUint64([]byte("CurrentTerm"), 7))
	store.full.Store(true)
	must(t, d.SetUint64([]byte("CurrentTerm"), 7))
	if got, err := d.GetUint64([]byte("CurrentTerm")); got != 7 || err != nil {
		t.Errorf("read %d, %v", got, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = d.SetUint64([]byte("CurrentTerm"), 8)
		t.Error("a term that was not written was reported as written")
	}()
	d.close()
	<-done
}

// On a disk without room for an entry a term may still fit into pages that are free: it is full all
// the same.
func TestATermThatFitsIsNoRoom(t *testing.T) {
	t.Parallel()
	store := &faultyStore{logStable: raft.NewInmemStore()}
	d := newDisk(store, hclog.NewNullLogger())
	entry := &raft.Log{Index: 1, Term: 1}
	store.full.Store(true)
	if err := d.StoreLog(entry); !errors.Is(err, syscall.ENOSPC) || !d.isFull() {
		t.Fatalf("full %v, %v", d.isFull(), err)
	}
	store.full.Store(false)
	must(t, d.SetUint64([]byte("CurrentTerm"), 7))
	if !d.isFull() {
		t.Error("it has room again, since a term was saved")
	}
	must(t, d.StoreLog(entry))
	if d.isFull() {
		t.Error("it is full, and has taken an entry")
	}
	must(t, d.SetUint64([]byte("CurrentTerm"), 8))
}

func TestAStalledLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	stores := make(map[string]*faultyStore)
	wrap := func(c *Config) {
		c.stall = time.Second
		name := c.Name
		c.wrapStore = func(s logStable) logStable {
			stores[name] = &faultyStore{logStable: s}
			return stores[name]
		}
	}
	nodes := startThree(t, wrap)
	stalled := waitLeader(t, nodes...)
	gate := make(chan struct{})
	stores[stalled.cfg.Name].stall.Store(&gate)
	lost := stalled.ProposeAsync(0, []byte("x"))

	next := waitLeader(t, others(stalled, nodes)...)
	propose(t, next, "yy")
	eventually(t, 5*time.Second, "the stalled server knows who leads", func() bool {
		name, _ := stalled.Leader()
		return name == next.cfg.Name && stalled.toldOf(next)
	})
	if s := stalled.RaftStatus(); !s.DiskStalled {
		t.Errorf("its status is %+v", s)
	}

	stores[stalled.cfg.Name].stall.Store(nil)
	close(gate)
	if _, _, err := lost.Result(); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("the entry that was on its way: %v", err)
	}
	waitApplied(t, stalled, propose(t, next, "zzz"))
	if got := stalled.fsm.total(); got != 5 {
		t.Errorf("the entries applied have %d bytes; want those of the new leader, 5", got)
	}
	select {
	case err := <-stalled.fatal:
		t.Errorf("it stops: %v", err)
	default:
	}
	eventually(t, 5*time.Second, "its status is well", func() bool { return !stalled.RaftStatus().DiskStalled && !stalled.muted.Load() })
}
