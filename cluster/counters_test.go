package cluster

import (
	"path/filepath"
	"testing"
	"time"
)

func TestMeasures(t *testing.T) {
	commits := make(map[string]chan time.Duration)
	nodes := startThree(t, func(c *Config) {
		told := make(chan time.Duration, 64)
		commits[c.Name] = told
		c.OnCommit = func(d time.Duration) { told <- d }
	})
	leader := waitLeader(t, nodes...)
	for range 5 {
		propose(t, leader, "12345678")
	}
	for range 5 { // told before Propose returns
		select {
		case d := <-commits[leader.dir.Name()]:
			if d <= 0 {
				t.Errorf("an entry was committed in %v", d)
			}
		default:
			t.Error("five entries were committed, and fewer told")
		}
	}
	m := leader.Measures()
	if m.Voters != 3 || m.LogEntries < 5 || m.LogEntries != leader.RaftStatus().LastIndex || m.LogBytes == 0 {
		t.Errorf("%d voters, %d entries of %d, %d bytes", m.Voters, m.LogEntries, leader.RaftStatus().LastIndex, m.LogBytes)
	}
	if m.LeaderChanges == 0 {
		t.Error("a leader that was elected does not count")
	}
	follower := others(leader, nodes)[0]
	if f := follower.Measures(); len(commits[follower.dir.Name()]) != 0 || f.LogBytes == 0 {
		t.Errorf("a follower has no commits of its own, but a log: %+v, %d commits", f, len(commits[follower.dir.Name()]))
	}

	p := startNode(t, "p", filepath.Join(t.TempDir(), "p"), asProxy, joining(nodes...))
	eventually(t, 10*time.Second, "the proxy hears of the leader", func() bool { return p.Measures().LeaderChanges == 1 })
	if m := p.Measures(); m.Voters != 0 || m.LogEntries != 0 || m.LogBytes != 0 {
		t.Errorf("a proxy has no Raft: %+v", m)
	}
	was := p.Measures().LeaderChanges
	before := follower.Measures().LeaderChanges
	if err := leader.Transfer(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "all hear of the next leader", func() bool {
		return follower.Measures().LeaderChanges > before && p.Measures().LeaderChanges > was
	})
}
