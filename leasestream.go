package weir

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leasepb"
)

// leaseStreams opens the node's lease streams, one at a time, and ends a stream whose server was
// replaced as leader. That server may be frozen or cut off: the stream would show no error, and the
// session would expire although the next leader could renew it. Its methods are safe for concurrent
// use.
type leaseStreams struct {
	mu      sync.Mutex
	leader  string // the newest known one
	changes uint64 // how often it has changed
	current *leaseStream
}

// errReplaced ends a stream to a former leader.
var errReplaced = errors.New("another leader was elected meanwhile")

// seen returns the number of changes so far. Call it before looking up the leader's address.
func (s *leaseStreams) seen() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// open opens a stream over conn to addr. changes is the result of seen before addr was looked up.
func (s *leaseStreams) open(ctx context.Context, conn grpc.ClientConnInterface, addr string, changes uint64) (lease.Stream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	opening := &leaseStream{addr: addr, cancel: cancel}
	s.mu.Lock()
	replaced := s.changes != changes && s.leader != addr
	s.current = opening
	s.mu.Unlock()
	if replaced {
		cancel(errReplaced)
		return nil, errReplaced
	}
	client, err := leasepb.NewLeaseClient(conn).Session(ctx)
	if err != nil {
		cancel(err)
		return nil, err
	}
	opening.Lease_SessionClient = client
	return opening, nil
}

// leaderChanged records a new leader, and ends a stream to another one.
func (s *leaseStreams) leaderChanged(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = addr
	s.changes++
	if s.current != nil && s.current.addr != addr {
		s.current.cancel(errReplaced)
	}
}

// leaseStream is the node's end of a stream over gRPC.
type leaseStream struct {
	leasepb.Lease_SessionClient
	addr   string
	cancel context.CancelCauseFunc
}

// Close implements [lease.Stream].
func (s *leaseStream) Close() { s.cancel(nil) }
