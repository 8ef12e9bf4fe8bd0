//go:build linux

package main

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 100}, 3}} {
		given := slices.Clone(test.values)
		if got := median(test.values); got != test.want || !slices.Equal(given, test.values) {
			t.Errorf("median of %v is %v, and leaves %v; want %v", given, got, test.values, test.want)
		}
	}
	if got := median([]time.Duration{4, 2}); got != 3 {
		t.Errorf("median of durations is %v; want 3", got)
	}
}

func TestPercentile(t *testing.T) {
	sorted := []int64{10, 20, 30, 40}
	for p, want := range map[float64]int64{0: 10, 25: 10, 26: 20, 50: 20, 75: 30, 99: 40, 100: 40} {
		if got := percentile(sorted, p); got != want {
			t.Errorf("p%v is %d; want %d", p, got, want)
		}
	}
	if got := percentile([]int64{}, 50); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}

func TestUnknownFiguresDoNotCount(t *testing.T) {
	rounds := []round{
		{weir: {"cpu_us": 30}, relay: {"cpu_us": 20}},
		{weir: {"cpu_us": 30}},                       // the relay is missing
		{weir: {"cpu_us": 30}, relay: {"cpu_us": 0}}, // and here it did nothing
		{weir: {"cpu_us": 50}, relay: {"cpu_us": 20}},
		{weir: {"cpu_us": 80}, relay: {"cpu_us": 20}},
	}
	ratios := each(rounds, func(r round) float64 { return r.ratio("cpu_us", weir, relay) })
	if got := middle(ratios); got != 2.5 {
		t.Errorf("median ratio of %v is %v; want 2.5", ratios, got)
	}
	if got := middle(each(rounds, func(r round) float64 { return r.of("nobody", "cpu_us") })); !math.IsNaN(got) {
		t.Errorf("median of nothing known is %v", got)
	}
	if got := spread([]float64{1, 2, 3, 4, math.NaN()}); got != (3.0-1)/2.5 {
		t.Errorf("spread %v; want %v", got, 2/2.5)
	}
	if got := spread(nil); !math.IsNaN(got) {
		t.Errorf("spread of nothing is %v", got)
	}
}

func TestDerivedFigures(t *testing.T) {
	r := round{weir: {"p50_us": 9000, "commit_ms": 2, "handover_ms": 3, "round_trip_ms": 0.5, "paced_round_trip_ms": 0.5, "paced_commit_ms": 5}, weirFree: {"p50_us": 6000}}
	if got := addedCommits(r); got != 1.5 {
		t.Errorf("added commits %v; want 1.5", got)
	}
	if got := handoverFast(r); got != 1 {
		t.Errorf("hand-over %v of its bar's unit; want 1", got)
	}
	if got := handover(r); got != 0.5 {
		t.Errorf("hand-over %v of its bar's unit at its pace; want 0.5", got)
	}
}

// someRounds are of two workloads, one with a bar that is met and one with a bar that is not.
func someRounds() map[string][]round {
	return map[string][]round{
		"http":      {{direct: {"p50_us": 50}, relay: {"cpu_us": 10, "p50_us": 100, "busy": 0.5, "cores": 0.2}, weir: {"cpu_us": 20, "p50_us": 150}}},
		"contend-2": {{weir: {"use": 0.97}}},
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	base := &report{Judged: map[string]float64{"http: CPU µs/request, weir/relay": 2.5}}
	if err := table(&out, someRounds(), []string{direct, relay, weir}, base); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"workload figure none relay weir judged value ± quartiles bar base change",
		"http CPU µs/request 10.0 20.0 weir/relay 2.000 0.0 % ≤ 1.6 not met 2.500 -20.0 %",
		"http median latency µs 50.0 100 150 weir/relay 1.500 0.0 %",
		"contend-2 share of time in use 0.970 weir 0.970 0.0 % ≥ 0.95 met",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReportIsABase(t *testing.T) {
	rounds := someRounds()
	rounds["http"][0][weir]["odd"] = math.NaN() // JSON has none
	path := filepath.Join(t.TempDir(), "bench.json")
	made := newReport(rounds)
	made.Made, made.Contenders = time.Unix(1e9, 0).UTC(), []string{relay, weir}
	if err := made.write(path); err != nil {
		t.Fatal(err)
	}
	read, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := read.Judged["http: CPU µs/request, weir/relay"]; got != 2 || !read.Made.Equal(made.Made) {
		t.Errorf("the ratio is read as %v, made at %v; want 2, at %v", got, read.Made, made.Made)
	}
	if got := read.Rounds["http"][0][weir]; got["cpu_us"] != 20 || len(got) != 2 {
		t.Errorf("the round is read as %v", got)
	}
	if _, err := readReport(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a base that is not there")
	}
}

func TestStarved(t *testing.T) {
	rounds := someRounds()
	if got := starved(rounds); !slices.Equal(got, []string{"http"}) {
		t.Errorf("starved %q; want http", got)
	}
	for metric, full := range map[string]float64{"busy": 0.95, "cores": 1.2} {
		rounds := someRounds()
		rounds["http"][0][relay][metric] = full
		if got := starved(rounds); len(got) > 0 {
			t.Errorf("%s %v: starved %q; want nothing", metric, full, got)
		}
	}
}

func TestBesides(t *testing.T) {
	var out strings.Builder
	if err := besides(&out, someRounds(), []string{relay, weir}, []string{"http"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(out.String()), " "); !strings.HasSuffix(got, "http relay 50.0 % 0.200 100") {
		t.Errorf("%s", out.String())
	}
}

func TestDigits(t *testing.T) {
	for v, want := range map[float64]string{1234.5: "1234", 99.94: "99.9", 1.23456: "1.235", -150: "-150", 0: "0", math.Inf(1): ""} {
		if got := digits(v); got != want {
			t.Errorf("%v: %q; want %q", v, got, want)
		}
	}
}

func TestGaps(t *testing.T) {
	at := func(ms, node int, opened bool) nodeEvent {
		return nodeEvent{time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond), node, opened}
	}
	// As they come from three upstreams: one node after the other, not in order of time.
	across, within := gaps([]nodeEvent{
		at(0, 0, true), at(20, 0, false), at(21, 0, true), at(41, 0, false),
		at(44, 1, true), at(64, 1, false),
		at(69, 2, true), // and still open
	})
	if want := []time.Duration{3 * time.Millisecond, 5 * time.Millisecond}; !slices.Equal(across, want) {
		t.Errorf("across nodes %v; want %v", across, want)
	}
	if want := []time.Duration{time.Millisecond}; !slices.Equal(within, want) {
		t.Errorf("within a node %v; want %v", within, want)
	}
}
