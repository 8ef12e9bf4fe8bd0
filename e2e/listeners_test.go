package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// at is the node as its workers see it that know another address of its proxy.
func (n *node) at(proxy string) *node {
	other := *n
	other.proxy = proxy
	return &other
}

// TestSeveralProxyAddresses: a proxy that listens on two addresses, each of an IP of its own, is
// one proxy: its workers share the limits, whichever address they use, and a reload, a drain and
// the node's end are for both.
func TestSeveralProxyAddresses(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{drain: time.Minute, names: []string{"a", "b"}, prepare: func(n *node) {
		_, port, err := net.SplitHostPort(n.proxy)
		if err != nil {
			t.Fatal(err)
		}
		n.moreProxies = []string{net.JoinHostPort("127.0.0.2", port)}
	}})
	n := c.nodes[0]
	doors := []*node{n, n.at(n.moreProxies[0])}
	both := []string{n.proxy, n.moreProxies[0]}

	t.Run("serve and count together", func(t *testing.T) {
		up := c.upstream(t)
		c.setLimit(t, up.name, connections(2))
		c.put(t, "client", "127.9.9.9", connections(1))
		open := []*load.Tunnel{doors[0].open(t, up.target), doors[1].open(t, up.target)}
		for _, door := range doors {
			door.refuse(t, up.target, "connection_limit_reached")
		}
		if h := n.http.host(t, up.name); h.InUse != 2 || h.Nodes[n.name].InUse != 2 {
			t.Errorf("%d slots are in use, %d of them on node %s; want 2", h.InUse, h.Nodes[n.name].InUse, n.name)
		}
		end(t, open...)
		up.peakAtMost(t, 2)

		up, worker := c.upstream(t), from("127.9.9.9")
		held := worker.open(t, doors[1], up.target)
		worker.refuse(t, doors[0], up.target, "client")
		end(t, held)
	})

	t.Run("are told", func(t *testing.T) {
		for _, each := range c.nodes {
			var s struct {
				Addr  string   `json:"proxy_addr"`
				Addrs []string `json:"proxy_addrs"`
			}
			if err := each.http.read("/v1/status", &s); err != nil {
				t.Fatal(err)
			}
			if want := append([]string{each.proxy}, each.moreProxies...); s.Addr != each.proxy || !slices.Equal(s.Addrs, want) {
				t.Errorf("node %s has its proxy at %q, all of %v; want %v", each.name, s.Addr, s.Addrs, want)
			}
		}
		stdout, stderr, code := n.weir(t, "status")
		if code != 0 || !strings.Contains(stdout, strings.Join(both, ", ")) {
			t.Errorf("weir status: %d, %s%s", code, stdout, stderr)
		}
		if stdout, stderr, code := n.weir(t, "exec", "--", "sh", "-c", "echo $HTTP_PROXY"); code != 0 || stdout != "http://"+n.proxy+"\n" {
			t.Errorf("weir exec: %d, %s%s", code, stdout, stderr)
		}
	})

	t.Run("are out of reach through the proxies", func(t *testing.T) {
		for _, from := range c.nodes {
			for _, door := range both {
				from.refuse(t, door, "proxy_loop_detected")
			}
		}
	})

	t.Run("stay through a reload", func(t *testing.T) {
		up := c.upstream(t)
		held := []*load.Tunnel{doors[0].open(t, up.target), doors[1].open(t, up.target)}
		n.moreProxies = nil
		n.limits = fmt.Sprintf("  host %q {\n    connections = 3\n  }\n", up.name)
		n.writeConfig(t)
		stdout, stderr, code := n.weir(t, "reload")
		if code != 0 || !strings.Contains(stdout, "Need a restart: proxy.listen") {
			t.Fatalf("weir reload: %d, %s%s", code, stdout, stderr)
		}
		n.moreProxies = both[1:]
		n.writeConfig(t)
		mustLive(t, "after a reload", held...)
		eventually(t, 5*time.Second, "the reloaded limit", func() error { return n.http.limitIs(up.name, 3) })
		third := doors[1].open(t, up.target)
		for _, door := range doors {
			door.refuse(t, up.target, "connection_limit_reached")
		}
		end(t, append(held, third)...)
	})

	t.Run("drain together", func(t *testing.T) {
		up := c.upstream(t)
		held := []*load.Tunnel{doors[0].open(t, up.target), doors[1].open(t, up.target)}
		n.http.must(t, http.StatusAccepted, http.MethodPost, "/v1/drain", "", nil)
		for _, door := range doors {
			if r := door.refuse(t, up.target, "proxy_internal_error"); !strings.Contains(r.ProxyStatus, "draining") {
				t.Errorf("%v is the answer at %s", r, door.proxy)
			}
		}
		mustLive(t, "while the node drains", held...)
		n.http.must(t, http.StatusOK, http.MethodDelete, "/v1/drain", "", nil)
		for _, door := range doors {
			held = append(held, door.open(t, up.target))
		}
		end(t, held...)
	})

	t.Run("close together", func(t *testing.T) {
		up := c.upstream(t)
		held := []*load.Tunnel{doors[0].open(t, up.target), doors[1].open(t, up.target)}
		n.signal(t, syscall.SIGTERM)
		for _, door := range doors {
			eventually(t, normalWithin, door.proxy+" is closed", func() error {
				conn, err := net.Dial("tcp", door.proxy)
				if err == nil {
					_ = conn.Close()
					return errors.New("it takes connections")
				}
				return nil
			})
		}
		mustLive(t, "while the node stops", held...)
		end(t, held...)
		n.awaitExit(t) // long before drain_timeout, since nothing is open
		n.start(t)
		n.awaitReady(t, 10*time.Second)
		for _, door := range doors {
			end(t, door.open(t, up.target))
		}
	})
}
