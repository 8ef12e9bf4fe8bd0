package main

import (
	"slices"
	"strings"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
)

// disagreements names the nodes whose config differs from what the cluster has.
func (a *agent) disagreements() []string {
	digest := a.clusterDigest()
	names := []string{}
	for _, m := range a.members.Members() {
		if m.Alive() && m.ConfigDigest != "" && digest != "" && m.ConfigDigest != digest {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names
}

// clusterDigest is the digest of a config that agrees with the cluster; "" while nothing is known.
// A node without Raft state takes the leader's config for it.
func (a *agent) clusterDigest() string {
	if a.store == nil {
		leader, _ := a.members.Leader()
		m, _ := a.members.Member(leader)
		return m.ConfigDigest
	}
	var c config.Config
	a.store.Read(func(st *fsm.State) {
		c.Lease.TTL = st.TTL()
		for _, l := range st.ConfigLimits() {
			c.Limits = append(c.Limits, config.Limit{
				Pattern: l.Pattern.String(), Connections: l.Connections, Shared: l.Shared,
				Queue: config.Queue{Timeout: l.Queue.Timeout, Size: l.Queue.Size},
			})
		}
	})
	if c.Lease.TTL == 0 {
		return ""
	}
	return config.Digest(&c)
}

// checkAgreement logs when other nodes' configs begin or cease to disagree with the cluster's.
func (a *agent) checkAgreement() {
	names := strings.Join(a.disagreements(), ", ")
	a.mu.Lock()
	changed := names != a.disagreeing
	a.disagreeing = names
	a.mu.Unlock()
	switch {
	case changed && names != "":
		a.log.Warn("configs disagree with the cluster on lease.ttl or limits; the last reload wins", "nodes", names)
	case changed:
		a.log.Info("all configs agree with the cluster")
	}
}
