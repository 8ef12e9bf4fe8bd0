package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLimitsSet: what no flag names stays as it is, and the answer shows what was and what is.
func TestLimitsSet(t *testing.T) {
	const (
		read   = "GET /v1/limits/host/x.org"
		write  = "PUT /v1/limits/host/x.org"
		queued = `{"scope":"host","pattern":"x.org","connections":5,"requests":null,"bandwidth":null,"queue":{"timeout":"2s","size":100},"shared":true,"mode":"enforce","source":"config","modify_index":7}`
		plain  = `{"scope":"host","pattern":"x.org","connections":5,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce","source":"api","modify_index":7}`
		q      = `"requests":null,"bandwidth":null,"queue":{"timeout":"2s","size":100}`
		rated  = `{"scope":"host","pattern":"x.org","connections":null,"requests":{"rate":"10/s","burst":3},"bandwidth":null,"queue":null,"shared":false,"mode":"enforce","source":"api","modify_index":7}`
		now    = "5 connections, queue of 100 for 2s (index 12)\n"
	)
	written := `{"index":12,` + limitJSON[1:]
	for _, c := range []struct {
		before string // "": there is none
		args   []string
		call   string
		body   string
		was    string
	}{
		{"", []string{"--connections", "5"}, write, `{"scope":"host","pattern":"x.org","connections":5,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"}`, ""},
		{"", []string{"--connections", "0", "--evict"}, write + "?evict=true", `{"scope":"host","pattern":"x.org","connections":0,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"}`, ""},
		{"", []string{"--connections", "none", "--shared"}, write, `{"scope":"host","pattern":"x.org","connections":null,"requests":null,"bandwidth":null,"queue":null,"shared":true,"mode":"enforce"}`, ""},
		{
			"", []string{"--connections=9", "--queue-timeout=1500ms", "--queue-size=7"}, write,
			`{"scope":"host","pattern":"x.org","connections":9,"requests":null,"bandwidth":null,"queue":{"timeout":"1.5s","size":7},"shared":false,"mode":"enforce"}`, "",
		},
		{queued, []string{"--connections", "8"}, write, `{"scope":"host","pattern":"x.org","connections":8,` + q + `,"shared":true,"mode":"enforce"}`, "5 connections, queue of 100 for 2s, shared → "},
		{queued, []string{"--connections", "8", "--no-queue"}, write, `{"scope":"host","pattern":"x.org","connections":8,"requests":null,"bandwidth":null,"queue":null,"shared":true,"mode":"enforce"}`, "5 connections, queue of 100 for 2s, shared → "},
		{queued, []string{"--no-queue"}, write, `{"scope":"host","pattern":"x.org","connections":5,"requests":null,"bandwidth":null,"queue":null,"shared":true,"mode":"enforce"}`, "5 connections, queue of 100 for 2s, shared → "},
		{queued, []string{"--shared=false"}, write, `{"scope":"host","pattern":"x.org","connections":5,` + q + `,"shared":false,"mode":"enforce"}`, "5 connections, queue of 100 for 2s, shared → "},
		{queued, []string{"--queue-size", "3"}, write, `{"scope":"host","pattern":"x.org","connections":5,"requests":null,"bandwidth":null,"queue":{"timeout":"2s","size":3},"shared":true,"mode":"enforce"}`, "5 connections, queue of 100 for 2s, shared → "},
		{queued, []string{"--queue-timeout", "9s"}, write, `{"scope":"host","pattern":"x.org","connections":5,"requests":null,"bandwidth":null,"queue":{"timeout":"9s","size":100},"shared":true,"mode":"enforce"}`, "5 connections, queue of 100 for 2s, shared → "},
		{queued, []string{"--connections", "none", "--no-queue"}, write, `{"scope":"host","pattern":"x.org","connections":null,"requests":null,"bandwidth":null,"queue":null,"shared":true,"mode":"enforce"}`, "5 connections, queue of 100 for 2s, shared → "},
		{plain, []string{"--queue-timeout", "2s", "--queue-size", "100"}, write, `{"scope":"host","pattern":"x.org","connections":5,` + q + `,"shared":false,"mode":"enforce"}`, "5 connections → "},
		{plain, []string{"--no-queue"}, write, `{"scope":"host","pattern":"x.org","connections":5,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"}`, "5 connections → "},
		{rated, []string{"--requests", "20/s"}, write, `{"scope":"host","pattern":"x.org","connections":null,"requests":{"rate":"20/s","burst":3},"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"}`, "10/s requests (3 at once) → "},
		{rated, []string{"--requests-burst", "none"}, write, `{"scope":"host","pattern":"x.org","connections":null,"requests":{"rate":"10/s"},"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"}`, "10/s requests (3 at once) → "},
		{rated, []string{"--requests", "none", "--requests-burst", "none", "--connections", "1"}, write, `{"scope":"host","pattern":"x.org","connections":1,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"}`, "10/s requests (3 at once) → "},
	} {
		answers := map[string][]string{c.call: {written}}
		if c.before != "" {
			answers[read] = []string{c.before}
		}
		f := newFakeAPI(t, answers)
		code, stdout, stderr := f.weir(testProcess("WEIR_TOKEN=secret"), append([]string{"limits", "set", "x.org"}, c.args...)...)
		if code != 0 || stdout != "api.example.com: "+c.was+now {
			t.Errorf("%q: exit %d %q %q", c.args, code, stdout, stderr)
			continue
		}
		if f.bodies[1] != c.body || f.headers[1].Get("Authorization") != "Bearer secret" || f.headers[1].Get("Content-Type") != "application/json" {
			t.Errorf("%q: sent %s %v", c.args, f.bodies[1], f.headers[1])
		}
		match, none := f.headers[1].Get("If-Match"), f.headers[1].Get("If-None-Match")
		if c.before == "" && (match != "" || none != "*") || c.before != "" && (match != `"7"` || none != "") {
			t.Errorf("%q: sent If-Match %s, If-None-Match %s", c.args, match, none)
		}
	}
	f := newFakeAPI(t, map[string][]string{read: {plain}, write: {written}})
	if code, stdout, stderr := f.weir(testProcess(), "limits", "set", "x.org", "--connections", "5", "--json"); code != 0 || stdout != written+"\n" {
		t.Errorf("--json: exit %d %q %q", code, stdout, stderr)
	}
	for _, c := range []struct {
		before string
		args   []string
		code   int
		says   string
	}{
		{"404|no such limit", []string{"--no-queue"}, 2, "no limit for x.org yet"},
		{"404|no such limit", []string{"--connections", "5", "--queue-size", "3"}, 2, "go together"},
		{plain, []string{"--queue-size", "3"}, 2, "go together"},
		{queued, []string{"--connections", "none"}, 2, "--no-queue"},
		{plain, []string{"--requests-burst", "3"}, 2, "--requests-burst needs a rate"},
		{"503|no leader", []string{"--connections", "5"}, 1, "no leader"},
	} {
		f := newFakeAPI(t, map[string][]string{read: {c.before}, write: {written}})
		code, _, stderr := f.weir(testProcess(), append([]string{"limits", "set", "x.org"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.says) || len(f.asked) != 1 {
			t.Errorf("%q: exit %d, %q, calls %q", c.args, code, stderr, f.asked)
		}
	}
}

// TestLimitsSetAgain: a limit that somebody else has changed in between is read again, once.
func TestLimitsSetAgain(t *testing.T) {
	const (
		read  = "GET /v1/limits/host/x.org"
		write = "PUT /v1/limits/host/x.org"
		first = `{"scope":"host","pattern":"x.org","connections":5,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce","source":"api","modify_index":7}`
		then  = `{"scope":"host","pattern":"x.org","connections":5,"requests":null,"bandwidth":null,"queue":{"timeout":"2s","size":9},"shared":false,"mode":"enforce","source":"api","modify_index":8}`
	)
	f := newFakeAPI(t, map[string][]string{read: {first, then}, write: {"412|changed", `{"index":12,` + limitJSON[1:]}})
	code, stdout, stderr := f.weir(testProcess(), "limits", "set", "x.org", "--connections", "6")
	if code != 0 || !strings.Contains(stdout, "5 connections, queue of 9 for 2s → ") || len(f.asked) != 4 {
		t.Errorf("exit %d %q %q, calls %q", code, stdout, stderr, f.asked)
	} else if f.headers[3].Get("If-Match") != `"8"` || !strings.Contains(f.bodies[3], `"size":9`) {
		t.Errorf("the second write: %v %s", f.headers[3], f.bodies[3])
	}
	f = newFakeAPI(t, map[string][]string{read: {first}, write: {"412|changed"}})
	if code, _, stderr := f.weir(testProcess(), "limits", "set", "x.org", "--connections", "6"); code != 1 || len(f.asked) != 4 || !strings.Contains(stderr, "nothing was written") {
		t.Errorf("exit %d %q, calls %q", code, stderr, f.asked)
	}
	f = newFakeAPI(t, map[string][]string{read: {"404|no such limit", first}, write: {"412|exists", `{"index":12,` + limitJSON[1:]}})
	if code, _, stderr := f.weir(testProcess(), "limits", "set", "x.org", "--connections", "6"); code != 0 || f.headers[3].Get("If-Match") != `"7"` {
		t.Errorf("one that is created meanwhile: exit %d %q, calls %q", code, stderr, f.asked)
	}
}

func TestLimitsApply(t *testing.T) {
	const (
		dry   = "PUT /v1/limits?dry_run=true"
		write = "PUT /v1/limits"
		diff  = `{"index":20,"dry_run":true,"changes":[` +
			`{"action":"remove","scope":"host","pattern":"*.open.org","before":` + capless + `,"after":null},` +
			`{"action":"change","scope":"host","pattern":"api.example.com","before":` + limitJSON + `,"after":{"scope":"host","pattern":"api.example.com","connections":1,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"}},` +
			`{"action":"add","scope":"host","pattern":"n.org","before":null,"after":{"scope":"host","pattern":"n.org","connections":0,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"}}]}`
		same  = `{"index":20,"dry_run":true,"changes":[]}`
		kept  = `{"index":21,"dry_run":false,"changes":[]}`
		done  = `{"index":21,"dry_run":false,"changes":[{"action":"add"},{"action":"add"},{"action":"add"}]}`
		shown = "-  *.open.org       no cap, shared\n" +
			"~  api.example.com  5 connections, queue of 100 for 2s → 1 connection\n" +
			"+  n.org            blocked\n"
	)
	file := filepath.Join(t.TempDir(), "limits.hcl")
	content := "limits {\n  host \"N.org.\" {\n    connections = 0\n  }\n  host \"q.org\" {\n    connections = 2\n    queue {\n      timeout = \"1s\"\n      size = 3\n    }\n  }\n  host \"free.org\" {\n  }\n}\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	sent := `{"index":0,"limits":[{"scope":"host","pattern":"free.org","connections":null,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"},` +
		`{"scope":"host","pattern":"n.org","connections":0,"requests":null,"bandwidth":null,"queue":null,"shared":false,"mode":"enforce"},{"scope":"host","pattern":"q.org","connections":2,"requests":null,"bandwidth":null,"queue":{"timeout":"1s","size":3},"shared":false,"mode":"enforce"}]}`
	for _, c := range []struct {
		name    string
		answers map[string][]string
		args    []string
		code    int
		stdout  string
		stderr  string
		asked   []string
	}{
		{"dry run", map[string][]string{dry: {diff}}, []string{"--dry-run"}, 0, shown, "", []string{dry}},
		{"apply", map[string][]string{dry: {diff}, write: {done}}, nil, 0, shown + "Applied 3 changes (index 21).\n", "", []string{dry, write}},
		{"nothing to do", map[string][]string{dry: {same}}, nil, 0, "Nothing to change: the cluster's limits are the file's.\n", "", []string{dry}},
		{"json", map[string][]string{dry: {diff}, write: {done}}, []string{"--json"}, 0, done + "\n", "", []string{dry, write}},
		{"json, dry", map[string][]string{dry: {diff}}, []string{"--json", "--dry-run"}, 0, diff + "\n", "", []string{dry}},
		{"json, nothing to do", map[string][]string{dry: {same}, write: {kept}}, []string{"--json"}, 0, kept + "\n", "", []string{dry, write}},
		{"json, dry, nothing to do", map[string][]string{dry: {same}}, []string{"--json", "--dry-run"}, 0, same + "\n", "", []string{dry}},
		{"changed meanwhile", map[string][]string{dry: {diff}, write: {"412|changed"}}, nil, 1, shown, "run it again", []string{dry, write}},
		{"no leader", map[string][]string{dry: {"503|the cluster has no leader"}}, nil, 1, "", "Error: the cluster has no leader\n", []string{dry}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeAPI(t, c.answers)
			code, stdout, stderr := f.weir(testProcess(), append([]string{"limits", "apply", file}, c.args...)...)
			if diff := cmp.Diff(c.stdout, stdout); diff != "" || code != c.code || !strings.Contains(stderr, c.stderr) {
				t.Errorf("exit %d, stderr %q\n%s", code, stderr, diff)
			}
			if !slices.Equal(f.asked, c.asked) {
				t.Errorf("asked %q", f.asked)
			}
			for i, body := range f.bodies {
				if body != sent {
					t.Errorf("sent %s", body)
				}
				if want := []string{"", `"20"`}[i]; f.headers[i].Get("If-Match") != want {
					t.Errorf("If-Match %q", f.headers[i].Get("If-Match"))
				}
			}
		})
	}

	f := newFakeAPI(t, map[string][]string{dry: {diff}})
	for env, coloured := range map[string]bool{"": true, "NO_COLOR=1": false, "TERM=dumb": false} {
		p := testProcess(env)
		p.rows = func() (int, bool) { return 24, true }
		if _, stdout, _ := f.weir(p, "limits", "apply", file, "--dry-run"); strings.Contains(stdout, "\x1b[32m+  n.org") != coloured {
			t.Errorf("%q: %q", env, stdout)
		}
	}
	if err := os.WriteFile(file, []byte("limits {\n  host \"n.org\" {\n    conections = 0\n  }\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f = newFakeAPI(t, nil)
	code, _, stderr := f.weir(testProcess(), "limits", "apply", file)
	if code != 1 || len(f.asked) != 0 || !strings.Contains(stderr, "limits.hcl:3,5") || !strings.Contains(stderr, "nothing was changed") {
		t.Errorf("exit %d, asked %q, stderr %s", code, f.asked, stderr)
	}
}

// TestCompletionOfScopes: a pattern is completed from those of --scope, which is host where it is
// not given.
func TestCompletionOfScopes(t *testing.T) {
	f := newFakeAPI(t, map[string][]string{"GET /v1/limits": {`{"limits":[` +
		`{"scope":"host","pattern":"x.org","connections":5},{"scope":"client","pattern":"10.0.0.0/8","connections":5},` +
		`{"scope":"user","pattern":"ann","connections":5},{"scope":"user","pattern":"*","connections":5},{"scope":"total","pattern":"","connections":5}]}`}})
	for _, verb := range []string{"get", "set", "delete"} {
		for scope, want := range map[string]string{"": "x.org\n:4\n", "host": "x.org\n:4\n", "user": "ann\n*\n:4\n", "total": ":4\n", "key": ":4\n"} {
			args := []string{"__complete", "limits", verb}
			if scope != "" {
				args = append(args, "--scope", scope)
			}
			if _, stdout, _ := f.weir(testProcess(), append(args, "")...); stdout != want {
				t.Errorf("limits %s, scope %q: %q, want %q", verb, scope, stdout, want)
			}
		}
	}
}
