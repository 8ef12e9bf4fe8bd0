package fsm

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/limit"
)

var (
	_ raft.FSM         = (*Store)(nil)
	_ raft.FSMSnapshot = (*image)(nil)
)

// newTestStore fails the test on a fatal error, unless fatal is given.
func newTestStore(t *testing.T, fatal func(error)) *Store {
	if fatal == nil {
		fatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	return NewStore(hclog.NewNullLogger(), fatal)
}

func applied(t *testing.T, s *Store, index uint64, c Command) *Result {
	t.Helper()
	r, ok := s.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: Encode(c)}).(*Result)
	if !ok || r == nil {
		t.Fatalf("%#v gives no result", c)
	}
	return r
}

// memorySink is a raft.SnapshotSink.
type memorySink struct {
	io.Writer
	closed, cancelled int
}

func (m *memorySink) ID() string    { return "memory" }
func (m *memorySink) Close() error  { m.closed++; return nil }
func (m *memorySink) Cancel() error { m.cancelled++; return nil }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestStoreAppliesAndPublishes(t *testing.T) {
	s := newTestStore(t, nil)
	if s.Table() == nil || len(s.Table().Limits()) != 0 {
		t.Fatal("an empty store has no empty table")
	}
	put := &PutLimit{Limit: limit.Limit{Pattern: pattern("a"), Connections: 2, Source: limit.SourceAPI}}
	for _, step := range []struct {
		c       Command
		changes bool
	}{
		{&Init{ClusterID: "c", TTL: time.Second}, true},
		{&Init{ClusterID: "d", TTL: time.Minute}, false},
		{&OpenSession{1, "n", "i"}, false},
		{put, true},
		{put, false},
		{&Adjust{Term: 1, Batch: 1, Adjustments: []Adjustment{{Session: 3, Key: limit.HostConnections("a"), Delta: 5}}}, false},
		{&DeleteLimit{Pattern: pattern("b")}, false},
		{&DeleteLimit{Pattern: pattern("a")}, true},
		{&CloseSessions{1, []uint64{3}, CloseLeft}, false},
	} {
		changed, before := s.Changed(), s.Table()
		index := uint64(1)
		s.Read(func(st *State) { index += st.Index() })
		r := applied(t, s, index, step.c)
		if r.Changed != step.changes || isClosed(changed) != step.changes {
			t.Errorf("%#v: changed %v, told %v, want %v", step.c, r.Changed, isClosed(changed), step.changes)
		}
		if isClosed(s.Changed()) {
			t.Errorf("%#v: the next channel is closed", step.c)
		}
		s.Read(func(st *State) {
			if st.Index() != index || st.Table() != s.Table() {
				t.Errorf("%#v: the store shows another table than the state's", step.c)
			}
		})
		if !step.changes && s.Table() != before {
			t.Errorf("%#v: a new table of nothing", step.c)
		}
	}
	if r, ok := s.Apply(&raft.Log{Index: 99, Type: raft.LogConfiguration, Data: []byte("no command")}).(*Result); !ok || r.Err != nil {
		t.Errorf("an entry that is not ours: %v", r)
	}
}

func TestStoreStopsAtAnEntryItCannotRead(t *testing.T) {
	var causes []error
	s := newTestStore(t, func(err error) { causes = append(causes, err) })
	applied(t, s, 1, &Init{ClusterID: "c", TTL: time.Second})
	bad := s.Apply(&raft.Log{Index: 2, Term: 1, Data: []byte{9, 9}}).(*Result)
	if !errors.Is(bad.Err, ErrNewer) || len(causes) != 1 || !errors.Is(causes[0], ErrNewer) {
		t.Fatalf("result %v, fatal %v", bad.Err, causes)
	}
	s.Apply(&raft.Log{Index: 3, Term: 1, Data: nil})
	after := applied(t, s, 4, &OpenSession{1, "n", "i"})
	if !errors.Is(after.Err, ErrNewer) || len(causes) != 1 {
		t.Errorf("after it: %v, fatal %v", after.Err, causes)
	}
	s.Read(func(st *State) {
		if st.Index() != 1 || len(st.Sessions()) != 0 {
			t.Errorf("the state went on to %d", st.Index())
		}
	})
	if _, err := s.Snapshot(); !errors.Is(err, ErrNewer) {
		t.Errorf("a snapshot of it: %v", err)
	}
	_, good := sampleLog()
	if err := s.Restore(io.NopCloser(bytes.NewReader(snapshotOf(t, good)))); !errors.Is(err, ErrNewer) {
		t.Errorf("restored into it: %v", err)
	}
}

func TestStoreSnapshotAndRestore(t *testing.T) {
	log, want := sampleLog()
	s := newTestStore(t, nil)
	for i, c := range log {
		applied(t, s, uint64(i+1), c)
	}
	frozen, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	// What is applied now must not be seen by the snapshot.
	applied(t, s, 20, &CloseSessions{1, []uint64{2, 3}, CloseExpired})
	applied(t, s, 21, &ReplaceLimits{Source: limit.SourceAPI})
	var b bytes.Buffer
	sink := &memorySink{Writer: &b}
	if err := frozen.Persist(sink); err != nil || sink.closed != 1 || sink.cancelled != 0 {
		t.Fatalf("persist: %v, %+v", err, sink)
	}
	frozen.Release()
	if !bytes.Equal(b.Bytes(), snapshotOf(t, want)) {
		t.Fatal("the snapshot is not of the state when it was taken")
	}

	other := newTestStore(t, nil)
	changed := other.Changed()
	if err := other.Restore(io.NopCloser(bytes.NewReader(b.Bytes()))); err != nil {
		t.Fatal(err)
	}
	if !isClosed(changed) || len(other.Table().Limits()) != 4 {
		t.Errorf("after the restore: told %v, %d limits", isClosed(changed), len(other.Table().Limits()))
	}

	disk := errors.New("disk full")
	full := &memorySink{Writer: &limitedWriter{10, disk}}
	if err := frozen.Persist(full); !errors.Is(err, disk) || full.closed != 0 || full.cancelled != 1 {
		t.Errorf("persist on a full disk: %v, %+v", err, full)
	}
}

// closeCounter counts Close, which Restore owes its source.
type closeCounter struct {
	io.Reader
	closed int
}

func (c *closeCounter) Close() error { c.closed++; return nil }

func TestStoreRestoreOfBadSnapshots(t *testing.T) {
	_, good := sampleLog()
	b := snapshotOf(t, good)
	torn := b[:len(b)-1]

	s := newTestStore(t, nil)
	applied(t, s, 1, &Init{ClusterID: "mine", TTL: time.Second})
	r := &closeCounter{Reader: bytes.NewReader(torn)}
	if err := s.Restore(r); !errors.Is(err, ErrCorrupt) || r.closed != 1 {
		t.Errorf("torn: %v, closed %d times", err, r.closed)
	}
	if got := applied(t, s, 2, &OpenSession{1, "n", "i"}); got.Err != nil || got.Session != 2 {
		t.Errorf("a torn snapshot changed the state: %v", got)
	}

	var cause error
	s = newTestStore(t, func(err error) { cause = err })
	if err := s.Restore(io.NopCloser(bytes.NewReader(sealed(7, nil)))); !errors.Is(err, ErrNewer) || !errors.Is(cause, ErrNewer) {
		t.Errorf("newer: %v, fatal %v", err, cause)
	}
}

// TestStoreReadersAndWriter is for the race detector: readers of every kind, a
// snapshot being written, and entries that go on.
func TestStoreReadersAndWriter(t *testing.T) {
	s := newTestStore(t, nil)
	applied(t, s, 1, &Init{ClusterID: "c", TTL: time.Second})
	applied(t, s, 2, &OpenSession{1, "n", "i"})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, read := range []func(){
		func() { s.Table().Match(limit.Target{Host: "a", Port: 80}) },
		func() { s.Read(func(st *State) { st.SessionGrants(2); st.Grants(limit.HostConnections("a")) }) },
		func() { isClosed(s.Changed()) },
		func() {
			snap, err := s.Snapshot()
			if err != nil {
				t.Error(err)
				return
			}
			if err := snap.Persist(&memorySink{Writer: io.Discard}); err != nil {
				t.Error(err)
			}
		},
	} {
		wg.Go(func() {
			for {
				read()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	var granted int64
	for i := uint64(3); i < 600; i += 2 {
		applied(t, s, i, &PutLimit{Limit: limit.Limit{Pattern: pattern("a"), Connections: int64(i), Source: limit.SourceAPI}})
		r := applied(t, s, i+1, &Adjust{Term: 1, Batch: i, Adjustments: []Adjustment{{Session: 2, Key: limit.HostConnections("a"), Delta: 1}}})
		granted += r.Adjusted[0].Delta
	}
	close(stop)
	wg.Wait()
	s.Read(func(st *State) {
		if n := st.Granted(limit.HostConnections("a")); n != granted || n == 0 {
			t.Errorf("%d granted, told %d", n, granted)
		}
	})
}
