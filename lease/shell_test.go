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
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/fsm/fsmpb"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testCluster is one leader on the real store, reached by streams in memory, in virtual time.
type testCluster struct {
	state   *fsm.State
	changed chan struct{}
	server  *Server
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

func (c *testCluster) Propose(ctx context.Context, term uint64, cmd fsm.Command) (fsm.Result, error) {
	select {
	case <-time.After(2 * time.Millisecond):
	case <-ctx.Done():
		return fsm.Result{}, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full {
		return fsm.Result{}, ErrNotProposed
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
}

func (s *memStream) Context() context.Context { return s.ctx }
func (s *memStream) Close()                   { s.cancel() }

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

func (s nodeEnd) Send(m *leasepb.NodeMessage) error     { return pass(s.memStream, s.up, m) }
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

func (c bubbleClock) Now() time.Duration  { return time.Since(c.start) + time.Hour }
func (c bubbleClock) Wall() time.Duration { return time.Since(c.start) }

func startCluster(t *testing.T, limits ...limit.Limit) *testCluster {
	t.Helper()
	c := &testCluster{cut: map[string]bool{}, streams: map[string]*memStream{}, state: fsm.NewState(), changed: make(chan struct{})}
	c.server = NewServer(c, c, func() string { return "" }, hclog.NewNullLogger())
	c.server.OnEnd = func(e SessionEnd) { c.tell("%s %s: %d slots", e.Node, e.Why, e.Slots) }
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

// holder notes how it was severed.
type holder struct {
	mu   sync.Mutex
	why  Reason
	done chan struct{}
}

func newHolder() *holder { return &holder{done: make(chan struct{})} }

func (h *holder) Sever(why Reason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.why == 0 {
		h.why = why
		close(h.done)
	}
}

func (h *holder) severed() Reason {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.why
}

// acquire acquires a new slot.
func acquire(m *Manager, ctx context.Context, target limit.Target, h Holder) (*Slot, error) {
	s := new(Slot)
	if err := m.Acquire(ctx, s, target, h); err != nil {
		return nil, err
	}
	return s, nil
}

func to(t testing.TB, s string) limit.Target {
	t.Helper()
	tg, err := limit.ParseTarget(s, 443)
	if err != nil {
		t.Fatal(err)
	}
	return tg
}

func TestManagerAcquiresAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 2, limit.Queue{}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		up := to(t, "up")
		s1, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		s2, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := acquire(m, t.Context(), up, newHolder()); !errors.Is(err, ErrOverLimit) {
			t.Fatalf("a third of 2 connections: %v, want ErrOverLimit", err)
		}
		s1.Release()
		s1.Release() // a second time must not free a second slot
		s3, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := acquire(m, t.Context(), up, newHolder()); !errors.Is(err, ErrOverLimit) {
			t.Fatalf("releasing twice freed two slots: %v", err)
		}
		s2.Release()
		s3.Release()
		if _, err := acquire(m, t.Context(), to(t, "free.example"), newHolder()); err != nil {
			t.Fatalf("a host without a limit: %v", err)
		}
	})
}

func TestQueueIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 1, limit.Queue{Timeout: 2 * time.Second, Size: 3}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		up := to(t, "up")
		first, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan int, 3)
		var waiters sync.WaitGroup
		for i := range 3 {
			waiters.Go(func() {
				s, err := acquire(m, t.Context(), up, newHolder())
				if err != nil {
					t.Errorf("waiter %d: %v", i, err)
					return
				}
				order <- i
				s.Release()
			})
			synctest.Wait()
		}
		if _, err := acquire(m, t.Context(), up, newHolder()); !errors.Is(err, ErrQueueFull) {
			t.Fatalf("a fourth waiter in a queue of 3: %v", err)
		}
		first.Release()
		for want := range 3 {
			if got := <-order; got != want {
				t.Fatalf("waiter %d was served in place of %d", got, want)
			}
		}
		waiters.Wait()
	})
}

func TestQueueTimesOutAndCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 1, limit.Queue{Timeout: 2 * time.Second, Size: 3}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		up := to(t, "up")
		s, err := acquire(m, t.Context(), up, newHolder())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := acquire(m, t.Context(), up, newHolder()); !errors.Is(err, ErrQueueTimeout) {
			t.Fatalf("waiting too long: %v", err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("waited %v in a queue of 2s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := acquire(m, ctx, up, newHolder()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a client that went away: %v", err)
		}
		for _, h := range m.Hosts() {
			if h.Waiting != 0 || h.InUse != 1 {
				t.Errorf("%s: %d waiting, %d in use; want 0 and 1", h.Key, h.Waiting, h.InUse)
			}
		}
		s.Release()
	})
}

// A node that is cut off resets its connections before its deadline, and its slots are used
// elsewhere only after it.
func TestCutOffNodeFencesBeforeReclaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 1, limit.Queue{Timeout: time.Minute, Size: 3}))
		a, _ := c.start(t, "a", "1")
		b, _ := c.start(t, "b", "2")
		if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
			t.Fatal(err)
		}
		h := newHolder()
		s, err := acquire(a, t.Context(), to(t, "up"), h)
		if err != nil {
			t.Fatal(err)
		}
		c.setCut("a", true)
		cut := time.Now()
		var fencedAfter time.Duration
		go func() {
			<-h.done
			fencedAfter = time.Since(cut)
			if s.Live() {
				t.Error("a severed slot is live")
			}
			s.Release()
		}()
		s2, err := acquire(b, t.Context(), to(t, "up"), newHolder())
		if err != nil {
			t.Fatal(err)
		}
		reused := time.Since(cut)
		t.Logf("fenced %v after the cut, reused after %v", fencedAfter, reused)
		if h.severed() != SeverFenced || fencedAfter >= 3*time.Second || fencedAfter == 0 {
			t.Errorf("severed for %v after %v, want fenced within the ttl", h.severed(), fencedAfter)
		}
		if reused < fencedAfter || reused > 4*time.Second {
			t.Errorf("reused after %v: want after the fence, within ttl + 1 s", reused)
		}
		if _, err := acquire(a, t.Context(), to(t, "up"), newHolder()); !errors.Is(err, ErrNoLease) {
			t.Errorf("a fenced node admitted: %v", err)
		}
		if got := a.Session().State; got != "fenced" {
			t.Errorf("session %s, want fenced", got)
		}
		free, err := acquire(a, t.Context(), to(t, "free.example"), newHolder())
		if err != nil || !free.Live() {
			t.Errorf("a fenced node refused a host without a limit: %v", err)
		}
		if want, got := []string{"a fenced: 1 severed", "a expired: 1 slots"}, c.hasTold(); !slices.Equal(got, want) {
			t.Errorf("the hooks were told %q, want %q", got, want)
		}
		c.setCut("a", false)
		if err := a.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		s2.Release()
	})
}

func TestNameOfALiveNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t)
		a, stopA := c.start(t, "a", "1")
		if err := a.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		twin := NewManager(ManagerConfig{Name: "a", Identity: "2", Connect: c.connect("a"), Clock: bubbleClock{time.Now()}, Log: hclog.NewNullLogger()})
		if err := twin.Run(ctx); !errors.Is(err, ErrNameTaken) {
			t.Fatalf("a second node of the same name: %v, want ErrNameTaken", err)
		}
		if got := a.Session().State; got != "live" {
			t.Errorf("the first one's session is %s", got)
		}
		// Once the first has gone without a goodbye, a third waits its session out.
		_ = stopA()
		gone := time.Now()
		d, _ := c.start(t, "a", "3")
		if err := d.WaitLive(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(gone); took < 2*time.Second || took > 6*time.Second {
			t.Errorf("another identity got the name after %v, want about ttl + margin", took)
		}
	})
}

func TestGoodbyeFreesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 1, limit.Queue{Timeout: time.Minute, Size: 3}))
		a, _ := c.start(t, "a", "1")
		b, _ := c.start(t, "b", "2")
		if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
			t.Fatal(err)
		}
		s, err := acquire(a, t.Context(), to(t, "up"), newHolder())
		if err != nil {
			t.Fatal(err)
		}
		a.Drain()
		s.Release()
		id, err := a.Goodbye(t.Context())
		if err != nil || id == 0 {
			t.Fatalf("goodbye of session %d: %v", id, err)
		}
		began := time.Now()
		if _, err := acquire(b, t.Context(), to(t, "up"), newHolder()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("the slot was usable after %v", took)
		}
	})
}

// A new leader takes over without a connection being lost, and grants again.
func TestSessionsSurviveALeaderChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 2, limit.Queue{Timeout: time.Minute, Size: 3}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		h := newHolder()
		s, err := acquire(m, t.Context(), to(t, "up"), h)
		if err != nil {
			t.Fatal(err)
		}
		id := m.Session().ID
		c.depose()
		if m.await(t.Context(), func() bool { return !m.node.welcomed }) != nil {
			t.Fatal("the stream outlived its leader")
		}
		c.lead(t, 2)
		if _, err := acquire(m, t.Context(), to(t, "up"), newHolder()); err != nil {
			t.Fatal(err)
		}
		if got := m.Session().ID; got != id || h.severed() != 0 {
			t.Errorf("session %d became %d, severed %v", id, got, h.severed())
		}
		s.Release()
	})
}

// Without a verified leadership nobody is answered: a stream that would wait for ever ends, and a
// lease runs out.
func TestUnverifiedLeaderAnswersNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 2, limit.Queue{}))
		a, _ := c.start(t, "a", "1")
		if err := a.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		h := newHolder()
		s, err := acquire(a, t.Context(), to(t, "up"), h)
		if err != nil {
			t.Fatal(err)
		}
		c.setVerify(errors.New("deposed"))
		b, _ := c.start(t, "b", "2")
		select {
		case <-h.done:
		case <-time.After(10 * time.Second):
			t.Fatal("a node went on past its lease")
		}
		s.Release()
		if got := a.Session().State; got != SessionFenced {
			t.Errorf("session %s without a verified answer, want fenced", got)
		}
		if got := b.Session().State; got != SessionNone {
			t.Errorf("session %s was opened without a verified answer", got)
		}
		c.setVerify(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := errors.Join(a.WaitLive(ctx), b.WaitLive(ctx)); err != nil {
			t.Fatal(err)
		}
	})
}

// racingStore changes the limits right after the new leader has read them.
type racingStore struct {
	*testCluster
	change func()
}

func (s *racingStore) Read(f func(*fsm.State)) {
	s.testCluster.Read(f)
	if change := s.change; change != nil {
		s.change = nil
		change()
	}
}

// A change of the limits in the first moment of a leadership reaches the nodes.
func TestLimitsChangedAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 2, limit.Queue{}))
		c.depose()
		store := &racingStore{testCluster: c}
		changed := uint64(0)
		store.change = func() {
			l := configLimit(t, "up", 7, limit.Queue{})
			if _, err := c.Propose(t.Context(), 1, &fsm.PutLimit{Limit: l}); err != nil {
				t.Error(err)
			}
			changed = c.index
		}
		c.server = NewServer(c, store, func() string { return "" }, hclog.NewNullLogger())
		c.lead(t, 2)
		m, _ := c.start(t, "a", "1")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := m.WaitLive(ctx); err != nil {
			t.Fatal(err)
		}
		if err := m.WaitTable(ctx, changed); err != nil {
			t.Errorf("the node never heard of the limits at index %d: %v", changed, err)
		}
	})
}

// A log that takes nothing for a while delays grants and loses nothing.
func TestFullDiskDelaysGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 2, limit.Queue{Timeout: time.Minute, Size: 3}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.setFull(true)
		time.AfterFunc(5*time.Second, func() { c.setFull(false) })
		began := time.Now()
		s, err := acquire(m, t.Context(), to(t, "up"), newHolder())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("granted after %v, want just after the disk had room again", took)
		}
		s.Release()
	})
}

// Kept-alive connections count, and are the first to go when somebody waits.
func TestParkedConnectionsAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 1, limit.Queue{}))
		a, _ := c.start(t, "a", "1")
		b, _ := c.start(t, "b", "2")
		if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
			t.Fatal(err)
		}
		for i, m := range []*Manager{a, b} {
			h := newHolder()
			s, err := acquire(a, t.Context(), to(t, "up"), h)
			if err != nil {
				t.Fatal(err)
			}
			s.Park()
			if i == 0 && !s.Unpark() {
				t.Fatal("a parked slot that nobody wants can't be used again")
			}
			s.Park()
			go func() {
				<-h.done
				if s.Unpark() {
					t.Error("a slot that was asked for can be used again")
				}
				s.Release()
			}()
			synctest.Wait() // for the leader to hear that it is parked: the other node's request must not overtake that
			next, err := acquire(m, t.Context(), to(t, "up"), newHolder())
			if err != nil {
				t.Fatalf("node %d: a parked connection was not given up: %v", i, err)
			}
			if h.severed() != SeverWanted {
				t.Errorf("severed for %v", h.severed())
			}
			next.Release()
		}
	})
}

// Nobody is refused, on this node or another, for a slot whose connection is closing.
func TestClosingSlotIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, configLimit(t, "up", 1, limit.Queue{}))
		a, _ := c.start(t, "a", "1")
		b, _ := c.start(t, "b", "2")
		if err := errors.Join(a.WaitLive(t.Context()), b.WaitLive(t.Context())); err != nil {
			t.Fatal(err)
		}
		for i, m := range []*Manager{a, b, b, a} {
			holder := []*Manager{a, a, b, b}[i]
			s, err := acquire(holder, t.Context(), to(t, "up"), newHolder())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := acquire(m, t.Context(), to(t, "up"), newHolder()); !errors.Is(err, ErrOverLimit) {
				t.Fatalf("case %d: over the limit: %v", i, err)
			}
			s.Closing()
			time.AfterFunc(30*time.Millisecond, s.Release)
			next, err := acquire(m, t.Context(), to(t, "up"), newHolder())
			if err != nil {
				t.Fatalf("case %d: a closing slot was not waited for: %v", i, err)
			}
			next.Release()
			time.Sleep(time.Second) // of virtual time: refusals are forgotten
		}
	})
}

// A process that was stopped past its lease admits nothing and reads nothing when it wakes, before
// any timer has run.
func TestFrozenProcess(t *testing.T) {
	clock := &manualClock{}
	m := NewManager(ManagerConfig{Name: "a", Identity: "1", Clock: clock, Log: hclog.NewNullLogger()})
	table := limit.NewTable(1, 1, []limit.Limit{configLimit(t, "up", 5, limit.Queue{})})
	m.node.setLimits(0, table)
	m.node.StreamUp(0)
	m.node.Outgoing(0)
	welcome := &leasepb.Welcome{Session: 7, TtlNs: int64(10 * time.Second)}
	if err := m.node.Receive(0, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Welcome{Welcome: welcome}}); err != nil {
		t.Fatal(err)
	}
	grant := &leasepb.Assign{Grants: []*leasepb.Holding{{Key: fsmpb.KeyOf(limit.HostConnections("up")), Slots: 2}}}
	if err := m.node.Receive(0, &leasepb.LeaderMessage{Message: &leasepb.LeaderMessage_Assign{Assign: grant}}); err != nil {
		t.Fatal(err)
	}
	s, err := acquire(m, t.Context(), to(t, "up"), newHolder())
	if err != nil || !s.Live() {
		t.Fatalf("acquire: %v", err)
	}
	clock.now.Store(int64(11 * time.Second))
	if s.Live() {
		t.Error("a slot is live past its lease")
	}
	if _, err := acquire(m, t.Context(), to(t, "up"), newHolder()); !errors.Is(err, ErrNoLease) {
		t.Errorf("admitted past the lease: %v", err)
	}
	s.Park()
	if s.Unpark() {
		t.Error("a parked connection was reused past the lease")
	}
}

// A wall clock that has jumped ahead ends the lease: the other clock may have stood still.
func TestClockJumpFences(t *testing.T) {
	n := NewNode("a", "1", ExpiryClose, nil)
	n.sess.begin(1, 1, 10*time.Second, 0)
	n.Tick(time.Second, time.Second)
	n.Tick(2*time.Second, 2*time.Second+clockJump)
	if !n.sess.live() {
		t.Fatal("a step within the margin fenced")
	}
	n.Tick(3*time.Second, 3*time.Second-time.Hour)
	if !n.sess.live() {
		t.Fatal("a step backwards fenced")
	}
	n.Tick(4*time.Second, 4*time.Second+time.Hour)
	if n.sess.live() {
		t.Fatal("a wall clock that jumped ahead did not fence")
	}
}

type manualClock struct{ now atomic.Int64 }

func (c *manualClock) Now() time.Duration  { return time.Duration(c.now.Load()) }
func (c *manualClock) Wall() time.Duration { return time.Duration(c.now.Load()) }
