package server

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// Measures makes the bench's node a [MetricSource] with something in every family.
func (n *benchNode) Measures() Measures {
	var h Histogram
	h.Observe(3 * time.Millisecond)
	h.Observe(time.Hour)
	d := h.Read()
	return Measures{
		GoVersion: "go1.26", Members: map[string]int{"alive": 2, "dead": 1}, Certificates: map[string]time.Time{"rpc": time.Unix(2_000_000_000, 0)},
		Proxy: ProxyMeasures{
			Clients: 1, Requests: 2, Tunnels: 3, Exchanges: 4, Reused: 5, Retries: 6, DialErrors: 7, AddressRequests: 8,
			Refusals: map[string]int64{"queue_full": 8, "no_lease": 0}, BytesOut: 9, BytesIn: 10, LimitRefusals: []LimitRefusals{{"client", "requests", 20}}, QueueWait: d, DialTime: d,
			DNS: DNSMeasures{Lookups: map[string]int64{"ok": 16, "timeout": 0}, Queries: 17, InFlight: 18, Names: 19, LookupSeconds: d},
		},
		Session: SessionMeasures{Age: time.Minute, Fences: 11},
		Cluster: ClusterMeasures{
			Reclaims: map[string]Distribution{"expired": d}, ReclaimedSlots: map[string]int64{"expired": 12},
			Commits: d, LeaderChanges: 13, LogEntries: 14, LogBytes: 15, Voters: 3, GossipScore: 1,
		},
	}
}

// deaf is a scraper that has gone, with an error of its connection.
type deaf struct{ *httptest.ResponseRecorder }

func (deaf) Write([]byte) (int, error) {
	return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
}

// A scraper that goes away ends its answer, whether that is compressed or not, and nothing is
// logged above debug: it is no fault of the node.
func TestMetricsScraperGoes(t *testing.T) {
	n := newBench(t, Config{}, "a").nodes["a"]
	var out bytes.Buffer
	n.server.log = hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Info})
	n.server.metrics = newMetrics(n.server, n.server.places)
	for _, encoding := range []string{"", "gzip"} {
		r := httptest.NewRequest("GET", "http://localhost/metrics", nil)
		r.Header.Set("Accept-Encoding", encoding)
		func() {
			defer func() {
				if v := recover(); v != http.ErrAbortHandler {
					t.Errorf("%q: the answer ends with %v", encoding, v)
				}
			}()
			n.server.Handler().ServeHTTP(deaf{httptest.NewRecorder()}, r)
		}()
	}
	if out.Len() > 0 {
		t.Errorf("the log says %q", out.String())
	}
}

// metricsOf reads /metrics of a node: each sample's value by its name and labels, as they are
// written.
func metricsOf(t *testing.T, n *benchNode) map[string]float64 {
	t.Helper()
	w := n.do(try{method: "GET", path: "/metrics"})
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("status %d, %s: %s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	out := map[string]float64{}
	for line := range strings.Lines(w.Body.String()) {
		var v float64
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(name, "#") {
			if _, err := fmt.Sscan(value, &v); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			out[name] = v
		}
	}
	return out
}

func metricsBench(t *testing.T, cfg Config) *benchNode {
	t.Helper()
	b := newBench(t, cfg, "a")
	a := b.nodes["a"]
	b.put("x.org", 5)
	b.see()
	a.st.Session = api.SessionStatus{ID: 7, State: "live", ExpiresIn: api.Duration(8 * time.Second)}
	a.st.Raft = api.RaftStatus{State: "leader", Term: 2, LastIndex: 9, CommitIndex: 8, AppliedIndex: 7}
	a.uses = []NodeUse{
		{Key: limit.HostConnections("x.org"), Granted: 4, InUse: 3, Waiting: 2, Admitted: 100, Rejected: 10},
		{Key: limit.HostConnections("free.org"), InUse: 1, Admitted: 50},
	}
	return a
}

func TestMetricsTellTheNumbers(t *testing.T) {
	a := metricsBench(t, Config{MetricsHosts: 1})
	got := metricsOf(t, a)
	for name, want := range map[string]float64{
		`weir_node_info{go_version="go1.26",node="a",role="server",version="v1"}`: 1,
		`weir_ready`: 1, `weir_draining`: 0, `weir_hosts`: 2,
		`weir_slots_limit{host="x.org"}`: 5, `weir_slots_granted{host="x.org"}`: 4, `weir_slots_in_use{host="x.org"}`: 3,
		`weir_slots_waiting{host="x.org"}`: 2, `weir_admissions_total{host="x.org"}`: 100, `weir_rejections_total{host="x.org"}`: 10,
		`weir_slots_in_use{host="other"}`: 1, `weir_admissions_total{host="other"}`: 50, `weir_rejections_total{host="other"}`: 0,
		`weir_clients`: 1, `weir_requests_total`: 2, `weir_tunnels_total`: 3, `weir_exchanges_total`: 4,
		`weir_exchanges_reused_total`: 5, `weir_retries_total`: 6, `weir_socks5_address_requests_total`: 8, `weir_dial_errors_total`: 7,
		`weir_refusals_total{reason="queue_full"}`: 8, `weir_refusals_total{reason="no_lease"}`: 0,
		`weir_limit_refusals_total{resource="requests",scope="client"}`: 20,
		`weir_bytes_total{direction="to_upstream"}`:                     9, `weir_bytes_total{direction="from_upstream"}`: 10,
		`weir_queue_wait_seconds_bucket{le="0.0025"}`: 0, `weir_queue_wait_seconds_bucket{le="0.005"}`: 1,
		`weir_queue_wait_seconds_bucket{le="300"}`: 1, `weir_queue_wait_seconds_bucket{le="+Inf"}`: 2, `weir_queue_wait_seconds_count`: 2,
		`weir_dial_seconds_sum`: 3600.003, `weir_session_live`: 1, `weir_session_age_seconds`: 60, `weir_session_expires_in_seconds`: 8,
		`weir_fences_total`: 11, `weir_reclaim_seconds_count{why="expired"}`: 2, `weir_reclaimed_slots_total{why="expired"}`: 12,
		`weir_raft_leader`: 1, `weir_raft_term`: 2, `weir_raft_last_index`: 9, `weir_raft_commit_index`: 8, `weir_raft_applied_index`: 7,
		`weir_raft_commit_seconds_count`: 2, `weir_raft_log_entries`: 14, `weir_raft_log_bytes`: 15, `weir_raft_voters`: 3,
		`weir_leader_known`: 1, `weir_leader_changes_total`: 13, `weir_members{health="alive"}`: 2, `weir_members{health="left"}`: 0,
		`weir_dns_lookups_total{result="ok"}`: 16, `weir_dns_lookups_total{result="timeout"}`: 0, `weir_dns_queries_total`: 17,
		`weir_dns_lookups_in_flight`: 18, `weir_dns_names`: 19, `weir_dns_lookup_seconds_count`: 2,
		`weir_gossip_score`: 1, `weir_config_disagreements`: 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
	for _, name := range []string{"go_goroutines", "process_start_time_seconds"} {
		if got[name] <= 0 {
			t.Errorf("%s is missing", name)
		}
	}
	for _, name := range []string{`weir_slots_limit{host="other"}`, `weir_slots_in_use{host="free.org"}`} {
		if _, ok := got[name]; ok {
			t.Errorf("%s is told", name)
		}
	}

	// A proxy has nothing to tell of Raft, but knows who leads.
	a.st.Raft = api.RaftStatus{State: "none"}
	for name := range metricsOf(t, a) {
		if strings.HasPrefix(name, "weir_raft_") || strings.HasPrefix(name, "weir_disk_") {
			t.Errorf("a proxy tells %s", name)
		}
	}
}

// TestMetricsFormat has the official parser read the answer, and looks at the names and help as
// promtool does.
func TestMetricsFormat(t *testing.T) {
	a := metricsBench(t, Config{MetricsHosts: 10})
	w := a.do(try{method: "GET", path: "/metrics"})
	text := w.Body.String()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	told, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families() {
		mf := told[f.name]
		if mf == nil {
			t.Errorf("%s is not told", f.name)
			continue
		}
		if got := strings.ToLower(mf.GetType().String()); got != string(f.kind) {
			t.Errorf("%s is a %s, want a %s", f.name, got, f.kind)
		}
		if mf.GetHelp() != f.help || !strings.HasSuffix(f.help, ".") {
			t.Errorf("%s: help %q", f.name, mf.GetHelp())
		}
		if total := strings.HasSuffix(f.name, "_total"); total != (f.kind == counter) {
			t.Errorf("%s is a %s: counters, and they alone, end in _total", f.name, f.kind)
		}
	}
	names := map[string]bool{}
	for _, f := range families() {
		if names[f.name] {
			t.Errorf("two families are called %s", f.name)
		}
		names[f.name] = true
	}

	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "weir_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}

	open := a.do(try{method: "GET", path: "/metrics", header: map[string]string{"Accept": "application/openmetrics-text;version=1.0.0"}})
	if !strings.HasPrefix(open.Header().Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(open.Body.String(), "# EOF\n") {
		t.Errorf("OpenMetrics: %s", open.Header().Get("Content-Type"))
	}
	packed := a.do(try{method: "GET", path: "/metrics", header: map[string]string{"Accept-Encoding": "gzip"}})
	z, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(z); err != nil || !strings.Contains(string(plain), "weir_ready 1") {
		t.Errorf("gzip: %v", err)
	}
	refused(t, a.do(try{method: "GET", path: "/metrics?hosts=3"}), 400, "hosts")
	refused(t, a.do(try{method: "POST", path: "/metrics"}), 405, "POST")
}

func TestMetricsNeedAToken(t *testing.T) {
	a := metricsBench(t, Config{Token: "w", ReadToken: "r"})
	refused(t, a.do(try{method: "GET", path: "/metrics"}), 401, "token")
	if w := a.do(try{method: "GET", path: "/metrics", header: map[string]string{"Authorization": "Bearer r"}}); w.Code != 200 {
		t.Errorf("with the token that reads: %d %s", w.Code, w.Body)
	}
}
