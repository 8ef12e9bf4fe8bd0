package cluster

import (
	"context"
	"time"
)

const (
	// watchdogLimit is how long a leader may commit nothing, because of the others, before leadership is handed over.
	watchdogLimit = 5 * time.Second
	// stallLimit is how long a leader's own write may take, or Raft be silent, before it stops to keep the others from electing
	// another leader. At the default ttl they have one before a session runs out. Lower costs elections on slow disks.
	stallLimit = 2 * time.Second
)

// vitals is what the watchdog looks at.
type vitals struct {
	term       uint64 // > 0: this server leads in it
	commit     uint64
	pending    bool          // entries wait to be committed
	diskBusy   time.Duration // how long the write under way has taken
	raftSilent time.Duration // how long Raft has not answered a question
}

// remedy is what the watchdog prescribes.
type remedy int

const (
	remedyNone remedy = iota
	// remedyHandOver gives leadership to another server.
	remedyHandOver
	// remedyMute sends the followers nothing any more, so that they elect another leader. A Raft that waits for the disk can't
	// hand over, but its heartbeats go on. They may be heard again once it answers: it finds out by itself that it is deposed.
	remedyMute
)

// watchdog notices a leader that keeps its followers while nothing is committed. Where entries wait for the
// others' disks it only tries to hand over, again and again: muting would leave no leader at all, while this
// one can still verify its leadership.
type watchdog struct {
	limit time.Duration // for commits
	stall time.Duration // for the own disk, and Raft

	term   uint64
	commit uint64
	since  time.Time // when commit was first seen, or the last remedy given
}

func (w *watchdog) look(now time.Time, v vitals) remedy {
	moved := v.term != w.term || v.commit != w.commit
	if v.term == 0 || moved || !v.pending {
		w.term, w.commit, w.since = v.term, v.commit, now
	}
	switch {
	case v.term == 0:
		return remedyNone
	case v.diskBusy >= w.stall || v.raftSilent >= w.stall:
		w.since = now
		return remedyMute // as long as it lasts, also where it began before the term
	case now.Sub(w.since) < w.limit:
		return remedyNone
	}
	w.since = now
	return remedyHandOver
}

// watch runs the watchdog until the context ends.
func (c *Cluster) watch(ctx context.Context) {
	dog := &watchdog{limit: c.cfg.patience, stall: c.cfg.stall, since: time.Now()}
	for sleep(ctx, dog.stall/4) {
		v := c.vitals()
		what := dog.look(time.Now(), v)
		if mute := what == remedyMute; c.muted.Swap(mute) != mute {
			c.logMute(mute, v)
		}
		if what == remedyHandOver {
			c.log.Error("this server leads, but nothing is committed: handing leadership over", "commit_index", v.commit, "last_index", c.raft.LastIndex())
			c.background(func() {
				if err := c.handOver(ctx, ""); err != nil {
					c.log.Error("leadership could not be handed over", "error", err)
				}
			})
		}
	}
}

func (c *Cluster) logMute(mute bool, v vitals) {
	if mute {
		c.log.Error("this server leads, but its disk has stalled: it falls silent, so that the others elect another leader",
			"term", v.term, "disk_busy", v.diskBusy.Round(time.Millisecond), "raft_silent", v.raftSilent.Round(time.Millisecond))
		return
	}
	c.log.Info("this server is no longer silent", "term", v.term)
}

func (c *Cluster) vitals() vitals {
	commit := c.raft.CommitIndex()
	return vitals{
		term:       c.leadingTerm(),
		commit:     commit,
		pending:    c.raft.LastIndex() > commit || c.proposals.underWay() > 0,
		diskBusy:   c.stores.disk.busyFor(),
		raftSilent: c.verifier.stuckFor(time.Now()),
	}
}
