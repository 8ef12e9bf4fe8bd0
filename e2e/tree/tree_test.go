package tree

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// module is one whose test imports nothing of it but a copy of this package.
var module = map[string]string{
	"go.mod":       "module example.test\n\ngo 1.26.0\n",
	"part/part.go": "package part\n",
	"check/check_test.go": `package check

import (
	"testing"

	"example.test/tree"
)

func TestTree(t *testing.T) {
	if err := tree.Read(".."); err != nil {
		t.Fatal(err)
	}
}
`,
}

// The go command runs a test that reads the tree again after a change in a package that the test
// does not import, and not without one.
func TestChangesRunTheTestAgain(t *testing.T) {
	root := t.TempDir()
	own, err := os.ReadFile("tree.go")
	if err != nil {
		t.Fatal(err)
	}
	write(t, root, "tree/tree.go", string(own))
	for name, text := range module {
		write(t, root, name, text)
	}
	for _, step := range []struct {
		what   string
		change func()
		known  bool
	}{
		{"the first time", func() {}, false},
		{"nothing changed", func() {}, true},
		{"another package changed", func() { write(t, root, "part/part.go", "package part // changed\n") }, false},
		{"a file came", func() { write(t, root, "part/more.txt", "") }, false},
	} {
		step.change()
		makeOld(t, root)
		cmd := exec.Command("go", "test", "./check")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "GOWORK=off", "GOFLAGS=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", step.what, err, out)
		}
		if known := strings.Contains(string(out), "(cached)"); known != step.known {
			t.Errorf("%s: the result is known: %v\n%s", step.what, known, out)
		}
	}
}

func TestOnlyAModuleIsRead(t *testing.T) {
	if err := Read(t.TempDir()); err == nil {
		t.Error("a directory without go.mod is read")
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// makeOld sets all times to one in the past: a test that reads what has just changed is always run.
func makeOld(t *testing.T, root string) {
	t.Helper()
	old := time.Unix(1_700_000_000, 0)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, old, old)
	})
	if err != nil {
		t.Fatal(err)
	}
}
