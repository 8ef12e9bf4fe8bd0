package api

// Use is the use of what is counted under one name, on one node or in all.
type Use struct {
	Limit    *int64 `json:"limit"` // of connections; null: no cap
	Granted  int64  `json:"granted"`
	InUse    int64  `json:"in_use"` // in scopes other than host only counted under a cap
	Idle     int64  `json:"idle"`   // of InUse: upstream connections kept for reuse, without a request
	Waiting  int64  `json:"waiting"`
	Admitted uint64 `json:"admitted_total"`
	// Rejected counts the requests that were refused, for want of a slot or by the rate of requests:
	// at most one of the two refuses a request.
	Rejected uint64 `json:"rejected_total"`
	// WouldReject counts what limits in mode report would have refused: requests, by either; or held
	// back: pieces of what passes, by bandwidth.
	WouldReject uint64 `json:"would_reject_total"`
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
	// Level is Available before it was rounded down: parts of a request on several nodes may make a
	// whole one.
	Level float64 `json:"level,omitempty"`
}

// BandwidthUse is the use of bandwidth in the directions that a limit caps.
type BandwidthUse struct {
	Upload   *RateUse `json:"upload,omitempty"`
	Download *RateUse `json:"download,omitempty"`
}
