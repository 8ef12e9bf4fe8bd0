package server

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/api"
)

// NodeSource provides the members.
type NodeSource interface {
	// Nodes lists every member that this node knows of, itself included.
	Nodes() []api.Node
}

// nodes asks the leader, unless own is set.
func (s *Server) nodes(r *http.Request, own bool) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	if _, _, self, ok := s.deps.Leader.Leader(); !own && ok && !self {
		return answer{}, errAskLeader
	}
	body := api.Nodes{View: s.cfg.Node, Nodes: append([]api.Node{}, s.deps.Nodes.Nodes()...)}
	for i, n := range body.Nodes {
		if n.ReclaimIn != nil {
			d := api.Duration(max(0, time.Duration(*n.ReclaimIn).Round(time.Millisecond)))
			body.Nodes[i].ReclaimIn = &d
		}
	}
	slices.SortFunc(body.Nodes, func(a, b api.Node) int { return strings.Compare(a.Name, b.Name) })
	return answer{body: body}, nil
}
