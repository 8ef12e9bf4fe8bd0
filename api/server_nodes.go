package api

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

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
	Role    string `json:"role"` // "server" or "proxy"
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

// NodeSource provides the members.
type NodeSource interface {
	// Nodes lists every member that this node knows of, itself included.
	Nodes() []Node
}

// nodes asks the leader, unless own is set.
func (s *Server) nodes(r *http.Request, own bool) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	if _, _, self, ok := s.deps.Leader.Leader(); !own && ok && !self {
		return answer{}, errAskLeader
	}
	body := Nodes{View: s.cfg.Node, Nodes: append([]Node{}, s.deps.Nodes.Nodes()...)}
	for i, n := range body.Nodes {
		if n.ReclaimIn != nil {
			d := Duration(max(0, time.Duration(*n.ReclaimIn).Round(time.Millisecond)))
			body.Nodes[i].ReclaimIn = &d
		}
	}
	slices.SortFunc(body.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return answer{body: body}, nil
}
