package e2e

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fails starts a node that can't come up, and returns the one line that it says.
func fails(t *testing.T, n *node) string {
	t.Helper()
	n.writeConfig(t)
	n.start(t)
	t.Cleanup(n.process.Kill)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	code, err := n.process.Wait(ctx)
	log, _ := os.ReadFile(n.logPath)
	if code != 1 || err != nil {
		t.Fatalf("exit code %d, %v; want 1\n%s", code, err, log)
	}
	line := complaint(t, string(log))
	t.Log(line)
	return line
}

// dataDirInUse: two processes on one data directory.
func dataDirInUse(t *testing.T, c *cluster) {
	second := c.newNode(t, c.nodes[0].name, "server", freePorts(t, 4))
	second.dataDir, second.join = c.nodes[0].dataDir, c.gossip()
	if line := fails(t, second); !strings.Contains(line, second.dataDir) {
		t.Errorf("%q does not name the directory %s", line, second.dataDir)
	}
	c.allWell(t)
}

// portTaken: each of a node's four ports in turn belongs to another process.
func portTaken(t *testing.T, c *cluster) {
	for _, which := range []string{"proxy", "api", "rpc", "gossip"} {
		t.Run(which, func(t *testing.T) {
			taken, err := net.Listen("tcp", freePorts(t, 1)[0])
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = taken.Close() }()
			n := c.newNode(t, "x", "server", freePorts(t, 4))
			*map[string]*string{"proxy": &n.proxy, "api": &n.api, "rpc": &n.rpc, "gossip": &n.gossip}[which] = taken.Addr().String()
			if line := fails(t, n); !strings.Contains(line, taken.Addr().String()) {
				t.Errorf("%q does not name the address %s", line, taken.Addr())
			}
		})
	}
	c.allWell(t)
}

// nameTaken: a newcomer with the name of a live node ends; the live node does not notice.
func nameTaken(t *testing.T, c *cluster) {
	second := c.newNode(t, c.nodes[0].name, "server", freePorts(t, 4))
	second.join = c.gossip()
	if line := fails(t, second); !strings.Contains(line, `"`+second.name+`"`) && !strings.Contains(line, " "+second.name+" ") {
		t.Errorf("%q does not name the node %s", line, second.name)
	}
	c.allWell(t)
}

// allWell checks that every node runs, is ready and agrees on the leader.
func (c *cluster) allWell(t *testing.T) {
	t.Helper()
	c.leader(t)
	for _, n := range c.nodes {
		if err := n.ready(); err != nil {
			t.Errorf("node %s: %v", n.name, err)
		}
	}
}

// commandLine: the client commands against a live cluster, and exit codes.
func commandLine(t *testing.T, c *cluster) {
	n := c.nodes[0]
	bad := filepath.Join(t.TempDir(), "bad.hcl")
	if err := os.WriteFile(bad, []byte("name = \"x\"\nproxy {\n  lisen = \"127.0.0.1:1\"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		says string // on stdout, or on stderr where the code is not 0
	}{
		{[]string{"version"}, 0, "go1."},
		{[]string{"validate", n.config}, 0, ""},
		{[]string{"validate", bad}, 1, "bad.hcl:3,3"},
		{[]string{"status"}, 0, n.name},
		{[]string{"nodes"}, 0, c.nodes[2].name},
		{[]string{"limits", "set", "cli.example", "--connections", "4"}, 0, ""},
		{[]string{"limits", "list"}, 0, "cli.example"},
		{[]string{"limits", "get", "cli.example", "--json"}, 0, `"connections":`},
		{[]string{"hosts", "cli.example"}, 0, "cli.example"},
		{[]string{"limits", "delete", "cli.example"}, 0, ""},
		{[]string{"limits", "get", "cli.example"}, 1, "cli.example"},
		{[]string{"raft", "peers"}, 0, c.nodes[1].name},
		{[]string{"no-such-command"}, 2, "no-such-command"},
		{[]string{"status", "--no-such-flag"}, 2, "no-such-flag"},
	} {
		stdout, stderr, code := n.weir(t, test.args...)
		out := stdout
		if test.code != 0 {
			out = stderr + stdout
		}
		if code != test.code || !strings.Contains(out, test.says) {
			t.Errorf("weir %s: exit code %d; want %d and %q in:\n%s%s", strings.Join(test.args, " "), code, test.code, test.says,
				stdout, stderr)
		}
	}
}
