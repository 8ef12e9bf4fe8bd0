package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxEntry bounds one log entry, in bytes.
	maxEntry = 16 << 20
	// maxProposals bounds the entries under way.
	maxProposals   = 1024
	enqueueTimeout = 2 * time.Second
)

// Proposal is an entry under way.
type Proposal struct {
	done     chan struct{}
	index    uint64
	response any
	err      error
}

// Done is closed once the entry is applied, or has failed.
func (p *Proposal) Done() <-chan struct{} { return p.done }

// Result returns, after Done, the entry's log index and the FSM's response, or the error.
func (p *Proposal) Result() (index uint64, response any, err error) {
	<-p.done
	return p.index, p.response, p.err
}

func failed(err error) *Proposal {
	p := &Proposal{done: make(chan struct{}), err: err}
	close(p.done)
	return p
}

// Propose writes an entry and waits until it is applied here. term is the term in which the caller
// decided on it, or 0 for any. Unless its error wraps [ErrUnknownOutcome], a failed entry has no
// effect, now or later.
func (c *Cluster) Propose(ctx context.Context, term uint64, data []byte) (index uint64, response any, err error) {
	p := c.ProposeAsync(term, data)
	select {
	case <-p.Done():
		return p.Result()
	case <-ctx.Done():
		return 0, nil, fmt.Errorf("%w (%w)", ErrTimeout, ctx.Err())
	}
}

// ProposeAsync passes an entry to Raft, in order with the caller's other entries, and returns while
// it is under way. It blocks until Raft has accepted the entry: while Raft syncs earlier ones, and
// at most two seconds.
func (c *Cluster) ProposeAsync(term uint64, data []byte) *Proposal {
	switch {
	case c.raft == nil:
		return failed(ErrNoRaft)
	case len(data) > maxEntry:
		return failed(fmt.Errorf("%w: %d bytes, and the most is %d", ErrTooLarge, len(data), maxEntry))
	}
	if err := c.mayPropose(term); err != nil {
		return failed(err)
	}
	if err := c.proposals.enter(); err != nil {
		return failed(err)
	}
	began := time.Now()
	future := c.raft.Apply(data, enqueueTimeout)
	c.endWithRaft(future)
	p := &Proposal{done: make(chan struct{})}
	go func() {
		defer c.proposals.leave()
		defer close(p.done)
		if err := future.Error(); err != nil {
			p.err = c.explain(err)
			return
		}
		c.cfg.OnCommit(time.Since(began))
		p.index, p.response = future.Index(), future.Response()
	}()
	return p
}

func (c *Cluster) mayPropose(term uint64) error {
	leading := c.leadingTerm()
	switch {
	case leading == 0:
		return c.notLeading()
	case term != 0 && term != leading:
		return fmt.Errorf("%w in term %d any more, it is term %d", ErrNotLeader, term, leading)
	}
	return nil
}

// notLeading returns ErrNotLeader or, if no other server leads either, the reason why this one
// can't.
func (c *Cluster) notLeading() error {
	_, leader := c.raft.LeaderWithID()
	if c.stores.disk.isFull() && (leader == "" || leader == c.serverID()) {
		return c.stores.disk.unwritable()
	}
	return ErrNotLeader
}

// explain translates Raft's errors into this package's.
func (c *Cluster) explain(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return c.notLeading()
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrAbortedByRestore):
		return ErrLeadershipLost
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrBusy
	case c.stores.disk.isFull():
		return c.stores.disk.unwritable() // the leader could not append the entry, and sent it to nobody
	default:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err) // a write that is reported as failed may still reach the disk
	}
}

// proposals counts entries under way, so that shutting down can wait for their answers.
type proposals struct {
	mu     sync.Mutex
	count  int
	closed bool
	idle   chan struct{} // closed when, after close, none is left
}

func newProposals() *proposals { return &proposals{idle: make(chan struct{})} }

func (p *proposals) enter() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if p.count >= maxProposals {
		return fmt.Errorf("%w: %d entries are under way", ErrBusy, p.count)
	}
	p.count++
	return nil
}

func (p *proposals) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count--
	if p.closed && p.count == 0 {
		close(p.idle)
	}
}

// close refuses further entries. Its channel is closed once those under way are answered.
func (p *proposals) close() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		if p.count == 0 {
			close(p.idle)
		}
	}
	return p.idle
}

// underWay returns the number of unanswered entries.
func (p *proposals) underWay() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}
