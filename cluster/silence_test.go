package cluster

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// A follower stands within half the timeout after the timeout, whenever its leader falls
// silent, and never while the leader is heard.
func TestSilentLeaderIsNoticed(t *testing.T) {
	const timeout, beat = 700 * time.Millisecond, 140 * time.Millisecond
	for seed := range uint64(500) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			began := time.Now()
			ends := time.Duration(r.Int64N(int64(5 * time.Second)))
			heard := func() time.Duration { // how long ago a heartbeat came, of which the last came at ends
				up := min(time.Since(began), ends)
				return time.Since(began) - up/beat*beat
			}
			s := &silence{timeout: timeout}
			for {
				silent := heard()
				stand, next := s.look(time.Now(), silent, r.Float64())
				if stand {
					if silent < timeout || silent >= timeout+timeout/2 {
						t.Errorf("seed %d: it stands after %v of silence", seed, silent)
					}
					return
				}
				if next <= 0 || silent >= timeout {
					t.Fatalf("seed %d: after %v of silence it waits %v", seed, silent, next)
				}
				time.Sleep(next)
			}
		})
	}
}

// Servers that lose their leader at the same moment do not stand at the same moment.
func TestServersStandApart(t *testing.T) {
	at := map[time.Duration]int{}
	for range 100 {
		s := &silence{timeout: 700 * time.Millisecond}
		_, next := s.look(time.Now(), 100*time.Millisecond, rand.Float64())
		at[next.Round(5*time.Millisecond)]++
	}
	if len(at) < 20 {
		t.Errorf("100 servers look at %d moments: %v", len(at), at)
	}
}

// A process that stood still, while its leader did not, hears the leader before it decides.
func TestStandstillIsNoSilence(t *testing.T) {
	s := &silence{timeout: time.Second}
	now := time.Now()
	_, next := s.look(now, 0, 0)
	now = now.Add(next + 10*time.Second)
	stand, next := s.look(now, 11*time.Second, 0)
	if stand || next != s.timeout/2 {
		t.Errorf("after a standstill: stands %v, looks again after %v", stand, next)
	}
	if stand, _ = s.look(now.Add(next), 10*time.Millisecond, 0); stand {
		t.Error("it stands though it hears its leader")
	}
	now = now.Add(5 * time.Second)
	s.due = now
	if stand, _ = s.look(now, 5*time.Second, 0); !stand {
		t.Error("it does not stand though the leader is silent")
	}
}

// Whoever campaigns while the leader is heard changes nothing, however often.
func TestCampaigningAgainstALiveLeader(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	term := leader.leads()
	// A busy machine may stand still. So longest is how long a follower has not heard the leader, or
	// a step of this test took, in which it may have heard it again.
	var longest time.Duration
	last := time.Now()
	for range 300 {
		for _, n := range others(leader, nodes) {
			n.campaign()
			n.askRaft() // its main loop has run
			now := time.Now()
			longest = max(longest, now.Sub(n.raft.LastContact()), now.Sub(last))
			last = now
		}
	}
	for _, n := range others(leader, nodes) {
		if got, want := n.raft.ReloadableConfig().HeartbeatTimeout, n.raftTimeouts(); got > want || got < want-time.Millisecond {
			t.Errorf("%s waits %v for its leader, want %v", n.cfg.Name, got, want)
		}
	}
	if now := leader.leads(); now != term && longest < leader.raftConfig().LeaderLeaseTimeout/2 {
		t.Errorf("led in term %d, now in %d, though the leader was heard every %v", term, now, longest)
	}
}
