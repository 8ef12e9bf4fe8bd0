package weir

import (
	"cmp"
	"context"
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
// unknown. A node without Raft state uses what the leader spreads of its log or, if that is of an
// older version, the digest of the leader's config.
func (n *Node) clusterDigest() string {
	if n.store == nil {
		leader, _ := n.members.Leader()
		m, _ := n.members.Member(leader)
		return cmp.Or(m.ClusterDigest, m.ConfigDigest)
	}
	var ttl time.Duration
	var limits []limit.Limit
	n.store.Read(func(st *fsm.State) { ttl, limits = st.TTL(), st.ConfigLimits() })
	if ttl == 0 {
		return ""
	}
	return config.Digest(ttl, limits)
}

// spreadDigest tells the nodes without Raft state what the configs should agree with, until ctx
// ends. Every server does: any may lead next.
func (n *Node) spreadDigest(ctx context.Context) error {
	for {
		changed := n.store.Changed()
		n.members.SetClusterDigest(n.clusterDigest())
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// checkAgreement logs when other nodes' configs begin or cease to disagree with the cluster. While
// this node reloads its own, config and cluster change one after the other: it looks afterwards.
func (n *Node) checkAgreement() {
	if n.reloading.Load() > 0 {
		return
	}
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
