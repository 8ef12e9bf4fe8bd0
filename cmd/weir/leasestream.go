package main

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leasepb"
)

// leaseStreams opens the node's lease streams, one at a time, and ends the one that leads to a
// server which has been replaced as leader. That server may have frozen, or be cut off: then
// nothing on the stream would tell, and the session would run out though the next leader could
// renew it. Its methods may be called from any goroutine.
type leaseStreams struct {
	mu      sync.Mutex
	leader  string // the last one heard of
	changes uint64 // how often that has changed
	current *leaseStream
}

// errReplaced ends a stream to a former leader.
var errReplaced = errors.New("another leader was elected meanwhile")

// seen counts the changes so far. Whoever looks up the leader's address asks first.
func (s *leaseStreams) seen() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// open opens a stream over conn, which leads to addr, the leader's address when changes had been
// seen.
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

// leaderChanged takes note of a leader that the node has heard of.
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
