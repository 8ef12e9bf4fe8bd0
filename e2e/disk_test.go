package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// disk is a file system of a node's own, which a test can make ill.
type disk struct {
	dir   string // where it is mounted
	image string // of an ext4 on a loop device; "" is a tmpfs
}

// needRoot ends a test that mounts file systems where it may not.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting file systems takes root: run the tests as root, or in a virtual machine")
	}
}

// newTmpfs mounts a file system in memory that holds size bytes. It is unmounted when the test
// ends.
func newTmpfs(t *testing.T, size int) *disk {
	t.Helper()
	d := &disk{dir: t.TempDir()}
	command(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0700", size), "weir-e2e", d.dir)
	d.unmountAfter(t)
	return d
}

// newExt4 mounts an ext4 that turns read-only on an error, as most do. It is unmounted when the
// test ends.
func newExt4(t *testing.T) *disk {
	t.Helper()
	d := &disk{dir: t.TempDir(), image: filepath.Join(t.TempDir(), "image")}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 64<<20); err != nil { // a hole: it takes the room that is used
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-F", d.image)
	d.mount(t)
	d.unmountAfter(t)
	return d
}

func (d *disk) mount(t *testing.T) {
	t.Helper()
	command(t, "mount", "-o", "loop,errors=remount-ro", d.image, d.dir)
}

func (d *disk) unmountAfter(t *testing.T) {
	t.Cleanup(func() {
		if out, err := exec.Command("umount", d.dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
}

// fill takes all the room that is left, and returns what gives it back.
func (d *disk) fill(t *testing.T) (release func()) {
	t.Helper()
	path := filepath.Join(d.dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for chunk := make([]byte, 4096); err == nil; {
		_, err = f.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// freeze makes every write wait until thaw is called. It is, at the latest, when the test ends: a
// process that waits for a write can't be killed.
func (d *disk) freeze(t *testing.T) (thaw func()) {
	t.Helper()
	command(t, "fsfreeze", "--freeze", d.dir)
	frozen := true
	thaw = func() {
		if frozen {
			frozen = false
			command(t, "fsfreeze", "--unfreeze", d.dir)
		}
	}
	t.Cleanup(thaw)
	return thaw
}

// turnReadOnly makes the kernel believe that it has found damage. Only another mount makes the file
// system writable again.
func (d *disk) turnReadOnly(t *testing.T) {
	t.Helper()
	out := command(t, "findmnt", "--noheadings", "--output", "SOURCE", "--target", d.dir)
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(strings.TrimSpace(out)), "trigger_fs_error")
	if err := os.WriteFile(trigger, []byte("weir-e2e"), 0o200); err != nil {
		t.Fatal(err)
	}
}

// repair checks the file system and mounts it anew, so that it can be written to: it has been seen
// to come back read-only. Nobody may use it.
func (d *disk) repair(t *testing.T) {
	t.Helper()
	for attempt := 1; ; attempt++ {
		command(t, "umount", d.dir)
		var exit *exec.ExitError
		out, err := exec.Command("e2fsck", "-p", d.image).CombinedOutput()
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1: errors were corrected
			t.Fatalf("e2fsck: %v: %s", err, out)
		}
		d.mount(t)
		probe := filepath.Join(d.dir, "probe")
		if err = os.WriteFile(probe, nil, 0o600); err == nil {
			os.Remove(probe)
			return
		}
		if attempt == 3 {
			t.Fatalf("the repaired file system can't be written to: %v", err)
		}
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ward is a cluster each of whose nodes has a disk of its own, under load.
type ward struct {
	*cluster
	disks map[string]*disk // by the node's name
	up    host
	runs  map[*node]*load.Run

	writes int // of limits, so far
}

const wardLimit = 6

// startWard starts three nodes on disks that newDisk makes, and a load that all three share.
func startWard(t *testing.T, newDisk func() *disk) *ward {
	t.Helper()
	w := &ward{disks: map[string]*disk{}}
	for _, name := range []string{"a", "b", "c"} {
		w.disks[name] = newDisk()
	}
	w.cluster = startCluster(t, shape{ttl: 3 * time.Second, prepare: func(n *node) {
		n.dataDir = filepath.Join(w.disks[n.name].dir, "data")
		if err := os.RemoveAll(n.dataDir); err != nil {
			t.Fatal(err)
		}
	}})
	w.up = w.upstream(t)
	w.setLimit(t, w.up.name, connections(wardLimit))
	w.runs = w.loadEach(t, load.Plan{Target: w.up.target, Workers: 6, Hold: holdFor, Pause: retryPause, Timeout: 5 * time.Second})
	return w
}

// patient picks the node to make ill.
func (w *ward) patient(t *testing.T, role string) (sick *node, well []*node) {
	t.Helper()
	leader, followers := w.leader(t)
	if role == "leader" {
		return leader, followers
	}
	return followers[0], []*node{leader, followers[1]}
}

// goesOn: the nodes that are well have a leader among them, take changes of limits, also of hosts
// that are new to them, and admit.
func (w *ward) goesOn(t *testing.T, within time.Duration, well []*node) {
	t.Helper()
	begun := time.Now()
	for _, n := range well {
		eventually(t, within, "node "+n.name+" takes a limit", func() error { return w.takesLimit(n) })
	}
	t.Logf("limits can be set on the others %v later", time.Since(begun).Round(10*time.Millisecond))
	for _, n := range well {
		eventually(t, within, "load on node "+n.name, progress(w.runs[n]))
	}
	w.up.peakAtMost(t, wardLimit)
}

// takesLimit is a condition: the node takes a limit and sees it.
func (w *ward) takesLimit(n *node) error {
	w.writes++
	pattern := n.name + ".example"
	a, err := n.http.call("PUT", limitPath(pattern), connections(w.writes), nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("it answers %d: %s", a.status, a.body)
	}
	return n.http.limitIs(pattern, w.writes)
}

// isWell: the node admits, takes limits, and has all that was written meanwhile.
func (w *ward) isWell(t *testing.T, n *node, within time.Duration) {
	t.Helper()
	begun := time.Now()
	n.awaitReady(t, within)
	eventually(t, within, "node "+n.name+" takes a limit", func() error { return w.takesLimit(n) })
	eventually(t, within, "load on node "+n.name, progress(w.runs[n]))
	eventually(t, within, "node "+n.name+" has the log", func() error {
		var last uint64
		for _, m := range w.running() {
			s, err := m.http.status()
			if err != nil {
				return err
			}
			last = max(last, s.Raft.LastIndex)
		}
		s, err := n.http.status()
		if err == nil && (s.Raft.LastIndex < last || s.DiskFull) {
			err = fmt.Errorf("its last entry is %d; others have %d; disk full: %v", s.Raft.LastIndex, last, s.DiskFull)
		}
		return err
	})
	w.up.peakAtMost(t, wardLimit)
	t.Logf("node %s is well %v later", n.name, time.Since(begun).Round(10*time.Millisecond))
}

// says is a condition: the node's log has text in it.
func (n *node) says(text string) error {
	log, err := os.ReadFile(n.logPath)
	if err == nil && !strings.Contains(string(log), text) {
		err = fmt.Errorf("not in its log: %q", text)
	}
	return err
}

// push sets a limit through node n until check is content: what makes a disk ill only shows when
// something is written.
func (w *ward) push(t *testing.T, n *node, within time.Duration, what string, check func() error) {
	t.Helper()
	eventually(t, within, what, func() error {
		w.writes++
		_, _ = n.http.call("PUT", limitPath("push.example"), connections(w.writes), nil) // an error is no matter here
		return check()
	})
}

// ails is a condition: the node's status says what is wrong with its disk.
func (n *node) ails(symptom func(statusAnswer) bool) func() error {
	return func() error {
		s, err := n.http.status()
		if err == nil && !symptom(s) {
			err = fmt.Errorf("its status is %+v", s)
		}
		return err
	}
}

// stillServes: a node whose disk is ill can admit, leasing from a leader that is well, for longer
// than a session lasts without being renewed, though the limits change.
func (w *ward) stillServes(t *testing.T, sick *node, well []*node) {
	t.Helper()
	begun := time.Now()
	eventually(t, 10*time.Second, "the sick node can admit", sick.ready)
	eventually(t, 2*w.shape.ttl, "a ttl passes while limits change", func() error {
		if err := w.takesLimit(well[0]); err != nil {
			return err
		}
		if left := w.shape.ttl - time.Since(begun); left > 0 {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
	if err := sick.ready(); err != nil {
		t.Errorf("after a ttl the sick node can't admit: %v", err)
	}
	eventually(t, warmUpWithin, "load on node "+sick.name, progress(w.runs[sick]))
	w.up.peakAtMost(t, wardLimit)
}

// TestDiskFull: a server whose disk has no room says so, and takes no writes; the others go on. It
// recovers by itself once there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	w := startWard(t, func() *disk { return newTmpfs(t, 1<<20) })
	for _, role := range []string{"follower", "leader"} {
		sick, well := w.patient(t, role)
		t.Logf("the disk of node %s, a %s, is full", sick.name, role)
		release := w.disks[sick.name].fill(t)
		w.push(t, well[0], 10*time.Second, "the sick node says so", sick.ails(func(s statusAnswer) bool { return s.DiskFull }))
		if err := sick.says("disk full: "); err != nil {
			t.Error(err)
		}
		w.goesOn(t, 10*time.Second, well)
		w.stillServes(t, sick, well)
		release()
		w.isWell(t, sick, 15*time.Second)
	}
}

// TestDiskReadOnly: a server whose file system has turned read-only says so, like a full one. The
// kernel takes no writes any more until it is mounted anew: the server is stopped for that, and
// started again.
func TestDiskReadOnly(t *testing.T) {
	t.Parallel()
	needRoot(t)
	w := startWard(t, func() *disk { return newExt4(t) })
	for _, role := range []string{"follower", "leader"} {
		sick, well := w.patient(t, role)
		t.Logf("the disk of node %s, a %s, turns read-only", sick.name, role)
		w.disks[sick.name].turnReadOnly(t)
		w.push(t, well[0], 10*time.Second, "the sick node says so", sick.ails(func(s statusAnswer) bool { return s.DiskFull }))
		if err := sick.says("disk read-only: "); err != nil {
			t.Error(err)
		}
		w.goesOn(t, 10*time.Second, well)
		w.stillServes(t, sick, well)
		sick.terminate(t)
		w.disks[sick.name].repair(t)
		sick.start(t)
		w.isWell(t, sick, 15*time.Second)
	}
}

// TestDiskStalls: when a leader's writes neither succeed nor fail, another server leads within a
// few seconds; nobody waits for a follower's. The server goes on as a node, and catches up when its
// writes end.
func TestDiskStalls(t *testing.T) {
	t.Parallel()
	needRoot(t)
	w := startWard(t, func() *disk { return newExt4(t) })
	for _, role := range []string{"follower", "leader"} {
		sick, well := w.patient(t, role)
		t.Logf("the disk of node %s, a %s, stalls", sick.name, role)
		thaw := w.disks[sick.name].freeze(t)
		w.goesOn(t, stalledWithin, well)
		w.push(t, well[0], 10*time.Second, "the sick node says so", sick.ails(func(s statusAnswer) bool { return s.DiskStalled }))
		if role == "leader" {
			if err := sick.says("its disk has stalled: it falls silent"); err != nil {
				t.Error(err)
			}
		}
		w.stillServes(t, sick, well)
		thaw()
		w.isWell(t, sick, 15*time.Second)
	}
}

// stalledWithin is the time in which a leader's stalled disk is noticed, 2.5 s, another leader is
// elected, and writes that were on their way to the former one are repeated.
const stalledWithin = 2500*time.Millisecond + electionTime + 2*time.Second
