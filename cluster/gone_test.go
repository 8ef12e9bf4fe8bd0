package cluster

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/cluster/clustertest"
)

func watchful(c *Config) { c.goneEvery = 10 * time.Millisecond }

// A leader whose data directory is removed makes room for another one, and says so; it goes on as a
// node.
func TestALeaderWithoutItsDirectoryStepsDown(t *testing.T) {
	t.Parallel()
	logs := map[string]*clustertest.Log{}
	nodes := startThree(t, watchful, func(c *Config) {
		logs[c.Name] = &clustertest.Log{}
		logged(logs[c.Name])(c)
	})
	leader := waitLeader(t, nodes...)
	propose(t, leader, "x")
	must(t, os.RemoveAll(leader.path))
	next := waitLeader(t, others(leader, nodes)...)
	eventually(t, 10*time.Second, "the former leader knows who leads", func() bool { return leader.leads() == 0 && leader.toldOf(next) })
	propose(t, next, "y")
	if text := logs[leader.cfg.Name].String(); !strings.Contains(text, "data directory removed") {
		t.Errorf("the log does not say it: %s", text)
	}
	if !leader.RaftStatus().DiskFull {
		t.Error("its status is that of a server which can write")
	}
}

// One that is alone leads nobody, until its directory is back where it was.
func TestADirectoryThatComesBack(t *testing.T) {
	t.Parallel()
	n := startNode(t, "a", t.TempDir()+"/data", expecting(1), watchful)
	eventually(t, 5*time.Second, "leads", func() bool { return n.leads() != 0 })
	propose(t, n, "x")
	must(t, os.Rename(n.path, n.path+".moved"))
	eventually(t, 10*time.Second, "it does not lead any more", func() bool { return n.leads() == 0 })
	if _, _, err := n.Propose(t.Context(), 0, []byte("y")); !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), "removed") {
		t.Errorf("a write: %v", err)
	}
	must(t, os.Rename(n.path+".moved", n.path))
	eventually(t, 10*time.Second, "leads again", func() bool { return n.leads() != 0 })
	propose(t, n, "z")
}

// A file of the same name is not the file that was opened.
func TestReplacedFileIsGone(t *testing.T) {
	path := t.TempDir() + "/raft.db"
	must(t, os.WriteFile(path, nil, 0o600))
	opened, err := os.Stat(path)
	must(t, err)
	if isGone(path, opened) {
		t.Error("the file is there")
	}
	must(t, os.Rename(path, path+".old"))
	if !isGone(path, opened) {
		t.Error("the file is not there")
	}
	must(t, os.WriteFile(path, nil, 0o600))
	if !isGone(path, opened) {
		t.Error("another file is there")
	}
}
