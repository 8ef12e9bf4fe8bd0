package cluster

import (
	"fmt"
	"net"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

// heardPreface receives the preface of each node that dials this one, admitted or not.
func (c *Cluster) heardPreface(p *clusterpb.Preface, from net.Addr) {
	select {
	case <-c.started:
	default:
		return
	}
	other := p.GetFrom()
	if other.GetCluster() == "" {
		return
	}
	c.gossip.Hear(other.GetGossipAddr())
	if c.bootstrap != nil {
		c.bootstrap.hear(fmt.Sprintf("node %s at %s, of cluster %s", other.GetNode(), from, other.GetCluster()), time.Now())
	}
	saved := c.cfg.Data.state()
	if !namesAsVoter(p, saved) {
		return
	}
	err := fmt.Errorf("%w: node %s at %s leads cluster %s, in which this server's name is a voter; this server has lost its data_dir since, and has formed "+
		"cluster %s alone: stop it, set cluster.join to the other servers' gossip addresses, remove its data_dir, and start it again", ErrOtherCluster,
		other.GetNode(), from, other.GetCluster(), saved.Cluster)
	if c.superseded.CompareAndSwap(false, true) {
		c.log.Error("fenced: an older cluster names this server as a voter", "reason", err)
		if c.handlers.Superseded != nil {
			c.handlers.Superseded(err)
		}
		return
	}
	if c.said.Due("superseded", time.Now()) {
		c.log.Error("still fenced: an older cluster names this server as a voter", "reason", err)
	}
}

// namesAsVoter reports whether a preface shows that this server has formed a second cluster: it
// formed its own alone, and a leader of another cluster looks at this address for a voter of this
// name with another data directory. A server that joined its cluster was sent there by its own
// configuration, so there the older voter entry is only a remnant.
func namesAsVoter(p *clusterpb.Preface, self identity) bool {
	target, other := p.GetTarget(), p.GetFrom()
	return p.GetKind() == handshake.KindRaft && other.GetLeadsTerm() > 0 &&
		self.FormedAlone && self.Cluster != "" && other.GetCluster() != self.Cluster &&
		handshake.NameOf(target) == self.Name && target != handshake.ServerID(self.Name, self.Identity)
}
