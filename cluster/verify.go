package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// verifier shares one check between all callers that asked before it began.
type verifier struct {
	check func(since time.Time) error

	mu      sync.Mutex
	next    *verification // for callers that ask now
	running bool
	began   time.Time // of the check that runs
}

type verification struct {
	done chan struct{}
	err  error
}

// verify returns nil once it is certain that this node still led after the call.
func (v *verifier) verify(ctx context.Context) error {
	v.mu.Lock()
	if v.next == nil {
		v.next = &verification{done: make(chan struct{})}
	}
	mine := v.next
	if !v.running {
		v.running = true
		go v.run()
	}
	v.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return fmt.Errorf("leadership could not be verified: %w", ctx.Err())
	}
}

func (v *verifier) run() {
	for {
		v.mu.Lock()
		current := v.next
		v.next = nil
		v.running = current != nil
		v.began = time.Now()
		since := v.began
		v.mu.Unlock()
		if current == nil {
			return
		}
		current.err = v.check(since)
		close(current.done)
	}
}

// stuckFor returns how long the present check has taken.
func (v *verifier) stuckFor(now time.Time) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.running {
		return 0
	}
	return now.Sub(v.began)
}

// VerifyLeader returns nil once it is certain that this node led the cluster at some moment after
// the call. Callers share one round of heartbeats.
func (c *Cluster) VerifyLeader(ctx context.Context) error {
	if c.raft == nil {
		return ErrNoRaft
	}
	return c.verifier.verify(ctx)
}

// verifySince asks Raft, and then checks that the followers that agreed were asked at since or
// later: Raft also counts an answer that was under way before.
func (c *Cluster) verifySince(since time.Time) error {
	for {
		term := c.leadingTerm()
		if term == 0 {
			return ErrNotLeader
		}
		asked := c.raft.VerifyLeader()
		c.endWithRaft(asked)
		if err := asked.Error(); err != nil {
			return fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
		if c.leadingTerm() != term {
			return ErrNotLeader
		}
		if c.acks.quorumSince(term, since, c.serverID(), c.configuration().Servers) {
			return nil
		}
	}
}
