package api

import (
	"slices"
	"time"
)

// Status answers GET /v1/status: this node, and its view of the cluster.
type Status struct {
	Node    string        `json:"node"`
	Cluster string        `json:"cluster"` // its id; "" while unknown
	Version string        `json:"version"`
	Role    string        `json:"role"`   // "server" or "proxy"
	Leader  string        `json:"leader"` // "" if nobody leads
	Ready   bool          `json:"ready"`  // able to admit: see /readyz
	Session SessionStatus `json:"session"`
	Raft    RaftStatus    `json:"raft"`
	// ConfigDisagreements names the nodes whose config has another lease.ttl or other limits than
	// the cluster.
	ConfigDisagreements []string `json:"config_disagreements"`

	// Beyond the contract's minimum, for the command line.

	Draining bool `json:"draining"`
	Leaving  bool `json:"leaving"`
	// Left: the node has left, and its process is about to end. A server is out of the Raft
	// configuration, unless it was the only one.
	Left bool `json:"left"`
	// Connections counts the upstream connections that this node has open, limited or not.
	Connections int `json:"connections"`
	// ProxyAddr and APIAddr are where this node listens, "host:port".
	ProxyAddr string `json:"proxy_addr"`
	// ProxyAddrs are all addresses at which workers reach the proxy; ProxyAddr is the first.
	ProxyAddrs []string `json:"proxy_addrs"`
	// ProxyTLS: the proxy speaks TLS to workers.
	ProxyTLS bool `json:"proxy_tls,omitempty"`
	// ProxyProtocols are those that the proxy speaks: "http", "socks5".
	ProxyProtocols []string `json:"proxy_protocols"`
	APIAddr        string   `json:"api_addr"`
	// ResolvingClients are clients of this node that, in the last hour, asked for addresses over
	// SOCKS5 while limits counted names. Limits on names don't hold for those that resolve names
	// themselves. The latest is first; there are at most 64.
	ResolvingClients []ResolvingClient `json:"resolving_clients"`
	// DiskFull: the node's disk is full or read-only, so it can't write its log.
	DiskFull bool `json:"disk_full"`
	// DiskStalled: the present write to the node's log takes too long.
	DiskStalled bool `json:"disk_stalled"`
}

// ProxyScheme returns the scheme of the URL of a proxy that speaks these protocols: with HTTP it is
// http or https, without it socks5h. It is "" for SOCKS5 inside TLS only, which no URL can say. No
// protocol at all is what old nodes report, which speak HTTP.
func ProxyScheme[P ~string](protocols []P, tls bool) string {
	switch socksOnly := len(protocols) > 0 && !slices.Contains(protocols, "http"); {
	case socksOnly && tls:
		return ""
	case socksOnly:
		return "socks5h"
	case tls:
		return "https"
	}
	return "http"
}

// ResolvingClient is a client that asks for addresses over SOCKS5.
type ResolvingClient struct {
	Client      string    `json:"client"`      // its address
	Destination string    `json:"destination"` // of its last such request, with its port
	Requests    int64     `json:"requests"`
	LastSeen    time.Time `json:"last_seen"`
}

// SessionStatus describes the node's session with the cluster.
type SessionStatus struct {
	ID        uint64   `json:"id"`         // 0: none
	State     string   `json:"state"`      // "live", "fenced", "expired" or "none"
	ExpiresIn Duration `json:"expires_in"` // "0s" unless live
}

// RaftStatus describes the node's part in the consensus group.
type RaftStatus struct {
	State        string `json:"state"` // "leader", "follower", "candidate", …; "none" on a proxy
	Term         uint64 `json:"term"`
	LastIndex    uint64 `json:"last_index"`
	CommitIndex  uint64 `json:"commit_index"`
	AppliedIndex uint64 `json:"applied_index"`
}

// Health answers /healthz and /readyz.
type Health struct {
	Status string `json:"status"` // "ok"
}
