package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// savedSnapshot is a small cluster's state.
func savedSnapshot(t *testing.T) []byte {
	t.Helper()
	limited := func(pattern string, n int64, source limit.Source) limit.Limit {
		p, err := limit.ParsePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return limit.Limit{Pattern: p, Connections: n, Source: source}
	}
	s := fsm.NewState()
	for i, c := range []fsm.Command{
		&fsm.Init{ClusterID: "0c1d", TTL: 10 * time.Second, Limits: []limit.Limit{limited("*", 25, limit.SourceConfig)}},
		&fsm.OpenSession{Term: 2, Node: "a", Identity: "i"},
		&fsm.PutLimit{Limit: limited("x.org", 5, limit.SourceAPI)},
		&fsm.Adjust{Term: 2, Batch: 1, Adjustments: []fsm.Adjustment{{Session: 2, Key: limit.HostConnections("x.org"), Delta: 3}}},
	} {
		if r := s.Apply(uint64(i+1), 2, c); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	var b bytes.Buffer
	if err := s.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSnapshotInspect(t *testing.T) {
	f := newFakeAPI(t, nil)
	path := filepath.Join(t.TempDir(), "weir.snap")
	if err := os.WriteFile(path, savedSnapshot(t), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := f.weir(testProcess(), "snapshot", "inspect", path)
	if code != 0 || stderr != "" || len(f.asked) != 0 {
		t.Fatalf("%d %s, asked %v", code, stderr, f.asked)
	}
	for _, want := range []string{"Version   1\n", "Index     4\n", "Term      2\n", "Cluster   0c1d\n", "TTL       10s\n", "Limits    2\n", "Sessions  1\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, row := range []string{"host x.org 5 - - - - - - - no enforce api 3", "host * 25 - - - - - - - no enforce config 1", "a 2 1 3 0"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), row) {
			t.Errorf("no row %q in\n%s", row, out)
		}
	}
	_, out, _ = f.weir(testProcess(), "snapshot", "inspect", path, "--json")
	var info snapshotInfo
	if err := json.Unmarshal([]byte(out), &info); err != nil || info.Index != 4 || len(info.Limits) != 2 || info.Sessions[0].Slots != 3 {
		t.Errorf("%v: %s", err, out)
	}
	if err := os.WriteFile(path, savedSnapshot(t)[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := f.weir(testProcess(), "snapshot", "inspect", path); code != 1 || !strings.Contains(stderr, "damaged") {
		t.Errorf("cut short: %d %s", code, stderr)
	}
}

// TestSnapshotSessions: names are those of every scope, and rates are shown beside the slots.
func TestSnapshotSessions(t *testing.T) {
	info := describeSnapshot(&fsm.Summary{Sessions: []fsm.SessionSummary{
		{Session: fsm.Session{ID: 5, Node: "a"}, Keys: 2, Slots: 4, Rates: 3},
	}})
	var out strings.Builder
	if err := showSnapshot(&out, info); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(out.String()), " "); !strings.HasSuffix(got, "NODE SESSION NAMES SLOTS RATES a 5 2 4 3") {
		t.Errorf("shown as\n%s", out.String())
	}
	b, err := json.Marshal(info.Sessions[0])
	if want := `{"id":5,"node":"a","names":2,"slots":4,"rates":3}`; err != nil || string(b) != want {
		t.Errorf("%s, %v, want %s", b, err, want)
	}
}

// TestSnapshotSave: the file is there as a whole, or what was there before is.
func TestSnapshotSave(t *testing.T) {
	good := savedSnapshot(t)
	answer := good
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Weir-Index", "4")
		_, _ = w.Write(answer)
	}))
	defer s.Close()
	dir := t.TempDir()
	path := filepath.Join(dir, "weir.snap")
	save := func() (int, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), testProcess(), []string{"snapshot", "save", path, "--addr", s.URL}, &out, &errs)
		return code, out.String() + errs.String()
	}
	for range 2 { // the second replaces the first
		if code, said := save(); code != 0 || !strings.Contains(said, "2 limits up to index 4") {
			t.Fatalf("%d %s", code, said)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
	answer = good[:len(good)-1]
	if code, said := save(); code != 1 || !strings.Contains(said, "damaged") {
		t.Errorf("cut short: %d %s", code, said)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, good) {
		t.Errorf("the file was touched: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// TestSnapshotSaveThrough: a link's target is replaced, and what holds no file stays what it is.
func TestSnapshotSaveThrough(t *testing.T) {
	good := savedSnapshot(t)
	answer := good
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Weir-Index", "4")
		_, _ = w.Write(answer)
	}))
	defer s.Close()
	save := func(path string) (code int, out, errs string) {
		var o, e bytes.Buffer
		code = run(t.Context(), testProcess(), []string{"snapshot", "save", path, "--addr", s.URL}, &o, &e)
		return code, o.String(), e.String()
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	mode := func(path string) fs.FileMode {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Type()
	}
	if err := errors.Join(
		os.MkdirAll(in("a/b"), 0o700), os.Symlink(in("a/b"), in("far")), os.Symlink("../new.snap", in("a/b/link")),
		os.WriteFile(in("old.snap"), []byte("old"), 0o600), os.Symlink("old.snap", in("latest")), os.Symlink("latest", in("link")),
		os.Symlink("loop", in("loop")), syscall.Mkfifo(in("fifo"), 0o600), os.Symlink("fifo", in("link-to-fifo")),
	); err != nil {
		t.Fatal(err)
	}
	for path, target := range map[string]string{in("link"): in("old.snap"), in("far/link"): in("a/new.snap")} {
		if code, _, errs := save(path); code != 0 || mode(path) != fs.ModeSymlink {
			t.Errorf("%s: %d %s, mode %v", path, code, errs, mode(path))
		}
		if b, err := os.ReadFile(target); err != nil || !bytes.Equal(b, good) || mode(target) != 0 {
			t.Errorf("%s: %d bytes, %v, mode %v", target, len(b), err, mode(target))
		}
	}
	if code, _, errs := save(in("loop")); code != 1 || !strings.Contains(errs, "too many symbolic links") {
		t.Errorf("a loop: %d %s", code, errs)
	}
	for _, path := range []string{in("fifo"), in("link-to-fifo")} {
		got := make(chan []byte, 1)
		go func() {
			b, _ := os.ReadFile(in("fifo"))
			got <- b
		}()
		code, out, errs := save(path)
		if code != 0 || !strings.Contains(out, "Saved to "+path) || mode(in("fifo")) != fs.ModeNamedPipe {
			t.Fatalf("%s: %d %s%s, mode %v", path, code, out, errs, mode(in("fifo")))
		}
		if b := <-got; !bytes.Equal(b, good) {
			t.Errorf("%s: %d bytes", path, len(b))
		}
	}
	answer = good[:len(good)-1]
	if code, _, errs := save(in("fifo")); code != 1 || !strings.Contains(errs, "damaged") || mode(in("fifo")) != fs.ModeNamedPipe { // nobody reads
		t.Errorf("cut short: %d %s, mode %v", code, errs, mode(in("fifo")))
	}
	if left, _ := filepath.Glob(in(".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestSnapshotSaveToStandardOutput: nothing but the snapshot comes out, be it a pipe or a file
// without a name.
func TestSnapshotSaveToStandardOutput(t *testing.T) {
	good := savedSnapshot(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Weir-Index", "4")
		_, _ = w.Write(good)
	}))
	defer s.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	nameless, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer nameless.Close()
	if err := os.Remove(nameless.Name()); err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	defer func() { os.Stdout = stdout }()
	for _, os.Stdout = range []*os.File{w, nameless} {
		var out, errs bytes.Buffer
		path := fmt.Sprintf("/dev/fd/%d", os.Stdout.Fd())
		code := run(t.Context(), testProcess(), []string{"snapshot", "save", path, "--addr", s.URL}, &out, &errs)
		if code != 0 || out.Len() > 0 || !strings.HasPrefix(errs.String(), "Saved to /dev/fd/") {
			t.Errorf("%d %q %q", code, &out, &errs)
		}
	}
	_ = w.Close()
	for name, from := range map[string]io.Reader{"a pipe": r, "a file without a name": io.NewSectionReader(nameless, 0, 1<<20)} {
		if b, err := io.ReadAll(from); err != nil || !bytes.Equal(b, good) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

// TestSnapshotRestoreSendsNothingDamaged: what can be seen here isn't sent.
func TestSnapshotRestoreSendsNothingDamaged(t *testing.T) {
	var got []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		_, _ = io.WriteString(w, `{"index":9,"limits":2,"added":1,"changed":0,"removed":3}`)
	}))
	defer s.Close()
	path := filepath.Join(t.TempDir(), "weir.snap")
	restore := func(content []byte) (int, string) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		code := run(t.Context(), testProcess(), []string{"snapshot", "restore", path, "--addr", s.URL}, &out, &errs)
		return code, out.String() + errs.String()
	}
	if code, said := restore([]byte("no snapshot")); code != 1 || got != nil || !strings.Contains(said, "damaged") {
		t.Errorf("%d %s, sent %q", code, said, got)
	}
	code, said := restore(savedSnapshot(t))
	if want := "Restored 2 limits at index 9: 1 added, 0 changed, 3 removed.\n"; code != 0 || said != want || !bytes.Equal(got, savedSnapshot(t)) {
		t.Errorf("%d %q, sent %d bytes", code, said, len(got))
	}
}
