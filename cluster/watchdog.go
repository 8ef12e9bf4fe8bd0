package cluster

import (
	"context"
	"fmt"
	"time"
)

// watchdogLimit is how long a leader may commit nothing before leadership is handed over, and half of how long before
// the process stops.
const watchdogLimit = 5 * time.Second

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
	// remedyStop ends the process: this server leads, can't write, and can't give leadership away. Its heartbeats
	// would keep the others from electing another leader.
	remedyStop
)

// watchdog notices a leader that keeps its followers while nothing is committed. Where entries wait for the
// others' disks it only tries to hand over, again and again: stopping would leave no leader at all, while this
// one can still verify its leadership.
type watchdog struct {
	limit time.Duration

	term   uint64
	commit uint64
	since  time.Time // when commit was first seen, or the last remedy given
	tried  bool      // a hand-over, since commit last moved
}

func (w *watchdog) look(now time.Time, v vitals) remedy {
	wedged := v.diskBusy >= w.limit || v.raftSilent >= w.limit
	moved := v.term != w.term || v.commit != w.commit
	if v.term == 0 || moved || (!v.pending && !wedged) {
		w.term, w.commit, w.since, w.tried = v.term, v.commit, now, false
		// A write that was under way before the term began is counted all the same.
		if v.term == 0 || !wedged {
			return remedyNone
		}
	}
	switch {
	case wedged && !w.tried:
		w.since, w.tried = now, true
		return remedyHandOver
	case now.Sub(w.since) < w.limit:
		return remedyNone
	case wedged:
		return remedyStop
	default:
		w.since, w.tried = now, true
		return remedyHandOver
	}
}

// watch runs the watchdog until the context ends.
func (c *Cluster) watch(ctx context.Context) {
	limit := c.cfg.patience
	dog := &watchdog{limit: limit, since: time.Now()}
	for sleep(ctx, limit/5) {
		v := c.vitals()
		switch dog.look(time.Now(), v) {
		case remedyHandOver:
			c.log.Error("this server leads, but nothing is committed: handing leadership over",
				"commit_index", v.commit, "last_index", c.raft.LastIndex(), "disk_busy", v.diskBusy.Round(time.Millisecond))
			c.background(func() {
				if err := c.handOver(ctx, ""); err != nil {
					c.log.Error("leadership could not be handed over", "error", err)
				}
			})
		case remedyStop:
			c.fatal(fmt.Errorf("%w: it has written nothing for %s, and leadership could not be handed over: "+
				"the process stops, so that the other servers can elect a leader", ErrStalled, max(v.diskBusy, v.raftSilent).Round(time.Second)))
			return
		}
	}
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
