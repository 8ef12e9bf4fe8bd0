package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/fsm"
)

// savedSnapshot is a small cluster's state.
func savedSnapshot(t *testing.T) []byte {
	t.Helper()
	limit := func(pattern string, n int64, source fsm.Source) fsm.Limit {
		p, err := fsm.ParsePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return fsm.Limit{Pattern: p, Connections: n, Source: source}
	}
	s := fsm.NewState()
	for i, c := range []fsm.Command{
		&fsm.Init{ClusterID: "0c1d", TTL: 10 * time.Second, Limits: []fsm.Limit{limit("*", 25, fsm.SourceConfig)}},
		&fsm.OpenSession{Term: 2, Node: "a", Identity: "i"},
		&fsm.PutLimit{Limit: limit("x.org", 5, fsm.SourceAPI)},
		&fsm.Adjust{Term: 2, Batch: 1, Adjustments: []fsm.Adjustment{{Session: 2, Key: fsm.HostConnections("x.org"), Delta: 3}}},
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
	for _, row := range []string{"host x.org 5 - - - - - - - no enforce api 3", "host * 25 - - - - - - - no enforce config 1", "a 2 1 3"} {
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
