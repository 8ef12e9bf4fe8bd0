package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// recoverAlone runs a recovery on a stopped node's directory, and returns what it found.
func recoverAlone(t *testing.T, path, name string) *Recovery {
	t.Helper()
	dir, err := OpenServerData(path, name)
	must(t, err)
	state := &testFSM{}
	r, err := OpenRecovery(dir, state, hclog.NewNullLogger())
	must(t, err)
	must(t, r.Run(&testFSM{}))
	must(t, r.Close())
	must(t, dir.Close())
	if state.total() == 0 {
		t.Error("the state was not read")
	}
	return r
}

// TestRecoverAlone: with a log alone, and with a snapshot and a log behind it; run twice; and two
// newcomers are taken in.
func TestRecoverAlone(t *testing.T) {
	t.Parallel()
	for _, snapshot := range []bool{false, true} {
		nodes := startThree(t)
		leader := waitLeader(t, nodes...)
		propose(t, leader, "before")
		if snapshot {
			must(t, leader.raft.Snapshot().Error())
		}
		propose(t, leader, "after")
		want := leader.fsm.total()
		for _, n := range append(others(leader, nodes), leader) { // the leader last: its log is the longest
			n.kill()
		}
		name := leader.cfg.Name
		must(t, os.Remove(filepath.Join(leader.path, placeFile))) // it may be a copy: who recovers it has waited
		first := recoverAlone(t, leader.path, name)
		second := recoverAlone(t, leader.path, name)
		if len(first.Servers) != 3 || len(second.Servers) != 1 || first.LastIndex != second.LastIndex || first.LastTerm != second.LastTerm || first.LastIndex == 0 {
			t.Errorf("found %+v, and then %+v", first, second)
		}
		alone := startNode(t, name, leader.path, expecting(3))
		eventually(t, 10*time.Second, "it leads alone", func() bool { return alone.leads() != 0 })
		if hold := alone.GrantHold(); hold != 0 {
			t.Errorf("it would grant nothing for another %v", hold)
		}
		if got := alone.fsm.total(); got != want {
			t.Errorf("its state is %d, was %d", got, want)
		}
		base := t.TempDir()
		fresh := []*testNode{alone}
		for _, n := range others(leader, nodes) {
			fresh = append(fresh, startNode(t, n.cfg.Name, filepath.Join(base, n.cfg.Name), expecting(3), joining(alone)))
		}
		eventually(t, 20*time.Second, "three voters", func() bool {
			voters := 0
			for _, p := range alone.Peers() {
				if p.Voter {
					voters++
				}
			}
			return voters == 3
		})
		index := propose(t, waitLeader(t, fresh...), "all")
		for _, n := range fresh {
			waitApplied(t, n, index)
			if n.fsm.total() != want+3 {
				t.Errorf("%s has %d, want %d", n.cfg.Name, n.fsm.total(), want+3)
			}
			n.halt()
		}
	}
}

func TestRecoveryRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data")
	if _, err := OpenServerData(path, "a"); err == nil || !strings.Contains(err.Error(), "holds no node") {
		t.Errorf("nothing there: %v", err)
	}
	dir, err := OpenDataDir(path, "a")
	must(t, err)
	if _, err := OpenServerData(path, "a"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("beside a running node: %v", err)
	}
	if _, err := OpenRecovery(dir, &testFSM{}, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "no Raft log") {
		t.Errorf("a proxy's directory: %v", err)
	}
	must(t, dir.Close())
	n := startNode(t, "a", path, expecting(0))
	n.halt()
	dir, err = OpenServerData(path, "a")
	must(t, err)
	defer func() { must(t, dir.Close()) }()
	if _, err := OpenRecovery(dir, &testFSM{}, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "no cluster yet") {
		t.Errorf("a server without a cluster: %v", err)
	}
}
