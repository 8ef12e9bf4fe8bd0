//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/weirproxy/weir/e2e/bench/usage"
	"github.com/weirproxy/weir/e2e/bench/wire"
)

// workload is one kind of load.
type workload struct {
	name  string
	about string
	// only names the contenders that it is for, beside peers; nil is all.
	only []string
	// peers says whether peers take part.
	peers bool
	// fresh starts each contender anew for each round.
	fresh bool
	run   func(ctx context.Context, b *bench, c *contender) (sample, error)
}

// sources spread the clients' connections over some addresses, so that none runs out of ports.
var sources = addrsFrom(netip.MustParseAddr("127.0.2.1"), 16)

// workloads are all, in the order of their running.
func workloads() []workload {
	list := []workload{churn(1), churn(16), churn(64), churnByName(), socksChurn()}
	list = append(list,
		workload{name: "http", about: "16 kept-alive clients, absolute-form GET", peers: true, run: runHTTP},
		workload{name: "bulk", about: "one tunnel, downloading", peers: true, only: []string{direct, relay, weir, before}, run: runBulk},
		wide("wide", 64), wide("wide-4", 4),
		workload{name: "idle", about: "3,000 tunnels that have been used once and are quiet", peers: true, fresh: true,
			only: []string{relay, weir, before}, run: runIdle},
	)
	for _, limit := range contendLimits {
		list = append(list, contend(limit))
	}
	return append(list, limitWorkloads()...)
}

// churn is: dial, CONNECT, one small round trip, close.
func churn(workers int) workload {
	run := func(ctx context.Context, b *bench, c *contender) (sample, error) {
		plan := b.tunnels(c, b.targets(c.host))
		plan.Workers, plan.Send, plan.Reply = workers, wire.Ping(), wire.PingSize
		return b.measure(ctx, c, plan)
	}
	return workload{
		name: "churn-" + strconv.Itoa(workers), about: fmt.Sprintf("%d workers: dial, CONNECT, one round trip, close", workers), peers: true, run: run,
	}
}

// churnByName is churn with 16 workers who know the upstream by its name.
func churnByName() workload {
	run := func(ctx context.Context, b *bench, c *contender) (sample, error) {
		plan := wire.Plan{Sources: sources, Dials: []netip.AddrPort{c.proxy}, Workers: 16, Send: wire.Ping(), Reply: wire.PingSize}
		for _, port := range b.upstream.Ports() {
			plan.Heads = append(plan.Heads, fmt.Appendf(nil, "CONNECT %[1]s:%[2]d HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n\r\n", namedHost, port))
		}
		return b.measure(ctx, c, plan)
	}
	return workload{
		name: "churn-name", about: "16 workers, the upstream by a name of the hosts file", peers: true, only: []string{relay, weir, before}, run: run,
	}
}

// socksChurn is churn-16 by SOCKS5: by clients that wait for the answer to their greeting, and by
// clients that do not. CONNECT is measured before and after them, since what else the machine does
// changes within a round.
func socksChurn() workload {
	run := func(ctx context.Context, b *bench, c *contender) (sample, error) {
		targets := b.targets(c.host)
		connect := b.tunnels(c, targets)
		connect.Workers, connect.Send, connect.Reply = 16, wire.Ping(), wire.PingSize
		waiting, atOnce := connect, connect
		waiting.SOCKS5, waiting.Heads = true, nil
		atOnce.SOCKS5, atOnce.AtOnce, atOnce.Heads = true, true, nil
		for _, t := range targets {
			request := append([]byte{5, 1, 0, 1}, t.Addr().AsSlice()...)
			request = binary.BigEndian.AppendUint16(request, t.Port())
			waiting.Heads = append(waiting.Heads, request)
			atOnce.Heads = append(atOnce.Heads, append([]byte{5, 1, 0}, request...))
		}
		var samples []sample
		for _, plan := range []wire.Plan{connect, waiting, atOnce, connect} {
			s, err := b.measure(ctx, c, plan)
			if err != nil {
				return nil, err
			}
			samples = append(samples, s)
		}
		before, s, once, after := samples[0], samples[1], samples[2], samples[3]
		s["at_once_cpu_us"], s["at_once_p50_us"] = once["cpu_us"], once["p50_us"]
		for _, metric := range []string{"cpu_us", "p50_us"} {
			s["connect_"+metric] = (before[metric] + after[metric]) / 2
		}
		return s, nil
	}
	return workload{name: "socks-churn", about: "as churn-16, by SOCKS5", only: []string{weir}, run: run}
}

func runHTTP(ctx context.Context, b *bench, c *contender) (sample, error) {
	const clients = 16
	plan := wire.Plan{Workers: clients, Reply: wire.BodySize, Sources: sources}
	target := netip.AddrPortFrom(c.host, b.upstream.Ports()[0])
	head := "GET http://" + target.String() + "/item HTTP/1.1\r\n"
	plan.Dials = []netip.AddrPort{c.proxy}
	if c.name == direct {
		head, plan.Dials = "GET /item HTTP/1.1\r\n", []netip.AddrPort{target}
	}
	plan.Heads = [][]byte{[]byte(head + "Host: " + target.String() + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")}
	return b.measure(ctx, c, plan)
}

func runBulk(ctx context.Context, b *bench, c *contender) (sample, error) {
	return bulkFrom(ctx, b, c, c.host, wire.Plan{Send: wire.Bulk()})
}

// bulkFrom is bulk from a host; of how, only what is sent and the rate count.
func bulkFrom(ctx context.Context, b *bench, c *contender, host netip.Addr, how wire.Plan) (sample, error) {
	plan := b.tunnels(c, b.targets(host)[:1])
	plan.Workers, plan.Send, plan.Rate, plan.Drain = 1, how.Send, how.Rate, true
	s, err := b.measure(ctx, c, plan)
	if err != nil {
		return nil, err
	}
	// The operations are bytes.
	const gib = 1 << 30
	s["gib_per_s"] = s["ops_per_s"] / gib
	if us, ok := s["cpu_us"]; ok {
		s["cpu_s_per_gib"] = us * gib / 1e6
	}
	for _, perByte := range []string{"ops_per_s", "cpu_us", "beside_cpu_us"} {
		delete(s, perByte)
	}
	return s, nil
}

// wideMost bounds the hosts of one round; it is more than can be reached in the time.
const wideMost = 60_000

// wide is: each connection to a host that no node has met before.
func wide(name string, workers int) workload {
	return workload{
		name: name, about: fmt.Sprintf("%d workers, each connection to another host", workers), peers: true, only: []string{relay, weir, weirFree},
		run: func(ctx context.Context, b *bench, c *contender) (sample, error) { return runWide(ctx, b, c, workers) },
	}
}

// runWide counts also what weir writes into its log: grants, and, once the load is over, what is
// given back.
func runWide(ctx context.Context, b *bench, c *contender, workers int) (sample, error) {
	hosts := addrsFrom(later(c.wide, b.wideUsed), wideMost)
	b.wideUsed += wideMost
	targets := make([]netip.AddrPort, len(hosts))
	for i, h := range hosts {
		targets[i] = netip.AddrPortFrom(h, b.upstream.Ports()[i%len(b.upstream.Ports())])
	}
	plan := b.tunnels(c, targets)
	plan.Workers, plan.Send, plan.Reply, plan.Once = workers, wire.Ping(), wire.PingSize, true
	if c.name != weir {
		return b.measure(ctx, c, plan)
	}
	accepted := b.upstream.Accepted()
	before, err := c.cluster.lastIndex(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.measure(ctx, c, plan)
	if err != nil {
		return nil, err
	}
	granted, err := c.cluster.lastIndex(ctx)
	if err != nil {
		return nil, err
	}
	all, err := settled(ctx, func() (uint64, error) { return c.cluster.lastIndex(ctx) })
	if err != nil {
		return nil, err
	}
	conns := float64(b.upstream.Accepted() - accepted) // those of the warm-up too, whose entries are among the others
	s["commit_ms"] = milliseconds(c.cluster.fast.commit)
	s["entries_per_20"] = 20 * float64(all-before) / conns
	s["grant_entries_per_20"] = 20 * float64(granted-before) / conns
	return s, nil
}

// settled is what read returns once it has stayed the same for some time, which is longer than idle
// slots are kept (5 s), and than a young cluster's nodes take to open all their connections to each
// other; after at most 15 s, whatever it is then.
func settled[T comparable](ctx context.Context, read func() (T, error)) (last T, err error) {
	const still, atMost, step = 7 * time.Second, 15 * time.Second, 500 * time.Millisecond
	begun, since := time.Now(), time.Now()
	for {
		value, err := read()
		if err != nil {
			return last, err
		}
		if value != last {
			last, since = value, time.Now()
		}
		if time.Since(since) >= still || time.Since(begun) >= atMost {
			return last, nil
		}
		if err := sleep(ctx, step); err != nil {
			return last, err
		}
	}
}

// runIdle opens tunnels in a fresh process and looks at it before, and some time after.
func runIdle(ctx context.Context, b *bench, c *contender) (sample, error) {
	const tunnels, warmUp, settle = 3000, 16, 3 * time.Second
	plan := b.tunnels(c, b.targets(c.host))
	plan.Send, plan.Reply, plan.Park = wire.Ping(), wire.PingSize, true

	plan.Workers = warmUp // what the first connections load of the program is not theirs
	if err := park(ctx, plan, func() error { return nil }); err != nil {
		return nil, err
	}
	if err := sleep(ctx, settle/3); err != nil {
		return nil, err
	}
	if c.cluster != nil {
		if _, err := settled(ctx, func() (int, error) { return usage.Files(c.pids...) }); err != nil {
			return nil, err
		}
	}
	before, err := holdings(c.pids)
	if err != nil {
		return nil, err
	}
	plan.Workers = tunnels
	var after sample
	err = park(ctx, plan, func() error {
		if err := sleep(ctx, settle); err != nil {
			return err
		}
		after, err = holdings(c.pids)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := sample{}
	for metric, v := range after {
		out[metric] = (v - before[metric]) / tunnels
	}
	return out, nil
}

// park opens tunnels and holds them while look looks.
func park(ctx context.Context, plan wire.Plan, look func() error) error {
	driver, err := wire.Start(plan)
	if err != nil {
		return err
	}
	err = await(ctx, time.Minute, func() error {
		if n := driver.Ops(); n < int64(plan.Workers) {
			return fmt.Errorf("%d of %d tunnels are open", n, plan.Workers)
		}
		return nil
	})
	if err == nil {
		err = look()
	}
	tally, failure := driver.Close()
	if failure != nil {
		return fmt.Errorf("%d of %d tunnels failed: %w", tally.Failures, plan.Workers, failure)
	}
	return err
}

// holdings is what processes hold, in KiB and descriptors.
func holdings(pids []int) (sample, error) {
	memory, err := usage.ReadMemory(pids...)
	if err != nil {
		return nil, err
	}
	files, err := usage.Files(pids...)
	return sample{"rss_kib": float64(memory.Resident) / 1024, "pss_kib": float64(memory.Proportional) / 1024, "fds": float64(files)}, err
}

// targets are the upstream's ports at a host.
func (b *bench) targets(host netip.Addr) []netip.AddrPort {
	var targets []netip.AddrPort
	for _, port := range b.upstream.Ports() {
		targets = append(targets, netip.AddrPortFrom(host, port))
	}
	return targets
}

// tunnels begins a plan of tunnels to the targets in turn: through the contender, or directly.
func (b *bench) tunnels(c *contender, targets []netip.AddrPort) wire.Plan {
	plan := wire.Plan{Sources: sources}
	if c.name == direct {
		plan.Dials = targets
		return plan
	}
	plan.Dials = []netip.AddrPort{c.proxy}
	for _, t := range targets {
		plan.Heads = append(plan.Heads, fmt.Appendf(nil, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", t))
	}
	return plan
}

// later is the address n places after a.
func later(a netip.Addr, n int) netip.Addr {
	from := a.As4()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(from[:])+uint32(n))))
}

// addrsFrom lists n addresses in order.
func addrsFrom(first netip.Addr, n int) []netip.Addr {
	list := make([]netip.Addr, n)
	for i := range list {
		list[i] = later(first, i)
	}
	return list
}

// takes reports whether a contender takes part.
func (w *workload) takes(c *contender, peer bool) bool {
	if peer {
		return w.peers
	}
	return w.only == nil || slices.Contains(w.only, c.name)
}
