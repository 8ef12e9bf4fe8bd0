package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEnvironment(t *testing.T) {
	c := load(t, `
name     = "${env.NAME}"
data_dir = "data/${env.A}/x$${env.A}${env.EMPTY}"
log { level = "info" }
cluster {
  join             = ["${env.A}.example.com:1", env["A"]]
  advertise_rpc    = "${env.EMPTY}"
  bootstrap_expect = (2)
}
proxy { allow_clients = ["${env.NET}"] }
limits {
  host "${env.A}.example.com" { connections = 3 }
  host "${env["NET"]}" {}
}
`)
	got := []string{c.Name, c.DataDir, c.Cluster.Join[0], c.Cluster.Join[1], c.Cluster.AdvertiseRPC, c.Proxy.AllowClients[0].String()}
	want := []string{"n1", "data/a/x${env.A}", "a.example.com:1", "a:8083", "", "10.0.0.0/8"}
	for _, l := range c.Limits {
		got = append(got, l.Pattern.String())
	}
	want = append(want, "10.0.0.0/8", "a.example.com")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestProcessEnvironment: without a LookupEnv it is the process's environment that counts.
func TestProcessEnvironment(t *testing.T) {
	t.Setenv("WEIR_CONFIG_TEST_NAME", "from-the-process")
	c, diags := Load([]string{write(t, "a.hcl", `
name     = "${env.WEIR_CONFIG_TEST_NAME}"
data_dir = "d"
limits {
  user "Any thing" {}
}`)}, Options{})
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	if c.Name != "from-the-process" || c.Limits[0].Pattern.String() != "Any thing" {
		t.Errorf("%q, %v", c.Name, c.Limits)
	}
}

func TestDev(t *testing.T) {
	c, diags := Load(nil, Options{Dev: true})
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(true), c, cmp.Comparer(samePrefix)); diff != "" {
		t.Errorf("without files (-default +loaded)\n%s", diff)
	}
	c, diags = Load([]string{write(t, "a.hcl", `data_dir = "d"`)}, Options{Dev: true})
	if err := diags.Err(); err != nil || !c.Dev || c.DataDir != "" {
		t.Errorf("with a file: %+v, %v", c, err)
	}
}

// TestNameOfTheMachine: a machine whose host name can't be a node's needs one in the file.
func TestNameOfTheMachine(t *testing.T) {
	l := newLoader(testOptions())
	l.cfg.Name, l.cfg.DataDir = "", "d"
	l.check()
	if len(l.found) != 1 || !strings.Contains(l.found[0].Message, "name is not set") {
		t.Errorf("%v", l.found)
	}
}

func TestWithoutFiles(t *testing.T) {
	_, diags := Load(nil, Options{})
	if len(diags) != 1 || diags[0].At != (Position{}) || !strings.Contains(diags[0].Message, "data_dir") {
		t.Errorf("%v", diags)
	}
}

func TestMerge(t *testing.T) {
	dir := write(t,
		"10-node.hcl", "name = \"a\"\ndata_dir = \"d\"\nproxy {\n reject_status = 429\n}\n",
		"20-proxy.hcl", "proxy {\n listen = \"127.0.0.1:9000\"\n}\nlimits {\n host \"a\" {}\n}\n",
		"30-limits.hcl", "limits {\n host \"b\" {}\n}\n",
		".hidden.hcl", "!", "notes.txt", "!")
	c, diags := Load([]string{dir}, testOptions())
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	if c.Proxy.RejectStatus != 429 || c.Proxy.Listen[0] != "127.0.0.1:9000" || len(c.Limits) != 2 {
		t.Errorf("%+v %v", c.Proxy, c.Limits)
	}
	if at := c.Origins["proxy.listen"]; at.File != filepath.Join(dir, "20-proxy.hcl") || at.Line != 2 || at.Column != 2 {
		t.Errorf("proxy.listen is at %v", at)
	}

	more := write(t, "z.hcl", "name = \"b\"\nlimits {\n host \"A\" {}\n}\n")
	_, diags = Load([]string{dir, more}, testOptions())
	z := filepath.Join(more, "z.hcl")
	want := []string{
		fmt.Sprintf("%s:1,1: name is set twice: here and at %s:1,1. Remove one of the two.", z, filepath.Join(dir, "10-node.hcl")),
		fmt.Sprintf("%s:3,7: \"a\" has a limit already, at %s:5,7. Two spellings of one pattern have one limit: remove one of the two.", z, filepath.Join(dir, "20-proxy.hcl")),
	}
	if diff := cmp.Diff(want, lines(diags)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func lines(diags Diagnostics) []string {
	var out []string
	for _, d := range diags {
		out = append(out, d.String())
	}
	return out
}

func TestUnreadablePaths(t *testing.T) {
	empty := t.TempDir()
	file := filepath.Join(write(t, "a.hcl", `name = "a"`), "a.hcl") // data_dir may be in what can't be read: it isn't asked for
	_, diags := Load([]string{"testdata/none.hcl", empty, file, file}, testOptions())
	want := []string{
		"testdata/none.hcl: can't be read: no such file or directory",
		empty + ": can't be read: there are no *.hcl files in the directory",
		file + ": the file is named twice. Name it once: files are merged.",
	}
	if diff := cmp.Diff(want, lines(diags)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestTooDeep: the HCL parser recurses without a bound, and a stack overflow can't be recovered.
func TestTooDeep(t *testing.T) {
	for _, unit := range []string{"[", "(", "{", "a {\n", "!", "-", "\"${", "%{ if true }", "true ? 1 : ", "a[*]"} {
		said := refused(t, "x = "+strings.Repeat(unit, 5_000))
		if unit == "%{ if true }" {
			said = refused(t, "x = \""+strings.Repeat(unit, 5_000))
		}
		if !strings.Contains(said, "nests too deeply") {
			t.Errorf("%q: %.300s", unit, said)
		}
	}
}

func TestFileTooLong(t *testing.T) {
	if said := refused(t, strings.Repeat("#", maxFileBytes+1)); !strings.Contains(said, "longer than") {
		t.Error(said)
	}
}

func TestExamples(t *testing.T) {
	var digests []string
	for _, name := range []string{"three-nodes/a.hcl", "three-nodes/b.hcl", "three-nodes/c.hcl", "single.hcl"} {
		c, diags := Load([]string{"../examples/" + name}, testOptions())
		if err := diags.Err(); err != nil {
			t.Fatal(err)
		}
		ds := Warnings(c)
		if name == "single.hcl" {
			if len(ds) != 1 || !strings.Contains(ds[0].Message, "cluster.join is empty") {
				t.Errorf("%s: %v", name, ds)
			}
		} else if len(ds) > 0 {
			t.Errorf("%s: %v", name, ds)
		}
		digests = append(digests, Digest(c.Lease.TTL, c.ClusterLimits()))
		if name == "single.hcl" {
			continue
		}
		i := len(digests) - 1
		got := []string{c.Name, c.DataDir, c.Proxy.Listen[0], c.API.Listen, c.Cluster.RPC, c.Cluster.Gossip}
		want := []string{"abc"[i : i+1], "examples/three-nodes/data/" + "abc"[i:i+1]}
		for port := 8080 + 100*i; port < 8084+100*i; port++ {
			want = append(want, fmt.Sprintf("127.0.0.1:%d", port))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	if digests[0] != digests[1] || digests[1] != digests[2] {
		t.Errorf("the three nodes disagree: %v", digests)
	}
}
