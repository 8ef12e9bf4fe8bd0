package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestValidateSeveralNodes: files that each name a node are checked one by one, with what they
// share.
func TestValidateSeveralNodes(t *testing.T) {
	const server = "data_dir = \"d\"\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		paths []string // in the directory; none: the directory
		code  int
		out   []string
		errs  []string
	}{
		{
			"two nodes", map[string]string{"a.hcl": "name = \"a\"\n" + server, "b.hcl": "name = \"b\"\n" + server}, nil, 0,
			[]string{"the files of 2 nodes", `node "a" is valid`, `node "b" is valid`, "not with the directory"}, nil,
		},
		{
			"what they share", map[string]string{"a.hcl": "name = \"a\"\n", "b.hcl": "name = \"b\"\n", "common.hcl": server + "limits {\n  host \"*\" {}\n}\n"}, nil, 0,
			[]string{"together with", "common.hcl", `node "a" is valid: 1 limit.`, `node "b" is valid: 1 limit.`}, nil,
		},
		{
			"one of them is wrong", map[string]string{"a.hcl": "name = \"a\"\n" + server, "b.hcl": "name = \"b\"\nrole = \"x\"\n"}, nil, 1,
			[]string{`node "a" is valid`}, []string{"b.hcl:2,8", "1 of 2 node files have problems"},
		},
		{
			"one node in two files", map[string]string{"a.hcl": "name = \"a\"\n", "b.hcl": server}, nil, 0,
			[]string{`The config of node "a" is valid`}, nil,
		},
		{
			"both named on the command line", map[string]string{"a.hcl": "name = \"a\"\n" + server, "b.hcl": "name = \"b\"\n"}, []string{"a.hcl", "b.hcl"}, 1,
			nil, []string{"name is set twice"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range c.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := []string{"validate"}
			for _, path := range c.paths {
				args = append(args, filepath.Join(dir, path))
			}
			if len(c.paths) == 0 {
				args = append(args, dir)
			}
			var out, errs bytes.Buffer
			code := run(t.Context(), testProcess(), args, &out, &errs, newValidateCommand())
			if code != c.code {
				t.Errorf("exit %d, want %d", code, c.code)
			}
			for _, want := range c.out {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is not in %q", want, out.String())
				}
			}
			for _, want := range c.errs {
				if !strings.Contains(errs.String(), want) {
					t.Errorf("%q is not in %q", want, errs.String())
				}
			}
		})
	}
}
