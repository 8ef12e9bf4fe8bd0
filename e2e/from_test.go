package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
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

// fromNode makes a node run by a config of docs/from.md, with its own addresses in place of the
// document's, and behind it the HCL that the document leaves out.
func fromNode(t *testing.T, n *node, file, behind string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "from", file))
	if err != nil {
		t.Fatal(err)
	}
	fitted := strings.NewReplacer(
		`name     = "a"`, fmt.Sprintf("name = %q", n.name), `"/var/lib/weir"`, fmt.Sprintf("%q", n.dataDir),
		`"10.0.0.1", "10.0.0.2", "10.0.0.3"`, quoted(n.join),
		"10.0.0.1:8082", n.rpc, "10.0.0.1:8083", n.gossip, "10.0.0.1:8080", n.proxy, "10.0.0.1:3128", n.proxy,
		"10.0.0.0/8", "127.0.0.0/8",
	).Replace(string(text)) + fmt.Sprintf("\napi {\n  listen = %q\n}\n", n.api) + behind
	config := filepath.Join(filepath.Dir(n.config), file)
	if err := os.WriteFile(config, []byte(fitted), 0o600); err != nil {
		t.Fatal(err)
	}
	n.wrapper, n.env = []string{"sh", "-c", `exec "$0" agent --config "$CONFIG"`}, append(n.env, "CONFIG="+config)
}

// TestFromDPRL: the nodes of docs/from.md that replace dprl let in 100 connections to a host,
// through whichever of them, and refuse the next as dprl does, with 500.
func TestFromDPRL(t *testing.T) {
	t.Parallel()
	key, _, _ := run(t, nil, os.Getenv(binaryVariable), "keygen")
	c := startCluster(t, shape{prepare: func(n *node) {
		n.env = []string{"WEIR_GOSSIP_KEY=" + strings.TrimSpace(key)}
		fromNode(t, n, "dprl.hcl", "")
	}})
	up := c.upstream(t)
	for i := range 100 {
		c.nodes[i%3].openSoon(t, up.target)
	}
	for _, n := range c.nodes {
		if r := n.refuse(t, up.target, "connection_limit_reached"); r.Status != 500 {
			t.Errorf("node %s refuses with %d; want 500", n.name, r.Status)
		}
	}
	c.nodes[0].open(t, c.upstream(t).target)
}

// TestFromSquid: the node of docs/from.md that replaces squid lets in 50 connections of a client,
// and refuses the next with 503; a client downloads 1 MB a second, after a burst of 2 MB.
func TestFromSquid(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}, prepare: func(n *node) {
		fromNode(t, n, "squid.hcl", fmt.Sprintf("cluster {\n  rpc = %q\n  gossip = %q\n  bootstrap_expect = 1\n}\n", n.rpc, n.gossip))
	}})
	n, up := c.nodes[0], c.upstream(t)
	begun := time.Now()
	tunnel := n.openSoon(t, up.target)
	const bytes = 4_000_000
	if _, err := fmt.Fprintf(tunnel, "give %d\n", bytes); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, tunnel, bytes); err != nil {
		t.Fatal(err)
	}
	// The 2 MB beyond the burst take 2 s. A wrong rate or burst is off by more than a quarter.
	if took := time.Since(begun); took < 1500*time.Millisecond {
		t.Errorf("4 MB took %v; want 2 s", took)
	}
	for range 49 {
		n.openSoon(t, up.target)
	}
	if r := n.refuse(t, up.target, "connection_limit_reached"); r.Status != 503 {
		t.Errorf("it refuses with %d; want 503", r.Status)
	}
	from("127.0.0.2").open(t, n, up.target)
}

// openSoon is open where another node may have to give a slot first.
func (n *node) openSoon(t *testing.T, target string) (tunnel *load.Tunnel) {
	t.Helper()
	eventually(t, 5*time.Second, "a tunnel through node "+n.name, func() (err error) {
		tunnel, err = n.try(target)
		return err
	})
	t.Cleanup(func() { _ = tunnel.Close() })
	return tunnel
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
