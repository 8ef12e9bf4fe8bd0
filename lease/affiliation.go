package lease

import (
	"errors"
	"fmt"
	"time"

	"github.com/weirproxy/weir/lease/leasepb"
)

// Affiliation is which cluster a node is of, as it is kept outside of this package.
type Affiliation interface {
	// ClusterID is the id of the node's cluster; "" while it is of none.
	ClusterID() string
	// SetClusterID makes the node a member of a cluster for good: the id is kept when it returns.
	// It fails where the node is of another one.
	SetClusterID(id string) error
}

// ErrOtherCluster ends a stream to a leader of another cluster than the node's.
var ErrOtherCluster = errors.New("the leader is of another cluster")

// otherClusterEvery is how often a meeting of two clusters is logged: the node goes on trying.
const otherClusterEvery = 30 * time.Second

// SetCluster says of which cluster the node is; "" is none yet.
func (n *Node) SetCluster(id string) { n.cluster = id }

// checkCluster holds the node to one cluster. A leader states its cluster with everything that
// begins: nothing of another cluster's is taken, whatever led the node there. A node that is of no
// cluster yet is of that of its first session.
func (n *Node) checkCluster(m *leasepb.LeaderMessage) error {
	theirs, states := clusterOf(m)
	switch {
	case !states || theirs == n.cluster:
		return nil
	case n.cluster == "":
		n.cluster = theirs
		return nil
	}
	return fmt.Errorf("%w: its is %s, and this node's %s", ErrOtherCluster, theirs, n.cluster)
}

// clusterOf is the cluster that a leader's message states, if it states one.
func clusterOf(m *leasepb.LeaderMessage) (id string, states bool) {
	switch m := m.Message.(type) {
	case *leasepb.LeaderMessage_Limits:
		return m.Limits.Cluster, true
	case *leasepb.LeaderMessage_Welcome:
		return m.Welcome.Cluster, true
	}
	return "", false
}

// affiliate keeps the id of the cluster that the node is let into, before anything that its leader
// says is used. Once it is kept, that costs nothing; a leader of another cluster is for the core to
// refuse.
func (m *Manager) affiliate(msg *leasepb.LeaderMessage) error {
	theirs, states := clusterOf(msg)
	m.mu.Lock()
	mine := m.node.cluster
	m.mu.Unlock()
	if !states || theirs == "" || mine != "" && mine != theirs || m.cfg.Affiliation == nil {
		return nil
	}
	return m.cfg.Affiliation.SetClusterID(theirs)
}

// meetsOther logs that two clusters meet, at most once in a while.
func (m *Manager) meetsOther(err error) {
	now := m.cfg.Clock.Now()
	if m.metOther != 0 && now-m.metOther < otherClusterEvery {
		return
	}
	m.metOther = now
	m.cfg.Log.Error("no lease is taken from another cluster: check cluster.join, and which nodes use the addresses in it", "reason", err)
}
