package cluster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// watchdogLimit is how long a leader may commit nothing, or go unconfirmed, because of the
	// other servers, before it hands over.
	watchdogLimit = 5 * time.Second
	// stallLimit is how long a leader's own write may take, or Raft's main loop not run, before the
	// leader falls silent so that the others elect another one. At the default ttl, they do before
	// a session runs out. A lower limit costs elections on slow disks.
	stallLimit = 2 * time.Second
)

// vitals are the watchdog's measurements.
type vitals struct {
	term       uint64 // > 0: this server leads in it
	commit     uint64
	pending    bool          // entries wait to be committed
	diskBusy   time.Duration // how long the present write has taken
	raftSilent time.Duration // how long Raft's main loop has not answered
	unproven   time.Duration // how long the others have not confirmed this leader
}

// within limits the durations to the time for which the process is known to have run. While it
// stands still (a frozen virtual machine, a container without CPU time), so do its writes and
// questions, and a step-down would not help: the others have elected another leader by then, or
// stand still themselves.
func (v vitals) within(ran time.Duration) vitals {
	v.diskBusy, v.raftSilent, v.unproven = min(v.diskBusy, ran), min(v.raftSilent, ran), min(v.unproven, ran)
	return v
}

// remedy is the watchdog's decision.
type remedy int

const (
	remedyNone remedy = iota
	// remedyHandOver gives leadership to another server.
	remedyHandOver
	// remedyMute sends the followers nothing, so that they elect another leader. While Raft waits
	// for the disk it can't hand over, though its heartbeats go on. Once it answers, it may be
	// heard again: it finds out by itself that it is deposed.
	remedyMute
)

// watchdog notices a leader that keeps its followers while nothing is committed or confirmed. If
// the others are the cause, it only tries to hand over, repeatedly: muting would leave the cluster
// without a leader, while this one may yet be confirmed. A leader that has lost its followers is no
// case for it: Raft's own lease ends such a leadership.
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
		return remedyMute // for as long as it lasts, even if it began before the term
	case v.unproven >= w.limit && now.Sub(w.given) >= w.limit:
	case now.Sub(w.since) >= w.limit:
	default:
		return remedyNone
	}
	w.since, w.given = now, now
	return remedyHandOver
}

// pace measures how long the process has run without standing still.
type pace struct {
	most  time.Duration // longest time between two looks of a running process
	last  time.Time
	since time.Time // the end of the last standstill
}

// ran records a look, and returns the time since the last standstill.
func (p *pace) ran(now time.Time) time.Duration {
	if now.Sub(p.last) > p.most {
		p.since = now
	}
	p.last = now
	return now.Sub(p.since)
}

// pulse checks that Raft's main loop runs, with one question at a time.
type pulse struct {
	ask   func() // returns once the loop has answered, or Raft is shut down
	asked atomic.Pointer[time.Time]
}

// silentFor asks, unless the last question is unanswered, and returns how long that one has waited.
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

// askRaft returns once Raft's main loop has run. Bootstrapping with no servers is the one request
// that only the loop answers, that it refuses in every state, and that changes nothing. A
// verification would wait for the other servers too.
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
