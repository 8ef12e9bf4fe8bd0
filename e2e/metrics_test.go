package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weirproxy/weir/e2e/load"
)

// TestMetricsOfRealNodes: what docs/metrics.md lists is told by real nodes, as promtool wants it,
// and tells what has happened: load on a host with a queue, refusals, and a node that died and
// whose slots came back.
func TestMetricsOfRealNodes(t *testing.T) {
	c := startCluster(t, shape{ttl: 2 * time.Second})
	leader, others := c.leader(t)
	up := c.upstream(t)
	c.setLimit(t, up.name, queued(4, time.Second, 2))
	run := load.Start(load.Plan{Proxies: c.proxies(), Target: up.target, Workers: 12, Hold: 20 * time.Millisecond, Pause: 20 * time.Millisecond})
	defer func() { run.Stop() }()
	eventually(t, 20*time.Second, "waits and refusals are counted", func() error {
		m := leader.metrics(t)
		if m.total("weir_queue_wait_seconds", "", "").value == 0 || m.total("weir_refusals_total", "reason", "queue_full").value == 0 {
			return fmt.Errorf("%v waits, %v refusals", m.total("weir_queue_wait_seconds", "", "").value, m.total("weir_refusals_total", "reason", "queue_full").value)
		}
		return nil
	})
	victim := others[0]
	victim.kill(t)
	eventually(t, 20*time.Second, "the reclaim is counted", func() error {
		if m := leader.metrics(t); m.total("weir_reclaim_seconds", "why", "expired").value != 1 || m.total("weir_members", "health", "dead").value != 1 {
			return fmt.Errorf("%v reclaims, %v dead", m.total("weir_reclaim_seconds", "why", "expired").value, m.total("weir_members", "health", "dead").value)
		}
		return nil
	})
	m := leader.metrics(t)
	for name, least := range map[string]float64{
		"weir_ready": 1, "weir_hosts": 1, "weir_slots_limit": 4, "weir_admissions_total": 1, "weir_rejections_total": 1, "weir_requests_total": 1,
		"weir_tunnels_total": 1, "weir_dial_seconds": 1, "weir_bytes_total": 1, "weir_session_live": 1, "weir_session_age_seconds": 0.1,
		"weir_session_expires_in_seconds": 0.1, "weir_raft_leader": 1, "weir_raft_term": 1, "weir_raft_commit_seconds": 1, "weir_raft_log_entries": 1,
		"weir_raft_log_bytes": 1, "weir_raft_voters": 3, "weir_leader_known": 1, "weir_leader_changes_total": 1, "weir_members": 3,
		"go_goroutines": 10, "process_open_fds": 10, "process_start_time_seconds": 1,
	} {
		if got := m.total(name, "", "").value; got < least {
			t.Errorf("%s is %v, want at least %v", name, got, least)
		}
	}
	if took := m.total("weir_reclaim_seconds", "why", "expired").sum; took < 2 || took > 20 {
		t.Errorf("the reclaim is told to have taken %v s; the ttl is 2 s", took)
	}
	documented, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("(?m)^\\| `(weir_[a-z_]+)` ").FindAllStringSubmatch(string(documented), -1)
	if len(names) < 40 {
		t.Errorf("docs/metrics.md lists only %d", len(names))
	}
	for _, name := range names {
		if _, told := m[name[1]]; !told && !strings.HasPrefix(name[1], "weir_tls_") { // this cluster has no certificates
			t.Errorf("docs/metrics.md lists %s, which the leader does not tell", name[1])
		}
	}
}

// samples are what a node tells, by the metric's name.
type samples map[string][]sample

// sample is one series. Of a histogram it is how many were observed, and their sum.
type sample struct {
	labels     map[string]string
	value, sum float64
}

// metrics scrapes the node, as Prometheus and promtool would.
func (n *node) metrics(t testing.TB) samples {
	t.Helper()
	a := n.http.must(t, http.StatusOK, "GET", "/metrics", "", nil)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(bytes.NewReader(a.body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "weir_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	out := samples{}
	for name, f := range families {
		for _, m := range f.Metric {
			one := sample{labels: map[string]string{}, sum: m.GetHistogram().GetSampleSum()}
			one.value = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			for _, l := range m.Label {
				one.labels[l.GetName()] = l.GetValue()
			}
			out[name] = append(out[name], one)
		}
	}
	return out
}

// total adds up a metric's series, those with a label of this name and value, or with "" all.
func (s samples) total(metric, label, value string) (sum sample) {
	for _, one := range s[metric] {
		if label == "" || one.labels[label] == value {
			sum.value += one.value
			sum.sum += one.sum
		}
	}
	return sum
}

var hostLabel = regexp.MustCompile(`(?m)^weir_rejections_total\{host="([^"]+)"\} (\d+)$`)

// TestMetricsNameSoManyHosts: metrics_hosts bounds the hosts that /metrics names, and a reload
// changes it. Nothing is told twice, nor lost while a host keeps its name.
func TestMetricsNameSoManyHosts(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	c.setLimit(t, "*.many.example", connections(0))
	for i := range 7 {
		n.refuse(t, fmt.Sprintf("h%d.many.example:443", i), "connection_limit_reached")
	}
	bound := func(most int) {
		text, err := os.ReadFile(n.config)
		if err != nil {
			t.Fatal(err)
		}
		without := regexp.MustCompile(`\n  metrics_hosts = \d+`).ReplaceAllString(string(text), "")
		set := strings.Replace(without, "api {", fmt.Sprintf("api {\n  metrics_hosts = %d", most), 1)
		if err := os.WriteFile(n.config, []byte(set), 0o600); err != nil {
			t.Fatal(err)
		}
		a := n.http.must(t, http.StatusOK, "POST", "/v1/reload", "", nil)
		if !strings.Contains(string(a.body), "api.metrics_hosts") {
			t.Errorf("the reload answers %s", a.body)
		}
	}
	told := func(names, other int) {
		t.Helper()
		eventually(t, 5*time.Second, fmt.Sprintf("%d hosts named", names), func() error {
			a, err := n.http.call("GET", "/metrics", "", nil)
			if err != nil {
				return err
			}
			found := hostLabel.FindAllStringSubmatch(string(a.body), -1)
			rest := ""
			for _, f := range found {
				if f[1] == "other" {
					rest = f[2]
				}
			}
			if len(found) != names+1 || rest != fmt.Sprint(other) {
				return fmt.Errorf("%q", found)
			}
			return nil
		})
	}
	told(7, 0)
	bound(3)
	told(3, 0) // what the others had was told under their names
	bound(0)
	told(0, 0)
	n.refuse(t, "h1.many.example:443", "connection_limit_reached")
	told(0, 1)
}
