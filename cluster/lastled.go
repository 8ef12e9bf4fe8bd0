package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

// A new leader learns how long nobody can have led before it: a leader is verified by the answers
// of a majority, so it asks a majority when they last answered one. Two majorities have a server in
// common, also if one is of a configuration that has a server more or less. A leader of a still
// older configuration was deposed before the one in between was committed, which a majority has
// answered too.

// contacts is when this server last heard, as a follower, or was the leader of an earlier term. A
// leader's request is noted as it arrives, and so before it is answered.
type contacts struct {
	mu     sync.Mutex
	term   uint64    // the newest in which it heard a leader
	newest time.Time // in that term
	former time.Time // in an earlier term, or in an earlier process
	leads  uint64    // the term whose work as the leader has not ended
}

// heard notes a leader of a term.
func (c *contacts) heard(term uint64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case term > c.term:
		c.former = latest(c.former, c.newest)
		c.term, c.newest = term, now
	case term == c.term:
		c.newest = latest(c.newest, now)
	default:
		c.former = latest(c.former, now)
	}
}

// begin notes that this server works as the leader of a term, from now to end.
func (c *contacts) begin(term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leads = term
}

func (c *contacts) end(term uint64, now time.Time) {
	c.heard(term, now)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leads = 0
}

// before returns when this server was last in contact with a leader of a term before this one. It
// is not known while the server still works as one.
func (c *contacts) before(term uint64) (at time.Time, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leads != 0 && c.leads < term {
		return time.Time{}, false
	}
	if c.term == term {
		return c.former, true
	}
	return latest(c.former, c.newest), true // a newer leader's may be among them: later than it was
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// electorate is the voters of a term, as they were when it began.
type electorate struct {
	mu     sync.Mutex
	term   uint64
	voters []raft.ServerID
}

// note remembers a term's voters, unless the configuration has changed in that term already: then
// two changes may lie between it and that of an earlier leader.
func (e *electorate) note(term uint64, c raft.Configuration, appended uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.term, e.voters = term, nil
	if appended >= term {
		return
	}
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			e.voters = append(e.voters, s.ID)
		}
	}
}

func (e *electorate) of(term uint64) []raft.ServerID {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.term != term {
		return nil
	}
	return e.voters
}

// noteElectorate is called once everything that was in the log when the term began is applied.
func (c *Cluster) noteElectorate(term uint64) {
	future := c.raft.GetConfiguration()
	var entry raft.Log
	// An entry that is not in the log is older than the many that a snapshot leaves there.
	if err := c.stores.log.GetLog(future.Index(), &entry); err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		entry.Term = term
	}
	c.electorate.note(term, future.Configuration(), entry.Term)
}

// lastLedAgain is how long a server waits before it asks another again.
const lastLedAgain = 100 * time.Millisecond

// LastLed returns how long ago a leader of an earlier term than this one, in which this server
// leads, can have been verified at the latest. It asks the voters, again and again, until a
// majority has answered or ctx ends. Ages are passed on, and no clocks compared.
func (c *Cluster) LastLed(ctx context.Context, term uint64) (ago time.Duration, err error) {
	if c.raft == nil {
		return 0, ErrNoRaft
	}
	voters := c.electorate.of(term)
	if len(voters) == 0 {
		return 0, fmt.Errorf("the configuration has changed in term %d, or it is over", term)
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	answers := make(chan time.Time, len(voters))
	for _, id := range voters {
		asking.Go(func() {
			for {
				at, err := c.askLastLed(ctx, id, term)
				if err == nil {
					answers <- at
					return
				}
				c.log.Trace("a server was not heard on who led", "server", id, "error", err)
				if !sleep(ctx, lastLedAgain) {
					return
				}
			}
		})
	}
	var last time.Time
	for range len(voters)/2 + 1 {
		select {
		case at := <-answers:
			last = latest(last, at)
		case <-ctx.Done():
			return 0, fmt.Errorf("no majority was heard on who led before: %w", ctx.Err())
		}
	}
	return time.Since(last), nil
}

// askLastLed asks one voter. The age that it tells has grown by the time that its answer took: what
// is returned is later than the truth, never earlier.
func (c *Cluster) askLastLed(ctx context.Context, id raft.ServerID, term uint64) (time.Time, error) {
	if id == c.serverID() {
		return c.lastContact(term)
	}
	ctx, cancel := context.WithTimeout(ctx, recallTimeout*time.Duration(c.cfg.Multiplier))
	defer cancel()
	addr, _ := c.addressOf(id)
	reply, err := ask(ctx, c, addr, func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.LastLedReply, error) {
		return cc.LastLed(ctx, &clusterpb.LastLedRequest{Server: string(id), Term: term})
	})
	if err != nil {
		return time.Time{}, err
	}
	return time.Now().Add(-max(0, time.Duration(reply.GetAgoNs()))), nil
}

// lastContact returns when this server was last in contact with a leader of a term before this one.
// From then on it answers none: it must have reached the term. A server whose disk is in doubt says
// nothing.
func (c *Cluster) lastContact(term uint64) (time.Time, error) {
	// The term is read first: an earlier leader whose request still passed is noted by then.
	switch now := c.raft.CurrentTerm(); {
	case now < term:
		return time.Time{}, fmt.Errorf("term %d has not been heard of here: it is term %d", term, now)
	case !c.past.free():
		return time.Time{}, errDoubtful
	}
	at, known := c.past.contacts.before(term)
	if !known {
		return time.Time{}, errors.New("this server's own work as the leader has not ended yet")
	}
	return at, nil
}

// LastLed implements the control service.
func (s control) LastLed(_ context.Context, r *clusterpb.LastLedRequest) (*clusterpb.LastLedReply, error) {
	select {
	case <-s.c.raftReady:
	default:
		return nil, status.Error(codes.Unavailable, ErrNoRaft.Error())
	}
	if r.GetServer() != string(s.c.serverID()) {
		return nil, status.Errorf(codes.NotFound, "this is %s", handshake.NameOf(string(s.c.serverID())))
	}
	at, err := s.c.lastContact(r.GetTerm())
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &clusterpb.LastLedReply{AgoNs: int64(time.Since(at))}, nil
}
