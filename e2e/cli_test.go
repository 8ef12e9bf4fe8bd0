package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCommandLine walks through the commands that ask and change a cluster: what they print, on
// which stream, and how they end.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{limits: "  host \"*\" {\n    connections = 25\n  }\n"})
	leader, others := c.leader(t)
	n := others[0]
	file := filepath.Join(t.TempDir(), "limits.hcl")
	content := "limits {\n  host \"*\" {\n    connections = 25\n  }\n  host \"Two.example.\" {\n    connections = 2\n  }\n  host \"one.example\" {\n    connections = 9\n  }\n}\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	index := ` \(index [0-9]+\)\n`
	for _, step := range []struct {
		args   string
		code   int
		stdout string // a pattern for the whole of it
		stderr string // a part of it; "": nothing
	}{
		{"status", 0, `Node +` + n.name + ` \(server, .+\)\nLeader +` + leader.name + `\nReady +yes\n(.*\n)+`, ""},
		{"nodes", 0, `NODE +ROLE +LEADER +HEALTH +DRAINING +SESSION +RECLAIM IN +VERSION +RPC +GOSSIP\n([abc] +server +(leader|-) +alive +- +live +- .*\n){3}`, ""},
		{"hosts", 0, `HOST +LIMIT +IN USE .*\n`, ""},
		{"hosts some.example", 0, `some\.example \(limit of \*\)\nNODE .*\n(\w+ +25 +0 +0 +0 +0 +0 +0\n){4}`, ""},
		{"hosts not/a/host", 2, ``, "not a host"},
		{"limits list", 0, `SCOPE +PATTERN .*\nhost +\* +25 +(- +){7}no +enforce +config +[0-9]+\n`, ""},
		{"limits get one.example", 1, ``, "no such limit"},
		{"limits set One.Example --connections 5 --queue-timeout 2s --queue-size 7", 0, `one\.example: 5 connections, queue of 7 for 2s` + index, ""},
		{"limits get ONE.example.", 0, `SCOPE +PATTERN .*\nhost +one\.example +5 +(- +){5}2s +7 +no +enforce +api +[0-9]+\n`, ""},
		{"limits set one.example --connections 6", 0, `one\.example: 5 connections, queue of 7 for 2s → 6 connections, queue of 7 for 2s` + index, ""},
		{"limits set one.example --connections 5", 0, `one\.example: 6 connections, .* → 5 connections, queue of 7 for 2s` + index, ""},
		{"limits set one.example", 2, ``, "--connections is missing"},
		{"limits set one.example --connections 1000001", 2, ``, "write 0 to 1000000"},
		{"limits set a.*.example --connections 1", 2, ``, "only the first label can be one"},
		{"limits apply " + file + " --dry-run", 0, `~ +one\.example +5 connections, queue of 7 for 2s → 9 connections\n\+ +two\.example +2 connections\n`, ""},
		{"limits get two.example", 1, ``, "no such limit"},
		{"limits apply " + file, 0, `~ .*\n\+ .*\nApplied 2 changes \(index [0-9]+\)\.\n`, ""},
		{"limits apply " + file, 0, `Nothing to change: .*\n`, ""},
		{"limits apply /no/such/file", 1, ``, "nothing was changed"},
		{"limits delete two.example", 0, `two\.example: deleted` + index, ""},
		{"limits delete two.example", 1, ``, "no such limit"},
		{"raft peers", 0, `NAME .*\n([abc] +127\.0\.0\.1:[0-9]+ +yes +(leader|-) +[abc]\.[0-9a-f]+\n){3}`, ""},
		{"raft remove nobody", 1, ``, `"nobody"`},
		{"raft remove", 2, ``, "write weir raft remove NAME"},
		{"raft transfer nobody", 1, ``, `"nobody"`},
		{"raft transfer " + n.name, 0, leader.name + ` has handed leadership to ` + n.name + `\n`, ""},
		{"raft transfer " + n.name, 0, n.name + ` leads already\n`, ""},
		{"drain --detach", 0, n.name + ` is draining: 0 connections open\n`, ""},
		{"status", 0, `(.*\n)+State +draining\n(.*\n)*`, ""},
		{"nodse", 2, ``, "did you mean nodes?"},
		{"nodes --nope", 2, ``, "--nope"},
		{"nodes extra", 2, ``, "takes no arguments"},
	} {
		stdout, stderr, code := n.weir(t, strings.Fields(step.args)...)
		if code != step.code || !regexp.MustCompile("^(?:"+step.stdout+")$").MatchString(stdout) {
			t.Errorf("weir %s: exit %d, want %d; it prints\n%s%s\nwant %s", step.args, code, step.code, stdout, stderr, step.stdout)
		}
		if !strings.Contains(stderr, step.stderr) || step.stderr == "" && stderr != "" {
			t.Errorf("weir %s: says %q, want %q", step.args, stderr, step.stderr)
		}
	}
}

// TestJSONIsTheAnswer: --json prints what the API answers, byte for byte.
func TestJSONIsTheAnswer(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}, limits: "  host \"*.example\" {\n    connections = 7\n    shared = true\n  }\n"})
	n := c.nodes[0]
	for args, path := range map[string]string{
		"nodes":                "/v1/nodes",
		"limits list":          "/v1/limits",
		"limits get *.example": "/v1/limits/host/%2A.example",
		"raft peers":           "/v1/raft/peers",
		"hosts":                "/v1/hosts",
		"hosts x.example":      "/v1/hosts/x.example",
		"hosts --sort waiting": "/v1/hosts?sort=waiting",
	} {
		want := n.http.must(t, 200, "GET", path, "", nil)
		stdout, stderr, code := n.weir(t, append(strings.Fields(args), "--json")...)
		if code != 0 || stderr != "" || stdout != string(want.body) {
			t.Errorf("weir %s --json: exit %d, %s\n got %s\nwant %s", args, code, stderr, stdout, want.body)
		}
	}
	for _, args := range []string{"status", "limits set x.example --connections 3", "limits delete x.example", "raft transfer", "drain --detach"} {
		stdout, _, code := n.weir(t, append(strings.Fields(args), "--json")...)
		if args == "raft transfer" {
			if code != 1 || stdout != "" {
				t.Errorf("weir %s --json: there is nobody to hand over to: exit %d, %q", args, code, stdout)
			}
			continue
		}
		if code != 0 || !json.Valid([]byte(stdout)) || strings.Count(stdout, "\n") != 1 {
			t.Errorf("weir %s --json: exit %d, %q", args, code, stdout)
		}
	}
}
