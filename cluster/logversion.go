package cluster

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster/handshake"
)

// A server stops at a log entry that it doesn't understand. While a cluster is upgraded, server by
// server, no entry may be written that an older server doesn't know. So each server announces in
// gossip the newest version of the log that it understands.

// CheckLogVersion returns an error that wraps [ErrMixedVersions] and names the servers that would
// stop at an entry of this version of the log. All servers understand version 1. A server that this
// one has never heard of counts as version 1, because it may come back as such.
func (c *Cluster) CheckLogVersion(need uint32) error {
	if need <= 1 || c.raft == nil {
		return nil
	}
	behind := behindVersion(need, c.serverID(), max(c.cfg.LogVersion, 1), c.configuration().Servers, c.Members())
	if len(behind) == 0 {
		return nil
	}
	return fmt.Errorf("%w: it needs log version %d, and %s: upgrade them (one that is gone for good: `weir raft remove NAME`)",
		ErrMixedVersions, need, strings.Join(behind, ", "))
}

// behindVersion names the servers that may not understand a version of the log, with what is known
// of them. Servers that are about to be added count too.
func behindVersion(need uint32, self raft.ServerID, own uint32, servers []raft.Server, members []Member) []string {
	byName := make(map[string]Member, len(members))
	for _, m := range members {
		byName[m.Name] = m
	}
	var behind []string
	note := func(name string, knows uint32) {
		if knows < need {
			behind = append(behind, fmt.Sprintf("%s knows %d", name, knows))
		}
	}
	for _, s := range servers {
		name := handshake.NameOf(string(s.ID))
		m, heard := byName[name]
		switch {
		case s.ID == self:
			note(name, own)
		case !heard:
			behind = append(behind, name+" has not been heard of")
		case m.ServerID() == string(s.ID):
			note(name, m.LogVersion)
		case !m.Alive(): // another server had its name, and may not be the last
			behind = append(behind, name+" has not been heard of")
		}
	}
	for _, m := range members {
		id := raft.ServerID(m.ServerID())
		if m.IsServer() && m.Alive() && !slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == id }) {
			note(m.Name, m.LogVersion)
		}
	}
	return behind
}
