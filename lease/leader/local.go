package leader

import (
	"cmp"
	"context"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leasepb"
)

// Local is the log of a node that is alone: an entry is applied at once, and nothing is kept but
// the state. What the state holds is lost with the process, and so are the sessions that it counts:
// no other process can rely on it.
type Local struct {
	store *fsm.Store

	mu    sync.Mutex // held while an entry is applied: entries are applied in the order of their indexes
	index uint64
}

// LocalTerm is the one term of a [Local].
const LocalTerm = 1

// NewLocal returns an empty log that store, which must be empty too, applies.
func NewLocal(store *fsm.Store) *Local { return &Local{store: store} }

// Propose implements [Log].
func (l *Local) Propose(ctx context.Context, term uint64, c fsm.Command) (fsm.Result, error) {
	_, res, err := l.Append(ctx, term, c)
	return res, err
}

// Append is Propose, and returns the entry's index too. Term 0 is [LocalTerm].
func (l *Local) Append(_ context.Context, term uint64, c fsm.Command) (uint64, fsm.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index++
	return l.index, *l.store.Commit(l.index, cmp.Or(term, LocalTerm), c), nil
}

// LastLed implements [Log]: there are no sessions of before.
func (l *Local) LastLed(context.Context, uint64) (time.Duration, error) { return 0, nil }

// Index is the newest entry's.
func (l *Local) Index() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index
}

// VerifyLeader implements [Log]: nobody else can lead.
func (l *Local) VerifyLeader(context.Context) error { return nil }

// localBuffer bounds the messages on their way in one direction.
const localBuffer = 16

// LocalStream is the node's end of a stream in memory. It is what a node's side of the lease takes
// for a stream.
type LocalStream struct {
	grpc.ServerStream // of the leader's end; never called
	ctx               context.Context
	cancel            context.CancelFunc
	up                chan *leasepb.NodeMessage
	down              chan *leasepb.LeaderMessage
}

// Open opens a stream to this server from a node in the same process. It waits until the server has
// led for the first time, or ctx ends, which also ends the stream. run is called once, to run the
// leader's end: on a goroutine that the caller waits for.
func (s *Server) Open(ctx context.Context, run func(func())) (*LocalStream, error) {
	select {
	case <-s.led:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &LocalStream{
		ctx: ctx, cancel: cancel,
		up: make(chan *leasepb.NodeMessage, localBuffer), down: make(chan *leasepb.LeaderMessage, localBuffer),
	}
	run(func() {
		defer cancel()
		_ = s.Session(leaderEnd{l}) // the node sees the stream's end
	})
	return l, nil
}

// Send passes a message to the leader's end.
func (l *LocalStream) Send(m *leasepb.NodeMessage) error { return pass(l.ctx, l.up, m) }

// Recv waits for a message from the leader's end.
func (l *LocalStream) Recv() (*leasepb.LeaderMessage, error) { return take(l.ctx, l.down) }

// Close ends the stream, and with it calls of Send and Recv.
func (l *LocalStream) Close() { l.cancel() }

// leaderEnd is the other end.
type leaderEnd struct{ *LocalStream }

// Context implements [grpc.ServerStream].
func (e leaderEnd) Context() context.Context { return e.ctx }

// Send implements [leasepb.Lease_SessionServer].
func (e leaderEnd) Send(m *leasepb.LeaderMessage) error { return pass(e.ctx, e.down, m) }

// Recv implements [leasepb.Lease_SessionServer].
func (e leaderEnd) Recv() (*leasepb.NodeMessage, error) { return take(e.ctx, e.up) }

func pass[M any](ctx context.Context, to chan<- M, m M) error {
	select {
	case to <- m:
		return nil
	case <-ctx.Done():
		return io.EOF
	}
}

func take[M any](ctx context.Context, from <-chan M) (m M, err error) {
	select {
	case m = <-from:
		return m, nil
	case <-ctx.Done():
		return m, io.EOF
	}
}
