package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// The questions that servers ask each other about their pasts, and the answers.

// askAll asks every other voter once for what it remembers.
func (g *pastGuard) askAll(ctx context.Context) {
	g.askEach(ctx, &clusterpb.RecallRequest{Server: string(g.c.serverID())}, func(id raft.ServerID, t testimony) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if had := g.answers[id]; had.answered && !t.answered {
			return // its answer stays true
		}
		g.answers[id] = t
	})
}

// askEach sends a request to every other voter, and reports each answer, or that there was none.
func (g *pastGuard) askEach(ctx context.Context, r *clusterpb.RecallRequest, heard func(raft.ServerID, testimony)) {
	ctx, cancel := context.WithTimeout(ctx, recallTimeout*time.Duration(g.c.cfg.Multiplier))
	defer cancel()
	var wg sync.WaitGroup
	for _, id := range g.voters() {
		wg.Go(func() {
			addr, _ := g.c.addressOf(id)
			reply, err := ask(ctx, g.c, addr, func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.RecallReply, error) {
				return cc.Recall(ctx, r)
			})
			if err == nil && reply.GetServer() != string(id) {
				err = errors.New("another server has its address")
			}
			if err != nil {
				g.c.log.Debug("a server was not heard on what it remembers", "server", id, "error", err)
			}
			heard(id, testimonyOf(reply, err))
		})
	}
	wg.Wait()
}

func testimonyOf(r *clusterpb.RecallReply, err error) testimony {
	if forgets(err) {
		return testimony{answered: true, sure: true} // an older version remembers nothing, ever
	}
	if err != nil {
		return testimony{}
	}
	return testimony{
		answered: true, sure: r.GetSure(), known: rememberedOf(r.GetRemembered()), gap: rememberedOf(r.GetGap()),
		silent: time.Duration(r.GetSilentNs()), promised: r.GetPromised(), leads: r.GetLeadsTerm(), commit: r.GetCommitIndex(),
	}
}

// recallFor answers another server's question.
func (g *pastGuard) recallFor(r *clusterpb.RecallRequest) *clusterpb.RecallReply {
	asker := raft.ServerID(r.GetServer())
	known, gap := g.mem.recall(asker)
	g.mu.Lock()
	sure := g.verdict.released || g.verdict.kept
	g.mu.Unlock()
	reply := &clusterpb.RecallReply{
		Server: string(g.c.serverID()), Sure: sure, Remembered: rememberedProto(asker, known), Gap: rememberedProto(asker, gap),
	}
	select {
	case <-g.c.raftReady:
		reply.LeadsTerm, reply.CommitIndex = g.c.leadingTerm(), g.c.raft.CommitIndex()
	default:
	}
	if r.GetPromise() > 0 {
		reply.Promised = g.tryPromise(r.GetPromise(), time.Duration(r.GetSilenceNs()))
	}
	reply.SilentNs = int64(g.silence())
	return reply
}

// rememberAll adopts a leader's facts about the servers, except those about this one, which knows
// better.
func (g *pastGuard) rememberAll(r *clusterpb.RememberRequest) {
	for i, s := range r.GetServers() {
		if i >= maxRemembered {
			return
		}
		if id := raft.ServerID(s.GetServer()); id != g.c.serverID() {
			g.mem.learn(id, rememberedOf(s))
		}
	}
}

func rememberedOf(r *clusterpb.Remembered) remembered {
	at := r.GetAcknowledged()
	return remembered{Acknowledged: position{Term: at.GetTerm(), Index: at.GetIndex()}, Voted: r.GetVoted()}
}

func rememberedProto(id raft.ServerID, r remembered) *clusterpb.Remembered {
	return &clusterpb.Remembered{
		Server: string(id), Voted: r.Voted,
		Acknowledged: &clusterpb.Position{Term: r.Acknowledged.Term, Index: r.Acknowledged.Index},
	}
}

// forgets reports whether a server's error says that its version has no memory.
func forgets(err error) bool { return status.Code(err) == codes.Unimplemented }
