package cluster

import (
	"errors"
	"net"
	"slices"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

// doorkeeper speaks for this node on both of its ports.
func (c *Cluster) doorkeeper() *handshake.Doorkeeper {
	saved := c.cfg.Data.state().Cluster
	c.of = handshake.NewAffiliation(saved, c.keepClusterID, c.clusterDecided)
	d := &handshake.Doorkeeper{Name: c.cfg.Name, Of: c.of, Introduction: c.introduce, Heard: c.heardPreface}
	if c.cfg.Role == RoleServer {
		d.ServerID = c.cfg.Data.ServerID()
	}
	return d
}

// joinsNobody reports whether cluster.join names no other node.
func joinsNobody(join []string, own ...string) bool {
	return !slices.ContainsFunc(join, func(addr string) bool { return !slices.Contains(own, addr) })
}

// introduce fills in what other nodes need to know of this one when a connection begins.
func (c *Cluster) introduce(i *clusterpb.Introduction) {
	select {
	case <-c.started:
		i.GossipAddr, i.LeadsTerm = c.gossip.gossipIP.String(), c.leadingTerm()
	default: // neither is known yet
	}
}

// gossipRefused logs why gossip with an address is refused, at most once per interval for each
// machine.
func (c *Cluster) gossipRefused(peer string, err error) {
	log := c.log.Named("gossip")
	host, _, splitErr := net.SplitHostPort(peer)
	if splitErr != nil {
		host = peer
	}
	var wrong *handshake.Misfit
	why := ""
	switch {
	case errors.As(err, &wrong):
		why = wrong.Kind()
	case errors.Is(err, errUnmarked), errors.Is(err, errOverpacked), errors.Is(err, errNoGossip):
		why = err.Error()
	}
	if why != "" && c.said.Due(host+" "+why, time.Now()) {
		log.Warn("no gossip with a node", "peer", peer, "reason", err)
		return
	}
	log.Debug("no gossip with a node", "peer", peer, "reason", err)
}

// keepClusterID stores the id of this node's cluster, for good.
func (c *Cluster) keepClusterID(id string) error {
	return c.cfg.Data.update(func(saved *identity) { saved.Cluster = id })
}

// clusterDecided is called once this node knows its cluster. It ends all contact with members of
// other clusters that this node met before.
func (c *Cluster) clusterDecided(id string) {
	c.log.Info("this node's cluster is known", "cluster", id)
	c.port.DropOthers(id)
	if err := c.gossip.decide(id); err != nil {
		c.log.Error("the gossip metadata can't be changed", "error", err)
	}
}
