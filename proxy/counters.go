package proxy

import "github.com/weirproxy/weir/limit"

// Refusal is the reason for a refusal as the metrics name it: RFC 9209's error, or something more
// specific.
type Refusal uint8

// The reasons. Their order is that of [Refusal.String].
const (
	RefusedOther Refusal = iota
	RefusedLimit
	RefusedQueueFull
	RefusedQueueTimeout
	RefusedNoLease
	RefusedDraining
	RefusedDNS
	RefusedDNSTimeout
	RefusedConnectionRefused
	RefusedConnectionTimeout
	RefusedConnectionTerminated
	RefusedUnroutable
	RefusedUnavailable
	RefusedProhibited
	RefusedDenied
	RefusedMalformed
	RefusedLoop
	RefusedNode
	RefusedCredentials
	RefusedNoResponse
	RefusedWriteTimeout
	RefusedBadResponse
	RefusedResponseHead

	refusalCount
)

var refusalNames = [refusalCount]string{
	"other", "connection_limit_reached", "queue_full", "queue_timeout", "no_lease", "draining",
	"dns_error", "dns_timeout", "connection_refused", "connection_timeout", "connection_terminated",
	"destination_ip_unroutable", "destination_unavailable", "destination_ip_prohibited",
	"http_request_denied", "http_request_error", "proxy_loop_detected", "node_detected",
	"bad_credentials",
	"http_response_timeout", "connection_write_timeout", "http_protocol_error",
	"http_response_header_section_size",
}

// String is the reason's name in the metrics.
func (r Refusal) String() string { return refusalNames[r] }

// Refusals lists all reasons.
func Refusals() []Refusal {
	all := make([]Refusal, refusalCount)
	for i := range all {
		all[i] = Refusal(i)
	}
	return all
}

// countedAs is the reason as the metrics know it. Reasons that are missing count as
// [RefusedOther]: those whose error is proxy_internal_error, without a name of their own.
var countedAs = [reasonCount]Refusal{
	reasonNoLease:           RefusedNoLease,
	reasonDraining:          RefusedDraining,
	reasonOverLimit:         RefusedLimit,
	reasonQueueFull:         RefusedQueueFull,
	reasonQueueTimeout:      RefusedQueueTimeout,
	reasonBlocked:           RefusedLimit,
	reasonClosed:            RefusedConnectionTerminated,
	reasonClientDenied:      RefusedDenied,
	reasonCredentials:       RefusedCredentials,
	reasonGuessing:          RefusedCredentials,
	reasonMalformed:         RefusedMalformed,
	reasonProtocol:          RefusedMalformed,
	reasonCommand:           RefusedMalformed,
	reasonAddressType:       RefusedMalformed,
	reasonAddress:           RefusedProhibited,
	reasonHeadTimeout:       RefusedMalformed,
	reasonHeadTooLarge:      RefusedMalformed,
	reasonClientStalled:     RefusedMalformed,
	reasonProhibited:        RefusedProhibited,
	reasonLoop:              RefusedLoop,
	reasonNode:              RefusedNode,
	reasonDNS:               RefusedDNS,
	reasonDNSTimeout:        RefusedDNSTimeout,
	reasonConnectionRefused: RefusedConnectionRefused,
	reasonConnectionTimeout: RefusedConnectionTimeout,
	reasonConnectionBroken:  RefusedConnectionTerminated,
	reasonUnroutable:        RefusedUnroutable,
	reasonUnavailable:       RefusedUnavailable,

	reasonNoResponse:         RefusedNoResponse,
	reasonWriteTimeout:       RefusedWriteTimeout,
	reasonBadResponse:        RefusedBadResponse,
	reasonResponseHeadTooBig: RefusedResponseHead,
}

func (r *refusal) counted() Refusal { return countedAs[r.reason] }

// refused counts a refusal.
func (c *Counters) refused(r *refusal) {
	c.Refused.Add(1)
	c.Refusals[r.counted()].Add(1)
	if r.limit != nil {
		c.limits.of(r.limit.Key.Scope, r.limit.Key.Resource).Add(1)
	}
}

// limitCounters has a counter for each scope and resource.
type limitCounters [int(limit.ScopeConnection) + 1][int(limit.Download) + 1]counter

// of returns the counter of a scope and a resource; those that this version does not know share
// one.
func (c *limitCounters) of(s limit.Scope, r limit.Resource) *counter {
	if !s.Known() || !r.Known() {
		return &c[0][0]
	}
	return &c[s][r]
}

// LimitRefused is a scope and a resource whose limits refuse requests.
type LimitRefused struct {
	Scope    limit.Scope
	Resource limit.Resource
}

// LimitsRefused lists those that there can be.
func LimitsRefused() []LimitRefused {
	var list []LimitRefused
	for _, s := range [...]limit.Scope{limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeHost} {
		list = append(list, LimitRefused{s, limit.Connections}, LimitRefused{s, limit.Requests})
	}
	return list
}

// RefusedBy returns how many requests a limit of the scope and resource has refused.
func (c *Counters) RefusedBy(l LimitRefused) int64 { return c.limits.of(l.Scope, l.Resource).Load() }

// noteOpened reports how long the flow's connection took to open. The wait for slots counts only
// under a limit.
func (f *flow) noteOpened(r *request) {
	if f.slot.Limited() || r.claims.Limited() {
		f.srv.onWait(r.waited)
	}
	f.srv.onDial(f.dialTime)
}

// Bytes are the bytes carried so far by all connections, open or closed. Neither number ever falls.
type Bytes struct {
	In  uint64 // from clients to upstreams
	Out uint64 // from upstreams to clients
}

// Bytes returns the bytes carried so far.
func (s *Server) Bytes() (sum Bytes) {
	for i := range s.flows.shards {
		shard := &s.flows.shards[i]
		shard.mu.Lock()
		for _, f := range shard.flows {
			shard.carried.note(f)
		}
		sum.In += shard.carried.In
		sum.Out += shard.carried.Out
		shard.mu.Unlock()
	}
	return sum
}

// note adds the bytes that f has carried since it was last noted. It is called for all open flows
// now and then, and once more for each at its end, so that no byte is missed or counted twice. The
// caller holds the shard's lock.
func (b *Bytes) note(f *flow) {
	in, out := f.in.Load(), f.out.Load()
	b.In += in - f.noted.In
	b.Out += out - f.noted.Out
	f.noted = Bytes{In: in, Out: out}
}
