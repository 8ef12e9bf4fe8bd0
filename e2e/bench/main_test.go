//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirproxy/weir/e2e/bench/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	s, err := parse([]string{"-workloads", "churn,http", "-rounds", "3", "-peers", "", "-peer", "x=127.0.0.1:3128,17", "-log", "warn", "-profile", "pprof"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.rounds != 3 || s.logLevel != "warn" || len(s.peers) != 0 || !slices.Equal(s.workloads, []string{"churn", "http"}) {
		t.Errorf("%+v", s)
	}
	if want := (other{"x", netip.MustParseAddrPort("127.0.0.1:3128"), 17}); len(s.others) != 1 || s.others[0] != want {
		t.Errorf("other peers %+v; want %+v", s.others, want)
	}
	for _, args := range [][]string{
		{"-rounds", "0"}, {"-window", "0s"}, {"-workloads", "nothing"}, {"-profile", "gprof"}, {"extra"}, {"-peer", "x"},
		{"-peer", "x=127.0.0.1,17"}, {"-peer", "x=[::1]:1,17"}, {"-peer", "x=127.0.0.1:1,-1"}, {"-peer", "=127.0.0.1:1,1"},
	} {
		if s, err := parse(args, nil); err == nil {
			t.Errorf("%q: %+v; want an error", args, s)
		}
	}
	var help strings.Builder
	if _, err := parse([]string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-workloads") {
		t.Errorf("-h: %v, %q", err, &help)
	}
}

func TestChosen(t *testing.T) {
	for names, want := range map[string][]string{
		"churn":         {"churn-1", "churn-16", "churn-64", "churn-name"},
		"churn-1":       {"churn-1"}, // and not churn-16
		"bulk,contend":  {"bulk", "contend-1", "contend-2", "contend-10"},
		"http,nothing,": {"http"},
	} {
		s := settings{workloads: list(names)}
		chosen, err := s.chosen()
		var got []string
		for _, w := range chosen {
			got = append(got, w.name)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", names, got, err, want)
		}
	}
	if all, err := (&settings{}).chosen(); err != nil || len(all) != len(workloads()) {
		t.Errorf("by default %d workloads, %v; want all", len(all), err)
	}
}

// TestRowsAreMeasured: each row names a workload that weir takes part in, and the relay where it is
// judged against.
func TestRowsAreMeasured(t *testing.T) {
	all := workloads()
	keys := map[string]bool{}
	for _, row := range rows() {
		if keys[row.key()] {
			t.Errorf("two rows are %q: a base can't tell them apart", row.key())
		}
		keys[row.key()] = true
		i := slices.IndexFunc(all, func(w workload) bool { return w.name == row.workload })
		if i < 0 {
			t.Errorf("no workload is %q", row.workload)
			continue
		}
		for _, name := range []string{weir, relay} {
			if (name == weir || row.of == "weir/relay") && !all[i].takes(&contender{name: name}, false) {
				t.Errorf("%s does not take part in %s", name, row.workload)
			}
		}
	}
}

func TestOnlyLimitedHostsHaveLimits(t *testing.T) {
	block := limitsBlock()
	limited := netip.PrefixFrom(limitedWide, 10)
	for _, addr := range []netip.Addr{limitedHost, contendAddr(1), contendAddr(10)} {
		if !strings.Contains(block, `"`+addr.String()+`"`) || limited.Contains(addr) {
			t.Errorf("%v has not a limit of its own in\n%s", addr, block)
		}
	}
	if !strings.Contains(block, `"`+limited.String()+`"`) {
		t.Errorf("no limit for %v in\n%s", limited, block)
	}
	for _, addr := range []netip.Addr{freeHost, freeWide} {
		if strings.Contains(block, `"`+addr.String()+`"`) || limited.Contains(addr) {
			t.Errorf("%v has a limit in\n%s", addr, block)
		}
	}
}

func TestAddressesInOrder(t *testing.T) {
	got := addrsFrom(netip.MustParseAddr("127.128.0.254"), 3)
	want := []netip.Addr{netip.MustParseAddr("127.128.0.254"), netip.MustParseAddr("127.128.0.255"), netip.MustParseAddr("127.128.1.0")}
	if !slices.Equal(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}

func TestFreePortsAreDistinct(t *testing.T) {
	addrs, err := freePorts(12)
	slices.Sort(addrs)
	if err != nil || len(slices.Compact(addrs)) != 12 {
		t.Errorf("%v, %v; want 12 addresses", addrs, err)
	}
}

// newBench is a bench over a real upstream, with short windows.
func newBench(t *testing.T) *bench {
	t.Helper()
	up, err := wire.StartUpstream(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	return &bench{settings: &settings{window: 300 * time.Millisecond, rounds: 2}, out: &strings.Builder{}, upstream: up}
}

// startSelf is the upstream itself as a contender that claims this process's usage.
func startSelf(name string) func(context.Context, *settings) (*contender, error) {
	return func(context.Context, *settings) (*contender, error) {
		return &contender{name: name, pids: []int{os.Getpid()}, beside: []int{os.Getpid()}, host: freeHost, wide: freeWide, stop: func() {}}, nil
	}
}

func TestMeasure(t *testing.T) {
	b := newBench(t)
	c, err := startSelf(direct)(t.Context(), b.settings)
	if err != nil {
		t.Fatal(err)
	}
	s, err := churn(4).run(t.Context(), b, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range []string{"ops_per_s", "cpu_us", "beside_cpu_us", "p50_us", "p99_us", "cores", "driver"} {
		if s[metric] <= 0 {
			t.Errorf("%s is %v", metric, s[metric])
		}
	}
	if s["failures"] != 0 || s["p50_us"] > s["p99_us"] {
		t.Errorf("%v", s)
	}
	if s, err = runBulk(t.Context(), b, c); err != nil || s["gib_per_s"] <= 0 || s["cpu_s_per_gib"] <= 0 {
		t.Errorf("bulk: %v, %v", s, err)
	}
	if s, err = runHTTP(t.Context(), b, c); err != nil || s["ops_per_s"] <= 0 {
		t.Errorf("http: %v, %v", s, err)
	}
}

// TestAContenderThatFailsIsNotMeasured: what is refused fast must not look fast.
func TestAContenderThatFailsIsNotMeasured(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	if err := ln.Close(); err != nil { // nobody listens there any more
		t.Fatal(err)
	}
	b := newBench(t)
	c := &contender{name: "down", proxy: addr, pids: []int{os.Getpid()}, host: freeHost}
	if s, err := churn(2).run(t.Context(), b, c); err == nil {
		t.Errorf("%v; want an error", s)
	}
}

func TestRoundsInterleave(t *testing.T) {
	b := newBench(t)
	var order []string
	w := workload{name: "churn-1", peers: true, run: func(_ context.Context, _ *bench, c *contender) (sample, error) {
		order = append(order, c.name)
		if c.name == "peer" {
			return nil, errors.New("a peer's own trouble")
		}
		return sample{"p50_us": 1}, nil
	}}
	tm := &team{running: map[string]*contender{}}
	for _, name := range []string{relay, weir, "peer"} {
		tm.makers = append(tm.makers, maker{name: name, peer: name == "peer", start: startSelf(name)})
	}
	rounds, err := b.all(t.Context(), w, tm)
	if err != nil {
		t.Fatal(err)
	}
	once := []string{relay, weir, weirFree, "peer"}
	if want := append(slices.Clone(once), once...); !slices.Equal(order, want) || len(rounds) != 2 {
		t.Errorf("%d rounds in the order %q; want %q", len(rounds), order, want)
	}
	if got := tm.names(); !slices.Equal(got, once) {
		t.Errorf("names %q; want %q", got, once)
	}
	out := b.out.(*strings.Builder).String()
	if !strings.Contains(out, "peer drops out of this round: a peer's own trouble") {
		t.Errorf("nothing is said of the peer that failed:\n%s", out)
	}
	if b.dropped != 0 {
		t.Errorf("a peer's failures count as %d", b.dropped)
	}
	w.run = func(context.Context, *bench, *contender) (sample, error) { return nil, errors.New("broken") }
	rounds, err = b.all(t.Context(), w, tm)
	if err != nil || len(rounds[0]) > 0 || b.dropped != 2*len([]string{relay, weir, weirFree}) {
		t.Errorf("rounds %v, %v, %d dropped; want none measured, and all but the peer counted", rounds, err, b.dropped)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := b.all(ended, w, tm); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v; want the context's end to end the run", err)
	}
}

func TestAwait(t *testing.T) {
	tries := 0
	err := await(t.Context(), time.Minute, func() error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || tries != 3 {
		t.Errorf("%v after %d tries; want none after 3", err, tries)
	}
	broken := errors.New("for good")
	if err := await(t.Context(), time.Minute, func() error { return &finalError{broken} }); !errors.Is(err, broken) {
		t.Errorf("%v; want an end at once", err)
	}
	if err := await(t.Context(), time.Millisecond, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v; want the last error once the time is over", err)
	}
}

func TestMissingPrograms(t *testing.T) {
	there, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := (&settings{weir: there, relay: there}).missing(); err != nil {
		t.Error(err)
	}
	gone := filepath.Join(t.TempDir(), "gone")
	if err := (&settings{weir: there, relay: gone}).missing(); err == nil || !strings.Contains(err.Error(), gone) {
		t.Errorf("error %v; want one that names %s", err, gone)
	}
}
