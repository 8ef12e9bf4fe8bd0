package cluster

import (
	"slices"

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
		i.GossipAddr, i.LeadsTerm = c.gossip.Addr().String(), c.leadingTerm()
	default: // neither is known yet
	}
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
	if err := c.gossip.Decide(id); err != nil {
		c.log.Error("the gossip metadata can't be changed", "error", err)
	}
}
