package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// run runs a command of the system.
func runCommand(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// A server's files are taken for its own only where nobody has put a copy in their place.
func TestACopyThatIsPutBackIsNotTakenForTheOriginal(t *testing.T) {
	// Each case gets the directory, and a copy that was made by cp -a while the server was stopped.
	for name, c := range map[string]struct {
		put  func(t *testing.T, dir, backup string)
		same bool
	}{
		"left alone":           {put: func(*testing.T, string, string) {}, same: true},
		"read":                 {put: func(t *testing.T, dir, _ string) { runCommand(t, "cp", "-a", dir, dir+".new") }, same: true},
		"other files replaced": {put: func(t *testing.T, dir, _ string) { must(t, ReplaceFile(filepath.Join(dir, "limits.pb"), nil)) }, same: true},
		"the log written to":   {put: func(t *testing.T, dir, _ string) { overwrite(t, raftDB(dir), []byte("more")) }, same: true},
		"cp -a after rm": {put: func(t *testing.T, dir, backup string) {
			must(t, os.RemoveAll(dir))
			runCommand(t, "cp", "-a", backup, dir)
		}},
		"cp -a over the files": {put: func(t *testing.T, dir, backup string) { runCommand(t, "cp", "-a", backup+"/.", dir) }},
		"mv of the copy": {put: func(t *testing.T, dir, backup string) {
			must(t, os.RemoveAll(dir))
			must(t, os.Rename(backup, dir))
		}},
		"mv away and back": {put: func(t *testing.T, dir, _ string) {
			must(t, os.Rename(dir, dir+".old"))
			must(t, os.Rename(dir+".old", dir))
		}},
		"mv of raft away and back": {put: func(t *testing.T, dir, _ string) {
			must(t, os.Rename(filepath.Join(dir, raftDirectory), dir+".raft"))
			must(t, os.Rename(dir+".raft", filepath.Join(dir, raftDirectory)))
		}},
		"only the log": {put: func(t *testing.T, dir, backup string) {
			must(t, os.Remove(raftDB(dir)))
			runCommand(t, "cp", "-a", raftDB(backup), raftDB(dir))
		}},
		"only the log, over the file": {put: func(t *testing.T, dir, backup string) {
			runCommand(t, "cp", "-a", raftDB(backup), raftDB(dir))
		}},
		"only the raft directory": {put: func(t *testing.T, dir, backup string) {
			must(t, os.RemoveAll(filepath.Join(dir, raftDirectory)))
			runCommand(t, "cp", "-a", filepath.Join(backup, raftDirectory), dir)
		}},
		"tar": {put: func(t *testing.T, dir, backup string) {
			runCommand(t, "tar", "-C", backup, "-cf", dir+".tar", ".")
			runCommand(t, "tar", "-C", dir, "-xf", dir+".tar")
		}},
		"mv away and back, without the lock file": {put: func(t *testing.T, dir, _ string) {
			must(t, os.Remove(filepath.Join(dir, lockFile)))
			for still := true; still; { // the kernel's times have steps of some milliseconds
				must(t, os.Rename(dir, dir+".old"))
				must(t, os.Rename(dir+".old", dir))
				var err error
				still, err = undisturbed(dir)
				must(t, err)
			}
		}},
		"a record of another boot": {put: func(t *testing.T, dir, _ string) {
			overwrite(t, filepath.Join(dir, placeFile), []byte(`{"boot": "another"}`))
		}},
		"a damaged record": {put: func(t *testing.T, dir, _ string) { overwrite(t, filepath.Join(dir, placeFile), []byte("{")) }},
		"no record":        {put: func(t *testing.T, dir, _ string) { must(t, os.Remove(filepath.Join(dir, placeFile))) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			path := filepath.Join(root, "data")
			d, err := OpenDataDir(path, "a")
			must(t, err)
			must(t, os.Mkdir(filepath.Join(path, raftDirectory), 0o700))
			overwrite(t, raftDB(path), []byte("log"))
			must(t, d.recordPlace())
			must(t, d.Close())
			backup := filepath.Join(root, "backup")
			runCommand(t, "cp", "-a", path, backup)

			c.put(t, path, backup)
			if d, err = OpenDataDir(path, "a"); err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if (d.moved == nil) != c.same {
				t.Errorf("got %v, want the same place: %v", d.moved, c.same)
			}
		})
	}
}
