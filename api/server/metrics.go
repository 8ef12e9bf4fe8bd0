package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weirproxy/weir/limit"
)

// Measures are the node's numbers that only /metrics shows. Counters begin with the process.
type Measures struct {
	GoVersion string
	// Members counts the nodes that gossip knows by their health.
	Members map[string]int
	// Certificates holds, for each listener with TLS ("rpc", "api", "proxy"), when the certificate
	// in use expires.
	Certificates map[string]time.Time

	Proxy   ProxyMeasures
	Session SessionMeasures
	Cluster ClusterMeasures
}

// ProxyMeasures are the proxy's numbers.
type ProxyMeasures struct {
	Clients                                       int64 // connections of workers, now
	Requests, Tunnels, Exchanges, Reused, Retries int64
	AddressRequests                               int64 // over SOCKS5, while limits counted names
	DialErrors                                    int64
	Refusals                                      map[string]int64 // by reason; every reason is in it
	LimitRefusals                                 []LimitRefusals
	BytesOut                                      uint64 // to upstreams
	BytesIn                                       uint64 // from upstreams
	QueueWait                                     Distribution
	DNS                                           DNSMeasures
	DialTime                                      Distribution
}

// LimitRefusals are the requests that limits of one scope and resource have refused.
type LimitRefusals struct {
	Scope, Resource string
	Refused         int64
}

// DNSMeasures are numbers of the proxy's name resolution.
type DNSMeasures struct {
	Lookups       map[string]int64 // by result; every result is in it
	Queries       int64
	InFlight      int // lookups, now
	Names         int // remembered
	LookupSeconds Distribution
}

// SessionMeasures are numbers of the node's session with the cluster.
type SessionMeasures struct {
	Age    time.Duration // 0 unless the session is live
	Fences uint64
}

// ClusterMeasures are numbers of Raft and gossip.
type ClusterMeasures struct {
	// Reclaims holds, by cause ("expired", "left", "taken_over"), the sessions whose slots came
	// back while this node led, with the time from the node's last sign of life. On a server every
	// cause is present.
	Reclaims map[string]Distribution
	// ReclaimedSlots counts the slots, by the same causes.
	ReclaimedSlots map[string]int64

	Commits              Distribution
	LeaderChanges        uint64
	LogEntries, LogBytes uint64
	Voters               int
	GossipScore          int
}

// MetricSource provides the node's numbers.
type MetricSource interface {
	// Measures returns the present numbers. It must not wait for other nodes or for the disk.
	Measures() Measures
}

// newMetrics makes the handler of /metrics. Its registry is the server's own, so metrics that
// libraries register for the whole process do not appear in it.
func newMetrics(s *Server, places scopePlaces) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		newCollector(s, places),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: metricsLog{s.log}, ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true,
	})
}

// metricsLog logs failures to collect or encode metrics.
type metricsLog struct{ log hclog.Logger }

// Println implements [promhttp.Logger]. If the scraper has gone, it ends the answer; otherwise
// promhttp would come here for each family that is left.
func (l metricsLog) Println(v ...any) {
	for _, part := range v {
		var gone *scraperGone
		if err, ok := part.(error); ok && errors.As(err, &gone) {
			panic(http.ErrAbortHandler)
		}
	}
	l.log.Warn("metrics are incomplete", "why", strings.TrimSpace(fmt.Sprintln(v...)))
}

// scraperGone says that the scraper does not wait for the rest, as Prometheus does not after its
// timeout. That is no failure of this node.
type scraperGone struct{ err error }

// Error implements error.
func (e *scraperGone) Error() string { return "the scraper has gone: " + e.err.Error() }

// toScraper is an answer whose failures to send are told from those to collect and to encode.
type toScraper struct{ http.ResponseWriter }

// Write implements [http.ResponseWriter].
func (w toScraper) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	if err != nil {
		err = &scraperGone{err}
	}
	return n, err
}

// SetMetricsHosts changes [Config.MetricsHosts] while the server runs.
func (s *Server) SetMetricsHosts(most int) { s.places.setMost(most) }

// serveMetrics answers GET /metrics.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	s.metrics.ServeHTTP(toScraper{w}, r)
	return nil
}

// collector turns one snapshot of the node into samples.
type collector struct {
	server   *Server
	places   scopePlaces
	families []family
}

func newCollector(s *Server, places scopePlaces) *collector {
	c := &collector{server: s, places: places, families: families()}
	for i := range c.families {
		f := &c.families[i]
		f.desc = prometheus.NewDesc(f.name, f.help, f.labels, nil)
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range c.families {
		ch <- f.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.server
	m := &moment{Measures: s.deps.Metrics.Measures(), status: s.deps.Status.Status(), scopes: map[limit.Scope][]hostSeries{}}
	table := s.deps.View.Table()
	for _, scope := range countedScopes {
		uses := s.deps.Uses.Uses(scope)
		if scope == limit.ScopeHost {
			m.known = uses
		}
		m.scopes[scope] = c.places[scope].update(uses, table)
	}
	m.hosts = m.scopes[limit.ScopeHost]
	for _, f := range c.families {
		f.read(m, samples{f, ch})
	}
}

// samples receives the values of one family.
type samples struct {
	family family
	ch     chan<- prometheus.Metric
}

// value adds a gauge's or counter's value, with the family's labels in their order.
func (s samples) value(v float64, labels ...string) {
	kind := prometheus.GaugeValue
	if s.family.kind == counter {
		kind = prometheus.CounterValue
	}
	s.ch <- prometheus.MustNewConstMetric(s.family.desc, kind, v, labels...)
}

// truth adds a gauge of 1 or 0.
func (s samples) truth(yes bool) {
	if yes {
		s.value(1)
		return
	}
	s.value(0)
}

// distribution adds a histogram.
func (s samples) distribution(d Distribution, labels ...string) {
	buckets := make(map[float64]uint64, len(d.Buckets))
	for _, b := range d.Buckets {
		buckets[b.AtMost.Seconds()] = b.Count
	}
	s.ch <- prometheus.MustNewConstHistogram(s.family.desc, d.Count, d.Sum.Seconds(), buckets, labels...)
}
