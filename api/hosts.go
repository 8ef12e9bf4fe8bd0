package api

// Hosts answers GET /v1/hosts[?prefix=&sort=&limit=&after=&local=true].
//
// prefix selects the hosts that begin with it. sort is a field's name: "host" (the default,
// ascending), or "in_use", "granted", "waiting", "admitted_total", "rejected_total" (the largest
// first). limit is the size of a page, 1 to 10000, by default 1000. after continues after an
// earlier answer's Next, or after a host. local asks this node alone.
type Hosts struct {
	Hosts []Host `json:"hosts"`
	// Next is the value of after for the next page, if there is one.
	Next string `json:"next,omitempty"`
	// Unreachable lists the nodes whose use is missing in the sums.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}

// Unreachable is a node that didn't answer, and why.
type Unreachable struct {
	Node  string `json:"node"`
	Error string `json:"error"`
}

// Host is the use that counts under one name: a host, a host with a port if a limit names it, or
// the pattern of a shared limit. The numbers beside Nodes are sums over Nodes.
type Host struct {
	Host string `json:"host"`
	Use
	Nodes map[string]Use `json:"nodes"`
	// Pattern is the pattern of the limit that governs the host; "" without one.
	Pattern string `json:"pattern,omitempty"`
	// Unreachable is set in the answer for one host; a list has its own.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}
