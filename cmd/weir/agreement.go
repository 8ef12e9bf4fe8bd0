package main

import (
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// disagreements names the nodes whose config differs from the cluster's settings.
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

// clusterDigest returns the digest of a config that agrees with the cluster, or "" if that is
// unknown. A node without Raft state uses the leader's digest.
func (a *agent) clusterDigest() string {
	if a.store == nil {
		leader, _ := a.members.Leader()
		m, _ := a.members.Member(leader)
		return m.ConfigDigest
	}
	var ttl time.Duration
	var limits []limit.Limit
	a.store.Read(func(st *fsm.State) { ttl, limits = st.TTL(), st.ConfigLimits() })
	if ttl == 0 {
		return ""
	}
	return config.Digest(ttl, limits)
}

// checkAgreement logs when other nodes' configs begin or cease to disagree with the cluster.
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
