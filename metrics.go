package weir

import (
	"runtime"
	"sync/atomic"

	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/resolve"
)

// Measures implements [server.MetricSource].
func (v view) Measures() server.Measures {
	m := server.Measures{GoVersion: runtime.Version(), Members: map[string]int{}, Certificates: v.certs.ends(), Proxy: proxyMeasures(v.proxy)}
	m.Proxy.DNS = dnsMeasures(v.resolver)
	m.Proxy.DNS.LookupSeconds = v.timings.lookup.Read()
	m.Proxy.QueueWait, m.Proxy.DialTime = v.timings.queueWait.Read(), v.timings.dial.Read()
	for _, member := range v.members.Members() {
		m.Members[string(member.Health)]++
	}
	s := v.manager.Session()
	m.Session = server.SessionMeasures{Age: s.Age, Fences: s.Fences}
	c := v.members.Measures()
	m.Cluster = server.ClusterMeasures{
		Commits: v.timings.commits.Read(), LeaderChanges: c.LeaderChanges, LogEntries: c.LogEntries, LogBytes: c.LogBytes,
		Voters: c.Voters, GossipScore: c.GossipScore,
	}
	if v.leases != nil {
		m.Cluster.Reclaims, m.Cluster.ReclaimedSlots = v.reclaims.read()
	}
	return m
}

func proxyMeasures(p *proxy.Server) server.ProxyMeasures {
	c, bytes := p.Counters(), p.Bytes()
	m := server.ProxyMeasures{
		Clients: c.Clients.Load(), Requests: c.Requests.Load(), Tunnels: c.Tunnels.Load(), Exchanges: c.Exchanges.Load(),
		AddressRequests: c.Addresses.Load(),
		Reused:          c.Reused.Load(), Retries: c.Retries.Load(), DialErrors: c.DialErrors.Load(),
		Refusals: map[string]int64{},
		BytesOut: bytes.In, BytesIn: bytes.Out, // the proxy counts from the client's side
	}
	for _, r := range proxy.Refusals() {
		m.Refusals[r.String()] = c.Refusals[r].Load()
	}
	for _, l := range proxy.LimitsRefused() {
		m.LimitRefusals = append(m.LimitRefusals, server.LimitRefusals{Scope: l.Scope.String(), Resource: l.Resource.String(), Refused: c.RefusedBy(l)})
	}
	return m
}

func dnsMeasures(r *resolve.Resolver) server.DNSMeasures {
	s := r.Stats()
	return server.DNSMeasures{Lookups: s.Lookups, Queries: s.Queries, InFlight: s.InFlight, Names: s.Names}
}

// timings are histograms of durations. The zero value is ready.
type timings struct{ queueWait, lookup, dial, commits server.Histogram }

// reclaims counts the sessions that ended while this node led. The zero value is ready.
type reclaims struct{ expired, left, takenOver reclaimed }

// reclaimed holds the sessions that ended for one cause.
type reclaimed struct {
	took  server.Histogram
	slots atomic.Int64
}

// sessionEnded is told of each session that ends while this node leads.
func (n *Node) sessionEnded(end leader.SessionEnd) {
	n.reclaims.note(end)
	n.events.Reclaimed(end.Node, end.Session, end.Why, end.Slots, end.Silent)
}

func (r *reclaims) note(end leader.SessionEnd) {
	var by *reclaimed
	switch end.Why {
	case "expired":
		by = &r.expired
	case "left":
		by = &r.left
	default:
		by = &r.takenOver
	}
	by.took.Observe(end.Silent)
	by.slots.Add(end.Slots)
}

// read returns, by cause, the durations and the reclaimed slots.
func (r *reclaims) read() (took map[string]server.Distribution, slots map[string]int64) {
	took, slots = map[string]server.Distribution{}, map[string]int64{}
	for why, by := range map[string]*reclaimed{"expired": &r.expired, "left": &r.left, "taken_over": &r.takenOver} {
		took[why], slots[why] = by.took.Read(), by.slots.Load()
	}
	return took, slots
}
