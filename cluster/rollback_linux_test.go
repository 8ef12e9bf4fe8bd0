package cluster

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// living is an option: sessions live for that long.
func living(life time.Duration) option {
	return func(c *Config) { c.SessionLife = func() (time.Duration, bool) { return life, true } }
}

// putBack replaces a stopped node's directory by a copy.
func putBack(t *testing.T, n *testNode, backup string) {
	t.Helper()
	must(t, os.RemoveAll(n.path))
	runCommand(t, "cp", "-a", backup, n.path)
}

// stopped stops a node, once it knows the configuration, and copies its directory.
func stopped(t *testing.T, n *testNode) string {
	t.Helper()
	eventually(t, 10*time.Second, "it knows the configuration", func() bool { return len(n.configuration().Servers) > 0 })
	n.kill()
	backup := filepath.Join(t.TempDir(), "backup")
	runCommand(t, "cp", "-a", n.path, backup)
	return backup
}

// backedUp stops a node, copies its directory, and starts it again.
func backedUp(t *testing.T, n *testNode, opts ...option) (*testNode, string) {
	t.Helper()
	backup := stopped(t, n)
	back := n.again(opts...)
	eventually(t, 5*time.Second, "it is sure of its past", func() bool { return back.past.free() })
	return back, backup
}

// lead makes a node the leader.
func lead(t *testing.T, n *testNode, nodes ...*testNode) {
	t.Helper()
	leader := waitLeader(t, nodes...)
	if leader != n {
		must(t, leader.Transfer(t.Context(), n.cfg.Name))
		eventually(t, 10*time.Second, n.cfg.Name+" leads", func() bool { return waitLeader(t, nodes...) == n })
	}
}

// putBackOfThree makes three servers of which none runs: a and b have committed an entry that c
// lacks, and b is put back to a copy without it, which spoil may change.
func putBackOfThree(t *testing.T, life time.Duration, spoil func(backup string)) (a, b, c *testNode, index uint64) {
	t.Helper()
	nodes := startThree(t, living(life))
	a, c = nodes[0], nodes[2]
	lead(t, a, nodes...)
	b, backup := backedUp(t, nodes[1], living(life))
	spoil(backup)
	c.kill()
	lead(t, a, a, b)
	index = propose(t, a, "only a and b have it")
	waitApplied(t, b, index)
	b.kill()
	a.kill()
	putBack(t, b, backup)
	return a, b, c, index
}

// The three servers of the case: b is put back to a copy without the entry that a and b have
// committed, c never had it, and a is gone. b and c are a majority, and must not go on without the
// entry before every session that hangs on it has run out.
func TestAPutBackServerDoesNotElectALeaderWithoutWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	const life = 4 * time.Second
	a, b, c, _ := putBackOfThree(t, life, func(string) {})
	gone := time.Now()

	b, c = b.again(living(life)), c.again(living(life))
	next := waitLeader(t, b, c)
	if waited := time.Since(gone); waited < life {
		t.Errorf("%s leads %v after the entry was last confirmed, want at least %v", next.cfg.Name, waited, life)
	}
	// The server that has the entry comes back: the two go on without it, and it follows them.
	a = a.again(living(life))
	waitApplied(t, a, propose(t, next, "after"))
}

// emptied removes all entries from a copy of a directory: it is as if it had been made just after
// the server's first vote.
func emptied(t *testing.T, backup string) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(backup, acknowledgedFile))) // if it was there yet
	log, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(backup, raftDirectory, raftDBFile)})
	must(t, err)
	last, err := log.LastIndex()
	must(t, err)
	must(t, log.DeleteRange(1, last))
	must(t, log.Close())
}

// A server that was put back to a copy without a configuration does not know whom to ask what it
// has forgotten: it votes for nobody, and follows a leader only once no session of before can be
// alive.
func TestAServerPutBackToAnEmptyLogElectsNobody(t *testing.T) {
	t.Parallel()
	const life = 3 * time.Second
	a, b, c, index := putBackOfThree(t, life, func(backup string) { emptied(t, backup) })

	b, c = b.again(living(life)), c.again(living(life))
	eventually(t, 10*time.Second, "b has been silent for a session's life", func() bool { return b.past.silence() >= life })
	if b.past.free() || b.leads() != 0 || c.leads() != 0 {
		t.Fatalf("b is free: %v; b leads in term %d, c in term %d", b.past.free(), b.leads(), c.leads())
	}
	a = a.again(living(life))
	if leader := waitLeader(t, a, b, c); leader != a {
		t.Errorf("%s leads, which lacks the entry", leader.cfg.Name)
	}
	for _, n := range []*testNode{b, c} {
		waitApplied(t, n, index)
	}
	eventually(t, 5*time.Second, "b is sure of its past", func() bool { return b.past.free() })
}

// The same, but a leader stands throughout: it brings the server up to date once it may.
func TestAServerPutBackToAnEmptyLogIsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	const life = 3 * time.Second
	nodes := startThree(t, living(life))
	a, b := nodes[0], nodes[1]
	lead(t, a, nodes...)
	b, backup := backedUp(t, b, living(life))
	emptied(t, backup)
	index := propose(t, a, "more")
	waitApplied(t, b, index)
	b.kill()
	putBack(t, b, backup)
	began := time.Now()
	b = b.again(living(life))
	eventually(t, 40*time.Second, "b is sure of its past", func() bool { return b.past.free() })
	if waited := time.Since(began); waited < life {
		t.Errorf("b is sure after %v, want at least %v", waited, life)
	}
	waitApplied(t, b, index)
	if a.leads() == 0 {
		t.Error("a leads no more")
	}
}

// Of the first case, but the server with the entry returns in time: it is elected, nothing is lost,
// and nobody waits.
func TestAPutBackServerElectsTheOneThatHasWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	const life = time.Minute
	a, b, c, index := putBackOfThree(t, life, func(string) {})

	b, c, a = b.again(living(life)), c.again(living(life)), a.again(living(life))
	leader := waitLeader(t, a, b, c)
	if leader != a {
		t.Errorf("%s leads, which lacks the entry", leader.cfg.Name)
	}
	for _, n := range []*testNode{b, c} {
		waitApplied(t, n, index)
	}
	eventually(t, 5*time.Second, "b is sure of its past", func() bool { return b.past.free() })
}

// Where a leader lives, a server that was put back is brought up to date, and then takes part as
// any other.
func TestAPutBackServerIsReleasedOnceItHasCaughtUp(t *testing.T) {
	t.Parallel()
	const life = time.Minute
	nodes := startThree(t, living(life))
	a, b, c := nodes[0], nodes[1], nodes[2]
	lead(t, a, nodes...)
	b, backup := backedUp(t, b, living(life))
	waitApplied(t, b, propose(t, a, "x"))
	b.kill()
	putBack(t, b, backup)
	began := time.Now()
	b = b.again(living(life))
	eventually(t, 10*time.Second, "b is sure of its past", func() bool { return b.past.free() })
	t.Logf("released after %v", time.Since(began))

	// Now it counts: with a gone, b and c go on at once.
	index := propose(t, a, "y")
	waitApplied(t, b, index)
	waitApplied(t, c, index)
	a.kill()
	waitApplied(t, b, propose(t, waitLeader(t, b, c), "z"))
}

// Put back twice: the second copy is as old as the first.
func TestAServerIsPutBackTwice(t *testing.T) {
	t.Parallel()
	const life = time.Minute
	nodes := startThree(t, living(life))
	a, b := nodes[0], nodes[1]
	lead(t, a, nodes...)
	b, backup := backedUp(t, b, living(life))
	for range 2 {
		index := propose(t, a, "more")
		waitApplied(t, b, index)
		b.kill()
		putBack(t, b, backup)
		b = b.again(living(life))
		eventually(t, 10*time.Second, "b is sure of its past", func() bool { return b.past.free() })
		waitApplied(t, b, index)
	}
}

// A server that is stopped before its doubt is settled starts with the same doubt.
func TestADoubtOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	const life = time.Minute
	nodes := startThree(t, living(life))
	a, b, c := nodes[0], nodes[1], nodes[2]
	lead(t, a, nodes...)
	b, backup := backedUp(t, b, living(life))
	for _, n := range []*testNode{a, b, c} {
		n.kill()
	}
	putBack(t, b, backup)
	for range 2 {
		b = b.again(living(life))
		eventually(t, 5*time.Second, "the others have been asked", func() bool { return b.past.missing() == "a, c" })
		if b.past.doubt == nil || b.past.free() {
			t.Fatalf("a copy is taken for the original: %v", b.past.doubt)
		}
		b.kill()
	}
}

// All servers are put back, each to its own copy, which no memory shows: they wait until no session
// can be alive.
func TestAllServersPutBackWait(t *testing.T) {
	t.Parallel()
	const life = 3 * time.Second
	nodes := startThree(t, living(life))
	waitLeader(t, nodes...)
	var backups []string
	for _, n := range nodes {
		backups = append(backups, stopped(t, n))
	}
	for i, n := range nodes {
		nodes[i] = n.again(living(life))
	}
	propose(t, waitLeader(t, nodes...), "it will be forgotten")
	for _, n := range nodes {
		n.kill()
	}
	gone := time.Now()
	for i, n := range nodes {
		putBack(t, n, backups[i])
		nodes[i] = n.again(living(life))
	}
	waitLeader(t, nodes...)
	if waited := time.Since(gone); waited < life {
		t.Errorf("they go on after %v, want at least %v", waited, life)
	}
}

// The only server that was put back leads soon, since it has to serve who has a session, and says
// for how long it must grant nothing. It does so again if it is stopped meanwhile, and no more once
// that time is over.
func TestTheOnlyServerThatWasPutBackHoldsItsGrants(t *testing.T) {
	t.Parallel()
	const life = 6 * time.Second
	path := filepath.Join(t.TempDir(), "a")
	a := startNode(t, "a", path, expecting(1), living(life))
	waitLeader(t, a)
	a, backup := backedUp(t, a, living(life))
	if hold := a.GrantHold(); hold != 0 {
		t.Errorf("it holds its grants for %v after an ordinary restart", hold)
	}
	propose(t, waitLeader(t, a), "it will be forgotten")
	a.kill()
	putBack(t, a, backup)
	for range 2 {
		a = a.again(living(life))
		waitLeader(t, a)
		if hold := a.GrantHold(); hold <= 0 || hold > life {
			t.Errorf("it holds its grants for %v, want up to %v", hold, life)
		}
		a.kill()
	}
	a = a.again(living(life))
	waitLeader(t, a)
	eventually(t, 2*life, "the time is over and it is recorded", func() bool {
		return a.GrantHold() == 0 && (&DataDir{path: a.path}).checkPlace() == nil
	})
	a.kill()
	a = a.again(living(life))
	waitLeader(t, a)
	if hold := a.GrantHold(); hold != 0 {
		t.Errorf("it holds its grants for %v again", hold)
	}
}

// Restarts that nobody tampered with are not slower for it, also where another server is away.
func TestHonestRestartsAreNotDelayed(t *testing.T) {
	t.Parallel()
	nodes := startThree(t, living(time.Minute))
	a, b, c := nodes[0], nodes[1], nodes[2]
	lead(t, a, nodes...)
	released := func(n *testNode) {
		t.Helper()
		began := time.Now()
		eventually(t, 3*time.Second, n.cfg.Name+" is sure of its past", func() bool { return n.past.free() })
		t.Logf("%s: released after %v", n.cfg.Name, time.Since(began))
	}
	c.kill()
	b.kill()
	b = b.again(living(time.Minute))
	released(b)
	waitApplied(t, b, propose(t, waitLeader(t, a, b), "two are enough"))
	a.kill()
	a = a.again(living(time.Minute))
	released(a)
	waitLeader(t, a, b)
}
