//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/weirproxy/weir/e2e/bench/usage"
	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/upstream"
)

// contend is: 64 workers on three nodes, and too few slots for them. The upstream says how well
// they are used.
func contend(limit int) workload {
	run := func(ctx context.Context, b *bench, c *contender) (sample, error) { return runContend(ctx, b, c, limit) }
	return workload{
		name: "contend-" + strconv.Itoa(limit), about: fmt.Sprintf("64 workers on three nodes, limit %d, connections of 20 ms", limit),
		only: []string{weir}, run: run,
	}
}

// runContend gives each node's workers a port of their own at the one host, so that the upstream
// knows which node a connection came through.
func runContend(ctx context.Context, b *bench, c *contender, limit int) (sample, error) {
	const workers, hold, warmUp = 64, 20 * time.Millisecond, time.Second
	servers := make([]*upstream.Server, nodes)
	for i := range servers {
		var err error
		if servers[i], err = upstream.Start(netip.AddrPortFrom(contendAddr(limit), 0).String(), nil); err != nil {
			return nil, err
		}
		defer func() { _ = servers[i].Close() }()
	}
	var runs []*load.Run
	for i, n := range c.cluster.nodes {
		share := workers / nodes
		if i < workers%nodes {
			share++
		}
		runs = append(runs, load.Start(load.Plan{
			Proxies: []string{n.proxy}, Target: servers[i].Addr(), Workers: share, Hold: hold, Pause: hold, Timeout: time.Minute,
		}))
	}
	stop := func() (tallies []load.Tally) {
		for _, r := range runs {
			tallies = append(tallies, r.Stop()...)
		}
		return tallies
	}
	if err := sleep(ctx, warmUp); err != nil {
		stop()
		return nil, err
	}
	pids := slices.Concat(c.pids, c.beside)
	cpu, err := usage.CPU(pids...)
	for _, s := range servers {
		s.Reset()
	}
	if err == nil {
		err = sleep(ctx, 2*b.settings.window)
	}
	after, cpuErr := usage.CPU(pids...)
	out, accepted := slotUse(servers, limit)
	tallies := load.Sum(stop())
	if err != nil || cpuErr != nil {
		return nil, fmt.Errorf("contend: %w", firstOf(err, cpuErr))
	}
	if bad := tallies.Failed + tallies.Cut; bad > 0 {
		return nil, fmt.Errorf("%d connections failed: %w", bad, tallies.LastFail)
	}
	out["cpu_us"] = microseconds(after-cpu) / float64(accepted)
	fast, paced := c.cluster.fast, c.cluster.paced
	out["commit_ms"], out["round_trip_ms"] = milliseconds(fast.commit), milliseconds(fast.roundTrip)
	out["paced_commit_ms"], out["paced_round_trip_ms"] = milliseconds(paced.commit), milliseconds(paced.roundTrip)
	return out, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// slotUse is what the upstreams, one for each node, have seen since their Reset.
func slotUse(servers []*upstream.Server, limit int) (out sample, accepted uint64) {
	mean := 0.0
	var events []nodeEvent
	for i, s := range servers {
		stats := s.Stats()
		mean += stats.Mean
		accepted += stats.Accepted
		timeline, _ := s.Timeline()
		for _, e := range timeline {
			events = append(events, nodeEvent{at: e.At, node: i, opened: e.Opened})
		}
	}
	out = sample{"use": mean / float64(limit), "ops": float64(accepted)}
	if limit == 1 {
		across, within := gaps(events)
		out["handovers"] = float64(len(across))
		out["same_node_gap_ms"] = milliseconds(median(within))
		if len(across) > 0 {
			out["handover_ms"] = milliseconds(median(across))
		}
	}
	return out, accepted
}

// nodeEvent is a connection's begin or end at the upstream of a node.
type nodeEvent struct {
	at     time.Time
	node   int
	opened bool
}

// gaps are the times for which the only slot's host had no connection: from an end to the next
// begin through another node, and through the same.
func gaps(events []nodeEvent) (across, within []time.Duration) {
	slices.SortStableFunc(events, func(a, b nodeEvent) int { return a.at.Compare(b.at) })
	for i := 1; i < len(events); i++ {
		end, begin := events[i-1], events[i]
		if end.opened || !begin.opened {
			continue
		}
		if gap := begin.at.Sub(end.at); end.node != begin.node {
			across = append(across, gap)
		} else {
			within = append(within, gap)
		}
	}
	return across, within
}
