package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// former builds weir with an earlier version of the log: it stands for a release that had none
// later.
func former(t *testing.T, version int) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), fmt.Sprintf("weir-former-%d", version))
	if text, err := exec.Command("go", "build", fmt.Sprintf("-tags=logversion%d", version), "-o", out, "../cmd/weir").CombinedOutput(); err != nil {
		t.Fatalf("build a former version: %v\n%s", err, text)
	}
	return out
}

// TestRollingUpgrade: node after node is replaced by the next version, under load, and no request
// fails on those that are up. What only the next version understands is refused until all have it,
// and taken then; a node of the former version stops at it, and says why.
func TestRollingUpgrade(t *testing.T) {
	old := former(t, 1)
	c := startCluster(t, shape{prepare: func(n *node) { n.binary = old }})
	up := c.upstream(t)
	const limit = 10
	c.setLimit(t, up.name, queued(limit, 20*time.Second, 100))
	file := filepath.Join(t.TempDir(), "weir.snap")
	if _, stderr, code := c.nodes[0].weir(t, "snapshot", "save", file); code != 0 {
		t.Fatalf("save: %d %s", code, stderr)
	}
	runs := c.loadEach(t, load.Plan{Target: up.target, Workers: 6, Hold: holdFor, Pause: retryPause})
	for i, victim := range c.nodes {
		victim.binary = ""
		restartUnderLoad(t, victim, runs)
		if i == len(c.nodes)-1 {
			break
		}
		_, stderr, code := victim.weir(t, "snapshot", "restore", file)
		if code != 1 || !strings.Contains(stderr, "not all servers understand this write") || !strings.Contains(stderr, "upgrade") {
			t.Errorf("restore with %d of 3 upgraded: %d %s", i+1, code, stderr)
		}
		c.setLimit(t, fmt.Sprintf("mixed-%d.example", i), connections(1)) // what all know goes on
	}
	eventually(t, normalWithin, "the restore, once all are upgraded", func() error {
		if _, stderr, code := c.nodes[1].weir(t, "snapshot", "restore", file); code != 0 {
			return fmt.Errorf("restore: %d %s", code, stderr)
		}
		return nil
	})
	c.nodes[0].http.must(t, http.StatusNotFound, "GET", limitPath("mixed-0.example"), "", nil)
	for _, run := range runs {
		run.Stop()
	}
	up.peakAtMost(t, limit)

	back := c.nodes[2]
	back.terminate(t)
	if err := os.Truncate(back.logPath, 0); err != nil {
		t.Fatal(err)
	}
	back.binary = old
	if line := fails(t, back); !strings.Contains(line, "upgrade weir") || !strings.Contains(line, "log version 2") {
		t.Errorf("the former version says %q", line)
	}
	back.binary = ""
	back.start(t) // its data is kept
	back.awaitReady(t, 20*time.Second)
	c.awaitVoters(t, "a", "b", "c")
}

// TestDataOfTheFormerVersion: a data directory that a released version has left, log, snapshot and
// all, is taken up as it is.
func TestDataOfTheFormerVersion(t *testing.T) {
	t.Parallel()
	archive, err := filepath.Abs(filepath.Join("testdata", "data-log1.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	c := startCluster(t, shape{ttl: 10 * time.Second, names: []string{"a"}, prepare: func(n *node) {
		if err := os.MkdirAll(n.dataDir, 0o700); err != nil {
			t.Fatal(err)
		}
		if text, err := exec.Command("tar", "-xzf", archive, "-C", n.dataDir).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, text)
		}
	}})
	n := c.nodes[0]
	for pattern, want := range map[string]int{
		"*": 25, "*.example.org": 100, "api.example.com": 5, "10.0.0.0/8": 2, "churn.example": 2, "after-the-snapshot.example": 7,
	} {
		if err := n.http.limitIs(pattern, want); err != nil {
			t.Error(err)
		}
	}
	n.http.setLimit(t, "churn.example", connections(3))
	n.terminate(t)
	n.start(t)
	n.awaitReady(t, 10*time.Second)
	if err := n.http.limitIs("churn.example", 3); err != nil {
		t.Error(err)
	}
}
