package server

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// kind is a metric's type in Prometheus's words.
type kind string

const (
	gauge     kind = "gauge"
	counter   kind = "counter"
	histogram kind = "histogram"
)

// family is one metric: its name, which never changes, and how it is read.
type family struct {
	name   string
	kind   kind
	labels []string
	help   string
	read   func(*moment, samples)

	desc *prometheus.Desc
}

// moment is the node's state at one moment.
type moment struct {
	Measures
	status api.Status
	known  []NodeUse
	hosts  []hostSeries // those of scope host
	scopes map[limit.Scope][]hostSeries
}

// server reports whether the node holds Raft state.
func (m *moment) server() bool { return m.status.Raft.State != "none" }

// families lists all of weir's own metrics. A test compares them with docs/metrics.md.
func families() []family {
	return slices.Concat(nodeFamilies(), hostFamilies(), limitFamilies(), proxyFamilies(), dnsFamilies(), sessionFamilies(), raftFamilies(), memberFamilies())
}

func nodeFamilies() []family {
	return []family{
		{name: "weir_node_info", kind: gauge, labels: []string{"node", "role", "version", "go_version"}, help: "Always 1; the labels name the node, its role and its versions.",
			read: func(m *moment, s samples) {
				s.value(1, m.status.Node, m.status.Role, m.status.Version, m.GoVersion)
			}},
		{name: "weir_ready", kind: gauge, help: "1 while the node can admit connections to limited hosts, as /readyz says.",
			read: func(m *moment, s samples) { s.truth(m.status.Ready) }},
		{name: "weir_draining", kind: gauge, help: "1 while the node takes no new work because it is draining or leaving.",
			read: func(m *moment, s samples) { s.truth(m.status.Draining) }},
		{name: "weir_tls_certificate_expiry_timestamp_seconds", kind: gauge, labels: []string{"listener"}, help: "When a listener's certificate expires, in seconds since 1970: rpc, api or proxy, if it speaks TLS. For rpc, when the CA expires if that is earlier.",
			read: func(m *moment, s samples) {
				for _, listener := range slices.Sorted(maps.Keys(m.Certificates)) {
					s.value(float64(m.Certificates[listener].Unix()), listener)
				}
			}},
	}
}

func hostFamilies() []family {
	host := []string{"host"}
	each := func(f func(hostSeries) float64) func(*moment, samples) {
		return func(m *moment, s samples) {
			for _, h := range m.hosts {
				s.value(f(h), h.name)
			}
		}
	}
	return []family{
		{name: "weir_hosts", kind: gauge, help: "Hosts that the node has used in the last ten minutes. If there are more than api.metrics_hosts, the rest is added up as host=\"other\".",
			read: func(m *moment, s samples) { s.value(float64(len(m.known))) }},
		{name: "weir_slots_limit", kind: gauge, labels: host, help: "The limit that applies to a host, for the whole cluster; absent if there is none.",
			read: func(m *moment, s samples) {
				for _, h := range m.hosts {
					if h.limit != nil {
						s.value(float64(*h.limit), h.name)
					}
				}
			}},
		{name: "weir_slots_granted", kind: gauge, labels: host, help: "Slots that the cluster has granted to this node.",
			read: each(func(h hostSeries) float64 { return float64(h.granted) })},
		{name: "weir_slots_in_use", kind: gauge, labels: host, help: "Upstream connections of this node, including those kept for reuse and those to hosts without a limit.",
			read: each(func(h hostSeries) float64 { return float64(h.inUse) })},
		{name: "weir_slots_waiting", kind: gauge, labels: host, help: "Requests that wait on this node for a slot.",
			read: each(func(h hostSeries) float64 { return float64(h.waiting) })},
		{name: "weir_admissions_total", kind: counter, labels: host, help: "Upstream connections that were admitted.",
			read: each(func(h hostSeries) float64 { return float64(h.admitted) })},
		{name: "weir_rejections_total", kind: counter, labels: host, help: "Requests that got no slot.",
			read: each(func(h hostSeries) float64 { return float64(h.rejected) })},
	}
}

// limitFamilies show, in every scope, what limits cap.
func limitFamilies() []family {
	labels := []string{"scope", "resource", "name"}
	each := func(f func(hostSeries, limit.Resource) (v float64, ok bool)) func(*moment, samples) {
		return func(m *moment, s samples) {
			for _, scope := range countedScopes {
				for _, h := range m.scopes[scope] {
					for _, r := range limit.Resources {
						if v, ok := f(h, r); ok && h.resources[r].shown {
							s.value(v, scope.String(), r.String(), h.name)
						}
					}
				}
			}
		}
	}
	now := func(f func(resourceSeries) float64) func(*moment, samples) {
		return each(func(h hostSeries, r limit.Resource) (float64, bool) { return f(h.resources[r]), !h.own })
	}
	total := func(f func(counts) uint64) func(*moment, samples) {
		return each(func(h hostSeries, r limit.Resource) (float64, bool) { return float64(f(h.capped[r])), true })
	}
	return []family{
		{name: "weir_limit", kind: gauge, labels: labels, help: "What the limit allows in the whole cluster: connections at once, or requests or bytes per second; absent for name=\"other\".",
			read: each(func(h hostSeries, r limit.Resource) (float64, bool) {
				return h.resources[r].limit, h.name != otherHosts
			})},
		{name: "weir_limit_granted", kind: gauge, labels: labels, help: "What the cluster has granted of it to this node.",
			read: now(func(r resourceSeries) float64 { return r.granted })},
		{name: "weir_limit_used", kind: gauge, labels: labels, help: "What this node uses of it: connections that are open, or requests or bytes in the last second.",
			read: now(func(r resourceSeries) float64 { return r.used })},
		{name: "weir_limit_waiting", kind: gauge, labels: labels, help: "Requests, or for bandwidth connections, that wait for it on this node.",
			read: now(func(r resourceSeries) float64 { return r.waiting })},
		{name: "weir_limit_admitted_total", kind: counter, labels: labels, help: "Connections or requests that were admitted, or bytes that passed, under the limit.",
			read: total(func(c counts) uint64 { return c.admitted })},
		{name: "weir_limit_rejected_total", kind: counter, labels: labels, help: "Requests that the limit refused.",
			read: total(func(c counts) uint64 { return c.rejected })},
		{name: "weir_limit_would_reject_total", kind: counter, labels: labels, help: "What a limit in mode report would have refused, or held back.",
			read: total(func(c counts) uint64 { return c.wouldReject })},
	}
}

func proxyFamilies() []family {
	number := func(f func(ProxyMeasures) int64) func(*moment, samples) {
		return func(m *moment, s samples) { s.value(float64(f(m.Proxy))) }
	}
	return []family{
		{name: "weir_clients", kind: gauge, help: "Connections of workers that are open.",
			read: number(func(p ProxyMeasures) int64 { return p.Clients })},
		{name: "weir_connections", kind: gauge, help: "Upstream connections that are open, limited or not.",
			read: func(m *moment, s samples) { s.value(float64(m.status.Connections)) }},
		{name: "weir_requests_total", kind: counter, help: "Requests with a well-formed head, and SOCKS5 requests.",
			read: number(func(p ProxyMeasures) int64 { return p.Requests })},
		{name: "weir_tunnels_total", kind: counter, help: "CONNECT, SOCKS5 and upgrade tunnels begun.",
			read: number(func(p ProxyMeasures) int64 { return p.Tunnels })},
		{name: "weir_socks5_address_requests_total", kind: counter, help: "SOCKS5 requests for an address while limits counted names: limits on names don't hold for clients that resolve names themselves.",
			read: number(func(p ProxyMeasures) int64 { return p.AddressRequests })},
		{name: "weir_exchanges_total", kind: counter, help: "Plain requests that an upstream answered.",
			read: number(func(p ProxyMeasures) int64 { return p.Exchanges })},
		{name: "weir_exchanges_reused_total", kind: counter, help: "Plain requests on an upstream connection that was kept for reuse.",
			read: number(func(p ProxyMeasures) int64 { return p.Reused })},
		{name: "weir_retries_total", kind: counter, help: "Plain requests sent again because a connection kept for reuse had ended.",
			read: number(func(p ProxyMeasures) int64 { return p.Retries })},
		{name: "weir_refusals_total", kind: counter, labels: []string{"reason"}, help: "Requests that the proxy refused, by the error in Proxy-Status, or a more exact reason; refused SOCKS5 requests count alike.",
			read: func(m *moment, s samples) {
				for _, reason := range slices.Sorted(maps.Keys(m.Proxy.Refusals)) {
					s.value(float64(m.Proxy.Refusals[reason]), reason)
				}
			}},
		{name: "weir_limit_refusals_total", kind: counter, labels: []string{"scope", "resource"}, help: "Requests that a limit refused, by the scope and the resource of the limit.",
			read: func(m *moment, s samples) {
				for _, l := range m.Proxy.LimitRefusals {
					s.value(float64(l.Refused), l.Scope, l.Resource)
				}
			}},
		{name: "weir_queue_wait_seconds", kind: histogram, help: "How long admitted requests to limited hosts waited for their slot; refused ones are not counted.",
			read: func(m *moment, s samples) { s.distribution(m.Proxy.QueueWait) }},
		{name: "weir_dial_seconds", kind: histogram, help: "How long connecting to the upstream took, if it succeeded.",
			read: func(m *moment, s samples) { s.distribution(m.Proxy.DialTime) }},
		{name: "weir_dial_errors_total", kind: counter, help: "Upstreams that could not be resolved or connected to.",
			read: number(func(p ProxyMeasures) int64 { return p.DialErrors })},
		{name: "weir_bytes_total", kind: counter, labels: []string{"direction"}, help: "Bytes of tunnels and requests, including those still open.",
			read: func(m *moment, s samples) {
				s.value(float64(m.Proxy.BytesOut), "to_upstream")
				s.value(float64(m.Proxy.BytesIn), "from_upstream")
			}},
	}
}

func dnsFamilies() []family {
	return []family{
		{name: "weir_dns_lookups_total", kind: counter, labels: []string{"result"}, help: "Names that were resolved for connections, by result: remembered, hosts, ok, not_found, timeout, error or abandoned.",
			read: func(m *moment, s samples) {
				for _, result := range slices.Sorted(maps.Keys(m.Proxy.DNS.Lookups)) {
					s.value(float64(m.Proxy.DNS.Lookups[result]), result)
				}
			}},
		{name: "weir_dns_lookup_seconds", kind: histogram, help: "How long lookups that asked name servers took, whatever their result; connections that wait for the same name share one.",
			read: func(m *moment, s samples) { s.distribution(m.Proxy.DNS.LookupSeconds) }},
		{name: "weir_dns_lookups_in_flight", kind: gauge, help: "Lookups that wait for name servers.",
			read: func(m *moment, s samples) { s.value(float64(m.Proxy.DNS.InFlight)) }},
		{name: "weir_dns_queries_total", kind: counter, help: "Queries that were sent to name servers.",
			read: func(m *moment, s samples) { s.value(float64(m.Proxy.DNS.Queries)) }},
		{name: "weir_dns_names", kind: gauge, help: "Names whose answers are in memory, including expired ones.",
			read: func(m *moment, s samples) { s.value(float64(m.Proxy.DNS.Names)) }},
	}
}

func sessionFamilies() []family {
	return []family{
		{name: "weir_session_live", kind: gauge, help: "1 while the node's session with the cluster is live.",
			read: func(m *moment, s samples) { s.truth(m.status.Session.State == "live") }},
		{name: "weir_session_age_seconds", kind: gauge, help: "How long the node has had its session; 0 without a live one.",
			read: func(m *moment, s samples) { s.value(m.Session.Age.Seconds()) }},
		{name: "weir_session_expires_in_seconds", kind: gauge, help: "The time until the node must stop using its slots, unless the cluster answers before.",
			read: func(m *moment, s samples) { s.value(seconds(m.status.Session.ExpiresIn)) }},
		{name: "weir_fences_total", kind: counter, help: "How often the node had to stop using limited hosts because it could not prove its session.",
			read: func(m *moment, s samples) { s.value(float64(m.Session.Fences)) }},
		{name: "weir_reclaim_seconds", kind: histogram, labels: []string{"why"}, help: "How long slots of ended sessions took to come back while this node led, from the node's last sign of life that this leader received; why is expired, left or taken_over.",
			read: func(m *moment, s samples) {
				for _, why := range slices.Sorted(maps.Keys(m.Cluster.Reclaims)) {
					s.distribution(m.Cluster.Reclaims[why], why)
				}
			}},
		{name: "weir_reclaimed_slots_total", kind: counter, labels: []string{"why"}, help: "Slots that came back from ended sessions while this node led.",
			read: func(m *moment, s samples) {
				for _, why := range slices.Sorted(maps.Keys(m.Cluster.ReclaimedSlots)) {
					s.value(float64(m.Cluster.ReclaimedSlots[why]), why)
				}
			}},
	}
}

// raftFamilies exist on servers only.
func raftFamilies() []family {
	onServers := func(f func(*moment, samples)) func(*moment, samples) {
		return func(m *moment, s samples) {
			if m.server() {
				f(m, s)
			}
		}
	}
	number := func(f func(*moment) uint64) func(*moment, samples) {
		return onServers(func(m *moment, s samples) { s.value(float64(f(m))) })
	}
	return []family{
		{name: "weir_raft_leader", kind: gauge, help: "1 on the server that leads.",
			read: onServers(func(m *moment, s samples) { s.truth(m.status.Raft.State == "leader") })},
		{name: "weir_raft_term", kind: gauge, help: "The Raft term; it rises with each election.",
			read: number(func(m *moment) uint64 { return m.status.Raft.Term })},
		{name: "weir_raft_last_index", kind: gauge, help: "The last entry in this server's log.",
			read: number(func(m *moment) uint64 { return m.status.Raft.LastIndex })},
		{name: "weir_raft_commit_index", kind: gauge, help: "The last entry that this server knows to be committed.",
			read: number(func(m *moment) uint64 { return m.status.Raft.CommitIndex })},
		{name: "weir_raft_applied_index", kind: gauge, help: "The last entry that this server has applied.",
			read: number(func(m *moment) uint64 { return m.status.Raft.AppliedIndex })},
		{name: "weir_raft_commit_seconds", kind: histogram, help: "How long entries that this server proposed as the leader took until they were applied.",
			read: onServers(func(m *moment, s samples) { s.distribution(m.Cluster.Commits) })},
		{name: "weir_raft_log_entries", kind: gauge, help: "Entries in this server's log; 0 while its disk has stalled.",
			read: number(func(m *moment) uint64 { return m.Cluster.LogEntries })},
		{name: "weir_raft_log_bytes", kind: gauge, help: "Size of the log's file, which does not shrink when entries are removed; 0 in memory and while the disk has stalled.",
			read: number(func(m *moment) uint64 { return m.Cluster.LogBytes })},
		{name: "weir_raft_voters", kind: gauge, help: "Voters in the Raft configuration.",
			read: number(func(m *moment) uint64 { return uint64(m.Cluster.Voters) })},
		{name: "weir_disk_full", kind: gauge, help: "1 while the server can't write its log because the disk is full or read-only.",
			read: onServers(func(m *moment, s samples) { s.truth(m.status.DiskFull) })},
		{name: "weir_disk_stalled", kind: gauge, help: "1 while a write of the log takes too long.",
			read: onServers(func(m *moment, s samples) { s.truth(m.status.DiskStalled) })},
	}
}

func memberFamilies() []family {
	return []family{
		{name: "weir_leader_known", kind: gauge, help: "1 while the node knows the leader.",
			read: func(m *moment, s samples) { s.truth(m.status.Leader != "") }},
		{name: "weir_leader_changes_total", kind: counter, help: "How often the node has learned of a new leader, or of the same one after an interruption.",
			read: func(m *moment, s samples) { s.value(float64(m.Cluster.LeaderChanges)) }},
		{name: "weir_members", kind: gauge, labels: []string{"health"}, help: "Nodes that gossip knows, including this one: alive, suspect, dead or left.",
			read: func(m *moment, s samples) {
				for _, health := range []string{"alive", "dead", "left", "suspect"} {
					s.value(float64(m.Members[health]), health)
				}
			}},
		{name: "weir_gossip_score", kind: gauge, help: "Gossip's estimate of this node's health: 0 is best; a higher value means that answers don't arrive in time.",
			read: func(m *moment, s samples) { s.value(float64(m.Cluster.GossipScore)) }},
		{name: "weir_config_disagreements", kind: gauge, help: "Nodes whose config has another lease.ttl or other limits than the cluster.",
			read: func(m *moment, s samples) { s.value(float64(len(m.status.ConfigDisagreements))) }},
	}
}

func seconds(d api.Duration) float64 { return time.Duration(d).Seconds() }
