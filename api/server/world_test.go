package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// bench is a cluster in memory: the real state machine, a log that is one counter, and nodes whose
// peer handlers reach each other by function call. A node's view, the leader's too, moves only in
// WaitTable, so that a server which forgets to wait shows stale limits.
type bench struct {
	t      testing.TB
	mu     sync.Mutex
	state  *fsm.State
	index  uint64
	leader string // "" while nobody leads
	nodes  map[string]*benchNode
}

type benchNode struct {
	b      *bench
	name   string
	server *Server
	// transport leads to the server where it serves in memory.
	transport *http.Transport

	mu        sync.Mutex
	table     *limit.Table
	stuck     bool // the view never moves
	down      bool // can't be dialled
	proxy     bool // holds no Raft state
	deposed   bool // believes that it leads, but can't commit
	unsure    bool // can't say whether it has applied all that is committed
	dead      bool // as gossip has it
	hang      bool // accepts and never answers
	lose      int  // so many answers to forwarded requests are lost
	lostRoute bool // … before the request got there
	asked     []*http.Request

	uses []NodeUse
	// unassigned is what the log has of a rate.
	unassigned map[limit.Key]float64
	// grants is what the log has granted to each node.
	grants   map[string]map[limit.Key]int64
	list     []api.Connection
	closed   []string
	st       api.Status
	notReady string
	members  []api.Node
	propose  error // what Propose answers instead of working
	began    []string
	reload   error
	raftErr  error
	panics   bool
}

func newBench(t testing.TB, cfg Config, names ...string) *bench {
	t.Helper()
	b := &bench{t: t, state: fsm.NewState(), nodes: make(map[string]*benchNode)}
	b.apply(&fsm.Init{ClusterID: "test", TTL: 1e10})
	for _, name := range names {
		n := &benchNode{b: b, name: name, table: b.state.Table()}
		n.st = api.Status{Node: name, Version: "v1", Role: "server", Leader: names[0], Ready: true, Session: api.SessionStatus{State: "none"}, Raft: api.RaftStatus{State: "follower"}}
		c := cfg
		c.Node = name
		n.server = New(c, Deps{
			Log: n, Leader: n, View: n, Status: n, Nodes: n, Uses: n, Peers: n, Connections: n, Lifecycle: n, Raft: n, Snapshots: n, Diagnostics: n, Metrics: n,
			Logger: hclog.NewNullLogger(),
		})
		b.nodes[name] = n
	}
	b.leader = names[0]
	return b
}

func (b *bench) apply(c fsm.Command) (uint64, fsm.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index++
	return b.index, b.state.Apply(b.index, 1, c)
}

// put and remove write a limit, whoever leads.
func (b *bench) put(pattern string, connections int64) {
	p, _ := limit.ParsePattern(pattern)
	b.apply(&fsm.PutLimit{Limit: limit.Limit{Pattern: p, Connections: connections, Source: limit.SourceAPI}})
}

func (b *bench) remove(pattern string) {
	p, _ := limit.ParsePattern(pattern)
	b.apply(&fsm.DeleteLimit{Pattern: p})
}

// see shows all nodes what is committed.
func (b *bench) see() {
	for _, n := range b.nodes {
		n.set(func() { n.table = b.tableNow() })
	}
}

func (b *bench) elect(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leader = name
}

func (b *bench) leading() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leader
}

func (b *bench) tableNow() *limit.Table {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Table()
}

// listen makes the node's server serve on a socket until the test's end, and returns its address.
func (n *benchNode) listen(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := n.server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func (n *benchNode) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *benchNode) Propose(_ context.Context, c fsm.Command) (uint64, fsm.Result, error) {
	n.mu.Lock()
	err, deposed := n.propose, n.deposed
	n.mu.Unlock()
	if err != nil {
		return 0, fsm.Result{}, err
	}
	if deposed || n.b.leading() != n.name {
		return 0, fsm.Result{}, ErrNotLeader
	}
	index, r := n.b.apply(c)
	return index, r, nil
}

func (n *benchNode) Committed() *limit.Table { return n.b.tableNow() }

func (n *benchNode) ConfigLimits(context.Context) ([]limit.Limit, bool) {
	n.mu.Lock()
	unsure := n.deposed || n.unsure
	n.mu.Unlock()
	if unsure || n.b.leading() != n.name {
		return nil, false
	}
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	return n.b.state.ConfigLimits(), true
}

func (n *benchNode) Leader() (string, http.RoundTripper, bool, bool) {
	n.mu.Lock()
	deposed, panics := n.deposed, n.panics
	n.mu.Unlock()
	if panics {
		panic("a broken invariant")
	}
	leader := n.b.leading()
	switch {
	case deposed, leader == n.name:
		return n.name, nil, true, true
	case leader == "":
		return "", nil, false, false
	}
	return leader, n.way(leader), false, true
}

func (n *benchNode) Table() *limit.Table {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.table
}

func (n *benchNode) WaitTable(ctx context.Context, index uint64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stuck {
		n.mu.Unlock()
		<-ctx.Done()
		n.mu.Lock()
		return ctx.Err()
	}
	if n.table.Index < index {
		n.table = n.b.tableNow()
	}
	if n.table.Index < index {
		return fmt.Errorf("asked to wait for table %d, the log's last is %d", index, n.table.Index)
	}
	return nil
}

func (n *benchNode) Status() api.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.st
}

func (n *benchNode) Ready() (bool, string) { return n.notReady == "", n.notReady }

func (n *benchNode) Nodes() []api.Node {
	var nodes []api.Node
	for _, m := range n.members {
		m.Role, m.Health, m.Session = cmp.Or(m.Role, "server"), cmp.Or(m.Health, "alive"), cmp.Or(m.Session, "none")
		nodes = append(nodes, m)
	}
	return nodes
}

func (n *benchNode) Uses(scope limit.Scope) []NodeUse {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(n.uses), func(u NodeUse) bool { return u.Key.Scope != scope })
}

func (n *benchNode) Use(key limit.Key) (NodeUse, bool) {
	for _, u := range n.uses {
		if u.Key == key {
			return u, true
		}
	}
	return NodeUse{}, false
}

// Unassigned says what is set where the node is a server.
func (n *benchNode) Unassigned(key limit.Key) (float64, bool) {
	return n.unassigned[key], !n.proxy
}

func (n *benchNode) GrantedTo(key limit.Key, node string) int64 { return n.grants[node][key] }

func (n *benchNode) Peers() []Peer {
	var peers []Peer
	for _, name := range slices.Sorted(maps.Keys(n.b.nodes)) {
		if name != n.name {
			var dead bool
			other := n.b.nodes[name]
			other.set(func() { dead = other.dead })
			peers = append(peers, Peer{Name: name, Dead: dead, RT: n.way(name)})
		}
	}
	return peers
}

func (n *benchNode) Connections(host string) []api.Connection {
	list := slices.DeleteFunc(slices.Clone(n.list), func(c api.Connection) bool { return host != "" && c.Host != host })
	for i := range list {
		list[i].Protocol = cmp.Or(list[i].Protocol, "http")
	}
	return list
}

func (n *benchNode) CloseConnection(id string) bool {
	n.closed = append(n.closed, id)
	return slices.ContainsFunc(n.list, func(c api.Connection) bool { return c.ID == id })
}

func (n *benchNode) Drain(context.Context) error {
	n.set(func() { n.began, n.st.Draining = append(n.began, "drain"), true })
	return nil
}

func (n *benchNode) Undrain(context.Context) error {
	if n.st.Leaving {
		return fmt.Errorf("%w: %s is leaving", ErrConflict, n.name)
	}
	n.set(func() { n.began, n.st.Draining = append(n.began, "undrain"), false })
	return nil
}

func (n *benchNode) Leave(context.Context) error {
	n.set(func() { n.began, n.st.Leaving = append(n.began, "leave"), true })
	return nil
}

func (n *benchNode) Reload(context.Context) (api.Reloaded, error) {
	return api.Reloaded{Applied: []string{"log.level"}}, n.reload
}

func (n *benchNode) RaftPeers() ([]api.RaftPeer, error) {
	if n.proxy {
		return nil, ErrNoRaft
	}
	return []api.RaftPeer{{Name: "b"}, {Name: "a", Leader: true}}, nil
}

func (n *benchNode) Settings() []api.Setting {
	return []api.Setting{{Path: "name", Value: `"` + n.name + `"`, At: "weir.hcl:1"}, {Path: "role", Value: `"server"`}}
}

func (n *benchNode) RecentLog(most int) []string {
	lines := []string{"the first line of " + n.name, "the second", "the third"}
	return lines[max(0, len(lines)-most):]
}

func (n *benchNode) System() api.System {
	return api.System{Node: n.name, Version: "v1", OS: "linux", CPUs: 2, PID: 1, Started: time.Unix(1e9, 0).UTC(), Now: time.Unix(2e9, 0).UTC()}
}

func (n *benchNode) Freeze() (*fsm.Frozen, error) {
	if n.proxy {
		return nil, ErrNoRaft
	}
	n.b.mu.Lock()
	defer n.b.mu.Unlock()
	return n.b.state.Freeze(), nil
}

func (n *benchNode) RemovePeer(_ context.Context, name string) (uint64, error) {
	if n.b.leading() != n.name {
		return 0, ErrNotLeader
	}
	n.began = append(n.began, "remove "+name)
	return 17, n.raftErr
}

func (n *benchNode) TransferLeadership(_ context.Context, to string) error {
	if n.b.leading() != n.name {
		return ErrNotLeader
	}
	n.began = append(n.began, "transfer "+to)
	return n.raftErr
}

// way is the path from n to another node's peer handler.
func (n *benchNode) way(to string) http.RoundTripper {
	target := n.b.nodes[to]
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		target.mu.Lock()
		down, hang, lose, early := target.down, target.hang, target.lose > 0, target.lostRoute
		if lose {
			target.lose--
		}
		target.asked = append(target.asked, r)
		target.mu.Unlock()
		if down {
			return nil, fmt.Errorf("way: %w", &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
		}
		if hang {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		if lose && early {
			return nil, syscall.ECONNRESET
		}
		w := httptest.NewRecorder()
		target.server.PeerHandler().ServeHTTP(w, r)
		if lose {
			return nil, syscall.ECONNRESET
		}
		return w.Result(), nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// try is one request to a node's public handler.
type try struct {
	method, path, body string
	header             map[string]string
	host               string
}

func (n *benchNode) do(k try) *httptest.ResponseRecorder {
	w := n.serve(n.server.Handler(), k)
	if t, ok := n.b.t.(*testing.T); ok { // a fuzz target's own T is another
		checkAnswer(t, n.server, k, w)
	}
	return w
}

func (n *benchNode) serve(h http.Handler, k try) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, k.request())
	return w
}

func (k try) request() *http.Request {
	r := httptest.NewRequest(k.method, k.path, strings.NewReader(k.body))
	r.Host = "127.0.0.1:8081"
	if k.host != "" {
		r.Host = k.host
	}
	if k.method == "PUT" || k.method == "POST" {
		r.Header.Set("Content-Type", "application/json")
	}
	for name, v := range k.header {
		if v == "" {
			r.Header.Del(name)
			continue
		}
		r.Header.Set(name, v)
	}
	return r
}

// get decodes a successful answer.
func get[T any](t *testing.T, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if w.Code < 200 || w.Code > 299 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json" {
		t.Fatalf("Content-Type %q", ct)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v in %s", err, w.Body)
	}
	return v
}

// refused checks that an answer is a well-formed problem.
func refused(t *testing.T, w *httptest.ResponseRecorder, status int, detail string) api.Problem {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("status %d, not a problem: %v in %q", w.Code, err, w.Body)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type %q", ct)
	}
	if w.Code != status || p.Status != status || p.Title != http.StatusText(status) || p.Code == "" {
		t.Fatalf("want %d, got %d %s", status, w.Code, w.Body)
	}
	if !strings.Contains(p.Detail, detail) {
		t.Errorf("detail %q, want %q in it", p.Detail, detail)
	}
	if status == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	return p
}

// pathLimit is where the limits on hosts are.
const pathLimit = api.PathLimits + "/host/"
