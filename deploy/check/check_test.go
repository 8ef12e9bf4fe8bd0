package check

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// described is a metric as docs/metrics.md has it.
type described struct {
	kind   string
	labels []string
}

// catalogue reads the tables of docs/metrics.md: | `name` | type | labels | meaning |
func catalogue(t *testing.T) map[string]described {
	t.Helper()
	b, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(weir_[a-z_]+)` \\| (gauge|counter|histogram) \\| ([^|]*) \\|")
	name := regexp.MustCompile("`([a-z_]+)`")
	metrics := map[string]described{}
	for _, m := range row.FindAllStringSubmatch(string(b), -1) {
		d := described{kind: m[2]}
		for _, l := range name.FindAllStringSubmatch(m[3], -1) {
			d.labels = append(d.labels, l[1])
		}
		metrics[m[1]] = d
	}
	if len(metrics) < 40 {
		t.Fatalf("docs/metrics.md describes only %d metrics: its tables are not understood", len(metrics))
	}
	// What a scrape and the process collector add; promtool knows them too.
	for _, known := range []string{"up", "process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_start_time_seconds", "go_goroutines"} {
		metrics[known] = described{kind: "gauge"}
	}
	metrics["process_cpu_seconds_total"] = described{kind: "counter"}
	return metrics
}

// problems says what is wrong with one query.
func problems(metrics map[string]described, query string) []string {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return []string{err.Error()}
	}
	var wrong []string
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			wrong = append(wrong, selectorProblems(metrics, n, path)...)
		case *parser.AggregateExpr:
			for _, l := range n.Grouping {
				if !anyHas(metrics, expr, l) {
					wrong = append(wrong, fmt.Sprintf("no metric of the query has the label %s", l))
				}
			}
		}
		return nil
	})
	return wrong
}

func selectorProblems(metrics map[string]described, n *parser.VectorSelector, path []parser.Node) (wrong []string) {
	d, suffix, ok := find(metrics, n.Name)
	if !ok {
		return []string{fmt.Sprintf("nothing tells %s", n.Name)}
	}
	for _, m := range n.LabelMatchers {
		if m.Name != model.MetricNameLabel && !has(d, m.Name) {
			wrong = append(wrong, fmt.Sprintf("%s has no label %s", n.Name, m.Name))
		}
	}
	counts := d.kind == "counter" || suffix != ""
	if rated := isRated(path); counts != rated {
		wrong = append(wrong, fmt.Sprintf("%s is a %s%s: rate and increase are for counters, and counters for them", n.Name, d.kind, suffix))
	}
	return wrong
}

// find looks a name up, also that of a histogram's series.
func find(metrics map[string]described, name string) (d described, suffix string, ok bool) {
	if d, ok = metrics[name]; ok {
		return d, "", d.kind != "histogram"
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, cut := strings.CutSuffix(name, suffix); cut && metrics[base].kind == "histogram" {
			d = metrics[base]
			if suffix == "_bucket" {
				d.labels = append(slices.Clone(d.labels), "le")
			}
			return d, suffix, true
		}
	}
	return described{}, "", false
}

func has(d described, label string) bool {
	return label == "job" || label == "instance" || slices.Contains(d.labels, label)
}

func anyHas(metrics map[string]described, expr parser.Expr, label string) bool {
	found := false
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if v, ok := node.(*parser.VectorSelector); ok {
			d, _, _ := find(metrics, v.Name)
			found = found || has(d, label)
		}
		return nil
	})
	return found
}

// isRated reports whether a selector stands in a function that takes a counter's increase.
func isRated(path []parser.Node) bool {
	return slices.ContainsFunc(path, func(n parser.Node) bool {
		call, ok := n.(*parser.Call)
		return ok && slices.Contains([]string{"rate", "irate", "increase"}, call.Func.Name)
	})
}

func TestRules(t *testing.T) {
	metrics := catalogue(t)
	groups, errs := rulefmt.ParseFile("../prometheus/weir.rules.yml", false, model.LegacyValidation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.Fatal("no groups")
	}
	alerts := map[string]bool{}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || alerts[r.Alert] {
				t.Errorf("%s/%s: an alert has a name of its own", g.Name, r.Alert)
			}
			alerts[r.Alert] = true
			for _, wrong := range problems(metrics, r.Expr) {
				t.Errorf("%s: %s", r.Alert, wrong)
			}
			if s := r.Labels["severity"]; s != "page" && s != "ticket" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			for _, a := range []string{"summary", "description"} {
				if !strings.HasSuffix(r.Annotations[a], ".") {
					t.Errorf("%s: its %s is no sentence: %q", r.Alert, a, r.Annotations[a])
				}
			}
			if !strings.HasPrefix(r.Annotations["runbook"], "1. ") {
				t.Errorf("%s does not say what to do", r.Alert)
			}
		}
	}
	// The runbooks send readers to each other.
	refers := regexp.MustCompile(`\bWeir[A-Z]\w+`)
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			for _, name := range refers.FindAllString(r.Annotations["runbook"], -1) {
				if !alerts[name] {
					t.Errorf("%s refers to %s, which is no alert", r.Alert, name)
				}
			}
			for _, name := range regexp.MustCompile(`\bweir_[a-z_]+`).FindAllString(r.Annotations["runbook"], -1) {
				if _, ok := metrics[name]; !ok {
					t.Errorf("%s refers to %s, which nothing tells", r.Alert, name)
				}
			}
		}
	}
	if len(alerts) < 15 {
		t.Errorf("only %d alerts", len(alerts))
	}
}

// dashboard is what is looked at in Grafana's JSON.
type dashboard struct {
	UID        string `json:"uid"`
	Title      string `json:"title"`
	Panels     []panel
	Templating struct {
		List []struct {
			Name  string
			Type  string
			Query any
		}
	}
}

type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ H, W, X, Y int }
	Datasource  *struct{ Type, UID string }
	Targets     []struct{ Expr, RefID string }
}

func TestDashboard(t *testing.T) {
	metrics := catalogue(t)
	b, err := os.ReadFile("../grafana/weir.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	variables := map[string]bool{"__rate_interval": true, "__range": true}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
	}
	used := regexp.MustCompile(`\$\{?(\w+)\}?`)
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %d (%s) needs an id of its own and a title", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range d.Panels[i+1:] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("the panels %q and %q overlap", p.Title, q.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource == nil || p.Datasource.UID != "${datasource}" || p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q needs the chosen data source, a description and a query", p.Title)
		}
		for _, target := range p.Targets {
			for _, m := range used.FindAllStringSubmatch(target.Expr, -1) {
				if !variables[m[1]] {
					t.Errorf("panel %q: there is no variable %s", p.Title, m[1])
				}
			}
			query := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(target.Expr)
			for _, wrong := range problems(metrics, used.ReplaceAllString(query, "x")) {
				t.Errorf("panel %q: %s: %s", p.Title, target.Expr, wrong)
			}
		}
	}
	if d.UID == "" || d.Title == "" || len(d.Panels) < 20 {
		t.Errorf("%q %q with %d panels", d.UID, d.Title, len(d.Panels))
	}
}

// TestProblems breaks queries and looks whether that is noticed.
func TestProblems(t *testing.T) {
	metrics := map[string]described{
		"weir_g": {kind: "gauge", labels: []string{"host"}}, "weir_c_total": {kind: "counter"}, "weir_h_seconds": {kind: "histogram", labels: []string{"why"}},
	}
	for query, want := range map[string]string{
		`sum by (host) (weir_g{job="weir"})`:                                          "",
		`rate(weir_c_total[5m]) > 0`:                                                  "",
		`histogram_quantile(0.9, sum by (le, why) (rate(weir_h_seconds_bucket[5m])))`: "",
		`sum by (host) (`:                        "parse error",
		`weir_gone`:                              "nothing tells",
		`weir_h_seconds`:                         "nothing tells",
		`weir_g{hosts="x"}`:                      "no label hosts",
		`sum by (le) (weir_g)`:                   "no metric of the query has the label le",
		`weir_c_total > 5`:                       "for counters",
		`rate(weir_g[5m])`:                       "for counters",
		`rate(weir_h_seconds_count{le="1"}[5m])`: "no label le",
	} {
		got := strings.Join(problems(metrics, query), "; ")
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}
