//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/weirproxy/weir/e2e/bench/usage"
	"github.com/weirproxy/weir/e2e/bench/wire"
	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/upstream"
)

// The hosts of the workloads with limits beyond those in the nodes' files.
var (
	ratedHost = netip.MustParseAddr("127.78.1.1")
	pacedHost = netip.MustParseAddr("127.78.1.2")
)

const (
	ratePerSecond = 2000
	pacedMB       = 200 // a second
	slowFlows     = 5000
	slowMB        = 10 // a second, of all together: 2 KB each
)

// limitWorkloads are those of other limits than a host's connections. weir takes part alone: what
// is judged is with the limits against without them.
func limitWorkloads() []workload {
	return []workload{
		{name: "limits-4", about: "as churn-16, under four limits: connections in all, of the client and the host, and the host's requests", only: []string{weir}, run: runFour},
		{name: "rate", about: fmt.Sprintf("48 kept-alive clients on three nodes wait for a rate of %d/s", ratePerSecond), only: []string{weir}, run: runRate},
		{name: "paced", about: fmt.Sprintf("as bulk, under a limit of %d MB/s; and without one, at the same rate", pacedMB), only: []string{weir}, run: runPaced},
		{name: "paced-many", about: fmt.Sprintf("%d tunnels under a limit of %d MB/s, downloading", slowFlows, slowMB), only: []string{weir}, fresh: true, run: runPacedMany},
	}
}

// under sets limits, by their path behind /v1/limits/, while do runs. They are not in the nodes'
// files, which a weir from before has to read too.
func (c *cluster) under(ctx context.Context, limits map[string]string, do func() error) (err error) {
	defer func() {
		ctx := context.WithoutCancel(ctx)
		for path := range limits {
			_, e := c.send(ctx, c.used, http.MethodDelete, "/v1/limits/"+path, "")
			err = errors.Join(err, e)
		}
	}()
	for path, body := range limits {
		if _, err := c.send(ctx, c.used, http.MethodPut, "/v1/limits/"+path, body); err != nil {
			return err
		}
	}
	for path := range limits {
		for _, n := range c.nodes {
			if err := await(ctx, readyWithin, func() error { return c.get(ctx, n, "/v1/limits/"+path, nil) }); err != nil {
				return err
			}
		}
	}
	return do()
}

// runFour measures churn under one limit, then under four.
func runFour(ctx context.Context, b *bench, c *contender) (sample, error) {
	plan := b.tunnels(c, b.targets(c.host))
	plan.Workers, plan.Send, plan.Reply = 16, wire.Ping(), wire.PingSize
	one, err := b.measure(ctx, c, plan)
	if err != nil {
		return nil, err
	}
	var four sample
	err = c.cluster.under(ctx, map[string]string{
		"total":                         `{"connections":20000}`,
		"client/" + url.PathEscape("*"): `{"connections":20000}`,
		"host/" + c.host.String():       `{"connections":20000,"requests":{"rate":"1000000/s"}}`,
	}, func() (err error) {
		four, err = b.measure(ctx, c, plan)
		return err
	})
	if err != nil {
		return nil, err
	}
	four["one_cpu_us"] = one["cpu_us"]
	return four, nil
}

// runRate lets the upstream say how well a rate is used that all nodes want.
func runRate(ctx context.Context, b *bench, c *contender) (out sample, err error) {
	limit := fmt.Sprintf(`{"requests":{"rate":"%d/s","burst":%d},"queue":{"timeout":"1m","size":1000}}`, ratePerSecond, ratePerSecond/10)
	err = c.cluster.under(ctx, map[string]string{"host/" + ratedHost.String(): limit}, func() error {
		out, err = pressRate(ctx, b, c)
		return err
	})
	return out, err
}

func pressRate(ctx context.Context, b *bench, c *contender) (sample, error) {
	const workers, warmUp = 48, 2 * time.Second
	up, err := upstream.Start(netip.AddrPortFrom(ratedHost, 0).String(), nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = up.Close() }()
	var proxies []string
	for _, n := range c.cluster.nodes {
		proxies = append(proxies, n.proxy)
	}
	run := load.Start(load.Plan{Proxies: proxies, Target: up.Addr(), Workers: workers, Plain: true, Pause: 10 * time.Millisecond, Timeout: time.Minute})
	defer run.Stop()
	if err := sleep(ctx, warmUp); err != nil {
		return nil, err
	}
	pids := slices.Concat(c.pids, c.beside)
	index, err := c.cluster.lastIndex(ctx)
	if err != nil {
		return nil, err
	}
	base := run.Tallies()
	cpu, err := usage.CPU(pids...)
	if err != nil {
		return nil, err
	}
	up.Reset()
	begun := time.Now()
	if err := sleep(ctx, 2*b.settings.window); err != nil {
		return nil, err
	}
	asked, took := float64(len(up.Asked())), time.Since(begun)
	after, err := usage.CPU(pids...)
	if err != nil {
		return nil, err
	}
	end, err := c.cluster.lastIndex(ctx)
	if err != nil {
		return nil, err
	}
	var shares []float64
	for i, t := range run.Tallies() {
		shares = append(shares, float64(t.OK-base[i].OK))
	}
	if sum := load.Sum(run.Stop()); sum.Failed+sum.Cut+sum.Refused > 0 {
		return nil, fmt.Errorf("%d requests failed, %d were refused: %w", sum.Failed+sum.Cut, sum.Refused, sum.LastFail)
	}
	return sample{
		"use": asked / took.Seconds() / ratePerSecond, "jain": load.Jain(shares), "ops": asked,
		"entries_per_10k": float64(end-index) * 10_000 / asked, "cpu_us": microseconds(after-cpu) / asked,
	}, nil
}

// runPaced measures bulk that the upstream sends at a rate, then bulk that the client reads at that
// rate, then bulk that the limit holds to it: what a byte costs depends on how fast they come, and
// in what pieces.
func runPaced(ctx context.Context, b *bench, c *contender) (sample, error) {
	sent, err := bulkFrom(ctx, b, c, freeHost, wire.Plan{Send: wire.BulkAt(pacedMB * 1e6)})
	if err != nil {
		return nil, err
	}
	read, err := bulkFrom(ctx, b, c, freeHost, wire.Plan{Send: wire.Bulk(), Rate: pacedMB * 1e6})
	if err != nil {
		return nil, err
	}
	var paced sample
	limit := fmt.Sprintf(`{"bandwidth":{"download":"%dMB","burst":"%dMB"}}`, pacedMB, pacedMB/10)
	err = c.cluster.under(ctx, map[string]string{"host/" + pacedHost.String(): limit}, func() (err error) {
		paced, err = bulkFrom(ctx, b, c, pacedHost, wire.Plan{Send: wire.Bulk()})
		return err
	})
	if err != nil {
		return nil, err
	}
	paced["sent_cpu_s_per_gib"], paced["sent_gib_per_s"] = sent["cpu_s_per_gib"], sent["gib_per_s"]
	paced["read_cpu_s_per_gib"], paced["read_gib_per_s"] = read["cpu_s_per_gib"], read["gib_per_s"]
	paced["use"] = paced["gib_per_s"] * (1 << 30) / (pacedMB * 1e6)
	return paced, nil
}

// runPacedMany measures many tunnels that all want more than they get.
func runPacedMany(ctx context.Context, b *bench, c *contender) (out sample, err error) {
	limit := fmt.Sprintf(`{"bandwidth":{"download":"%dMB"}}`, slowMB)
	err = c.cluster.under(ctx, map[string]string{"host/" + pacedHost.String(): limit}, func() error {
		out, err = pressPaced(ctx, b, c)
		return err
	})
	return out, err
}

func pressPaced(ctx context.Context, b *bench, c *contender) (sample, error) {
	idle, err := c.cluster.goroutines(ctx)
	if err != nil {
		return nil, err
	}
	plan := b.tunnels(c, b.targets(pacedHost))
	plan.Workers, plan.Send, plan.Drain, plan.Park = slowFlows, wire.Some(), true, true
	driver, err := wire.Start(plan)
	if err != nil {
		return nil, err
	}
	s, err := func() (sample, error) {
		err := await(ctx, 20*time.Second, func() error {
			if n := driver.Begun(); n < slowFlows {
				return fmt.Errorf("%d of %d tunnels are open", n, slowFlows)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return b.watch(ctx, c, driver)
	}()
	var busy int
	if err == nil {
		busy, err = c.cluster.goroutines(ctx)
	}
	tally, failure := driver.Close()
	if err != nil || tally.Failures > 0 {
		return nil, errors.Join(err, failure)
	}
	return sample{
		"cores": s["cores"], "busy": s["busy"], "cores_per_10k": s["cores"] * 10_000 / slowFlows, "use": s["ops_per_s"] / (slowMB * 1e6),
		"goroutines": float64(busy-idle) / slowFlows,
	}, nil
}

// goroutines counts those of the node that is used.
func (c *cluster) goroutines(ctx context.Context) (n int, err error) {
	text, err := c.send(ctx, c.used, http.MethodGet, "/debug/pprof/goroutine?debug=1", "")
	if err == nil {
		_, err = fmt.Sscanf(string(text), "goroutine profile: total %d", &n)
	}
	return n, err
}
