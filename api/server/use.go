package server

import (
	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// addUse adds another node's use. It changes nothing that u's pointers show.
func addUse(u *api.Use, o api.Use) {
	u.Granted += o.Granted
	u.InUse += o.InUse
	u.Idle += o.Idle
	u.Waiting += o.Waiting
	u.Admitted += o.Admitted
	u.Rejected += o.Rejected
	u.WouldReject += o.WouldReject
	u.Requests = addRates(u.Requests, o.Requests)
	if u.Bandwidth == nil || o.Bandwidth == nil {
		if u.Bandwidth == nil {
			u.Bandwidth = o.Bandwidth
		}
		return
	}
	u.Bandwidth = &api.BandwidthUse{Upload: addRates(u.Bandwidth.Upload, o.Bandwidth.Upload), Download: addRates(u.Bandwidth.Download, o.Bandwidth.Download)}
}

// addRates is the sum of two nodes' use of one rate. A node that knows no such limit yet has none.
func addRates(r, o *api.RateUse) *api.RateUse {
	if r == nil {
		return o
	}
	if o == nil {
		return r
	}
	sum := *r
	sum.Granted += o.Granted
	sum.Now += o.Now
	sum.Level = levelOf(r) + levelOf(o)
	sum.Available = int64(sum.Level)
	sum.Waiting += o.Waiting
	sum.Admitted += o.Admitted
	sum.Rejected += o.Rejected
	sum.WouldReject += o.WouldReject
	if sum.Unassigned == nil { // all servers see one log: until byLeadersLog, this node's own view of it
		sum.Unassigned = o.Unassigned
	}
	return &sum
}

// byLeadersLog takes what no node holds from the leader where it has answered. A follower's log is
// behind for some hundred milliseconds: what was just granted would be free there, and would count
// a second time beside what its holder has.
func (s *Server) byLeadersLog(hosts []api.Host) []api.Host {
	leader := s.deps.Status.Status().Leader
	for i := range hosts {
		h := &hosts[i]
		of, ok := h.Nodes[leader]
		if !ok {
			continue
		}
		h.Requests = unassignedAs(h.Requests, of.Requests)
		if h.Bandwidth != nil && of.Bandwidth != nil {
			h.Bandwidth = &api.BandwidthUse{Upload: unassignedAs(h.Bandwidth.Upload, of.Bandwidth.Upload), Download: unassignedAs(h.Bandwidth.Download, of.Bandwidth.Download)}
		}
	}
	return hosts
}

// unassignedAs is r with what lies in no node's units by another's log. It changes nothing that r
// points to.
func unassignedAs(r, o *api.RateUse) *api.RateUse {
	if r == nil || o == nil || o.Unassigned == nil {
		return r
	}
	as := *r
	as.Unassigned = o.Unassigned
	return &as
}

// levelOf is what could begin, or pass, at once. A node of an older version gives it rounded down.
func levelOf(r *api.RateUse) float64 { return max(r.Level, float64(r.Available)) }

// NodeUse is this node's use of what counts under one name. Each resource has its own totals.
type NodeUse struct {
	// Key has the scope and the name. Its resource is always [limit.Connections], which the numbers
	// beside it are of.
	Key         limit.Key
	Granted     int64
	InUse       int64
	Idle        int64
	Waiting     int64
	Admitted    uint64
	Rejected    uint64
	WouldReject uint64
	// Rates are what the node has of the rates, by resource; only those that a limit caps are shown.
	Rates map[limit.Resource]NodeRate
}

// NodeRate is this node's use of one rate, in requests or bytes a second.
type NodeRate struct {
	Granted     float64 // of the limit's rate, to this node
	Now         float64 // in the last second
	Available   float64 // what could begin, or pass, at once; ≥ 0
	Waiting     int64
	Admitted    uint64 // requests, or bytes
	Rejected    uint64
	WouldReject uint64
}

// UseSource provides this node's use of what limits count.
type UseSource interface {
	// Uses lists everything of a scope that the node has numbers of, in any order.
	Uses(scope limit.Scope) []NodeUse
	// Use returns the use of one name. The key's resource is [limit.Connections].
	Use(key limit.Key) (NodeUse, bool)
	// Unassigned returns the requests or bytes that lie in units of a rate that no node holds. A node
	// without a log does not know.
	Unassigned(key limit.Key) (n float64, known bool)
	// GrantedTo returns the units of a key that a node's session holds, by this node's log. A node
	// without a log says 0.
	GrantedTo(key limit.Key, node string) int64
}

// useOf is this node's use, beside the limit that governs it.
func (s *Server) useOf(u NodeUse, l *limit.Limit) api.Use {
	use := api.Use{
		Granted: u.Granted, InUse: u.InUse, Idle: u.Idle, Waiting: u.Waiting,
		Admitted: u.Admitted, Rejected: u.Rejected, WouldReject: u.WouldReject,
		Requests: s.rateOf(u, l, limit.Requests),
	}
	for _, r := range u.Rates { // also those that no limit caps now: what was counted stays
		use.Rejected += r.Rejected
		use.WouldReject += r.WouldReject
	}
	if l.Capped() {
		n := l.Connections
		use.Limit = &n
	}
	if l.Caps(limit.Upload) || l.Caps(limit.Download) {
		use.Bandwidth = &api.BandwidthUse{Upload: s.rateOf(u, l, limit.Upload), Download: s.rateOf(u, l, limit.Download)}
	}
	return use
}

// rateOf is rateUse with what the log has.
func (s *Server) rateOf(u NodeUse, l *limit.Limit, r limit.Resource) *api.RateUse {
	use := rateUse(u, l, r)
	if use == nil {
		return nil
	}
	key := u.Key
	key.Resource = r
	if key.Scope == limit.ScopeConnection {
		return use // nothing of it is leased
	}
	if free, known := s.deps.Uses.Unassigned(key); known {
		use.Unassigned = &free
	}
	return use
}

// rateUse is nil where the limit does not cap the resource.
func rateUse(u NodeUse, l *limit.Limit, r limit.Resource) *api.RateUse {
	if !l.Caps(r) {
		return nil
	}
	n, grains := u.Rates[r], int64(1)
	if r == limit.Requests {
		grains = limit.TokenGrains
	}
	return &api.RateUse{
		Rate: l.PerSecond(r) / float64(grains), Burst: l.BurstGrains(r) / grains,
		Granted: n.Granted, Now: n.Now, Available: int64(n.Available), Level: n.Available, Waiting: n.Waiting,
		Admitted: n.Admitted, Rejected: n.Rejected, WouldReject: n.WouldReject,
	}
}
