package cluster

import (
	"os"
	"path/filepath"
)

// Measures are metrics of this node's part in the cluster. Metrics that only servers have are zero
// on a proxy.
type Measures struct {
	// LeaderChanges counts how often this node has heard of a leader: a new one, or the same one
	// after an interruption. The first counts too.
	LeaderChanges uint64
	// LogEntries counts the entries in the Raft log, and LogBytes is the size of its file, which
	// keeps the space of removed entries for new ones. Both are zero while the disk has stalled,
	// because reading them would wait for it. A log in memory has no file.
	LogEntries, LogBytes uint64
	// Voters counts the voters in the Raft configuration.
	Voters int
	// GossipScore is memberlist's measure of this node's health; 0 is best. It rises while answers
	// to this node's probes are missing: a node that is short of CPU or network sees that from all
	// others.
	GossipScore int
}

// Measures returns the numbers as they are now.
func (c *Cluster) Measures() Measures {
	m := Measures{LeaderChanges: c.leaderChanges.Load(), GossipScore: c.gossip.HealthScore()}
	if c.raft == nil {
		return m
	}
	for _, p := range c.Peers() {
		if p.Voter {
			m.Voters++
		}
	}
	if c.stores.disk.busyFor() >= c.cfg.stall {
		return m
	}
	// Raft meets the same error, and reports it.
	if first, err := c.stores.log.FirstIndex(); err == nil && first > 0 {
		m.LogEntries = max(c.raft.LastIndex()+1, first) - first
	}
	if path := c.cfg.Data.Path(); path != "" {
		if info, err := os.Stat(filepath.Join(path, raftDirectory, raftDBFile)); err == nil {
			m.LogBytes = uint64(info.Size())
		}
	}
	return m
}
