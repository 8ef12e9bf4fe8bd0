package e2e

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/upstream"
)

// TestNames: what a name server says, or fails to say, neither breaks a limit nor takes time from
// connections to others.
func TestNames(t *testing.T) {
	needRoot(t)
	t.Parallel()
	names := newNameServer(t)
	by := resolvingBy(t, "nameserver "+names.addr+"\nsearch example.com corp.example.com\noptions ndots:5\n")
	c := startCluster(t, shape{names: []string{"a"}, prepare: func(n *node) {
		by(n)
		n.more = "proxy {\n  dial_timeout = \"2s\"\n}\n"
	}})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cluster, *nameServer)
	}{
		{"search domains do not apply", searchDomains},
		{"a family that is withheld", withheldFamily},
		{"one of two addresses is dead", oneOfTwoIsDead},
		{"the last of six addresses lives", lastOfSixLives},
		{"many connections share a lookup", sharedLookup},
		{"a slow name holds no slot", slowNameHoldsNoSlot},
		{"a name without addresses", noSuchName},
		{"a name with IPv6 alone", onlyIPv6},
		{"dns_ttl_max is reloaded", ttlMaxReloaded},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, c, names) })
	}
}

// searchDomains: every spelling that reaches a machine counts under its name.
func searchDomains(t *testing.T, c *cluster, names *nameServer) {
	n, up, other := c.nodes[0], c.upstream(t), c.upstream(t)
	names.set("api.example.com", nameAnswer{addrs: []string{up.name}})
	names.set("api.example.com.example.com", nameAnswer{addrs: []string{other.name}})
	c.setLimit(t, "api.example.com", connections(1))
	opened := 0
	for _, name := range []string{"api", "api.", "api.example", "api.example.", "api.example.com.", "api.example.com", "API.Example.COM"} {
		tunnel, err := n.try(fmt.Sprintf("%s:%d", name, up.Port()))
		if err != nil {
			t.Logf("%s: %v", name, err)
			continue
		}
		t.Cleanup(func() { _ = tunnel.Close() })
		opened++
	}
	if peak, wrong := up.Stats().Peak, other.Stats().Accepted; peak != 1 || wrong != 0 || opened != 1 {
		t.Errorf("%d tunnels are open; the upstream saw %d connections, and another machine %d; the limit is 1", opened, peak, wrong)
	}
	for _, name := range []string{"api", "api.", "api.example"} {
		n.refuse(t, name+":443", "dns_error")
	}
}

// withheldFamily: a name server that never answers for IPv6 costs little, once.
func withheldFamily(t *testing.T, c *cluster, names *nameServer) {
	n, up := c.nodes[0], c.upstream(t)
	names.set("withheld.test", nameAnswer{addrs: []string{up.name}, noAAAA: true})
	asked, slow := 0, slowness(t)
	for i := range 3 {
		began := time.Now()
		end(t, n.open(t, fmt.Sprintf("withheld.test:%d", up.Port())))
		if took := time.Since(began); took > time.Duration(slow*float64(500*time.Millisecond)) { // waiting for the answer takes 10 s
			t.Errorf("connection %d took %v", i+1, took)
		}
		if i == 0 {
			asked = names.asked("withheld.test")
		}
	}
	if now := names.asked("withheld.test"); now != asked {
		t.Errorf("the name was asked for %d times again", now-asked)
	}
}

// oneOfTwoIsDead: the living address of two carries what its limit allows.
func oneOfTwoIsDead(t *testing.T, c *cluster, names *nameServer) {
	n, up, slow := c.nodes[0], c.upstream(t), slowness(t)
	dead := c.address()
	silentAddress(t, dead, up.Port())
	names.set("two.test", nameAnswer{addrs: []string{dead, up.name}})
	c.setLimit(t, "two.test", queued(2, 20*time.Second, 100))
	began := time.Now()
	tally := load.Sum(load.Start(load.Plan{
		Proxies: []string{n.proxy}, Target: fmt.Sprintf("two.test:%d", up.Port()), Workers: 8, Hold: 50 * time.Millisecond, Total: 60,
	}).Wait())
	took := time.Since(began)
	t.Logf("60 connections of 50 ms, two at a time, in %v", took)
	if peak := up.Stats().Peak; tally.OK != 60 || peak > 2 || took > time.Duration(slow*float64(8*time.Second)) {
		t.Errorf("%d of 60 connections in %v, at most %d at once", tally.OK, took, peak)
	}
}

// lastOfSixLives: five dead addresses cost the first connection some time, and the next one none.
func lastOfSixLives(t *testing.T, c *cluster, names *nameServer) {
	n, up := c.nodes[0], c.upstream(t)
	var addrs []string
	for range 5 {
		dead := c.address()
		silentAddress(t, dead, up.Port())
		addrs = append(addrs, dead)
	}
	names.set("six.test", nameAnswer{addrs: append(addrs, up.name)})
	c.setLimit(t, "six.test", connections(1))
	target := fmt.Sprintf("six.test:%d", up.Port())
	began := time.Now()
	end(t, n.open(t, target))
	first := time.Since(began)
	c.awaitFree(t, "six.test")
	began = time.Now()
	end(t, n.open(t, target))
	if second := time.Since(began); second > time.Second { // five addresses tried first take 1.25 s
		t.Errorf("the first connection took %v and the second %v", first, second)
	}
	if s := up.Stats(); s.Accepted != 2 || s.Peak != 1 {
		t.Errorf("the upstream saw %d connections, %d at once; want 2, and 1", s.Accepted, s.Peak)
	}
}

// awaitFree waits until no slot of a host is in use, by the nodes' own account.
func (c *cluster) awaitFree(t testing.TB, name string) {
	t.Helper()
	c.awaitUse(t, host{name: name}, 0)
}

// sharedLookup: 300 connections at once to one name are two queries.
func sharedLookup(t *testing.T, c *cluster, names *nameServer) {
	n, up := c.nodes[0], c.upstream(t)
	names.set("shared.test", nameAnswer{addrs: []string{up.name}, patience: 50 * time.Millisecond})
	var wg sync.WaitGroup
	for range 300 {
		wg.Go(func() {
			tunnel, err := n.try(fmt.Sprintf("shared.test:%d", up.Port()))
			if err != nil {
				t.Error(err)
				return
			}
			_ = tunnel.Close()
		})
	}
	wg.Wait()
	if got := names.asked("shared.test"); got != 2 {
		t.Errorf("%d queries for 300 connections, want 2", got)
	}
}

// slowNameHoldsNoSlot: of two names under one limit of 1, the one that resolves is connected while
// the other still waits.
func slowNameHoldsNoSlot(t *testing.T, c *cluster, names *nameServer) {
	n, up := c.nodes[0], c.upstream(t)
	names.set("slow.one.test", nameAnswer{addrs: []string{up.name}, patience: 1500 * time.Millisecond})
	names.set("quick.one.test", nameAnswer{addrs: []string{up.name}})
	c.setLimit(t, "*.one.test", `{"connections":1,"shared":true}`)
	target := func(name string) string { return fmt.Sprintf("%s.one.test:%d", name, up.Port()) }
	slow := make(chan error, 1)
	go func() {
		tunnel, err := n.try(target("slow"))
		if err == nil {
			err = tunnel.End()
		}
		slow <- err
	}()
	eventually(t, 5*time.Second, "the slow name is asked for", func() error {
		if names.asked("slow.one.test") == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	end(t, n.open(t, target("quick")))
	if err := <-slow; err != nil {
		t.Errorf("the slow name: %v", err)
	}
	if s := up.Stats(); s.Peak != 1 || s.Accepted != 2 {
		t.Errorf("the upstream saw %d connections, %d at once; want 2, and 1", s.Accepted, s.Peak)
	}
}

// noSuchName: a name that can't be resolved is refused as such, whatever the limit, and without a
// slot.
func noSuchName(t *testing.T, c *cluster, names *nameServer) {
	n, up := c.nodes[0], c.upstream(t)
	names.set("x.full.test", nameAnswer{addrs: []string{up.name}})
	names.set("hung.full.test", nameAnswer{patience: 5 * time.Second})
	c.setLimit(t, "*.full.test", `{"connections":1,"shared":true}`)
	held := n.open(t, fmt.Sprintf("x.full.test:%d", up.Port()))
	n.refuse(t, "y.full.test:443", "dns_error")
	n.refuse(t, "hung.full.test:443", "dns_timeout")
	mustLive(t, "the tunnel that has the slot", held)
	end(t, held)
}

// onlyIPv6: a name that has IPv6 addresses alone is reached, and counts as any other.
func onlyIPv6(t *testing.T, c *cluster, names *nameServer) {
	n := c.nodes[0]
	up, err := upstream.Start("[::1]:0", nil)
	if err != nil {
		t.Skip("this machine has no IPv6:", err)
	}
	t.Cleanup(func() { _ = up.Close() })
	names.set("six.only.test", nameAnswer{addrs: []string{"::1"}})
	c.setLimit(t, "six.only.test", connections(1))
	target := fmt.Sprintf("six.only.test:%d", up.Port())
	held := n.open(t, target)
	n.refuse(t, target, "connection_limit_reached")
	end(t, held)
	if peak := up.Stats().Peak; peak != 1 {
		t.Errorf("the upstream saw %d connections at once; the limit is 1", peak)
	}
}

// ttlMaxReloaded: dns_ttl_max = "0s" makes every connection ask, from the reload on.
func ttlMaxReloaded(t *testing.T, c *cluster, names *nameServer) {
	n, up := c.nodes[0], c.upstream(t)
	names.set("ttl.test", nameAnswer{addrs: []string{up.name}})
	open := func() int {
		end(t, n.open(t, fmt.Sprintf("ttl.test:%d", up.Port())))
		return names.asked("ttl.test")
	}
	if first, second := open(), open(); first != 2 || second != 2 {
		t.Errorf("%d queries for the first connection, %d for two; want 2 and 2", first, second)
	}
	n.more = strings.Replace(n.more, "proxy {\n", "proxy {\n  dns_ttl_max = \"0s\"\n", 1)
	n.writeConfig(t)
	n.http.must(t, http.StatusOK, "POST", "/v1/reload", "", nil)
	if third, fourth := open(), open(); third != 4 || fourth != 6 {
		t.Errorf("%d queries, then %d; want 4 and 6", third, fourth)
	}
}

// TestDeadNameServer: a dead first name server costs little the first time and nothing from then
// on, and the log names it once.
func TestDeadNameServer(t *testing.T) {
	needRoot(t)
	t.Parallel()
	dead, names := newDeadNameServer(t), newNameServer(t)
	c := startCluster(t, shape{names: []string{"a"}, prepare: resolvingBy(t, "nameserver "+dead.addr+"\nnameserver "+names.addr+"\n")})
	n, up, slow := c.nodes[0], c.upstream(t), slowness(t)
	for i := range 3 {
		name := fmt.Sprintf("name-%d.test", i)
		names.set(name, nameAnswer{addrs: []string{up.name}})
		began := time.Now()
		end(t, n.open(t, fmt.Sprintf("%s:%d", name, up.Port())))
		if took := time.Since(began); took > time.Duration(slow*float64(1500*time.Millisecond)) { // waiting for it takes 5 s
			t.Errorf("connection %d took %v", i+1, took)
		}
	}
	if asked := dead.asked(t); !slices.Equal(asked, []string{"name-0.test"}) {
		t.Errorf("the dead server was asked for %q; want the first name only", asked)
	}
	eventually(t, 10*time.Second, "the log names the dead server", func() error {
		text, err := os.ReadFile(n.logPath)
		if err != nil {
			return err
		}
		if got := strings.Count(string(text), "name server does not answer: server="+dead.addr+":53"); got != 1 {
			return fmt.Errorf("%d times", got)
		}
		return nil
	})
}
