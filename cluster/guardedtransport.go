package cluster

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

var (
	errDoubtful = errors.New("this server's disk may have been put back to an older copy: it takes no part yet")
	errPromised = errors.New("this server has promised to follow no leader of this term any more")
)

// guardedTransport lets a [pastGuard] inspect and refuse Raft's messages in both directions. One
// goroutine passes on the incoming ones; Raft takes them one at a time anyway.
type guardedTransport struct {
	verifyingTransport
	guard   *pastGuard
	inbound chan raft.RPC
}

func newGuardedTransport(t verifyingTransport, g *pastGuard) *guardedTransport {
	return &guardedTransport{verifyingTransport: t, guard: g, inbound: make(chan raft.RPC)}
}

// Consumer implements [raft.Transport].
func (t *guardedTransport) Consumer() <-chan raft.RPC { return t.inbound }

// run passes requests on until the context ends. Requests without an answer by then get none, as
// when the process ends.
func (t *guardedTransport) run(ctx context.Context) {
	for {
		select {
		case rpc := <-t.verifyingTransport.Consumer():
			t.take(ctx, rpc)
		case <-ctx.Done():
			return
		}
	}
}

func (t *guardedTransport) pass(ctx context.Context, rpc raft.RPC) {
	select {
	case t.inbound <- rpc:
	case <-ctx.Done():
	}
}

func (t *guardedTransport) take(ctx context.Context, rpc raft.RPC) {
	g := t.guard
	switch r := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		if err := g.hearLeader(r); err != nil {
			rpc.Respond(nil, err)
			return
		}
		if index := r.PrevLogEntry + uint64(len(r.Entries)); index > 0 && !g.free() {
			t.watch(ctx, &rpc, func(response any) {
				if resp, ok := response.(*raft.AppendEntriesResponse); ok && resp.Success {
					g.noteMatch(r.Term, index)
				}
			})
		}
	case *raft.InstallSnapshotRequest:
		if err := g.admitLeader(r.Term); err != nil {
			g.c.background(func() {
				_, _ = io.Copy(io.Discard, rpc.Reader) // the next request follows on the same connection
				rpc.Respond(nil, err)
			})
			return
		}
		if !g.free() {
			t.watch(ctx, &rpc, func(response any) {
				if resp, ok := response.(*raft.InstallSnapshotResponse); ok && resp.Success {
					g.noteMatch(r.Term, r.LastLogIndex)
				}
			})
		}
	case *raft.RequestVoteRequest:
		t.takeVote(ctx, rpc, r)
		return
	case *raft.RequestPreVoteRequest:
		end := position{Term: r.LastLogTerm, Index: r.LastLogIndex}
		if floor := g.voteFloor(); r.Term <= floor || !g.mayVote(r.Term, end) && !g.quiet() {
			rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: answerHeader(), Term: max(floor, r.Term)}, nil)
			return
		}
	case *raft.TimeoutNowRequest:
		if !g.free() {
			rpc.Respond(nil, errDoubtful)
			return
		}
	}
	t.pass(ctx, rpc)
}

// watch inserts an observer in front of the receiver of the answer.
func (t *guardedTransport) watch(ctx context.Context, rpc *raft.RPC, answered func(response any)) {
	asker, answer := rpc.RespChan, make(chan raft.RPCResponse, 1)
	rpc.RespChan = answer
	t.guard.c.background(func() {
		select {
		case resp := <-answer:
			if resp.Error == nil {
				answered(resp.Response)
			}
			asker <- resp
		case <-ctx.Done():
		}
	})
}

// takeVote passes a vote request on to Raft, or refuses it. If the vote needs a majority's promise
// first, takeVote collects that in the background while later requests go on: a candidate waits
// longer than it takes.
func (t *guardedTransport) takeVote(ctx context.Context, rpc raft.RPC, r *raft.RequestVoteRequest) {
	g := t.guard
	g.mem.learn(raft.ServerID(r.ID), remembered{Voted: r.Term}) // a candidate has voted for itself
	floor := g.voteFloor()
	refuse := func() {
		rpc.Respond(&raft.RequestVoteResponse{RPCHeader: answerHeader(), Term: max(floor, r.Term)}, nil)
	}
	switch {
	case r.Term <= floor:
		refuse()
	case g.mayVote(r.Term, position{Term: r.LastLogTerm, Index: r.LastLogIndex}):
		t.pass(ctx, rpc)
	case g.quiet():
		g.c.background(func() {
			if g.promise(ctx, r.Term) {
				t.pass(ctx, rpc)
				return
			}
			refuse()
		})
	default:
		refuse()
	}
}

func answerHeader() raft.RPCHeader { return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax} }

// SetHeartbeatHandler implements [raft.Transport].
func (t *guardedTransport) SetHeartbeatHandler(handle func(raft.RPC)) {
	if handle == nil {
		t.verifyingTransport.SetHeartbeatHandler(nil)
		return
	}
	t.verifyingTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if r, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
			if err := t.guard.hearLeader(r); err != nil {
				rpc.Respond(nil, err)
				return
			}
		}
		handle(rpc)
	})
}

// RequestVote implements [raft.Transport]. Raft has voted for itself.
func (t *guardedTransport) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	g := t.guard
	if floor := g.voteFloor(); args.Term <= floor || !g.mayVote(args.Term, position{Term: args.LastLogTerm, Index: args.LastLogIndex}) &&
		!(g.quiet() && g.promise(g.c.life, args.Term)) {
		resp.Term = max(floor, args.Term)
		return nil
	}
	err := t.verifyingTransport.RequestVote(id, to, args, resp)
	if err == nil && resp.Granted {
		g.mem.learn(id, remembered{Voted: args.Term})
	}
	return err
}

// RequestPreVote implements [raft.WithPreVote].
func (t *guardedTransport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	g := t.guard
	if floor := g.voteFloor(); args.Term <= floor || !g.mayVote(args.Term, position{Term: args.LastLogTerm, Index: args.LastLogIndex}) && !g.quiet() {
		resp.Term = max(floor, args.Term) // Raft continues with this term
		return nil
	}
	return t.verifyingTransport.RequestPreVote(id, to, args, resp)
}

// AppendEntries implements [raft.Transport].
func (t *guardedTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.guard.hasPromised(args.Term) {
		return errPromised
	}
	err := t.verifyingTransport.AppendEntries(id, to, args, resp)
	if err != nil {
		return err
	}
	return t.guard.noteAnswer(id, args, resp)
}

// InstallSnapshot implements [raft.Transport].
func (t *guardedTransport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.verifyingTransport.InstallSnapshot(id, to, args, resp, data)
	if err == nil && resp.Success {
		t.guard.mem.learn(id, remembered{Acknowledged: position{Term: args.LastLogTerm, Index: args.LastLogIndex}, Voted: args.Term})
	}
	return err
}

// AppendEntriesPipeline implements [raft.Transport].
func (t *guardedTransport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	pipeline, err := t.verifyingTransport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	p := &guardedPipeline{AppendPipeline: pipeline, guard: t.guard, id: id, answers: make(chan raft.AppendFuture), closed: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p, nil
}

// guardedPipeline inspects each answer before Raft gets it.
type guardedPipeline struct {
	raft.AppendPipeline
	guard   *pastGuard
	id      raft.ServerID
	answers chan raft.AppendFuture
	closed  chan struct{}
	ended   chan struct{}
}

func (p *guardedPipeline) run() {
	defer close(p.ended)
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			if f.Error() == nil {
				_ = p.guard.noteAnswer(p.id, f.Request(), f.Response()) // on an error, its next request fails
			}
			select {
			case p.answers <- f:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

// AppendEntries implements [raft.AppendPipeline].
func (p *guardedPipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.guard.hasPromised(args.Term) {
		return nil, errPromised
	}
	return p.AppendPipeline.AppendEntries(args, resp)
}

// Consumer implements [raft.AppendPipeline].
func (p *guardedPipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements [raft.AppendPipeline]. Raft calls it once.
func (p *guardedPipeline) Close() error {
	close(p.closed)
	err := p.AppendPipeline.Close()
	<-p.ended
	return err
}

// hearLeader decides whether Raft may follow a leader's request, and records what the request
// reveals about the leader's log.
func (g *pastGuard) hearLeader(r *raft.AppendEntriesRequest) error {
	if err := g.admitLeader(r.Term); err != nil {
		return err
	}
	known := remembered{Voted: r.Term}
	if n := len(r.Entries); n > 0 {
		known.Acknowledged = position{Term: r.Entries[n-1].Term, Index: r.Entries[n-1].Index}
	} else {
		known.Acknowledged = position{Term: r.PrevLogTerm, Index: r.PrevLogEntry}
	}
	g.mem.learn(raft.ServerID(r.ID), known)
	return nil
}

// admitLeader records that this server follows a leader of a term, or refuses that leader.
func (g *pastGuard) admitLeader(term uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if term <= g.promised {
		return errPromised
	}
	if !g.verdict.mayFollow(term) {
		return errDoubtful
	}
	g.heard = time.Now()
	g.contacts.heard(term, g.heard)
	if g.settled == 0 && g.verdict.waited {
		g.settled = term
	}
	if term > g.term {
		g.term, g.matched = term, 0
	}
	return nil
}

// noteAnswer records a follower's answer to this server as the leader. On an error, the answer must
// not count.
func (g *pastGuard) noteAnswer(id raft.ServerID, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if !resp.Success {
		return nil
	}
	g.mu.Lock()
	late := args.Term <= g.promised
	if !late {
		g.heard = time.Now()
	}
	g.mu.Unlock()
	if late {
		return errPromised
	}
	known := remembered{Voted: args.Term, Acknowledged: position{Term: args.PrevLogTerm, Index: args.PrevLogEntry}}
	if n := len(args.Entries); n > 0 {
		known.Acknowledged = position{Term: args.Entries[n-1].Term, Index: args.Entries[n-1].Index}
	}
	g.mem.learn(id, known)
	return nil
}

func (g *pastGuard) noteMatch(term, index uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if term == g.term {
		g.matched = max(g.matched, index)
	}
}

func (g *pastGuard) hasPromised(term uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return term <= g.promised
}

// voteFloor is the newest term in which this server votes for nobody, because of a promise or
// because it may have voted in it before.
func (g *pastGuard) voteFloor() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.promised, g.votedOut, g.verdict.voted)
}

func (g *pastGuard) mayVote(term uint64, end position) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.verdict.mayVote(term, end)
}

func (g *pastGuard) quiet() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.verdict.quiet
}
