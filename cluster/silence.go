package cluster

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/raft"
)

// Raft looks once in one to two heartbeat timeouts, at a random moment, whether its leader is
// silent. A follower thus notices a dead leader after one to three timeouts, and votes for nobody
// else before: an election waits for all followers that its majority needs. So weir looks too, soon
// after the timeout has passed. Raft's look then finds the leader silent, and Raft stands.
//
// The timeout itself stays what it was, and a pause costs no more elections: a leader that pauses
// for so long has lost its leadership anyway, because its own lease, LeaderLeaseTimeout, is
// shorter.

// silence decides when a follower looks at how long its leader has been silent, and whether it
// stands for election.
type silence struct {
	timeout time.Duration
	due     time.Time // of the next look
}

// look returns whether to stand, and after how long to look again. random, below 1, spreads the
// servers, which would otherwise stand at the same moment and split the vote.
func (s *silence) look(now time.Time, silent time.Duration, random float64) (stand bool, next time.Duration) {
	spread := s.timeout / 2 // a longer one delays elections, and a shorter one splits more votes
	stoodStill := !s.due.IsZero() && now.Sub(s.due) > spread/2
	switch {
	case stoodStill: // what the leader has sent meanwhile is read first
		next = spread
	case silent >= s.timeout:
		stand, next = true, s.timeout
	default:
		next = s.timeout - silent + time.Duration(random*float64(spread))
	}
	s.due = now.Add(next)
	return stand, next
}

// followSilence makes this server stand for election soon after the leader that it follows has
// fallen silent.
func (c *Cluster) followSilence(ctx context.Context) {
	s := &silence{timeout: c.raftTimeouts()}
	for {
		stand, next := s.look(time.Now(), c.leaderSilent(), rand.Float64())
		if stand {
			c.campaign()
		}
		if !sleep(ctx, next) {
			return
		}
	}
}

// leaderSilent returns how long this server has not heard the leader that it follows, or 0 if it
// follows none.
func (c *Cluster) leaderSilent() time.Duration {
	contact := c.raft.LastContact()
	if _, leader := c.raft.LeaderWithID(); leader == "" || contact.IsZero() || c.raft.State() != raft.Follower {
		return 0
	}
	return time.Since(contact)
}

// campaign makes this server stand for election at once, if it has not heard a leader for the
// timeout. Raft reacts to a shorter heartbeat timeout by looking at that.
func (c *Cluster) campaign() {
	normal := c.raftTimeouts()
	conf := c.raft.ReloadableConfig()
	if conf.HeartbeatTimeout > normal {
		return // it has to listen first
	}
	for _, conf.HeartbeatTimeout = range []time.Duration{normal, normal - time.Millisecond} {
		if err := c.raft.ReloadConfig(conf); err != nil {
			c.log.Debug("waiting for the election timeout", "error", err)
			return
		}
	}
}
