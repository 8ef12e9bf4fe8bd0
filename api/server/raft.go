package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/weirproxy/weir/api"
)

// Raft operates the consensus group. RemovePeer and TransferLeadership work on the leader;
// elsewhere they fail with ErrNotLeader. An unknown name is ErrNotFound; an action that would cost
// the quorum, or a transfer that no peer takes over, is ErrConflict.
type Raft interface {
	// RaftPeers lists the group that this node knows; ErrNoRaft on a proxy.
	RaftPeers() ([]api.RaftPeer, error)
	// RemovePeer removes a peer from the group, dead or alive, and returns the change's log index.
	RemovePeer(ctx context.Context, name string) (index uint64, err error)
	// TransferLeadership hands over to the named peer or, with "", to the most up-to-date one, and
	// returns once it leads.
	TransferLeadership(ctx context.Context, to string) error
}

// raftPeers answers from the own state on any server, so that it works without a leader. A proxy
// asks the leader.
func (s *Server) raftPeers(r *http.Request, own bool) (answer, error) {
	if _, err := query(r); err != nil {
		return answer{}, err
	}
	peers, err := s.deps.Raft.RaftPeers()
	switch {
	case errors.Is(err, ErrNoRaft) && !own:
		return answer{}, errAskLeader
	case errors.Is(err, ErrNoRaft):
		return answer{}, problemf(http.StatusServiceUnavailable, "no_leader", "this node holds no Raft state, and no leader can be asked: call a server")
	case err != nil:
		return answer{}, err
	}
	peers = append([]api.RaftPeer{}, peers...)
	slices.SortFunc(peers, func(a, b api.RaftPeer) int { return strings.Compare(a.Name, b.Name) })
	return answer{body: api.RaftPeers{Peers: peers}}, nil
}

// removeRaftPeer parses DELETE /v1/raft/peers/{name}.
func (s *Server) removeRaftPeer(r *http.Request, body []byte) (commit, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	if err := takesNothing(body); err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	return func(ctx context.Context) (answer, error) {
		index, err := s.deps.Raft.RemovePeer(ctx, name)
		if err != nil {
			return answer{}, err
		}
		s.note(ctx, "raft peer removed", "peer", name, "index", index)
		return answer{body: api.RaftPeerRemoved{Index: index, Removed: name}, index: index}, nil
	}, nil
}

// transferLeadership parses POST /v1/raft/transfer, with or without a body.
func (s *Server) transferLeadership(r *http.Request, body []byte) (commit, error) {
	if _, err := query(r); err != nil {
		return nil, err
	}
	var to string
	if len(body) > 0 {
		o, err := parseBody(body)
		if err != nil {
			return nil, err
		}
		if err := o.only("to"); err != nil {
			return nil, err
		}
		if err := o.decode("to", &to, "a peer's name"); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) (answer, error) {
		if err := s.deps.Raft.TransferLeadership(ctx, to); err != nil {
			return answer{}, err
		}
		s.note(ctx, "leadership handed over", "to", to)
		return answer{body: api.RaftTransferred{From: s.cfg.Node, To: to}}, nil
	}, nil
}
