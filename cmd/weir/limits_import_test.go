package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirproxy/weir/config"
)

// TestImportGOST: what is written is a file that limits apply reads, and what is doubtful is named
// with its place.
func TestImportGOST(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gost.yaml")
	const src = "climiters:\n- name: a\n  limits:\n  - $$ 10\n  - $ many\n"
	if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), &process{}, []string{"limits", "import", "--gost", path}, &out, &errs); code != exitDone {
		t.Fatalf("%d: %s", code, &errs)
	}
	if want := path + ":5: \"many\" does not parse, which GOST takes for no limit"; !strings.Contains(errs.String(), want) {
		t.Errorf("it says %q, want %q in it", &errs, want)
	}
	file := filepath.Join(t.TempDir(), "limits.hcl")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	limits, problems := config.LoadLimits(file, config.Options{})
	if len(limits) != 1 || limits[0].Pattern.Name() != "client *" || limits[0].Connections != 10 || len(problems) > 0 {
		t.Errorf("%+v, %v\n%s", limits, problems, &out)
	}
}

func TestImportGOSTRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, src := range map[string]string{"none.yaml": "services: []", "bad.yaml": "a: [", "unlimited.yaml": "climiters: [{limits: [$ 0]}]"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "--gost is missing"},
		{[]string{"--gost", filepath.Join(dir, "missing.yaml")}, exitFailed, "no such file"},
		{[]string{"--gost", filepath.Join(dir, "none.yaml")}, exitFailed, "no limiters"},
		{[]string{"--gost", filepath.Join(dir, "bad.yaml")}, exitFailed, "not YAML"},
		{[]string{"--gost", filepath.Join(dir, "unlimited.yaml")}, exitFailed, "no line of it sets a limit"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), &process{}, append([]string{"limits", "import"}, c.args...), &out, &errs)
		if code != c.code || !strings.Contains(errs.String(), c.says) || out.Len() > 0 {
			t.Errorf("%v: %d, %q, %q", c.args, code, &out, &errs)
		}
	}
}
