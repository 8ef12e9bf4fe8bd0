package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLogRing(t *testing.T) {
	var r logRing
	if got := r.newest(5); len(got) != 0 {
		t.Errorf("an empty one has %q", got)
	}
	for i := range linesRemembered + 10 {
		if n, err := fmt.Fprintf(&r, "line %d\n", i); n == 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := r.newest(3); !slices.Equal(got, []string{"line 1007", "line 1008", "line 1009"}) {
		t.Errorf("%q", got)
	}
	if got := r.newest(5000); len(got) != linesRemembered || got[0] != "line 10" {
		t.Errorf("%d lines, from %q", len(got), got[0])
	}
	_, _ = io.WriteString(&r, "two\r\nlines \xff\n"+strings.Repeat("x", 2*lineRemembered))
	if got := r.newest(3); got[0] != "two" || got[1] != "lines ?" || len(got[2]) != lineRemembered {
		t.Errorf("%.20q", got)
	}
}

// What weir debug and a broken simulation leave behind is no part of the source, in whatever
// directory of a clone they ran: a release is only made of a tree without files that git does not
// know.
func TestOutputIsIgnoredByGit(t *testing.T) {
	ignored, err := os.ReadFile("../../.gitignore")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"weir-debug-a-20260102T030405Z.tar.gz", "weir-sim.plan"} {
		if !slices.ContainsFunc(strings.Fields(string(ignored)), func(pattern string) bool {
			match, err := path.Match(pattern, file) // one without a slash holds in every directory
			return match && err == nil
		}) {
			t.Errorf("%s is not ignored in every directory", file)
		}
	}
}

// unpack reads an archive into a map from name to content.
func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		var content bytes.Buffer
		if _, err := io.Copy(&content, archive); err != nil {
			t.Fatal(err)
		}
		files[head.Name] = content.String()
	}
}

// TestDebugBundle: what is refused or missing is named in the archive, and the rest is there.
func TestDebugBundle(t *testing.T) {
	f := newFakeAPI(t, map[string][]string{
		"GET /v1/status":                                 {`{"node":"../a"}`},
		"GET /v1/nodes":                                  {`{"nodes":[{"name":"../a","health":"alive"},{"name":"b","health":"dead"},{"name":"gone","health":"left"}]}`},
		"GET /v1/limits":                                 {`{"limits":[]}`},
		"GET /v1/logs?lines=1000&node=..%2Fa":            {`{"node":"../a","lines":["one","two"]}`},
		"GET /v1/logs?lines=1000&node=b":                 {"503|node b does not answer"},
		"GET /debug/pprof/heap?node=..%2Fa":              {"403|this token can only read"},
		"GET /debug/pprof/profile?seconds=1&node=..%2Fa": {"samples"},
	})
	out := filepath.Join(t.TempDir(), "bundle.tar.gz")
	code, stdout, stderr := f.weir(testProcess(), "debug", "--all", "--seconds", "1", "--out", out)
	if code != 0 || !strings.Contains(stdout, "missing.txt") {
		t.Fatalf("%d %s%s", code, stdout, stderr)
	}
	got := map[string]string{}
	for name, content := range unpack(t, out) {
		dir, file, _ := strings.Cut(name, "/")
		if !strings.HasPrefix(dir, "weir-debug-.._a-") || path.Clean(name) != name {
			t.Errorf("file %s", name)
		}
		got[file] = content
	}
	if got[".._a/log.txt"] != "one\ntwo\n" || got[".._a/cpu.pprof"] != "samples\n" || got["limits.json"] != `{"limits":[]}`+"\n" || !strings.Contains(got["about.txt"], "../a") {
		t.Errorf("the archive has %q", got)
	}
	for _, line := range []string{"b/log.txt: node b does not answer\n", ".._a/heap.pprof: this token can only read\n", "events.txt: nothing at GET /v1/events\n"} {
		if !strings.Contains(got["missing.txt"], line) {
			t.Errorf("missing.txt does not say %q:\n%s", line, got["missing.txt"])
		}
	}
	if strings.Contains(got["missing.txt"], "gone") {
		t.Error("a node that has left was asked")
	}
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if code, _, stderr := f.weir(testProcess(), "debug", "--seconds", "51"); code != 2 || !strings.Contains(stderr, "0 to 50") {
		t.Errorf("%d %s", code, stderr)
	}
}
