package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// control answers the questions that servers ask each other.
type control struct {
	clusterpb.UnimplementedControlServer
	c *Cluster
}

// ask calls another node's control service.
func ask[T any](ctx context.Context, c *Cluster, addr string, call func(context.Context, clusterpb.ControlClient) (T, error)) (T, error) {
	var none T
	if addr == "" {
		return none, errors.New("its address is not known")
	}
	conn, err := c.port.GRPCConn(addr)
	if err != nil {
		return none, err
	}
	return call(ctx, clusterpb.NewControlClient(conn))
}

// Identify implements the control service.
func (s control) Identify(context.Context, *clusterpb.IdentifyRequest) (*clusterpb.IdentifyReply, error) {
	identity, err := hex.DecodeString(s.c.cfg.Data.Identity())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &clusterpb.IdentifyReply{Name: s.c.cfg.Name, Identity: identity, UptimeNs: int64(time.Since(s.c.born))}, nil
}

// Pledge implements the control service.
func (s control) Pledge(_ context.Context, r *clusterpb.PledgeRequest) (*clusterpb.PledgeReply, error) {
	if s.c.bootstrap == nil {
		return &clusterpb.PledgeReply{Reason: "this node takes part in no bootstrap"}, nil
	}
	return s.c.bootstrap.pledgeTo(r), nil
}

// Release implements the control service.
func (s control) Release(_ context.Context, r *clusterpb.ReleaseRequest) (*clusterpb.ReleaseReply, error) {
	if s.c.bootstrap != nil {
		if err := s.c.bootstrap.ballot.release(r.GetCandidate(), r.GetRound()); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	return &clusterpb.ReleaseReply{}, nil
}

// Round implements the control service.
func (s control) Round(_ context.Context, r *clusterpb.RoundRequest) (*clusterpb.RoundReply, error) {
	if s.c.bootstrap == nil {
		return &clusterpb.RoundReply{Binding: s.c.cfg.Data.ServerID() == r.GetCandidate() && s.c.raft != nil && !s.c.raftIsEmpty()}, nil
	}
	return &clusterpb.RoundReply{Binding: s.c.bootstrap.binding(r.GetCandidate(), r.GetRound())}, nil
}

// RaftStats implements the control service.
func (s control) RaftStats(context.Context, *clusterpb.RaftStatsRequest) (*clusterpb.RaftStatsReply, error) {
	if s.c.raft == nil {
		return nil, status.Error(codes.FailedPrecondition, ErrNoRaft.Error())
	}
	return s.c.raftStats(), nil
}

// Remove implements the control service.
func (s control) Remove(ctx context.Context, r *clusterpb.RemoveRequest) (*clusterpb.RemoveReply, error) {
	if s.c.raft == nil {
		return nil, status.Error(codes.FailedPrecondition, ErrNoRaft.Error())
	}
	switch _, err := s.c.removeServer(ctx, r.GetServer()); {
	case err == nil, errors.Is(err, ErrUnknownPeer):
		return &clusterpb.RemoveReply{}, nil
	case errors.Is(err, ErrNotLeader):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	default:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
}

// Detach implements the control service.
func (s control) Detach(_ context.Context, r *clusterpb.DetachRequest) (*clusterpb.DetachReply, error) {
	if r.GetServer() != s.c.cfg.Data.ServerID() {
		return nil, status.Error(codes.NotFound, "this is another server")
	}
	s.c.log.Warn("an operator has removed this server from the Raft configuration: it is added again when its process restarts")
	s.c.setMeta(func(m *clusterpb.Meta) { m.Detached = true })
	return &clusterpb.DetachReply{}, nil
}

// Recall implements the control service.
func (s control) Recall(_ context.Context, r *clusterpb.RecallRequest) (*clusterpb.RecallReply, error) {
	if s.c.past == nil {
		return nil, status.Error(codes.FailedPrecondition, ErrNoRaft.Error())
	}
	return s.c.past.recallFor(r), nil
}

// Remember implements the control service.
func (s control) Remember(_ context.Context, r *clusterpb.RememberRequest) (*clusterpb.RememberReply, error) {
	if s.c.past == nil {
		return nil, status.Error(codes.FailedPrecondition, ErrNoRaft.Error())
	}
	s.c.past.rememberAll(r)
	return &clusterpb.RememberReply{}, nil
}

// raftStats describes the end of this server's log.
func (c *Cluster) raftStats() *clusterpb.RaftStatsReply {
	stats := c.raft.Stats()
	term, _ := strconv.ParseUint(stats["last_log_term"], 10, 64) // Raft writes a number
	reply := &clusterpb.RaftStatsReply{LastTerm: term, LastIndex: c.raft.LastIndex(), LastContactNs: -1}
	if contact := c.raft.LastContact(); !contact.IsZero() {
		reply.LastContactNs = int64(time.Since(contact))
	}
	if c.leadingTerm() != 0 {
		reply.LastContactNs = 0
	}
	return reply
}

// settleConflict decides which of two live nodes with one name has to stop: the one that started
// later. The other may also be this node's former process, or gone.
func (c *Cluster) settleConflict(other Member) {
	if other.Identity == c.cfg.Data.Identity() {
		return
	}
	ctx, cancel := context.WithTimeout(c.life, conflictTimeout)
	defer cancel()
	reply, err := ask(ctx, c, other.RPCAddr, func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.IdentifyReply, error) {
		return cc.Identify(ctx, &clusterpb.IdentifyRequest{})
	})
	if err != nil || reply.GetName() != c.cfg.Name || hex.EncodeToString(reply.GetIdentity()) == c.cfg.Data.Identity() {
		c.log.Debug("a former process of this name is still listed: it will be replaced", "at", other.RPCAddr, "error", err)
		return
	}
	mine, theirs := time.Since(c.born), time.Duration(reply.GetUptimeNs())
	if mine > theirs || (mine == theirs && c.cfg.Data.Identity() < other.Identity) {
		c.log.Warn("another process has started with this node's name: it has to stop", "at", other.RPCAddr)
		return
	}
	c.nameTaken.Store(true)
	c.fatal(fmt.Errorf("%w: a node named %q runs at %s: set another name", ErrNameTaken, c.cfg.Name, other.RPCAddr))
}
