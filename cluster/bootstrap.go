package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/lognoise"
)

const (
	bootstrapTick    = 200 * time.Millisecond
	bootstrapPause   = 300 * time.Millisecond // between rounds, up to twice as long
	pledgeTimeout    = 2 * time.Second
	bootstrapRemind  = 15 * time.Second
	maxPledgeServers = 64
	// listenFirst is how long a server listens before it forms a cluster alone. A leader or
	// candidate dials each voter at least every 1.5 s, so any live member of a cluster that counts
	// on this server is heard in that time. A longer time makes the first start of a lone server
	// slower.
	listenFirst = 2 * time.Second
	// heardFor is how long a server does not form a cluster of its own after a member of another
	// cluster has dialled it.
	heardFor = 15 * time.Second
)

// pledge is a promise to take part in one candidate's bootstrap and in no other.
type pledge struct {
	Candidate string `json:"candidate,omitempty"` // server id
	Addr      string `json:"addr,omitempty"`      // its rpc address
	Round     uint64 `json:"round,omitempty"`
}

var (
	errPledged  = errors.New("pledged to another candidate")
	errHasState = errors.New("holds Raft state already")
)

// ballot holds this server's pledge, durably: a restart does not break the promise.
type ballot struct {
	dir *DataDir
	mu  sync.Mutex
}

// give pledges to a candidate, or returns the pledge that stands in the way. A candidate's newer
// round replaces its older one.
func (b *ballot) give(p pledge) (held pledge, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held = b.dir.state().Pledge
	if held.Candidate != "" && held.Candidate != p.Candidate {
		return held, errPledged
	}
	return pledge{}, b.dir.update(func(id *identity) { id.Pledge = p })
}

// release takes back this pledge and no other.
func (b *ballot) release(candidate string, round uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.dir.state().Pledge
	if held.Candidate != candidate || held.Round != round {
		return nil
	}
	return b.dir.update(func(id *identity) { id.Pledge = pledge{} })
}

// bootstrapPlan is the decision of a server without state, given the members it sees.
type bootstrapPlan struct {
	lead    bool     // this server is the candidate
	servers []Member // the configuration to be, this server included
	wait    string   // why nothing happens yet
}

// planBootstrap decides, from gossip alone, whether this server should try to write the first
// configuration.
func planBootstrap(self Member, all []Member, expect int) bootstrapPlan {
	if self.Cluster != "" {
		return bootstrapPlan{wait: fmt.Sprintf("this node is of cluster %s: waiting to be added to it", self.Cluster)}
	}
	var servers []Member
	for _, m := range all {
		if !m.Alive() {
			continue
		}
		if m.Name != self.Name && (m.HasState || m.Cluster != "") {
			return bootstrapPlan{wait: fmt.Sprintf("%s has a cluster already: waiting to be added to it", m.Name)}
		}
		if !m.IsServer() || m.Detached || m.Expect == 0 {
			continue
		}
		if m.Expect != expect {
			return bootstrapPlan{wait: fmt.Sprintf("bootstrap_expect is %d here, but %d on %s: make them equal", expect, m.Expect, m.Name)}
		}
		servers = append(servers, m)
	}
	if len(servers) < expect {
		return bootstrapPlan{wait: fmt.Sprintf("%d of %d servers are here", len(servers), expect)}
	}
	slices.SortFunc(servers, func(a, b Member) int { return strings.Compare(a.ServerID(), b.ServerID()) })
	if servers[0].Name != self.Name {
		return bootstrapPlan{wait: fmt.Sprintf("%s forms the cluster", servers[0].Name)}
	}
	return bootstrapPlan{lead: true, servers: servers}
}

// bootstrapper forms the first configuration, or finds that a cluster exists already.
type bootstrapper struct {
	c      *Cluster
	ballot *ballot

	mu    sync.Mutex
	round uint64 // the round under way, whose pledges bind; 0: none

	checking sync.Mutex // one question about a foreign pledge at a time

	heardMu sync.Mutex
	heard   string // the member of a cluster that dialled this server last
	heardAt time.Time
}

// hear records that a member of a cluster has dialled this server, by its name or its address.
func (b *bootstrapper) hear(member string, now time.Time) {
	b.heardMu.Lock()
	defer b.heardMu.Unlock()
	b.heard, b.heardAt = member, now
}

// mayFormAlone returns why this server should not form a cluster alone yet, or "" if it may. It
// sees no other server that has no cluster.
func (b *bootstrapper) mayFormAlone(began, now time.Time) (wait string) {
	b.heardMu.Lock()
	defer b.heardMu.Unlock()
	switch {
	case b.heard != "" && now.Sub(b.heardAt) < heardFor:
		return b.heard + ", looks for this server: not forming another cluster; if it is to join that one, put an address of it into cluster.join"
	case now.Sub(began) < b.c.cfg.listen:
		return "listening first for a cluster that knows this server"
	}
	return ""
}

// run returns once this server has Raft state.
func (b *bootstrapper) run(ctx context.Context) {
	expect, began := b.c.cfg.BootstrapExpect, time.Now()
	reminder := lognoise.Reminder{Every: bootstrapRemind}
	for b.c.raftIsEmpty() {
		plan := planBootstrap(b.c.self(), b.c.Members(), expect)
		pause := bootstrapTick
		if plan.lead && len(plan.servers) == 1 {
			if wait := b.mayFormAlone(began, time.Now()); wait != "" {
				plan = bootstrapPlan{wait: wait}
			}
		}
		if plan.lead {
			err := b.attempt(ctx, plan.servers)
			if err == nil {
				return
			}
			plan.wait = err.Error()
			pause = bootstrapPause + rand.N(bootstrapPause)
		}
		if reminder.Due(plan.wait) {
			b.c.log.Info("no cluster yet", "reason", plan.wait)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
	b.c.log.Debug("this server has Raft state: nothing to bootstrap")
}

// attempt collects the pledges of all servers and then writes the configuration. If one is missing,
// it gives the others back.
func (b *bootstrapper) attempt(ctx context.Context, servers []Member) error {
	p := pledge{Candidate: b.c.cfg.Data.ServerID(), Addr: b.c.RPCAddr(), Round: rand.Uint64() | 1}
	b.setRound(p.Round)
	err := b.collect(ctx, p, servers)
	if err == nil {
		err = b.write(servers)
	}
	if err == nil {
		b.c.log.Info("formed the cluster", "servers", names(servers))
		b.c.campaign()
		return nil
	}
	b.setRound(0)
	b.releaseAll(ctx, p, servers)
	return err
}

func (b *bootstrapper) setRound(round uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.round = round
}

func (b *bootstrapper) collect(ctx context.Context, p pledge, servers []Member) error {
	if held, err := b.ballot.give(p); err != nil {
		b.checkHolder(held)
		return fmt.Errorf("this server is pledged to %s: %w", handshake.NameOf(held.Candidate), err)
	}
	ctx, cancel := context.WithTimeout(ctx, pledgeTimeout)
	defer cancel()
	request := &clusterpb.PledgeRequest{
		Candidate: p.Candidate, CandidateAddr: p.Addr, Round: p.Round, BootstrapExpect: uint32(b.c.cfg.BootstrapExpect),
	}
	for _, s := range servers {
		request.Servers = append(request.Servers, s.ServerID())
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range servers {
		if s.Name == b.c.cfg.Name {
			continue
		}
		group.Go(func() error {
			reply, err := ask(ctx, b.c, s.RPCAddr, func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.PledgeReply, error) {
				return cc.Pledge(ctx, request)
			})
			if err != nil {
				return fmt.Errorf("%s can't be asked for its pledge: %w", s.Name, err)
			}
			if !reply.GetGranted() {
				return fmt.Errorf("%s refused its pledge: %s", s.Name, reply.GetReason())
			}
			return nil
		})
	}
	return group.Wait()
}

// write makes the configuration durable here, unless one has arrived from elsewhere in the
// meantime. Its lock makes questions about the round wait for the outcome.
func (b *bootstrapper) write(servers []Member) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.c.raftIsEmpty() || b.c.ClusterID() != "" {
		return errHasState
	}
	if err := b.c.cfg.Data.update(func(id *identity) { id.FormedAlone = len(servers) == 1 }); err != nil {
		return err
	}
	var conf raft.Configuration
	for _, s := range servers {
		conf.Servers = append(conf.Servers, raft.Server{
			Suffrage: raft.Voter, ID: raft.ServerID(s.ServerID()), Address: raft.ServerAddress(s.RPCAddr),
		})
	}
	if err := b.c.raft.BootstrapCluster(conf).Error(); err != nil {
		return fmt.Errorf("the first configuration can't be written: %w", err)
	}
	return nil
}

// releaseAll gives the pledges back. If that fails for one of them, its giver finds out later that
// the pledge is void.
func (b *bootstrapper) releaseAll(ctx context.Context, p pledge, servers []Member) {
	ctx, cancel := context.WithTimeout(ctx, pledgeTimeout)
	defer cancel()
	if err := b.ballot.release(p.Candidate, p.Round); err != nil {
		b.c.log.Error("the own pledge can't be taken back", "error", err)
	}
	var group errgroup.Group
	for _, s := range servers {
		if s.Name == b.c.cfg.Name {
			continue
		}
		group.Go(func() error {
			_, err := ask(ctx, b.c, s.RPCAddr, func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.ReleaseReply, error) {
				return cc.Release(ctx, &clusterpb.ReleaseRequest{Candidate: p.Candidate, Round: p.Round})
			})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.c.log.Debug("a pledge could not be given back", "error", err)
	}
}

// pledgeTo answers another server's request.
func (b *bootstrapper) pledgeTo(r *clusterpb.PledgeRequest) *clusterpb.PledgeReply {
	refuse := func(reason string) *clusterpb.PledgeReply { return &clusterpb.PledgeReply{Reason: reason} }
	self := b.c.cfg.Data.ServerID()
	switch {
	case !b.c.raftIsEmpty(), b.c.ClusterID() != "":
		return &clusterpb.PledgeReply{Reason: errHasState.Error(), HasState: true}
	case int(r.GetBootstrapExpect()) != b.c.cfg.BootstrapExpect:
		return refuse(fmt.Sprintf("bootstrap_expect is %d here and %d there", b.c.cfg.BootstrapExpect, r.GetBootstrapExpect()))
	case r.GetRound() == 0 || r.GetCandidate() == "" || len(r.GetServers()) > maxPledgeServers:
		return refuse("malformed request")
	case !slices.Contains(r.GetServers(), self):
		return refuse("this server is another than the one meant: " + self)
	}
	held, err := b.ballot.give(pledge{Candidate: r.GetCandidate(), Addr: r.GetCandidateAddr(), Round: r.GetRound()})
	if errors.Is(err, errPledged) {
		b.c.background(func() { b.checkHolder(held) })
		return refuse("pledged to " + handshake.NameOf(held.Candidate))
	}
	if err != nil {
		return refuse(err.Error())
	}
	return &clusterpb.PledgeReply{Granted: true}
}

// binding reports whether the pledges of a round still bind: they do unless the round is over and
// no configuration was written.
func (b *bootstrapper) binding(candidate string, round uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if candidate != b.c.cfg.Data.ServerID() {
		// A candidate of this name with another id is this server before its data was wiped. Any
		// configuration that it wrote is gone.
		return handshake.NameOf(candidate) != b.c.cfg.Name
	}
	return round == b.round || !b.c.raftIsEmpty()
}

// checkHolder asks the holder of this server's pledge whether the pledge is still needed.
func (b *bootstrapper) checkHolder(held pledge) {
	if held.Candidate == "" || !b.checking.TryLock() {
		return
	}
	defer b.checking.Unlock()
	if b.binds(held) {
		return
	}
	if err := b.ballot.release(held.Candidate, held.Round); err != nil {
		b.c.log.Error("a void pledge can't be taken back", "error", err)
	}
}

// binds asks whether a pledge of this server still binds it. Without an answer, it does.
func (b *bootstrapper) binds(held pledge) bool {
	if held.Candidate == b.c.cfg.Data.ServerID() {
		return b.binding(held.Candidate, held.Round) // perhaps from before a restart
	}
	addr := held.Addr
	if m, ok := b.c.Member(handshake.NameOf(held.Candidate)); ok && m.Alive() {
		addr = m.RPCAddr
	}
	ctx, cancel := context.WithTimeout(b.c.life, pledgeTimeout)
	defer cancel()
	reply, err := ask(ctx, b.c, addr, func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.RoundReply, error) {
		return cc.Round(ctx, &clusterpb.RoundRequest{Candidate: held.Candidate, Round: held.Round})
	})
	if err != nil {
		b.c.log.Warn("this server is pledged to form a cluster with another one that can't be reached: start that one; where it is gone for good, "+
			"remove this server's data_dir, which holds nothing else yet", "pledged_to", handshake.NameOf(held.Candidate), "error", err)
		return true
	}
	return reply.GetBinding()
}

func names(ms []Member) []string {
	list := make([]string, len(ms))
	for i, m := range ms {
		list[i] = m.Name
	}
	return list
}
