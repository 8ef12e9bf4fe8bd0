package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The files below testdata/from are what docs/from.md quotes.

// TestFromConfigs: the configs of docs/from.md are valid.
func TestFromConfigs(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/from/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d configs, %v", len(files), err)
	}
	key, _, _ := run(t, nil, os.Getenv(binaryVariable), "keygen")
	for _, file := range files {
		env := []string{"WEIR_GOSSIP_KEY=" + strings.TrimSpace(key)}
		if out, errs, code := run(t, env, os.Getenv(binaryVariable), "validate", file); code != 0 {
			t.Errorf("weir validate %s: exit code %d\n%s%s", file, code, out, errs)
		}
	}
}

// fromScripts runs the commands of docs/from.md.
func (k *kitchen) fromScripts(t *testing.T) {
	x := k.lay(t, recipe{name: "from"})
	if out := x.script(t, "dprl.sh", "alone"); !strings.Contains(out, x.host) {
		t.Errorf("weir hosts does not show %s:\n%s", x.host, out)
	}
	if err := k.nodes[0].http.limitIs("*", 25); err != nil {
		t.Error(err)
	}
	if err := k.nodes[0].http.limitIs(x.host, 5); err != nil {
		t.Error(err)
	}
	seen := k.shop.seen(x.host)
	if out := x.script(t, "redis.sh", "semaphore"); !strings.Contains(out, "in stock") || k.shop.seen(x.host) != seen+1 {
		t.Errorf("the upstream has seen %d requests, the worker says:\n%s", k.shop.seen(x.host)-seen, out)
	}
	if admitted := k.nodes[0].http.host(t, x.host).Admitted; admitted != 1 {
		t.Errorf("the nodes admitted %d connections; want 1", admitted)
	}
	x.script(t, "redis.sh", "rate")
	if u, err := k.nodes[0].http.usage("host", x.host); err != nil || u.Requests == nil || u.Requests.Rate != 10 {
		t.Errorf("usage %+v, %v; want a rate of 10 requests a second", u, err)
	}
}

// script runs a quoted part of a file of testdata/from, which must succeed.
func (x *tryout) script(t *testing.T, file, quote string) string {
	t.Helper()
	read := func(file, quote string) string {
		text, err := os.ReadFile(filepath.Join("testdata", "from", file))
		if err != nil {
			t.Fatal(err)
		}
		_, part, _ := strings.Cut(string(text), "# quote: "+quote+"\n")
		part, _, ok := strings.Cut(part, "# end quote")
		if !ok {
			t.Fatalf("%s has no %q", file, quote)
		}
		return x.fit(part, "https")
	}
	if err := os.WriteFile(filepath.Join(x.dir, "worker.py"), []byte(read("worker.py", "worker")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-ec", read(file, quote))
	cmd.Dir, cmd.Env = x.dir, append(append(os.Environ(), x.env...), "WEIR_ADDR=http://"+x.nodes[0].api)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", file, quote, err, out)
	}
	return string(out)
}
