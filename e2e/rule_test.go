package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// limitThroughEachNode: a limit set through any node is seen there at once, by the others soon, and
// holds everywhere.
func limitThroughEachNode(t *testing.T, c *cluster) {
	up := c.upstream(t)
	for i, n := range c.nodes {
		want := i + 1
		a := n.http.setLimit(t, up.name, connections(want))
		if err := n.http.limitIs(up.name, want); err != nil {
			t.Errorf("node %s right after its own write (%s): %v", n.name, a.body, err)
		}
		for _, other := range c.nodes {
			eventually(t, 2*time.Second, "node "+other.name+" sees it", func() error { return other.http.limitIs(up.name, want) })
		}
		holder, asker := c.nodes[(i+1)%3], c.nodes[(i+2)%3]
		tunnels := holder.openMany(t, up.target, want)
		asker.refuse(t, up.target, "connection_limit_reached")
		end(t, tunnels...)
		c.awaitUse(t, up, 0)
	}
	c.nodes[1].http.must(t, http.StatusOK, "DELETE", limitPath(up.name), "", nil)
	c.nodes[1].http.must(t, http.StatusNotFound, "GET", limitPath(up.name), "", nil)
	up.peakAtMost(t, 3)
}

// compareAndSet: a write with a stale ETag changes nothing.
func compareAndSet(t *testing.T, c *cluster) {
	a, b := c.nodes[0].http, c.nodes[1].http
	const pattern = "compare.example"
	a.setLimit(t, pattern, connections(3))
	eventually(t, 2*time.Second, "b sees it", func() error { return b.limitIs(pattern, 3) })
	stale := b.must(t, 200, "GET", limitPath(pattern), "", nil).header.Get("ETag")
	if stale == "" {
		t.Fatal("no ETag")
	}
	match := map[string]string{"If-Match": stale}
	b.must(t, http.StatusOK, "PUT", limitPath(pattern), connections(4), match)
	b.must(t, http.StatusPreconditionFailed, "PUT", limitPath(pattern), connections(5), match)
	b.must(t, http.StatusPreconditionFailed, "DELETE", limitPath(pattern), "", match)
	if err := b.limitIs(pattern, 4); err != nil {
		t.Error(err)
	}
	b.must(t, http.StatusOK, "DELETE", limitPath(pattern), "", nil)
}

// refusals: say why, in Proxy-Status and in a line, and when to come again.
func refusals(t *testing.T, c *cluster) {
	up := c.upstream(t)
	n := c.nodes[0]
	c.setLimit(t, up.name, connections(1))
	held := n.open(t, up.target)
	for _, other := range c.nodes {
		r := other.refuse(t, up.target, "connection_limit_reached")
		if r.Status != http.StatusServiceUnavailable || !strings.HasPrefix(r.ProxyStatus, other.name+";") {
			t.Errorf("refusal %+v; want 503 and a Proxy-Status of node %s", r, other.name)
		}
		if seconds, err := strconv.Atoi(r.RetryAfter); err != nil || seconds < 1 {
			t.Errorf("Retry-After %q; want whole seconds", r.RetryAfter)
		}
		if strings.Count(r.Text, "\n") > 1 || strings.TrimSpace(r.Text) == "" {
			t.Errorf("body %q; want one line", r.Text)
		}
	}
	end(t, held)

	c.setLimit(t, "blocked.example", connections(0))
	n.refuse(t, "blocked.example:443", "connection_limit_reached")
	if r := n.refuse(t, "0.0.0.0:80", "destination_ip_prohibited"); r.Status != http.StatusBadGateway {
		t.Errorf("0.0.0.0: status %d; want 502", r.Status)
	}
	n.refuse(t, "169.254.169.254:80", "destination_ip_prohibited")
	closed := freePorts(t, 1)[0]
	if r := n.refuse(t, closed, "connection_refused"); r.Status != http.StatusBadGateway {
		t.Errorf("a closed port: status %d; want 502", r.Status)
	}
}

// spellings: however a host is written, it is one host with one count.
func spellings(t *testing.T, c *cluster) {
	byAddress, err := listen("127.9.8.7")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = byAddress.Close() }()
	byName, err := listen("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = byName.Close() }()
	for _, test := range []struct {
		up      host
		pattern string
		forms   []string
	}{
		{byAddress, "127.9.8.7", []string{
			"127.9.8.7", "127.9.2055", "127.591879", "2131298311", "0x7f.9.8.7", "0x7F090807", "0177.011.010.07",
			"0177.9.0x8.7", "127.9.8.7.", "[::ffff:127.9.8.7]", "[::FFFF:7f09:807]",
		}},
		{byName, "localhost", []string{"localhost", "LOCALHOST", "LocalHost.", "localhost."}},
	} {
		c.setLimit(t, test.pattern, connections(1))
		port := strconv.Itoa(test.up.Port())
		for i, form := range test.forms {
			target := form + ":" + port
			end(t, c.nodes[i%3].open(t, target)) // it leads there
			held := c.nodes[i%3].open(t, test.pattern+":"+port)
			c.nodes[(i+1)%3].refuse(t, target, "connection_limit_reached")
			end(t, held)
			c.awaitUse(t, host{Server: test.up.Server, name: test.pattern}, 0) // another node takes it next
		}
		test.up.peakAtMost(t, 1)
		c.nodes[0].http.must(t, 200, "DELETE", limitPath(test.pattern), "", nil)
	}
	// A host that need not resolve to be counted.
	c.setLimit(t, "example.com", connections(0))
	for _, form := range []string{"example.com", "EXAMPLE.com.", "Example.Com"} {
		c.nodes[0].refuse(t, form+":443", "connection_limit_reached")
	}
}

// reload: SIGHUP replaces the config's limits, and only them.
func reload(t *testing.T, c *cluster) {
	n := c.nodes[2]
	c.setLimit(t, "by-api.example", connections(7))
	for _, want := range []int{3, 4} {
		n.limits = fmt.Sprintf("  host \"by-config.example\" {\n    connections = %d\n  }\n", want)
		n.writeConfig(t)
		n.signal(t, syscall.SIGHUP)
		for _, each := range c.nodes {
			eventually(t, 5*time.Second, "node "+each.name+" sees the reloaded limit", func() error {
				return each.http.limitIs("by-config.example", want)
			})
		}
	}
	leader, _ := c.leader(t)
	eventually(t, 10*time.Second, "a reload that changes nothing writes nothing to the log", func() error {
		before := lastIndex(t, leader) // slots of earlier work may still be on their way back
		n.http.must(t, http.StatusOK, "POST", "/v1/reload", "", nil)
		if after := lastIndex(t, leader); after != before {
			return fmt.Errorf("%d entries", after-before)
		}
		return nil
	})
	if err := os.WriteFile(n.config, []byte("this is no configuration {"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := n.http.call("POST", "/v1/reload", "", nil); err != nil || a.status < 400 {
		t.Errorf("a reload of a broken file answers %+v, %v; want an error", a, err)
	}
	if err := n.http.limitIs("by-config.example", 4); err != nil {
		t.Errorf("after the broken file: %v", err)
	}
	n.limits = c.shape.limits
	n.writeConfig(t)
	n.http.must(t, http.StatusOK, "POST", "/v1/reload", "", nil)
	eventually(t, 5*time.Second, "what config no longer names is gone", func() error {
		if a, err := c.nodes[0].http.call("GET", limitPath("by-config.example"), "", nil); err != nil || a.status != 404 {
			return fmt.Errorf("it answers %+v, %v", a, err)
		}
		return nil
	})
	if err := c.nodes[0].http.limitIs("by-api.example", 7); err != nil {
		t.Errorf("a limit set through the API after reloads: %v", err)
	}
	c.nodes[0].http.must(t, 200, "DELETE", limitPath("by-api.example"), "", nil)
}

// proxyNode: a node without Raft state leases from the servers, is listed, and gives all back when
// it stops.
func proxyNode(t *testing.T, c *cluster) {
	up := c.upstream(t)
	c.setLimit(t, up.name, connections(2))
	p := c.add(t, "p", "proxy")
	p.awaitReady(t, 10*time.Second)
	held := p.openMany(t, up.target, 2)
	c.nodes[0].refuse(t, up.target, "connection_limit_reached")
	eventually(t, 5*time.Second, "it is listed", func() error {
		got := c.nodes[0].http.nodes(t)["p"]
		if got.Role != "proxy" || got.Health != "alive" || got.Session != "live" {
			return fmt.Errorf("as %+v", got)
		}
		return nil
	})
	end(t, held...)
	if err := p.http.limitIs(up.name, 2); err != nil {
		t.Errorf("a proxy's view of the limits: %v", err)
	}
	p.terminate(t)
	if _, err := os.Stat(p.dataDir + "/raft"); err == nil {
		t.Error("a proxy node keeps Raft state")
	}
	eventually(t, 2*time.Second, "its slots are back", func() error {
		second, err := c.nodes[0].try(up.target)
		if err != nil {
			return err
		}
		defer func() { _ = second.Close() }()
		return admits(c.nodes[1], up.target)()
	})
	up.peakAtMost(t, 2)
}
