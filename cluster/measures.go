package cluster

import (
	"os"
	"path/filepath"
)

// Measures are numbers of this node's part in the cluster, for those who watch it. What only
// servers have is zero on a proxy.
type Measures struct {
	// LeaderChanges is how often this node has heard of a leader: another one than before, or the
	// same once more after an interruption. The first counts too.
	LeaderChanges uint64
	// LogEntries are those in the Raft log, and LogBytes the size of its file, which keeps the room
	// of entries that are gone for new ones. Both are zero while the disk has stalled: asking would
	// wait for it. In memory there is no file.
	LogEntries, LogBytes uint64
	// Voters are those in the Raft configuration.
	Voters int
	// GossipScore is memberlist's own account of this node's health, 0 being the best: it rises
	// while answers to this node's probes fail to come, which a node that is short of time or
	// network sees from everybody.
	GossipScore int
}

// Measures returns the numbers as they are now.
func (c *Cluster) Measures() Measures {
	m := Measures{LeaderChanges: c.leaderChanges.Load(), GossipScore: c.gossip.list.GetHealthScore()}
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
	// An error here is one that Raft meets too, and tells.
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
