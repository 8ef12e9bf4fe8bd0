package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

const (
	leaderPoll      = 250 * time.Millisecond // Raft's signals may be dropped
	barrierPause    = 100 * time.Millisecond
	leadAgainPause  = time.Second
	reconcileEvery  = 5 * time.Second
	leadEndReminder = 5 * time.Second
	handOverTimeout = 3 * time.Second
)

// leadingTerm returns the term in which this server leads now, or 0. When Raft wins, it sets the
// term before the state; when it loses, the state before the term. So a term that reads the same
// before and after the state belongs to that state.
func (c *Cluster) leadingTerm() uint64 {
	if c.raft == nil || c.superseded.Load() {
		return 0
	}
	term := c.raft.CurrentTerm()
	if c.raft.State() != raft.Leader || c.raft.CurrentTerm() != term {
		return 0
	}
	return term
}

// reign is one term of leadership.
type reign struct {
	term   uint64
	cancel context.CancelFunc
	done   chan struct{}
}

// followLeadership runs a reign for each term in which this server leads, one after the other.
func (c *Cluster) followLeadership(ctx context.Context) {
	poll := time.NewTicker(leaderPoll)
	defer poll.Stop()
	var current *reign
	for {
		term := c.leadingTerm()
		if current != nil && current.term != term {
			c.end(current)
			current = nil
			continue // ending it took time: look again
		}
		if current == nil && term != 0 {
			current = c.begin(ctx, term)
		}
		select {
		case <-ctx.Done():
			if current != nil {
				c.end(current)
			}
			return
		case <-c.raft.LeaderCh():
		case <-poll.C:
		}
	}
}

func (c *Cluster) begin(ctx context.Context, term uint64) *reign {
	ctx, cancel := context.WithCancel(ctx)
	r := &reign{term: term, cancel: cancel, done: make(chan struct{})}
	c.past.contacts.begin(term)
	go func() {
		defer close(r.done)
		defer cancel()
		c.reign(ctx, term)
	}()
	return r
}

// end ends a reign, and waits until its work has stopped.
func (c *Cluster) end(r *reign) {
	r.cancel()
	began := time.Now()
	for {
		select {
		case <-r.done:
			c.past.contacts.end(r.term, time.Now())
			return
		case <-time.After(leadEndReminder):
			c.log.Error("the leader's work does not end", "term", r.term, "for", time.Since(began).Round(time.Second))
		}
	}
}

// reign does the leader's work. It begins with a barrier, so that the FSM holds everything that
// former leaders committed.
func (c *Cluster) reign(ctx context.Context, term uint64) {
	for {
		err := c.await(ctx, c.raft.Barrier(enqueueTimeout))
		if err == nil {
			break
		}
		c.log.Debug("the first barrier has failed", "term", term, "error", err)
		if !sleep(ctx, barrierPause) {
			return
		}
	}
	c.noteElectorate(term)
	if c.leadingTerm() != term {
		return
	}
	c.log.Info("leading the cluster", "term", term)
	c.setMeta(func(m *clusterpb.Meta) { m.LeadsTerm = term })
	defer c.setMeta(func(m *clusterpb.Meta) { m.LeadsTerm = 0 })
	defer c.log.Info("no longer leading", "term", term)

	pilotDone := make(chan struct{})
	go func() {
		defer close(pilotDone)
		c.pilot.run(ctx)
	}()
	defer func() { <-pilotDone }()

	for c.handlers.Lead != nil {
		c.handlers.Lead(ctx, term)
		if ctx.Err() != nil {
			return
		}
		c.log.Error("the leader's work ended early: starting it again", "term", term)
		if !sleep(ctx, leadAgainPause) {
			return
		}
	}
	<-ctx.Done()
}

// Transfer hands leadership to the named server or, with "", to the most up-to-date live one.
func (c *Cluster) Transfer(ctx context.Context, name string) error {
	if c.raft == nil {
		return ErrNoRaft
	}
	if c.leadingTerm() == 0 {
		return ErrNotLeader
	}
	if name == c.cfg.Name {
		return nil
	}
	return c.handOver(ctx, name)
}

// handOver fails with ErrNotTransferred if no candidate takes leadership over in time.
func (c *Cluster) handOver(ctx context.Context, name string) error {
	bounded, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	candidates, err := c.successors(name)
	if err != nil {
		return err
	}
	var failed []string
	for _, s := range candidates {
		err = c.await(bounded, c.raft.LeadershipTransferToServer(s.ID, s.Address))
		if c.raft.State() != raft.Leader {
			return nil
		}
		switch {
		case err == nil:
			err = errors.New("this server was elected again")
		case bounded.Err() != nil:
			err = fmt.Errorf("no answer within %s", handOverTimeout)
		}
		c.log.Debug("leadership was not taken over", "by", s.ID, "error", err)
		failed = append(failed, fmt.Sprintf("%s has not taken over (%v)", handshake.NameOf(string(s.ID)), err))
		if bounded.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("leadership could not be transferred: %w", ctx.Err())
	}
	return fmt.Errorf("%w: %s: see in weir nodes that it is alive, or transfer to another server", ErrNotTransferred, strings.Join(failed, ", "))
}

// successors lists the voters that may lead next: all live ones or, if a name is given, only that
// voter, live or not.
func (c *Cluster) successors(name string) ([]raft.Server, error) {
	var alive, others []raft.Server
	for _, s := range c.configuration().Servers {
		if s.ID == c.serverID() || s.Suffrage != raft.Voter || (name != "" && handshake.NameOf(string(s.ID)) != name) {
			continue
		}
		m, ok := c.Member(handshake.NameOf(string(s.ID)))
		if ok && m.Health == HealthAlive && m.ServerID() == string(s.ID) {
			alive = append(alive, s)
		} else {
			others = append(others, s)
		}
	}
	if name != "" {
		alive = append(alive, others...)
	}
	if len(alive) == 0 && name != "" {
		return nil, fmt.Errorf("%w: %q is not a voter", ErrUnknownPeer, name)
	}
	if len(alive) == 0 {
		return nil, fmt.Errorf("%w: no other voter is alive to lead", ErrUnsafe)
	}
	return alive, nil
}

// RemovePeer removes a server from the Raft configuration, and returns that change's log index.
// Only the leader can. A live server stays out until its process starts again. RemovePeer fails if
// the remaining servers would have no live quorum.
func (c *Cluster) RemovePeer(ctx context.Context, name string) (index uint64, err error) {
	if c.raft == nil {
		return 0, ErrNoRaft
	}
	if c.leadingTerm() == 0 {
		return 0, ErrNotLeader
	}
	target, err := c.peerToRemove(name)
	if err != nil {
		return 0, err
	}
	m, ok := c.Member(handshake.NameOf(string(target.ID))) // name may be its id
	lives := ok && m.Alive() && m.ServerID() == string(target.ID)
	index, err = c.removeServer(ctx, string(target.ID))
	if err != nil {
		return 0, err
	}
	if lives {
		if _, err := ask(ctx, c, m.RPCAddr, func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.DetachReply, error) {
			return cc.Detach(ctx, &clusterpb.DetachRequest{Server: string(target.ID)})
		}); err != nil {
			c.log.Warn("the removed server could not be told", "server", target.ID, "error", err)
		}
	}
	return index, nil
}

// peerToRemove finds the server with a name. A former server of that name comes before the live
// one.
func (c *Cluster) peerToRemove(name string) (raft.Server, error) {
	var found []raft.Server
	for _, s := range c.configuration().Servers {
		if handshake.NameOf(string(s.ID)) == name || string(s.ID) == name {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return raft.Server{}, fmt.Errorf("%w: %q", ErrUnknownPeer, name)
	}
	m, ok := c.Member(name)
	for _, s := range found {
		if !ok || m.ServerID() != string(s.ID) {
			return s, nil
		}
	}
	return found[0], nil
}

// removeServer removes a server by id, and waits until that is committed: at the log index that it
// returns. If it fails, the server's address is followed again.
func (c *Cluster) removeServer(ctx context.Context, id string) (index uint64, err error) {
	if c.leadingTerm() == 0 {
		return 0, ErrNotLeader
	}
	if err := c.checkRemoval(raft.ServerID(id)); err != nil {
		return 0, err
	}
	c.gossip.Detach(id)
	removal := c.raft.RemoveServer(raft.ServerID(id), 0, enqueueTimeout)
	if err := c.await(ctx, removal); err != nil {
		if c.isConfigured(raft.ServerID(id)) {
			c.gossip.Reattach(id)
		}
		return 0, fmt.Errorf("%s could not be removed from the Raft configuration: %w", handshake.NameOf(id), c.explain(err))
	}
	return removal.Index(), nil
}

// isConfigured reports whether the newest Raft configuration on this server's disk has a server.
// While a removal's outcome is unknown, its entry is in the log, so the newest configuration lacks
// the server.
func (c *Cluster) isConfigured(id raft.ServerID) bool {
	return slices.ContainsFunc(c.configuration().Servers, func(s raft.Server) bool { return s.ID == id })
}

// checkRemoval makes sure that the remaining servers have a live quorum.
func (c *Cluster) checkRemoval(id raft.ServerID) error {
	switch {
	case !c.isConfigured(id):
		return fmt.Errorf("%w: %q", ErrUnknownPeer, handshake.NameOf(string(id)))
	case id == c.serverID():
		return fmt.Errorf("%w: %q leads: transfer leadership first", ErrUnsafe, handshake.NameOf(string(id)))
	}
	return c.quorumWithout(id)
}

// quorumWithout fails with ErrUnsafe if the voters other than one server are no live quorum, as far
// as this node knows.
func (c *Cluster) quorumWithout(id raft.ServerID) error {
	voters, down := 0, []string{}
	for _, s := range c.configuration().Servers {
		if s.ID == id || s.Suffrage != raft.Voter {
			continue
		}
		voters++
		name := handshake.NameOf(string(s.ID))
		if m, ok := c.Member(name); s.ID != c.serverID() && (!ok || !m.Alive() || m.ServerID() != string(s.ID)) {
			down = append(down, name)
		}
	}
	alive := voters - len(down)
	if alive >= voters/2+1 {
		return nil
	}
	first := "add another server"
	if len(down) > 0 {
		first = fmt.Sprintf("start %s, or remove those that will not come back (weir raft remove NAME)", strings.Join(down, ", "))
	}
	return fmt.Errorf("%w: without %q, only %d of %d voters would be alive: first %s",
		ErrUnsafe, handshake.NameOf(string(id)), alive, voters, first)
}
