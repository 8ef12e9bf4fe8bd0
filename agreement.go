package weir

import (
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// disagreements names the nodes whose config differs from the cluster's settings.
func (n *Node) disagreements() []string {
	digest := n.clusterDigest()
	names := []string{}
	for _, m := range n.members.Members() {
		if m.Alive() && m.ConfigDigest != "" && digest != "" && m.ConfigDigest != digest {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names
}

// clusterDigest returns the digest of a config that agrees with the cluster, or "" if that is
// unknown. A node without Raft state uses the leader's digest.
func (n *Node) clusterDigest() string {
	if n.store == nil {
		leader, _ := n.members.Leader()
		m, _ := n.members.Member(leader)
		return m.ConfigDigest
	}
	var ttl time.Duration
	var limits []limit.Limit
	n.store.Read(func(st *fsm.State) { ttl, limits = st.TTL(), st.ConfigLimits() })
	if ttl == 0 {
		return ""
	}
	return config.Digest(ttl, limits)
}

// checkAgreement logs when other nodes' configs begin or cease to disagree with the cluster.
func (n *Node) checkAgreement() {
	names := strings.Join(n.disagreements(), ", ")
	n.mu.Lock()
	changed := names != n.disagreeing
	n.disagreeing = names
	n.mu.Unlock()
	switch {
	case changed && names != "":
		n.log.Warn("configs disagree with the cluster on lease.ttl or limits; the last reload wins", "nodes", names)
	case changed:
		n.log.Info("all configs agree with the cluster")
	}
}
