package cluster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// watchdogLimit is how long a leader may commit nothing, or not prove that it leads, because of
	// the others, before leadership is handed over.
	watchdogLimit = 5 * time.Second
	// stallLimit is how long a leader's own write may take, or Raft's main loop not run, before the
	// leader stops to keep the others from electing another one. At the default ttl they have one
	// before a session runs out. Lower costs elections on slow disks.
	stallLimit = 2 * time.Second
)

// vitals is what the watchdog looks at.
type vitals struct {
	term       uint64 // > 0: this server leads in it
	commit     uint64
	pending    bool          // entries wait to be committed
	diskBusy   time.Duration // how long the write under way has taken
	raftSilent time.Duration // how long Raft's main loop has not answered a question
	unproven   time.Duration // how long the others have not confirmed that this server leads
}

// within cuts the durations down to the time for which the process is known to have run. While it
// stands still (a frozen virtual machine, a container without CPU time) its writes and questions
// stand still too, and another leader would not help: the others have elected one by then, or stand
// still themselves.
func (v vitals) within(ran time.Duration) vitals {
	v.diskBusy, v.raftSilent, v.unproven = min(v.diskBusy, ran), min(v.raftSilent, ran), min(v.unproven, ran)
	return v
}

// remedy is what the watchdog prescribes.
type remedy int

const (
	remedyNone remedy = iota
	// remedyHandOver gives leadership to another server.
	remedyHandOver
	// remedyMute sends the followers nothing any more, so that they elect another leader. A Raft
	// that waits for the disk can't hand over, but its heartbeats go on. They may be heard again
	// once it answers: it finds out by itself that it is deposed.
	remedyMute
)

// watchdog notices a leader that keeps its followers while nothing is committed or proven. Where
// that is up to the others it only tries to hand over, again and again: muting would leave no
// leader at all, while this one may yet be confirmed. That it has lost its followers is none of its
// business: Raft's own lease ends such a leadership.
type watchdog struct {
	limit time.Duration // for commits
	stall time.Duration // for the own disk, and Raft

	term   uint64
	commit uint64
	since  time.Time // when commit was first seen, or the last remedy given
	given  time.Time // when the last remedy was given
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
		w.since, w.given = now, now
		return remedyMute // as long as it lasts, also where it began before the term
	case v.unproven >= w.limit && now.Sub(w.given) >= w.limit:
	case now.Sub(w.since) >= w.limit:
	default:
		return remedyNone
	}
	w.since, w.given = now, now
	return remedyHandOver
}

// pace tells for how long the process has run without standing still.
type pace struct {
	most  time.Duration // between two looks: more, and it stood still
	last  time.Time
	since time.Time // the end of the last standstill
}

// ran notes a look, and returns the time since the last standstill.
func (p *pace) ran(now time.Time) time.Duration {
	if now.Sub(p.last) > p.most {
		p.since = now
	}
	p.last = now
	return now.Sub(p.since)
}

// pulse asks Raft's main loop for a sign of life, one question at a time.
type pulse struct {
	ask   func() // returns once the loop has answered, or Raft is shut down
	asked atomic.Pointer[time.Time]
}

// silentFor asks, unless the last question waits still, and returns how long that has waited.
func (p *pulse) silentFor(now time.Time) time.Duration {
	if asked := p.asked.Load(); asked != nil {
		return now.Sub(*asked)
	}
	p.asked.Store(&now)
	go func() {
		p.ask()
		p.asked.Store(nil)
	}()
	return 0
}

// askRaft returns once Raft's main loop has run. Of what only the loop answers, to bootstrap with
// no servers is the one request that is refused in every state and changes nothing. A verification
// would not do: it waits for the others too.
func (c *Cluster) askRaft() {
	_ = c.raft.BootstrapCluster(raft.Configuration{}).Error() // the refusal is the answer
}

// watch runs the watchdog until the context ends.
func (c *Cluster) watch(ctx context.Context) {
	dog := &watchdog{limit: c.cfg.patience, stall: c.cfg.stall, since: time.Now()}
	pace := &pace{most: dog.stall / 2}
	main := &pulse{ask: c.askRaft}
	for sleep(ctx, dog.stall/4) {
		now := time.Now()
		v := c.vitals(now, main).within(pace.ran(now))
		what := dog.look(now, v)
		if mute := what == remedyMute; c.muted.Swap(mute) != mute {
			c.logMute(mute, v)
		}
		if what == remedyHandOver {
			c.logHandOver(dog.limit, v)
			c.background(func() {
				if err := c.handOver(ctx, ""); err != nil {
					c.log.Error("leadership could not be handed over", "error", err)
				}
			})
		}
	}
}

func (c *Cluster) logHandOver(limit time.Duration, v vitals) {
	if v.unproven >= limit {
		c.log.Error("this server leads, but the others do not confirm it: handing leadership over", "term", v.term, "for", v.unproven.Round(time.Millisecond))
		return
	}
	c.log.Error("this server leads, but nothing is committed: handing leadership over", "commit_index", v.commit, "last_index", c.raft.LastIndex())
}

func (c *Cluster) logMute(mute bool, v vitals) {
	switch {
	case !mute:
		c.log.Info("this server is no longer silent", "term", v.term)
	case v.diskBusy >= c.cfg.stall:
		c.log.Error("this server leads, but its disk has stalled: it falls silent, so that the others elect another leader",
			"term", v.term, "disk_busy", v.diskBusy.Round(time.Millisecond))
	default:
		c.log.Error("this server leads, but its Raft has stopped: it falls silent, so that the others elect another leader",
			"term", v.term, "raft_silent", v.raftSilent.Round(time.Millisecond), "disk_busy", v.diskBusy.Round(time.Millisecond))
	}
}

func (c *Cluster) vitals(now time.Time, main *pulse) vitals {
	commit := c.raft.CommitIndex()
	return vitals{
		term:       c.leadingTerm(),
		commit:     commit,
		pending:    c.raft.LastIndex() > commit || c.proposals.underWay() > 0,
		diskBusy:   c.stores.disk.busyFor(),
		raftSilent: main.silentFor(now),
		unproven:   c.verifier.stuckFor(now),
	}
}
