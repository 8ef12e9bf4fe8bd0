package lease

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// testCluster is one leader on the real store, reached by streams in memory, in virtual time.
type testCluster struct {
	state   *fsm.State
	changed chan struct{}
	server  *leader.Server
	index   uint64
	mu      sync.RWMutex
	full    bool // the log takes nothing
	void    bool // entries that end sessions have no effect
	cut     map[string]bool
	streams map[string]*memStream // the newest of each node
	verify  error                 // what verifying the leadership ends in
	depose  func()                // ends the first leadership
	toldMu  sync.Mutex            // a lock of its own: hooks are called while the state is read
	told    []string              // what the hooks were told
}

// LastLed implements [leader.Log]: nobody knows.
func (c *testCluster) LastLed(context.Context, uint64) (time.Duration, error) {
	return 0, nil
}

func (c *testCluster) Propose(ctx context.Context, term uint64, cmd fsm.Command) (fsm.Result, error) {
	select {
	case <-time.After(2 * time.Millisecond):
	case <-ctx.Done():
		return fsm.Result{}, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full {
		return fsm.Result{}, leader.ErrNotProposed
	}
	c.index++
	if _, ends := cmd.(*fsm.CloseSessions); ends && c.void {
		return fsm.Result{Err: fsm.ErrStaleTerm}, nil
	}
	res := c.state.Apply(c.index, term, cmd)
	if res.Changed {
		close(c.changed)
		c.changed = make(chan struct{})
	}
	return res, nil
}

func (c *testCluster) Read(f func(*fsm.State)) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	f(c.state)
}

func (c *testCluster) Changed() <-chan struct{} {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.changed
}

func (c *testCluster) VerifyLeader(ctx context.Context) error {
	select {
	case <-time.After(time.Millisecond):
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.verify
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *testCluster) setFull(full bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.full = full
}

func (c *testCluster) tell(format string, args ...any) {
	c.toldMu.Lock()
	defer c.toldMu.Unlock()
	c.told = append(c.told, fmt.Sprintf(format, args...))
}

func (c *testCluster) hasTold() []string {
	c.toldMu.Lock()
	defer c.toldMu.Unlock()
	return slices.Clone(c.told)
}

func (c *testCluster) setCut(node string, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[node] = cut
}

func (c *testCluster) setVerify(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verify = err
}

// breakStream ends a node's stream.
func (c *testCluster) breakStream(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[node]; s != nil {
		s.cancel()
	}
}

// updates counts the updates on a node's present stream.
func (c *testCluster) updates(node string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[node].updates.Load()
}

func (c *testCluster) isCut(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut[node]
}

// memStream is both ends of a stream.
type memStream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelFunc
	up     chan *leasepb.NodeMessage
	down   chan *leasepb.LeaderMessage
	lost   func() bool

	updates atomic.Int64 // from the node
}

func (s *memStream) Context() context.Context { return s.ctx }

func (s *memStream) Close() { s.cancel() }

func pass[M any](s *memStream, ch chan M, m M) error {
	if s.lost() {
		return nil // on the way
	}
	select {
	case ch <- m:
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

func take[M any](s *memStream, ch chan M) (m M, err error) {
	select {
	case m = <-ch:
		return m, nil
	case <-s.ctx.Done():
		return m, io.EOF
	}
}

type nodeEnd struct{ *memStream }

func (s nodeEnd) Send(m *leasepb.NodeMessage) error {
	if m.GetUpdate() != nil {
		s.updates.Add(1)
	}
	return pass(s.memStream, s.up, m)
}

func (s nodeEnd) Recv() (*leasepb.LeaderMessage, error) { return take(s.memStream, s.down) }

type leaderEnd struct{ *memStream }

func (s leaderEnd) Send(m *leasepb.LeaderMessage) error { return pass(s.memStream, s.down, m) }

func (s leaderEnd) Recv() (*leasepb.NodeMessage, error) { return take(s.memStream, s.up) }

func (c *testCluster) connect(name string) Connector {
	return func(ctx context.Context, _ string) (Stream, error) {
		if c.isCut(name) {
			return nil, errors.New("unreachable")
		}
		ctx, cancel := context.WithCancel(ctx)
		s := &memStream{
			ctx: ctx, cancel: cancel,
			up: make(chan *leasepb.NodeMessage, 16), down: make(chan *leasepb.LeaderMessage, 16),
			lost: func() bool { return c.isCut(name) },
		}
		c.mu.Lock()
		c.streams[name] = s
		c.mu.Unlock()
		go func() {
			defer cancel()
			_ = c.server.Session(leaderEnd{s})
		}()
		return nodeEnd{s}, nil
	}
}

// bubbleClock is the time of the bubble.
type bubbleClock struct{ start time.Time }

func (c bubbleClock) Now() time.Duration { return time.Since(c.start) + time.Hour }

func (c bubbleClock) Wall() time.Duration { return time.Since(c.start) }

func startCluster(t *testing.T, limits ...limit.Limit) *testCluster {
	t.Helper()
	c := &testCluster{cut: map[string]bool{}, streams: map[string]*memStream{}, state: fsm.NewState(), changed: make(chan struct{})}
	c.server = leader.New(c, c, func() string { return "" }, hclog.NewNullLogger())
	c.server.OnEnd = func(e leader.SessionEnd) { c.tell("%s %s: %d slots", e.Node, e.Why, e.Slots) }
	if _, err := c.Propose(t.Context(), 1, &fsm.Init{ClusterID: "test", TTL: 3 * time.Second, Limits: limits}); err != nil {
		t.Fatal(err)
	}
	c.depose = c.lead(t, 1)
	return c
}

// lead makes the server lead until the test ends, or the function returned is called.
func (c *testCluster) lead(t *testing.T, term uint64) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.server.Lead(ctx, term, 0)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// start runs a node until the test ends, or the function returned is called.
func (c *testCluster) start(t *testing.T, name, identity string) (*Manager, func() error) {
	t.Helper()
	m := NewManager(ManagerConfig{
		Name: name, Identity: identity, Connect: c.connect(name),
		Clock: bubbleClock{time.Now()}, Log: hclog.NewNullLogger(),
		OnFence: func(severed int) { c.tell("%s fenced: %d severed", name, severed) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	var once sync.Once
	var result error
	stop := func() error {
		once.Do(func() {
			cancel()
			result = <-ended
		})
		return result
	}
	t.Cleanup(func() { _ = stop() })
	return m, stop
}
