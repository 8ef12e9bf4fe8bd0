package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/lognoise"
)

func memoryIn(t testing.TB, path string) *memory {
	t.Helper()
	m, err := openMemory(&DataDir{path: path}, at(3, 9), 4)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What a process that ended in good order knew is known for certain; one that was killed may have
// known more than it saved, but never of more than its own log.
func TestMemoryOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	m := memoryIn(t, path)
	m.learn("b", remembered{at(2, 5), 2})
	m.learn("b", remembered{at(1, 9), 3}) // an older term is no news
	m.note(at(3, 7), time.Minute)
	must(t, m.save(true))

	m = memoryIn(t, path)
	known, gap := m.recall("b")
	if known != (remembered{at(2, 5), 3}) || gap != (remembered{}) || m.lastOwn() != at(3, 7) || m.savedWait() != time.Minute {
		t.Errorf("it knows %+v, may lack %+v, ended at %v and waits %v", known, gap, m.lastOwn(), m.savedWait())
	}
	must(t, m.save(false)) // it runs: from now on a kill loses something
	m = memoryIn(t, path)
	if known, gap := m.recall("b"); known != (remembered{at(2, 5), 3}) || gap != (remembered{at(3, 9), 4}) {
		t.Errorf("after a kill it knows %+v and may lack %+v", known, gap)
	}
	if known, gap := m.recall("new"); known != (remembered{}) || gap != (remembered{at(3, 9), 4}) {
		t.Errorf("of another it knows %+v and may lack %+v", known, gap)
	}
}

func TestADamagedMemoryIsAnEmptyOne(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "{", `{"format": 2}`, "null", `{"format": 1, "own": 7}`} {
		path := t.TempDir()
		overwrite(t, filepath.Join(path, acknowledgedFile), []byte(content))
		m, err := openMemory(&DataDir{path: path}, at(3, 9), 4)
		if err == nil {
			t.Errorf("%q is taken for a memory", content)
		}
		if _, gap := m.recall("b"); gap != (remembered{at(3, 9), 4}) {
			t.Errorf("%q: it may lack %+v", content, gap)
		}
		m.learn("b", remembered{at(1, 1), 1})
		must(t, m.save(true))
		if known, _ := memoryIn(t, path).recall("b"); known != (remembered{at(1, 1), 1}) {
			t.Errorf("%q: the new memory holds %+v", content, known)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	m := memoryIn(t, path)
	for i := range 2 * maxRemembered {
		m.learn(raft.ServerID(string(rune('a'+i%26))+"."+time.Duration(i).String()), remembered{at(1, uint64(i)+1), 1})
	}
	must(t, m.save(true))
	if n := len(memoryIn(t, path).servers); n != maxRemembered {
		t.Errorf("it holds %d servers, want %d", n, maxRemembered)
	}
}

func FuzzMemory(f *testing.F) {
	f.Add([]byte(`{"format": 1, "clean": true, "own": {"term": 1, "index": 2}, "wait_ns": -1, "servers": {"b": {"voted": 3}}}`))
	f.Add([]byte(`{"format": 1, "servers": null}`))
	path := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(filepath.Join(path, acknowledgedFile), content, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := openMemory(&DataDir{path: path}, at(3, 9), 4)
		if _, gap := m.recall("b"); err != nil && gap != (remembered{at(3, 9), 4}) {
			t.Errorf("%v, and yet nothing is missing", err)
		}
		if m.savedWait() < 0 {
			t.Error("it waits for less than nothing")
		}
		m.learn("b", remembered{at(9, 9), 9})
		must(t, m.save(true))
		if known, gap := memoryIn(t, path).recall("b"); known.Acknowledged.before(at(9, 9)) || gap != (remembered{}) {
			t.Errorf("it knows %+v, and may lack %+v", known, gap)
		}
	})
}

// A promise is given after a silence only, outlives the process, and shuts out leaders and
// candidates of that term and before, and answers to this server as such a leader.
func TestAPromiseIsKept(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	done := make(chan struct{})
	close(done)
	g := &pastGuard{mem: memoryIn(t, path), done: done, verdict: pastVerdict{released: true}, heard: time.Now().Add(-time.Minute)}
	must(t, g.hearLeader(&raft.AppendEntriesRequest{Term: 5}))
	if g.tryPromise(5, time.Minute) || g.hasPromised(5) {
		t.Fatal("a promise is given although a leader was just heard")
	}
	must(t, g.hearLeader(&raft.AppendEntriesRequest{Term: 5}))
	g.heard = time.Now().Add(-time.Minute)
	if !g.tryPromise(5, time.Minute) {
		t.Fatal("no promise is given after a minute's silence")
	}
	success := &raft.AppendEntriesResponse{Success: true}
	for _, term := range []uint64{4, 5} {
		if err := g.hearLeader(&raft.AppendEntriesRequest{Term: term}); !errors.Is(err, errPromised) {
			t.Errorf("the leader of term %d is heard: %v", term, err)
		}
		if err := g.noteAnswer("b", &raft.AppendEntriesRequest{Term: term}, success); !errors.Is(err, errPromised) {
			t.Errorf("an answer to the leader of term %d counts: %v", term, err)
		}
	}
	if g.silence() < time.Minute || g.voteFloor() != 5 {
		t.Errorf("silent for %v, votes above term %d", g.silence(), g.voteFloor())
	}
	if got := memoryIn(t, path).promised(); got != 5 {
		t.Errorf("the promise of term %d is on the disk", got)
	}
	must(t, g.hearLeader(&raft.AppendEntriesRequest{Term: 6}))
	if g.silence() > time.Second {
		t.Error("a later leader is not heard")
	}
}

// A promise that the disk did not take is not given, however often it is asked for, and whether or
// not a line about it is due. Once there is room, it is.
func TestAPromiseIsOnTheDisk(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	inTheWay := filepath.Join(path, acknowledgedFile+".tmp")
	must(t, os.Mkdir(inTheWay, 0o700))
	c := &Cluster{log: hclog.NewNullLogger(), said: lognoise.Strangers()}
	g := &pastGuard{c: c, mem: memoryIn(t, path), heard: time.Now().Add(-time.Minute)}
	for i := range 3 {
		if g.tryPromise(7, time.Second) {
			t.Errorf("attempt %d: a promise is given that is not on the disk", i+1)
		}
	}
	if !g.hasPromised(7) {
		t.Error("a promise that may be on the disk does not bind")
	}
	must(t, os.Remove(inTheWay))
	if !g.tryPromise(7, time.Second) {
		t.Error("no promise is given though the disk takes it")
	}
	if got := memoryIn(t, path).promised(); got != 7 {
		t.Errorf("the promise of term %d is on the disk, want 7", got)
	}
}

// Nobody who follows a leader promises anything, whoever asks, and the cluster is not disturbed.
// Once a server is alone, it does, and the others come back in a later term.
func TestOnlyASilentServerPromises(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	rest := others(leader, nodes)
	term := leader.leads()
	ask := func(n *testNode) *clusterpb.RecallReply {
		t.Helper()
		reply, err := control{c: n.Cluster}.Recall(t.Context(), &clusterpb.RecallRequest{Server: "x", Promise: term, SilenceNs: int64(time.Second)})
		must(t, err)
		return reply
	}
	for _, n := range nodes {
		if reply := ask(n); reply.GetPromised() || !reply.GetSure() {
			t.Errorf("%s answers %v", n.cfg.Name, reply)
		}
	}
	propose(t, leader, "undisturbed")
	if leader.leads() != term {
		t.Errorf("leads in term %d after term %d", leader.leads(), term)
	}
	leader.kill()
	rest[0].kill()
	eventually(t, 10*time.Second, "the promise of the one that is left", func() bool { return ask(rest[1]).GetPromised() })
	back := []*testNode{leader.again(), rest[0].again(), rest[1]}
	next := waitLeader(t, back...)
	if next.leads() <= term {
		t.Errorf("leads in term %d after the promise of term %d", next.leads(), term)
	}
	waitApplied(t, rest[1], propose(t, next, "together again"))
}

// A leader's knowledge is spread, since it may be the leader that is lost.
func TestWhatALeaderKnowsIsSpread(t *testing.T) {
	t.Parallel()
	nodes := startThree(t)
	leader := waitLeader(t, nodes...)
	rest := others(leader, nodes)
	index := propose(t, leader, "x")
	eventually(t, 10*time.Second, "each follower knows what the other and the leader have", func() bool {
		for i, n := range rest {
			other, _ := n.past.mem.recall(rest[1-i].serverID())
			of, _ := n.past.mem.recall(leader.serverID())
			if other.Acknowledged.Index < index || of.Acknowledged.Index < index || of.Voted != leader.leads() {
				return false
			}
		}
		return true
	})
}
