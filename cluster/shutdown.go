package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// workTimeout bounds the wait for the node's own work to end while Raft still runs.
const workTimeout = 2 * time.Second

// CheckLeave fails with ErrUnsafe if the leader would not let this server leave, because the others
// would have no live quorum. Without a leader it does not: nobody could remove the server, and its
// process may as well end.
func (c *Cluster) CheckLeave() error {
	if c.raft == nil || !c.configured() {
		return nil
	}
	if _, addr := c.Leader(); addr == "" {
		return nil
	}
	return c.quorumWithout(c.serverID())
}

// Leave hands leadership over, removes this server from the Raft configuration, and returns once
// that is committed. The only server of a cluster stays in it. Leave says nothing in gossip:
// Shutdown does, which comes next.
func (c *Cluster) Leave(ctx context.Context) error {
	if c.raft == nil {
		return nil
	}
	c.setMeta(func(m *clusterpb.Meta) { m.Detached = true })
	var last error
	for {
		if !c.configured() {
			return nil
		}
		if last = c.leaveOnce(ctx); last == nil {
			return nil
		}
		c.log.Debug("not left yet", "error", last)
		if !sleep(ctx, leaveRetry) {
			c.setMeta(func(m *clusterpb.Meta) { m.Detached = false })
			return fmt.Errorf("this server is still in the Raft configuration: %w", last)
		}
	}
}

// configured reports whether this server must be removed: it is in a configuration with other
// servers.
func (c *Cluster) configured() bool {
	servers := c.configuration().Servers
	for _, s := range servers {
		if s.ID == c.serverID() {
			return len(servers) > 1
		}
	}
	return false
}

func (c *Cluster) leaveOnce(ctx context.Context) error {
	if c.leadingTerm() != 0 {
		if err := c.handOver(ctx, ""); err != nil {
			return err
		}
		return errors.New("leadership was handed over: waiting for the new leader")
	}
	_, addr := c.Leader()
	if addr == "" {
		return errors.New("no leader is known")
	}
	ctx, cancel := context.WithTimeout(ctx, leaderAskTimeout)
	defer cancel()
	_, err := ask(ctx, c, addr, func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.RemoveReply, error) {
		return cc.Remove(ctx, &clusterpb.RemoveRequest{Server: c.cfg.Data.ServerID()})
	})
	return err
}

// Shutdown hands leadership over if this node leads, says goodbye in gossip, and stops everything.
// It takes a few seconds at most, even without a quorum, and less once the context has ended. It
// may be called again.
func (c *Cluster) Shutdown(ctx context.Context) error {
	var err error
	c.downOnce.Do(func() {
		defer close(c.down)
		err = c.shutdown(ctx)
	})
	<-c.down
	return err
}

func (c *Cluster) shutdown(ctx context.Context) error {
	answered := c.proposals.close()
	if c.raft != nil && c.leadingTerm() != 0 && c.configured() {
		if err := c.handOver(ctx, ""); err != nil {
			c.log.Warn("leaving without a new leader", "error", err)
		}
	}
	if c.raft != nil {
		select {
		case <-answered:
		case <-time.After(drainProposals):
		case <-ctx.Done():
		}
	}
	if ctx.Err() == nil && !c.nameTaken.Load() {
		c.gossip.Leave(ctx, func(m *clusterpb.Meta) { m.LeadsTerm = 0 })
	}
	c.stop()
	return c.stopAll()
}

// stopAll ends the parts in an order in which no part is used after its end.
func (c *Cluster) stopAll() error {
	var errs []error
	if !c.port.StopServing() {
		errs = append(errs, errors.New("a handler on the rpc port did not end"))
	}
	c.gossip.HangUp()
	c.waitBackground(workTimeout) // some of it needs Raft to end, some ends with Raft
	if c.netRaft != nil {
		_ = c.netRaft.Close() // never fails
	}
	c.port.Close()
	if c.raft != nil {
		c.stores.disk.close()
		if err := c.raft.Shutdown().Error(); err != nil {
			errs = append(errs, fmt.Errorf("raft did not stop: %w", err))
		}
		close(c.raftEnded)
		c.past.close()
	}
	if c.netRaft != nil {
		c.netRaft.CloseStreams()
	}
	c.wg.Wait()
	c.gossip.Close()
	if c.stores != nil {
		errs = append(errs, c.stores.close())
	}
	return errors.Join(errs...)
}

func (c *Cluster) waitBackground(most time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(most):
	}
}
