package api

// Nodes answers GET /v1/nodes.
type Nodes struct {
	// View names the node whose view this is: the leader's if it answers, because only the leader
	// knows the sessions.
	View  string `json:"view"`
	Nodes []Node `json:"nodes"` // sorted by name
}

// Node is one member of the cluster.
type Node struct {
	Name    string `json:"name"`
	Role    string `json:"role"` // "server" or "proxy"; "" if it is unknown
	Leader  bool   `json:"leader"`
	Health  string `json:"health"`  // "alive", "suspect", "dead" or "left"
	Session string `json:"session"` // "live", "fenced", "expired" or "none"
	// Draining: its proxy refuses new work.
	Draining bool `json:"draining"`
	// ReclaimIn is the time until the cluster takes the node's slots back; null if that is not
	// pending.
	ReclaimIn *Duration `json:"reclaim_in"`
	Version   string    `json:"version"`
	Addresses Addresses `json:"addresses"`
}

// Addresses are the addresses that other nodes dial, "host:port".
type Addresses struct {
	RPC    string `json:"rpc"`
	Gossip string `json:"gossip"`
}
