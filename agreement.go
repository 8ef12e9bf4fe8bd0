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
	digest, own := n.clusterDigest(), n.reloadedDigest.Load()
	names := []string{}
	for _, m := range n.members.Members() {
		if own != nil && m.Name == n.name() {
			m.ConfigDigest = *own // gossip has it a moment later
		}
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

// setDigest changes the digest of this node's config, after a reload.
func (n *Node) setDigest(digest string) {
	n.reloadedDigest.Store(&digest)
	n.members.SetConfigDigest(digest)
}

// replaceConfigLimits makes limits the cluster's config limits, and reports whether any changed.
// Afterwards this node's own log has them as well.
func (n *Node) replaceConfigLimits(ctx context.Context, limits []limit.Limit) (changed bool, err error) {
	if changed, err = n.api.ReplaceConfigLimits(ctx, limits); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, logWait)
	defer cancel()
	n.awaitLog(ctx, view{n}.Table().Index)
	return changed, nil
}

// logWait bounds how long a reload waits for this node's log. Without it, nodes may be said to
// disagree until the log is there.
const logWait = 2 * time.Second

// awaitLog waits until this node's log has the write of the limits at index, or ctx ends: what comes
// by the lease may be ahead of a follower's log.
func (n *Node) awaitLog(ctx context.Context, index uint64) {
	for n.store != nil {
		changed := n.store.Changed()
		if n.store.Table().Index >= index {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
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
