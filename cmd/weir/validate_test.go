package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/limit"
)

// runOne runs a command by itself.
func runOne(t *testing.T, cmd *cobra.Command, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(append([]string{}, args...)) // of nil, cobra would take the test's own
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err = cmd.Execute()
	return out.String(), errs.String(), err
}

// TestValidateExamples checks the examples with the patterns of the real parser.
func TestValidateExamples(t *testing.T) {
	for _, file := range []string{"single.hcl", "three-nodes/a.hcl", "three-nodes/b.hcl", "three-nodes/c.hcl"} {
		stdout, stderr, err := runOne(t, newValidateCommand(), filepath.Join("../../examples", file))
		alone := strings.Contains(stderr, "cluster.join is empty on a server")
		if err != nil || alone != (file == "single.hcl") || !alone && stderr != "" || !strings.Contains(stdout, "is valid: 3 limits.") {
			t.Errorf("%s: %v\n%s%s", file, err, stdout, stderr)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	for name, test := range map[string]struct{ content, stderr, err string }{
		"an unknown attribute": {
			"data_dir = \"d\"\nlissen = 1",
			":2,1: unknown attribute \"lissen\"\n  2 | lissen = 1\n", "the config has 1 problem",
		},
		"two spellings of one pattern": {
			"data_dir = \"d\"\nlimits {\n  host \"192.0.2.1\" {}\n  host \"0300.0.2.1\" {}\n}",
			":4,8: \"192.0.2.1\" has a limit already, at ", "the config has 1 problem",
		},
		"a bad pattern and a bad number": {
			"data_dir = \"d\"\nlimits {\n  host \"a.*.example.com\" {\n    connections = -1\n  }\n}",
			":3,8: not a pattern: \"a.*.example.com\" has ", "the config has 2 problems",
		},
		"files that are no certificate and key": {
			"data_dir = \"d\"\napi {\n  tls {\n    cert_file = \"validate_test.go\"\n    key_file = \"validate_test.go\"\n  }\n}",
			":4,5: api.tls.cert_file: \"validate_test.go\" holds no certificate\n", "the config has 1 problem",
		},
	} {
		file := filepath.Join(t.TempDir(), "a.hcl")
		if err := os.WriteFile(file, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, err := runOne(t, newValidateCommand(), file)
		if err == nil || err.Error() != test.err || stdout != "" || !strings.HasPrefix(stderr, "Error: "+file+":") || !strings.Contains(stderr, file+test.stderr) {
			t.Errorf("%s: %v\n%s%s", name, err, stdout, stderr)
		}
	}
	open := filepath.Join(t.TempDir(), "a.hcl")
	if err := os.WriteFile(open, []byte("name = \"a\"\nrole = \"proxy\"\ncluster {\n  rpc = \"10.0.0.1:8082\"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := runOne(t, newValidateCommand(), open)
	if err != nil || !strings.Contains(stdout, "is valid") || !strings.HasPrefix(stderr, "Warning: "+open+":4,3: cluster.rpc is 10.0.0.1:8082 without TLS") {
		t.Errorf("what is open: %v\n%s%s", err, stdout, stderr)
	}
	if _, _, err := runOne(t, newValidateCommand()); err == nil {
		t.Error("validate without a path is accepted")
	}
}

// TestLimitsAgree: a limit at the edge of what a file may hold is one that the cluster takes, and
// one beyond is refused by both, so that a config that is accepted never fails in the log.
func TestLimitsAgree(t *testing.T) {
	load := func(connections, size int64, timeout time.Duration) error {
		file := filepath.Join(t.TempDir(), "a.hcl")
		content := fmt.Sprintf("limits {\n host \"*.example.com\" {\n connections = %d\n shared = true\n queue {\n timeout = %q\n size = %d\n }\n }\n}", connections, timeout, size)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, problems := config.LoadLimits(file, config.Options{})
		return problems.Err()
	}
	pattern, err := limit.ParsePattern("*.example.com")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		connections, size int64
		timeout           time.Duration
	}{
		{0, 1, time.Millisecond}, {limit.MaxConnections, limit.MaxQueueSize, limit.MaxQueueTimeout},
		{limit.MaxConnections + 1, 1, time.Second}, {1, limit.MaxQueueSize + 1, time.Second}, {1, 1, limit.MaxQueueTimeout + time.Second},
		{-5, 1, time.Second}, {1, 0, time.Second}, {1, 1, 0}, {1, 1, -time.Second},
	} {
		limit := limit.Limit{Pattern: pattern, Connections: test.connections, Shared: true, Queue: limit.Queue{Timeout: test.timeout, Size: int(test.size)}}
		inFile, inCluster := load(test.connections, test.size, test.timeout), limit.Validate()
		if (inFile == nil) != (inCluster == nil) {
			t.Errorf("%+v: the file says %v, the cluster %v", test, inFile, inCluster)
		}
	}
}

func TestKeygen(t *testing.T) {
	first, _, err := runOne(t, newKeygenCommand())
	if err != nil || !regexp.MustCompile(`^[A-Za-z0-9+/]{43}=\n$`).MatchString(first) {
		t.Fatalf("%q, %v", first, err)
	}
	if key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(first)); err != nil || len(key) != gossipKeyBytes {
		t.Errorf("%d bytes, %v", len(key), err)
	}
	if second, _, _ := runOne(t, newKeygenCommand()); second == first {
		t.Error("the same key twice")
	}
	if _, _, err := runOne(t, newKeygenCommand(), "extra"); err == nil {
		t.Error("an argument is accepted")
	}
}
