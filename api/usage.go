package api

// Usages answers GET /v1/usage/{scope}[?prefix=&sort=&limit=&after=&local=true], as [Hosts] answers
// GET /v1/hosts. sort is "name" unless given.
type Usages struct {
	Usage []Usage `json:"usage"`
	// Next, if there are more, is the after parameter for them.
	Next string `json:"next,omitempty"`
	// Unreachable lists nodes whose use is not in the sums.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}

// Usage is the use that counts under one name of a scope: a host, a client's address, a user, a
// key, or the pattern of a shared limit; "" in scope total. The numbers beside Nodes are sums over
// Nodes.
type Usage struct {
	Scope string `json:"scope"`
	Name  string `json:"name"`
	Use
	Nodes map[string]Use `json:"nodes"`
	// Pattern is the pattern of the limit that governs the name; "" without one, and in scope total.
	Pattern string `json:"pattern,omitempty"`
	// Unreachable is set in the answer for one name; a list has its own.
	Unreachable []Unreachable `json:"unreachable,omitempty"`
}
