//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table: a figure of all contenders, and what is made of it.
type row struct {
	workload string
	figure   string // what metric is, with its unit
	metric   string
	value    func(round) float64 // what is judged, in each round; the median counts
	of       string              // what value is
	bar      float64             // NaN for none
	least    bool                // value must be at least bar, not at most
}

// What is judged where another weir binary takes part.
const (
	overBefore     = "weir/before"
	freeOverBefore = "weir/before, without a limit"
)

func (r *row) key() string { return r.workload + ": " + r.figure + ", " + r.of }

// met reports whether a value passes the bar.
func (r *row) met(value float64) bool {
	if r.least {
		return value >= r.bar
	}
	return value <= r.bar
}

// rows are what has a bar, and some beside.
func rows() []row {
	none := math.NaN()
	overRelay := func(workload, figure, metric string, bar float64) row {
		return row{workload, figure, metric, func(r round) float64 { return r.ratio(metric, weir, relay) }, "weir/relay", bar, false}
	}
	absolute := func(workload, figure, metric string, bar float64, least bool) row {
		return row{workload, figure, metric, func(r round) float64 { return r.of(weir, metric) }, "weir", bar, least}
	}
	list := []row{
		overRelay("churn-64", "CPU µs/connection", "cpu_us", 1.15),
		{"churn-64", "CPU µs/connection", "cpu_us", func(r round) float64 { return r.ratio("cpu_us", weir, weirFree) }, "limits on/off", 1.03, false},
		overRelay("churn-64", "connections/s", "ops_per_s", none),
		overRelay("churn-16", "CPU µs/connection", "cpu_us", 1.15),
		overRelay("churn-1", "median latency µs", "p50_us", 1.10),
		overRelay("churn-1", "CPU µs/connection", "cpu_us", none),
		{"socks-churn", "CPU µs/connection", "cpu_us", func(r round) float64 { return r.of(weir, "cpu_us") / r.of(weir, "connect_cpu_us") }, "SOCKS5/CONNECT", 1.05, false},
		{"socks-churn", "at once: CPU µs", "at_once_cpu_us", func(r round) float64 { return r.of(weir, "at_once_cpu_us") / r.of(weir, "connect_cpu_us") }, "SOCKS5/CONNECT", 1.05, false},
		{"socks-churn", "median latency µs", "p50_us", func(r round) float64 { return r.of(weir, "p50_us") / r.of(weir, "connect_p50_us") }, "SOCKS5/CONNECT", none, false},
		overRelay("http", "CPU µs/request", "cpu_us", 1.6),
		overRelay("http", "median latency µs", "p50_us", none),
		overRelay("bulk", "CPU s/GiB", "cpu_s_per_gib", 1.10),
		overRelay("bulk", "GiB/s", "gib_per_s", none),
		absolute("idle", "resident KiB/tunnel", "rss_kib", 8, false),
		absolute("idle", "proportional KiB/tunnel", "pss_kib", none, false),
		absolute("idle", "descriptors/tunnel", "fds", 2, false),
		overRelay("wide", "CPU µs/connection", "cpu_us", none),
		{"wide", "median latency µs", "p50_us", addedCommits, "added commits", 1.5, false},
		absolute("wide", "log entries per 20 connections", "entries_per_20", 1, false),
		absolute("wide", "of them for grants", "grant_entries_per_20", none, false),
		absolute("wide", "commit ms, cluster fresh and idle", "commit_ms", none, false),
		{"wide-4", "median latency µs", "p50_us", addedCommits, "added commits", none, false},
		absolute("wide-4", "log entries per 20 connections", "entries_per_20", none, false),
		{"contend-1", "hand-over ms", "handover_ms", handover, "over 2 round trips + 1 commit, ten a second", 1, false},
		{"contend-1", "hand-over ms", "handover_ms", handoverFast, "over the same, one after the other", none, false},
		absolute("contend-1", "commit ms, ten a second", "paced_commit_ms", none, false),
		absolute("contend-1", "round trip ms, ten a second", "paced_round_trip_ms", none, false),
		absolute("contend-1", "commit ms, one after the other", "commit_ms", none, false),
		absolute("contend-1", "round trip ms, one after the other", "round_trip_ms", none, false),
	}
	list = append(list,
		row{"limits-4", "CPU µs/connection", "cpu_us", func(r round) float64 { return r.of(weir, "cpu_us") / r.of(weir, "one_cpu_us") }, "four limits/one", none, false},
		absolute("limits-4", "with one limit, CPU µs/connection", "one_cpu_us", none, false),
		absolute("rate", "share of the rate used", "use", 0.95, true),
		absolute("rate", "Jain's index of the nodes", "jain", 0.95, true),
		absolute("rate", "log entries per 10,000 requests", "entries_per_10k", 50, false),
		row{"paced", "CPU s/GiB", "cpu_s_per_gib", func(r round) float64 { return r.of(weir, "cpu_s_per_gib") / r.of(weir, "sent_cpu_s_per_gib") }, "paced by the limit/by the sender", 1.3, false},
		row{"paced", "CPU s/GiB", "cpu_s_per_gib", func(r round) float64 { return r.of(weir, "cpu_s_per_gib") / r.of(weir, "read_cpu_s_per_gib") }, "paced by the limit/by the reader", 1.3, false},
		absolute("paced", "share of the bandwidth used", "use", 0.95, true),
		absolute("paced-many", "cores per 10,000 flows", "cores_per_10k", 0.5, false),
		absolute("paced-many", "goroutines/flow", "goroutines", 0.01, false),
		absolute("paced-many", "share of the bandwidth used", "use", 0.95, true),
	)
	for _, r := range []struct{ workload, figure, metric string }{
		{"churn-64", "CPU µs/connection", "cpu_us"},
		{"churn-16", "CPU µs/connection", "cpu_us"},
		{"churn-1", "CPU µs/connection", "cpu_us"},
		{"churn-1", "median latency µs", "p50_us"},
		{"churn-name", "CPU µs/connection", "cpu_us"},
		{"http", "CPU µs/request", "cpu_us"},
		{"bulk", "CPU s/GiB", "cpu_s_per_gib"},
		{"idle", "resident KiB/tunnel", "rss_kib"},
	} {
		list = append(list, row{r.workload, r.figure, r.metric, func(in round) float64 { return in.ratio(r.metric, weir, before) }, overBefore, 1.03, false})
	}
	for _, r := range []struct{ workload, figure, metric string }{
		{"churn-64", "CPU µs/connection", "cpu_us"},
		{"churn-16", "CPU µs/connection", "cpu_us"},
		{"churn-1", "median latency µs", "p50_us"},
		{"http", "CPU µs/request", "cpu_us"},
	} {
		list = append(list, row{r.workload, r.figure, r.metric, func(in round) float64 { return in.ratio(r.metric, weirFree, beforeFree) }, freeOverBefore, 1.03, false})
	}
	for _, limit := range contendLimits {
		list = append(list, absolute("contend-"+strconv.Itoa(limit), "share of time in use", "use", 0.95, true))
	}
	return list
}

// addedCommits is what a first connection to a host with a limit takes longer than one without, in
// commits.
func addedCommits(r round) float64 {
	return (r.of(weir, "p50_us") - r.of(weirFree, "p50_us")) / 1000 / r.of(weir, "commit_ms")
}

// handover is its time in the unit of its bar: at the pace of handing over.
func handover(r round) float64 {
	return r.of(weir, "handover_ms") / (2*r.of(weir, "paced_round_trip_ms") + r.of(weir, "paced_commit_ms"))
}

// handoverFast is its time in units that were measured one after the other, on processors that are
// awake and with caches that are warm.
func handoverFast(r round) float64 {
	return r.of(weir, "handover_ms") / (2*r.of(weir, "round_trip_ms") + r.of(weir, "commit_ms"))
}

// report is all that was measured; as JSON it can be the base of a later one.
type report struct {
	Made       time.Time            `json:"made"`
	Machine    string               `json:"machine"`
	Settings   map[string]string    `json:"settings"`
	Contenders []string             `json:"contenders"`
	Rounds     map[string][]figures `json:"rounds"` // by workload
	Judged     map[string]float64   `json:"judged"` // by the row's key: the median over the rounds
}

// figures are a round's, by contender and metric; what is not a number is left out.
type figures map[string]map[string]float64

func newReport(rounds map[string][]round) *report {
	r := &report{Rounds: map[string][]figures{}, Judged: map[string]float64{}}
	for workload, list := range rounds {
		for _, one := range list {
			f := figures{}
			for contender, s := range one {
				f[contender] = map[string]float64{}
				for metric, v := range s {
					if !math.IsNaN(v) && !math.IsInf(v, 0) {
						f[contender][metric] = v
					}
				}
			}
			r.Rounds[workload] = append(r.Rounds[workload], f)
		}
	}
	for _, row := range rows() {
		if v := middle(each(rounds[row.workload], row.value)); !math.IsNaN(v) {
			r.Judged[row.key()] = v
		}
	}
	return r
}

// readReport reads one that was written before.
func readReport(path string) (*report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// table prints a line for each row that was measured. With a base it adds the change of what is
// judged.
func table(out io.Writer, rounds map[string][]round, contenders []string, base *report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := []string{"workload", "figure"}
	head = append(append(head, contenders...), "judged", "value", "± quartiles", "bar", "")
	if base != nil {
		head = append(head, "base", "change")
	}
	line(w, head)
	for _, row := range rows() {
		list := rounds[row.workload]
		if len(list) == 0 || strings.HasPrefix(row.of, overBefore) && !slices.Contains(contenders, before) {
			continue
		}
		cells := []string{row.workload, row.figure}
		for _, c := range contenders {
			cells = append(cells, digits(middle(each(list, func(r round) float64 { return r.of(c, row.metric) }))))
		}
		line(w, append(cells, judge(row, list, base)...))
	}
	return w.Flush()
}

// judge is a row's last cells.
func judge(row row, list []round, base *report) []string {
	values := each(list, row.value)
	value := middle(values)
	cells := []string{row.of, digits(value), percent(spread(values) / 2)}
	switch {
	case math.IsNaN(row.bar) || math.IsNaN(value):
		cells = append(cells, "", "")
	default:
		sign, verdict := "≤ ", "not met"
		if row.least {
			sign = "≥ "
		}
		if row.met(value) {
			verdict = "met"
		}
		cells = append(cells, sign+strconv.FormatFloat(row.bar, 'g', -1, 64), verdict)
	}
	if base != nil {
		old, ok := base.Judged[row.key()]
		if !ok {
			old = math.NaN()
		}
		cells = append(cells, digits(old), signed(value/old-1))
	}
	return cells
}

func line(w io.Writer, cells []string) {
	_, _ = fmt.Fprintln(w, strings.Join(cells, "\t")+"\t") // errors come with Flush
}

// digits has three digits, or none where it is not known.
func digits(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return ""
	case v == 0:
		return "0"
	case math.Abs(v) >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case math.Abs(v) >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

func percent(v float64) string {
	if math.IsNaN(v) {
		return ""
	}
	return strconv.FormatFloat(100*math.Abs(v), 'f', 1, 64) + " %"
}

func signed(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return ""
	}
	return fmt.Sprintf("%+.1f %%", 100*v)
}

// besides prints what is not judged: how full the machine was, and what the cluster's other nodes
// used.
func besides(out io.Writer, rounds map[string][]round, contenders []string, names []string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line(w, []string{"workload", "contender", "machine busy", "proxy's cores", "driver's cores", "other nodes' CPU µs/op", "p50 µs", "p99 µs", "failures"})
	for _, name := range names {
		for _, c := range contenders {
			at := func(metric string) float64 {
				return middle(each(rounds[name], func(r round) float64 { return r.of(c, metric) }))
			}
			if math.IsNaN(at("busy")) {
				continue
			}
			line(w, []string{name, c, percent(at("busy")), digits(at("cores")), digits(at("driver")), digits(at("beside_cpu_us")),
				digits(at("p50_us")), digits(at("p99_us")), digits(at("failures"))})
		}
	}
	return w.Flush()
}

// starved names the workloads in which neither the relay nor the machine was the bottleneck: there
// the load itself was, and the figures say little. One worker leaves the machine idle on purpose.
func starved(rounds map[string][]round) []string {
	const full, bottleneck = 0.9, 0.9
	var names []string
	for _, name := range []string{"churn-16", "churn-64", "http", "bulk", "wide"} {
		busy := middle(each(rounds[name], func(r round) float64 { return r.of(relay, "busy") }))
		cores := middle(each(rounds[name], func(r round) float64 { return r.of(relay, "cores") }))
		if busy < full && cores < bottleneck {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
