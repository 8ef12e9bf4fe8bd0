package api

import (
	"github.com/weirproxy/weir/limit"
)

// Use is the use of what is counted under one name, on one node or in all.
type Use struct {
	Limit       *int64 `json:"limit"` // of connections; null: no cap
	Granted     int64  `json:"granted"`
	InUse       int64  `json:"in_use"`
	Idle        int64  `json:"idle"` // of InUse: upstream connections kept for reuse, without a request
	Waiting     int64  `json:"waiting"`
	Admitted    uint64 `json:"admitted_total"`
	Rejected    uint64 `json:"rejected_total"`
	WouldReject uint64 `json:"would_reject_total"` // what a limit in report mode would have refused
	// Requests is set where a limit caps the rate of requests.
	Requests *RateUse `json:"requests,omitempty"`
	// Bandwidth is set where a limit caps bandwidth.
	Bandwidth *BandwidthUse `json:"bandwidth,omitempty"`
}

// RateUse is the use of a rate: requests, or bytes in one direction, a second.
type RateUse struct {
	Rate        float64 `json:"rate"`               // the limit, for the whole cluster
	Burst       int64   `json:"burst"`              // the most at once
	Granted     float64 `json:"granted"`            // of the rate, to nodes
	Now         float64 `json:"now"`                // in the last second
	Available   int64   `json:"available"`          // what could begin, or pass, at once, of what is granted
	Waiting     int64   `json:"waiting"`            // requests, or connections, that wait for it
	Admitted    uint64  `json:"admitted_total"`     // requests begun, or bytes passed
	Rejected    uint64  `json:"rejected_total"`     // requests refused
	WouldReject uint64  `json:"would_reject_total"` // what a limit in report mode would have refused, or held back
	// Unassigned is what lies in units that no node holds, and goes with them to the next that asks:
	// requests or bytes, by the log. It is not part of Available. Nil: no server has answered.
	Unassigned *float64 `json:"unassigned,omitempty"`
}

// BandwidthUse is the use of bandwidth in the directions that a limit caps.
type BandwidthUse struct {
	Upload   *RateUse `json:"upload,omitempty"`
	Download *RateUse `json:"download,omitempty"`
}

// add adds another node's use. It changes nothing that u's pointers show.
func (u *Use) add(o Use) {
	u.Granted += o.Granted
	u.InUse += o.InUse
	u.Idle += o.Idle
	u.Waiting += o.Waiting
	u.Admitted += o.Admitted
	u.Rejected += o.Rejected
	u.WouldReject += o.WouldReject
	u.Requests = u.Requests.plus(o.Requests)
	if u.Bandwidth == nil || o.Bandwidth == nil {
		if u.Bandwidth == nil {
			u.Bandwidth = o.Bandwidth
		}
		return
	}
	u.Bandwidth = &BandwidthUse{Upload: u.Bandwidth.Upload.plus(o.Bandwidth.Upload), Download: u.Bandwidth.Download.plus(o.Bandwidth.Download)}
}

// plus is the sum of two nodes' use of one rate. A node that knows no such limit yet has none.
func (r *RateUse) plus(o *RateUse) *RateUse {
	if r == nil {
		return o
	}
	if o == nil {
		return r
	}
	sum := *r
	sum.Granted += o.Granted
	sum.Now += o.Now
	sum.Available += o.Available
	sum.Waiting += o.Waiting
	sum.Admitted += o.Admitted
	sum.Rejected += o.Rejected
	sum.WouldReject += o.WouldReject
	if sum.Unassigned == nil { // all servers see one log: this node's own view of it is preferred
		sum.Unassigned = o.Unassigned
	}
	return &sum
}

// NodeUse is this node's use of what counts under one name.
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
}

// useOf is this node's use, beside the limit that governs it.
func (s *Server) useOf(u NodeUse, l *limit.Limit) Use {
	use := Use{
		Granted: u.Granted, InUse: u.InUse, Idle: u.Idle, Waiting: u.Waiting,
		Admitted: u.Admitted, Rejected: u.Rejected, WouldReject: u.WouldReject,
		Requests: s.rateOf(u, l, limit.Requests),
	}
	if l.Capped() {
		n := l.Connections
		use.Limit = &n
	}
	if l.Caps(limit.Upload) || l.Caps(limit.Download) {
		use.Bandwidth = &BandwidthUse{Upload: s.rateOf(u, l, limit.Upload), Download: s.rateOf(u, l, limit.Download)}
	}
	return use
}

// rateOf is rateUse with what the log has.
func (s *Server) rateOf(u NodeUse, l *limit.Limit, r limit.Resource) *RateUse {
	use := rateUse(u, l, r)
	if use == nil {
		return nil
	}
	key := u.Key
	key.Resource = r
	if free, known := s.deps.Uses.Unassigned(key); known {
		use.Unassigned = &free
	}
	return use
}

// rateUse is nil where the limit does not cap the resource.
func rateUse(u NodeUse, l *limit.Limit, r limit.Resource) *RateUse {
	if !l.Caps(r) {
		return nil
	}
	n, grains := u.Rates[r], int64(1)
	if r == limit.Requests {
		grains = limit.TokenGrains
	}
	return &RateUse{
		Rate: l.PerSecond(r) / float64(grains), Burst: l.BurstGrains(r) / grains,
		Granted: n.Granted, Now: n.Now, Available: int64(n.Available), Waiting: n.Waiting,
		Admitted: n.Admitted, Rejected: n.Rejected, WouldReject: n.WouldReject,
	}
}
