package api

// Explanation answers GET /v1/explain?host=&client=&user=&key=. The subject is what is given: a
// connection of a client or a user to a host, or a permit for a key. A host without a port is under
// no limit that names one.
type Explanation struct {
	Host   string `json:"host,omitempty"` // as it is counted
	Client string `json:"client,omitempty"`
	User   string `json:"user,omitempty"`
	Key    string `json:"key,omitempty"`
	// Admitted reports whether the node that answers would let it in now, without waiting.
	Admitted bool `json:"admitted"`
	// Reason says what else but a limit is in the way.
	Reason string `json:"reason,omitempty"`
	// Limits are those that govern it, in the order in which they are asked.
	Limits []Governing `json:"limits"`
	// Unreachable lists nodes whose use is not in the sums.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}

// Governing is one limit that governs a subject.
type Governing struct {
	Scope   string `json:"scope"`
	Pattern string `json:"pattern"`
	// Key is the name that it is counted under, as in GET /v1/usage; "" in the scopes total and
	// connection.
	Key string `json:"key"`
	// Why says why this pattern wins over others that match.
	Why         string     `json:"why"`
	Connections *int64     `json:"connections"`
	Requests    *Rate      `json:"requests"`
	Bandwidth   *Bandwidth `json:"bandwidth"`
	Queue       *Queue     `json:"queue"`
	Mode        string     `json:"mode"`
	Source      string     `json:"source"`
	// Use is the use now, as under /v1/usage; in scope connection the totals alone.
	Use *Use `json:"use"`
	// Admitted reports whether this limit would let it in now, without waiting.
	Admitted bool `json:"admitted"`
	// Reason says what is in the way where it would not.
	Reason string `json:"reason,omitempty"`
	// Waits reports whether it would wait in the limit's queue, where it is not let in now.
	Waits bool `json:"waits,omitempty"`
}
