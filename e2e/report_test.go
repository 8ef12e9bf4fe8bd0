package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// TestReport: a limit that only reports refuses nothing and makes nobody wait, and each node counts
// what it would have refused.
func TestReport(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	for _, scenario := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"connections", reportConnections},
		{"requests", reportRequests},
		{"bandwidth of each connection", reportOwnBandwidth},
		{"then enforced", reportThenEnforce},
	} {
		t.Run(scenario.name, func(t *testing.T) { scenario.run(t, c) })
	}
}

// would waits until so many would have been rejected under a name, and none was.
func (c *cluster) would(t testing.TB, scope, name string, read func(usageAnswer) (would, rejected uint64), want uint64) {
	t.Helper()
	eventually(t, 3*time.Second, fmt.Sprintf("%s %s would have rejected %d", scope, name, want), func() error {
		u, err := c.running()[0].http.usage(scope, name)
		if err != nil {
			return err
		}
		would, rejected := read(u)
		if would != want || rejected != 0 {
			return fmt.Errorf("it would have rejected %d, and has %d", would, rejected)
		}
		return nil
	})
}

func wouldConnections(u usageAnswer) (would, rejected uint64) { return u.WouldReject, u.Rejected }

func wouldRequests(u usageAnswer) (would, rejected uint64) {
	if u.Requests == nil {
		return 0, 0
	}
	return u.Requests.WouldReject, u.Requests.Rejected
}

// reportOwnBandwidth: each connection's own limit leaves its totals with its node when it ends.
func reportOwnBandwidth(t *testing.T, c *cluster) {
	up := c.upstream(t)
	c.put(t, "connection", "", `{"bandwidth":{"download":"64KB","burst":"64KB"},"mode":"report"}`)
	const size = 1 << 20
	for _, n := range c.nodes[:2] {
		proxy := &url.URL{Scheme: "http", Host: n.proxy}
		client := http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
		resp, err := client.Get(fmt.Sprintf("http://%s/give?bytes=%d", up.target, size))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.Copy(io.Discard, resp.Body); err != nil || got != size {
			t.Fatalf("%d bytes, %v", got, err)
		}
		resp.Body.Close()
	}
	eventually(t, 3*time.Second, "the totals are shown", func() error {
		var list struct {
			Usage []usageAnswer `json:"usage"`
		}
		if err := c.nodes[2].http.read("/v1/usage/connection", &list); err != nil {
			return err
		}
		if len(list.Usage) != 1 || list.Usage[0].Bandwidth == nil {
			return fmt.Errorf("%+v", list.Usage)
		}
		u := list.Usage[0]
		down := u.Bandwidth.Download
		if down.WouldReject < 20 || u.WouldReject < down.WouldReject || down.Admitted < 2*size || down.Admitted > 2*size+4096 {
			return fmt.Errorf("%+v of %+v", *down, u)
		}
		return nil
	})
}

func reportConnections(t *testing.T, c *cluster) {
	up, other := c.upstream(t), c.upstream(t)
	w := from("127.5.30.1")
	c.put(t, "host", up.name, `{"connections":2,"mode":"report"}`)
	c.put(t, "client", w.address, `{"connections":1,"mode":"report"}`)
	var held []*load.Tunnel
	for range 2 {
		for _, n := range c.nodes {
			held = append(held, w.open(t, n, up.target))
		}
	}
	c.would(t, "host", up.name, wouldConnections, 4)
	c.would(t, "client", w.address, wouldConnections, 5)
	c.awaitUse(t, up, 6)
	c.put(t, "client", w.address, `{"connections":0,"mode":"report"}`)
	end(t, w.open(t, c.nodes[0], other.target))
	c.would(t, "client", w.address, wouldConnections, 6)
	mustLive(t, "above a limit that reports", held...)
	end(t, held...)
	// Below the limit nothing would be rejected.
	c.awaitUse(t, up, 0)
	end(t, from("127.5.30.2").open(t, c.nodes[1], up.target))
	c.would(t, "host", up.name, wouldConnections, 4)
}

func reportRequests(t *testing.T, c *cluster) {
	up := c.upstream(t)
	n := c.nodes[0]
	c.put(t, "host", up.name, `{"requests":{"rate":"1/m","burst":2},"mode":"report"}`)
	w := from("127.5.31.1")
	plain := w.wire(t, n)
	begun := time.Now()
	for i := range 6 {
		end(t, w.open(t, n, up.target))
		plain.say(t, w.get(up.target, 0))
		plain.answers(t, i+1, 200)
	}
	t.Logf("12 requests in %v", time.Since(begun).Round(time.Millisecond))
	c.would(t, "host", up.name, wouldRequests, 10)
}

// reportThenEnforce: from one mode to the other with connections open.
func reportThenEnforce(t *testing.T, c *cluster) {
	up := c.upstream(t)
	w := from("127.5.32.1")
	c.put(t, "host", up.name, `{"connections":2,"mode":"report"}`)
	var held []*load.Tunnel
	for _, n := range c.nodes {
		held = append(held, w.open(t, n, up.target))
	}
	c.put(t, "host", up.name, `{"connections":2}`)
	mustLive(t, "when the limit is enforced", held...)
	for _, n := range c.nodes {
		w.refuse(t, n, up.target, up.name+" is at its limit of 2 connections")
	}
	end(t, held[0])
	w.refuse(t, c.nodes[0], up.target, up.name+" is at its limit of 2 connections")
	end(t, held[1])
	again := w.open(t, c.nodes[0], up.target)
	c.put(t, "host", up.name, `{"connections":2,"mode":"report"}`)
	w.open(t, c.nodes[1], up.target)
	mustLive(t, "when it reports again", again, held[2])
}
