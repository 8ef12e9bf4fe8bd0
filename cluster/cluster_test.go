package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/cluster/clustertest"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

var must, eventually = clustertest.Must, clustertest.Eventually

// testFSM counts entries and keeps their sum.
type testFSM struct {
	mu    sync.Mutex
	index uint64
	sum   uint64
}

func (f *testFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index = l.Index
	f.sum += uint64(len(l.Data))
	return f.sum
}

func (f *testFSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := binary.BigEndian.AppendUint64(nil, f.index)
	return testSnapshot(binary.BigEndian.AppendUint64(b, f.sum)), nil
}

func (f *testFSM) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil || len(b) != 16 {
		return fmt.Errorf("bad snapshot of %d bytes: %w", len(b), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index, f.sum = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return nil
}

func (f *testFSM) total() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sum
}

func (f *testFSM) applied() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.index
}

type testSnapshot []byte

func (s testSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

func (testSnapshot) Release() {}

// testNode is a node under test and what it has reported.
type testNode struct {
	*Cluster
	t     *testing.T
	dir   *DataDir
	path  string
	fsm   *testFSM
	fatal chan error
	reigns
	members    chan Member
	told       atomic.Value // string: the leader's address, as the node's own work was told of it
	superseded chan error
}

// toldOf reports whether the node was told that leader leads.
func (n *testNode) toldOf(leader *testNode) bool { return n.told.Load() == leader.RPCAddr() }

// reigns records the terms in which a node led.
type reigns struct {
	mu      sync.Mutex
	terms   []uint64
	running int
	overlap bool
}

func (r *reigns) lead(ctx context.Context, term uint64) {
	r.mu.Lock()
	r.terms = append(r.terms, term)
	r.running++
	r.overlap = r.overlap || r.running > 1
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	r.running--
	r.mu.Unlock()
}

// leads is the term of the Lead that runs now, or 0.
func (r *reigns) leads() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == 0 {
		return 0
	}
	return r.terms[len(r.terms)-1]
}

func (r *reigns) overlapped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.overlap
}

func testLog(t *testing.T, name string) hclog.Logger {
	level := hclog.Error
	if os.Getenv("WEIR_TEST_LOG") != "" {
		level = hclog.LevelFromString(os.Getenv("WEIR_TEST_LOG"))
	}
	return hclog.New(&hclog.LoggerOptions{Name: name, Level: level, Output: &testWriter{t: t}})
}

// testWriter shows logs with the test that they belong to, and drops what comes after its end.
type testWriter struct {
	mu   sync.Mutex
	t    *testing.T
	done bool
	once sync.Once
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.once.Do(func() {
		w.t.Cleanup(func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.done = true
		})
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.t.Logf("%s", b)
	}
	return len(b), nil
}

type option func(*Config)

func asProxy(c *Config) { c.Role, c.FSM = RoleProxy, nil }
func expecting(n int) option {
	return func(c *Config) { c.BootstrapExpect = n }
}
func joining(nodes ...*testNode) option {
	return func(c *Config) {
		for _, n := range nodes {
			c.Join = append(c.Join, n.GossipAddr())
		}
	}
}

// startNode starts a server; path "" keeps nothing on disk.
func startNode(t *testing.T, name, path string, opts ...option) *testNode {
	t.Helper()
	n, err := tryNode(t, name, path, opts...)
	// A node that comes back may find that a connection of another test has its port just now.
	for until := time.Now().Add(5 * time.Second); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(until); {
		time.Sleep(20 * time.Millisecond)
		n, err = tryNode(t, name, path, opts...)
	}
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	return n
}

func tryNode(t *testing.T, name, path string, opts ...option) (*testNode, error) {
	n := &testNode{t: t, path: path, fsm: &testFSM{}, fatal: make(chan error, 1), superseded: make(chan error, 1), members: make(chan Member, 256)}
	var err error
	n.dir = MemoryDataDir(name)
	if path != "" {
		if n.dir, err = OpenDataDir(path, name); err != nil {
			return nil, err
		}
	}
	cfg := Config{
		Name: name, Role: RoleServer, Version: "test", Data: n.dir, FSM: n.fsm,
		RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", Log: testLog(t, name), Label: t.Name(),
		Fatal: func(err error) { n.fatal <- err },
	}
	for _, o := range opts {
		o(&cfg)
	}
	n.dir = cfg.Data
	if n.Cluster, err = New(cfg); err == nil {
		err = n.Start(Handlers{Lead: n.lead, HTTP: echo(name), MembersChanged: func(changed []Member) {
			for _, m := range changed {
				select {
				case n.members <- m:
				default:
				}
			}
		}, LeaderChanged: func(addr string) { n.told.Store(addr) }, Superseded: func(err error) { n.superseded <- err }})
	}
	if err != nil {
		_ = n.dir.Close()
		return nil, err
	}
	t.Cleanup(n.halt)
	return n, nil
}

func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s got %s", name, r.URL.Path) })
}

// halt shuts down in an orderly way.
func (n *testNode) halt() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := n.Shutdown(ctx); err != nil {
		n.t.Errorf("shut down %s: %v", n.cfg.Name, err)
	}
	if err := n.dir.Close(); err != nil {
		n.t.Errorf("close %s: %v", n.cfg.Name, err)
	}
}

// kill stops without a word to anybody, as far as a process can that goes on.
func (n *testNode) kill() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.port.Close()
	if err := n.Shutdown(ctx); err != nil {
		n.t.Errorf("kill %s: %v", n.cfg.Name, err)
	}
	if err := n.dir.Close(); err != nil {
		n.t.Errorf("close %s: %v", n.cfg.Name, err)
	}
}

// startThree starts servers a, b and c, in that order, each joining those before.
func startThree(t *testing.T, opts ...option) []*testNode {
	t.Helper()
	base := t.TempDir()
	var nodes []*testNode
	for _, name := range []string{"a", "b", "c"} {
		all := append([]option{expecting(3), joining(nodes...)}, opts...)
		nodes = append(nodes, startNode(t, name, filepath.Join(base, name), all...))
	}
	waitLeader(t, nodes...)
	return nodes
}

// waitLeader waits until one of the nodes leads and all of them know it.
func waitLeader(t *testing.T, nodes ...*testNode) *testNode {
	t.Helper()
	var leader *testNode
	eventually(t, 10*time.Second, "one leader that all know", func() bool {
		leader = nil
		for _, n := range nodes {
			if n.leads() != 0 {
				leader = n
			}
		}
		if leader == nil {
			return false
		}
		for _, n := range nodes {
			if name, addr := n.Leader(); name != leader.cfg.Name || addr != leader.RPCAddr() {
				return false
			}
		}
		return true
	})
	return leader
}

func others(leader *testNode, nodes []*testNode) []*testNode {
	var rest []*testNode
	for _, n := range nodes {
		if n != leader {
			rest = append(rest, n)
		}
	}
	return rest
}

func propose(t *testing.T, n *testNode, data string) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	index, _, err := n.Propose(ctx, 0, []byte(data))
	if err != nil {
		t.Fatalf("propose on %s: %v", n.cfg.Name, err)
	}
	return index
}

func waitApplied(t *testing.T, n *testNode, index uint64) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%s has applied entry %d", n.cfg.Name, index), func() bool { return n.fsm.applied() >= index })
}

func TestSingleServerLeadsAtOnceAndKeepsItsState(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	began := time.Now()
	n := startNode(t, "a", path, expecting(1))
	eventually(t, 5*time.Second, "leads", func() bool { return n.leads() != 0 })
	t.Logf("led after %s", time.Since(began))
	index := propose(t, n, "four")
	waitApplied(t, n, index)
	term := n.leads()
	n.halt()

	n = startNode(t, "a", path, expecting(1))
	eventually(t, 5*time.Second, "leads again", func() bool { return n.leads() > term })
	if got := n.fsm.total(); got != 4 {
		t.Errorf("after the restart the FSM holds %d, want 4", got)
	}
}

func TestThreeServersFormOneCluster(t *testing.T) {
	t.Parallel()
	began := time.Now()
	nodes := startThree(t)
	t.Logf("formed after %s", time.Since(began))
	leader := waitLeader(t, nodes...)
	index := propose(t, leader, "hello")
	for _, n := range nodes {
		waitApplied(t, n, index)
		if got := len(n.Peers()); got != 3 {
			t.Errorf("%s knows %d peers, want 3", n.cfg.Name, got)
		}
		if got := len(n.Servers()); got != 3 {
			t.Errorf("%s knows %d servers, want 3", n.cfg.Name, got)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := leader.VerifyLeader(ctx); err != nil {
		t.Errorf("the leader can't verify that it leads: %v", err)
	}
	for _, n := range others(leader, nodes) {
		if err := n.VerifyLeader(ctx); err == nil {
			t.Errorf("%s verified that it leads", n.cfg.Name)
		}
	}
}

// The question that Raft's main loop is asked is answered in every state, and changes nothing.
func TestRaftAnswersAndIsLeftAlone(t *testing.T) {
	t.Parallel()
	blank := startNode(t, "z", t.TempDir(), expecting(3))
	blank.askRaft()
	if !blank.raftIsEmpty() {
		t.Error("a server without state has some now")
	}
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	index := propose(t, leader, "hello")
	for _, n := range nodes {
		waitApplied(t, n, index)
		before := n.raft.LastIndex()
		n.askRaft()
		if n.raft.LastIndex() != before || len(n.Peers()) != 3 {
			t.Errorf("%s has %d entries, had %d, and knows %d peers", n.cfg.Name, n.raft.LastIndex(), before, len(n.Peers()))
		}
	}
	if leader.leads() == 0 {
		t.Error("the leader leads no more")
	}
}

func TestKilledLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	term := leader.leads()
	began := time.Now()
	leader.kill()
	next := waitLeader(t, others(leader, nodes)...)
	t.Logf("replaced after %s", time.Since(began))
	if leader.leads() != 0 {
		t.Error("the killed leader's work goes on")
	}
	if got := next.leads(); got <= term {
		t.Errorf("the new leader's term is %d, not above %d", got, term)
	}
	propose(t, next, "x")
	eventually(t, 10*time.Second, "gossip calls it dead", func() bool {
		m, ok := next.Member(leader.cfg.Name)
		return ok && m.Health == HealthDead
	})
	for _, n := range nodes {
		if n.overlapped() {
			t.Errorf("two reigns of %s ran at once", n.cfg.Name)
		}
	}
}
