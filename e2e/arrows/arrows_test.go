package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed is what `go list -json` tells of a package.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// builds are the ways in which the module is built; each has files that the others leave out. No
// node runs on FreeBSD: it stands for the systems for which the libraries alone have files.
var builds = []struct{ system, tags string }{
	{"linux", ""}, {"darwin", ""}, {"freebsd", ""},
	{"linux", "faults"}, {"linux", "portable"}, {"linux", "race"}, {"linux", "logversion1"}, {"linux", "logversion2"},
}

func TestTree(t *testing.T) {
	for _, b := range builds {
		t.Run(strings.TrimSpace(b.system+" "+b.tags), func(t *testing.T) { checkTree(t, b.system, b.tags) })
	}
}

func checkTree(t *testing.T, system, tags string) {
	cmd := exec.Command("go", "list", "-e", "-tags="+tags, "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
	cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	packages := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; packages++ {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range append(Check(p.ImportPath, p.Imports, false),
			Check(p.ImportPath, append(slices.Clone(p.TestImports), p.XTestImports...), true)...) {
			t.Error(wrong)
		}
	}
	if packages < len(areas) {
		t.Errorf("go list found %d packages; want at least one for each of %d areas", packages, len(areas))
	}
}

// maxLines is the most that a file may have: a longer one has several subjects.
const maxLines = 500

// TestFilesAreShort: no Go file that is written by hand is longer than maxLines.
func TestFilesAreShort(t *testing.T) {
	files := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "../.." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		files++
		text, err := os.ReadFile(path)
		if lines := bytes.Count(text, []byte("\n")); lines > maxLines {
			t.Errorf("%s has %d lines, and may have %d", path, lines, maxLines)
		}
		return err
	})
	if err != nil || files < len(areas) {
		t.Errorf("%d files: %v", files, err)
	}
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		from, imports string
		tests         bool
		wrong         string // part of the complaint; "" for none
	}{
		{"proxy", module + "/lease", false, ""},
		{"lease/leasetest", module + "/lease", false, ""},
		{"lease", module + "/lease/leasepb", false, ""},
		{"cmd/weir", module + "/config", false, ""},
		{"cmd/weir", module, false, ""},
		{"", module + "/cluster", false, ""},
		{"config", "github.com/hashicorp/hcl/v2/hclparse", false, ""},
		{"proxy", "net/http", false, ""},
		{"proxy", "go.uber.org/goleak", true, ""},
		{"lease/leasetest", "pgregory.net/rapid", false, ""},
		{"examples/demo", module + "/e2e/load", false, ""},
		{"lease/leasetest/sim", module + "/lease/leasetest", false, ""},
		{"lease", module + "/lease/leasetest", false, "only tests may"},
		{"cmd/weir", module + "/lease/leasetest", false, "only tests may"},
		{"cmd/weir", module + "/proxy", false, "cmd/weir may import"},
		{"api", module, false, "api may import [limit]"},
		{"api", module + "/fsm", false, "api may import [limit]"},
		{"api", module + "/api/server", false, "api may import [limit]"},
		{"api/server", module + "/api", false, ""},
		{"api/server", module, false, "api/server may import [api api/ui fsm limit]"},
		{"cmd/weir", module + "/api/server", false, "cmd/weir may import"},
		{"", module + "/cmd/weir/top", false, "weir may import"},
		{"lease", module + "/proxy", false, "lease may import [lease/leasepb lease/due fsm/fsmpb limit]"},
		{"lease", module + "/proxy", true, "lease may import [lease/leasepb lease/due fsm/fsmpb limit]"},
		{"lease", module + "/fsm", false, "lease may import [lease/leasepb lease/due fsm/fsmpb limit]"},
		{"lease", module + "/fsm", true, ""},
		{"lease", module + "/lease/leader", false, "lease may import [lease/leasepb lease/due fsm/fsmpb limit]"},
		{"lease", module + "/lease/leader", true, ""},
		{"lease/leader", module + "/lease", false, "lease/leader may import [lease/leasepb lease/due fsm fsm/fsmpb limit]"},
		{"lease", "google.golang.org/grpc", false, "only [lease/leasepb lease/leader cluster cluster/rpcport cluster/clusterpb weir] may"},
		{"config", module + "/config/certs", false, ""},
		{"cluster", module + "/config/certs", false, ""},
		{"cluster", module + "/config", false, "cluster may import [cluster/rpcport"},
		{"config", module + "/fsm", false, "config may import [config/certs limit]"},
		{"api", "github.com/hashicorp/hcl/v2", false, "only [config] may"},
		{"cmd/weir", "github.com/hashicorp/memberlist", false, "only [cluster/gossip] may"},
		{"cluster", "github.com/hashicorp/memberlist", false, "only [cluster/gossip] may"},
		{"cluster/gossip", module + "/cluster", false, "cluster/gossip may import [cluster/handshake"},
		{"lease", "github.com/hashicorp/raft", false, "only [cluster fsm] may"},
		{"lease", "github.com/hashicorp/raft", true, ""},
		{"fsm", "github.com/hashicorp/raft-boltdb/v2", false, "only [cluster] may"},
		{"fsm", "pgregory.net/rapid", false, "only tests may"},
		{"proxy", "github.com/prometheus/client_golang/prometheus", false, "only [api/server] may"},
		{"api/server", "github.com/pb33f/libopenapi-validator", false, "only tests may"},
		{"connlimit", "net/http", false, ""},
		{"connlimit", module + "/limit", false, "connlimit may import []"},
		{"connlimit", "github.com/hashicorp/go-connlimit", true, ""},
		{"connlimit", "github.com/hashicorp/go-connlimit", false, "only tests may"},
		{"elsewhere", "net", false, "no area"},
	} {
		wrong := strings.Join(Check(strings.TrimSuffix(module+"/"+test.from, "/"), []string{test.imports}, test.tests), "\n")
		if (wrong == "") != (test.wrong == "") || !strings.Contains(wrong, test.wrong) {
			t.Errorf("%s imports %s (tests: %v): %q; want %q", test.from, test.imports, test.tests, wrong, test.wrong)
		}
	}
}
