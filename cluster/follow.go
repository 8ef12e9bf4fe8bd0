package cluster

import (
	"context"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// noteState announces in gossip that this server has Raft state, as soon as it has.
func (c *Cluster) noteState(ctx context.Context) {
	for c.raftIsEmpty() {
		if !sleep(ctx, leaderPoll) {
			return
		}
	}
	c.setMeta(func(m *clusterpb.Meta) { m.HasState = true })
}

// followMembers passes on changes of the membership.
func (c *Cluster) followMembers(ctx context.Context) {
	had := make(map[string]string)
	c.gossip.Follow(ctx, func(changed, all []Member) {
		if len(changed) > 0 && c.handlers.MembersChanged != nil {
			c.handlers.MembersChanged(changed)
		}
		c.dropDeparted(had, all)
		select {
		case c.leaderKick <- struct{}{}:
		default: // a look is pending already
		}
		if c.pilot != nil {
			c.pilot.membersChanged()
		}
	})
}

// followLeader passes on who leads, as Raft knows it or, on a proxy, as gossip says. A node that
// waits for a frozen or unreachable leader would otherwise learn of its successor only when the
// connection fails.
func (c *Cluster) followLeader(ctx context.Context) {
	elected := make(chan raft.Observation, 1) // one that is dropped adds nothing to the one that waits
	if c.raft != nil {
		observer := raft.NewObserver(elected, false, func(o *raft.Observation) bool {
			leader, ok := o.Data.(raft.LeaderObservation)
			if ok && leader.LeaderID != "" {
				c.leaderChanges.Add(1)
			}
			return ok
		})
		c.raft.RegisterObserver(observer)
		defer c.raft.DeregisterObserver(observer)
		if _, id := c.raft.LeaderWithID(); id != "" {
			c.leaderChanges.CompareAndSwap(0, 1) // a leader was elected before the observer was registered
		}
	}
	last := ""
	for {
		if _, addr := c.Leader(); addr != "" && addr != last && c.handlers.LeaderChanged != nil {
			last = addr
			if c.raft == nil {
				c.leaderChanges.Add(1)
			}
			c.handlers.LeaderChanged(addr)
		}
		select {
		case <-elected:
		case <-c.leaderKick:
		case <-ctx.Done():
			return
		}
	}
}

// dropDeparted closes connections to addresses that no member has any more. Connections to a dead
// member stay, because it may not be dead. had holds each member's address between calls.
func (c *Cluster) dropDeparted(had map[string]string, all []Member) {
	keep := make(map[string]bool)
	var gone []string
	for _, m := range all {
		if old := had[m.Name]; old != "" && old != m.RPCAddr {
			gone = append(gone, old)
		}
		had[m.Name] = m.RPCAddr
		if m.Health == HealthLeft {
			gone = append(gone, m.RPCAddr)
		} else {
			keep[m.RPCAddr] = true
		}
	}
	if len(had) > len(all) {
		for name, addr := range had { // members that were forgotten
			if !slices.ContainsFunc(all, func(m Member) bool { return m.Name == name }) {
				delete(had, name)
				gone = append(gone, addr)
			}
		}
	}
	for _, addr := range gone {
		if !keep[addr] {
			c.port.Drop(addr)
		}
	}
}
