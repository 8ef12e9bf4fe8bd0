package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

const (
	pilotUpdate     = time.Second
	pilotReconcile  = time.Second
	stabilization   = 2 * time.Second
	maxTrailingLogs = 250
	maxRefused      = 4096 // servers that were refused are remembered
	// deadServerTime is how long a server must be dead before it is removed automatically. Machines
	// are usually repaired sooner; `weir raft remove` is for those that are not.
	deadServerTime = 72 * time.Hour
)

// pilot adds servers to the Raft configuration and removes those that are gone for good, through
// raft-autopilot. It runs on the leader.
type pilot struct {
	c         *Cluster
	autopilot *autopilot.Autopilot
	kick      chan struct{} // of capacity 1: the members have changed

	mu        sync.Mutex
	deadSince map[raft.ServerID]time.Time
	refused   map[string]bool // servers that were logged as refused
}

func newPilot(c *Cluster) *pilot {
	p := &pilot{c: c, kick: make(chan struct{}, 1), deadSince: make(map[raft.ServerID]time.Time), refused: make(map[string]bool)}
	mult := time.Duration(c.cfg.Multiplier)
	p.autopilot = autopilot.New(c.raft, p,
		autopilot.WithLogger(c.log),
		autopilot.WithUpdateInterval(pilotUpdate*mult),
		autopilot.WithReconcileInterval(pilotReconcile*mult))
	return p
}

// run works until the context ends.
func (p *pilot) run(ctx context.Context) {
	p.autopilot.Start(ctx)
	defer func() { <-p.autopilot.Stop() }()
	tick := time.NewTicker(reconcileEvery)
	defer tick.Stop()
	for {
		p.addServers(ctx)
		select {
		case <-p.kick:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// membersChanged makes run look again.
func (p *pilot) membersChanged() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// addServers adds every missing live server, and updates changed addresses.
func (p *pilot) addServers(ctx context.Context) {
	if p.c.GrantHold() > 0 {
		return // a new server might be elected, and would not wait
	}
	configured := make(map[raft.ServerID]raft.ServerAddress)
	for _, s := range p.c.configuration().Servers {
		configured[s.ID] = s.Address
	}
	for _, m := range p.c.Members() {
		if ctx.Err() != nil {
			return
		}
		id, addr := raft.ServerID(m.ServerID()), raft.ServerAddress(m.RPCAddr)
		have, ok := configured[id]
		if !m.IsServer() || !m.Alive() || m.Detached || addr == "" || (ok && have == addr) || (!ok && !p.mayAdd(m)) {
			continue
		}
		p.c.log.Info("adding a server to the Raft configuration", "server", id, "address", addr)
		if err := p.autopilot.AddServer(&autopilot.Server{ID: id, Name: m.Name, Address: addr}); err != nil {
			p.c.log.Error("a server could not be added: trying again", "server", id, "error", err)
		}
	}
}

// mayAdd keeps out a server that carries the Raft log of another cluster.
func (p *pilot) mayAdd(m Member) bool {
	mine := p.c.ClusterID()
	if !m.HasState || mine == "" || m.Cluster == mine {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.refused[m.Identity] {
		if len(p.refused) >= maxRefused {
			clear(p.refused) // each will be logged once more
		}
		p.refused[m.Identity] = true
		p.c.log.Error("a server is not added, because it holds the Raft log of another cluster: stop it, remove its data_dir and start it again",
			"server", m.Name, "address", m.RPCAddr)
	}
	return false
}

// AutopilotConfig implements [autopilot.ApplicationIntegration].
func (p *pilot) AutopilotConfig() *autopilot.Config {
	mult := time.Duration(p.c.cfg.Multiplier)
	return &autopilot.Config{
		CleanupDeadServers:      true, // RemoveFailedServer decides
		LastContactThreshold:    time.Second * mult,
		MaxTrailingLogs:         maxTrailingLogs,
		ServerStabilizationTime: stabilization * mult,
	}
}

// NotifyState implements [autopilot.ApplicationIntegration].
func (p *pilot) NotifyState(*autopilot.State) {}

// KnownServers implements [autopilot.ApplicationIntegration]. It lists every server of the
// configuration, even those that gossip has not seen since this process began, because autopilot
// removes servers that it does not list.
func (p *pilot) KnownServers() map[raft.ServerID]*autopilot.Server {
	known := make(map[raft.ServerID]*autopilot.Server)
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.c.configuration().Servers {
		known[s.ID] = p.describe(s, now)
	}
	for id := range p.deadSince {
		if known[id] == nil {
			delete(p.deadSince, id)
		}
	}
	return known
}

func (p *pilot) describe(s raft.Server, now time.Time) *autopilot.Server {
	server := &autopilot.Server{
		ID: s.ID, Name: handshake.NameOf(string(s.ID)), Address: s.Address, RaftVersion: int(raft.ProtocolVersionMax),
		NodeType: autopilot.NodeVoter, NodeStatus: autopilot.NodeFailed, IsLeader: s.ID == p.c.serverID(),
	}
	m, ok := p.c.Member(server.Name)
	if ok && m.Alive() && m.ServerID() == string(s.ID) {
		server.NodeStatus, server.Version = autopilot.NodeAlive, m.Version
		delete(p.deadSince, s.ID)
	} else if _, dead := p.deadSince[s.ID]; !dead {
		p.deadSince[s.ID] = now
	}
	return server
}

// FetchServerStats implements [autopilot.ApplicationIntegration].
func (p *pilot) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	var mu sync.Mutex
	var wg sync.WaitGroup
	stats := make(map[raft.ServerID]*autopilot.ServerStats)
	for id, s := range servers {
		if s.NodeStatus != autopilot.NodeAlive {
			continue
		}
		wg.Go(func() {
			reply, err := p.statsOf(ctx, id, s)
			if err != nil {
				p.c.log.Debug("a server does not report its Raft state", "server", id, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			stats[id] = &autopilot.ServerStats{
				LastContact: time.Duration(reply.GetLastContactNs()), LastTerm: reply.GetLastTerm(), LastIndex: reply.GetLastIndex(),
			}
		})
	}
	wg.Wait()
	return stats
}

func (p *pilot) statsOf(ctx context.Context, id raft.ServerID, s *autopilot.Server) (*clusterpb.RaftStatsReply, error) {
	if id == p.c.serverID() {
		return p.c.raftStats(), nil
	}
	return ask(ctx, p.c, string(s.Address), func(ctx context.Context, cc clusterpb.ControlClient) (*clusterpb.RaftStatsReply, error) {
		return cc.RaftStats(ctx, &clusterpb.RaftStatsRequest{})
	})
}

// RemoveFailedServer implements [autopilot.ApplicationIntegration]. Autopilot has checked that the
// quorum is not at risk. Here a server must also have been dead for long enough, or replaced by
// another one.
func (p *pilot) RemoveFailedServer(s *autopilot.Server) {
	m, ok := p.c.Member(s.Name)
	replaced := ok && m.Alive() && m.ServerID() != string(s.ID) && p.isVoter(raft.ServerID(m.ServerID()))
	p.mu.Lock()
	since, dead := p.deadSince[s.ID]
	p.mu.Unlock()
	if !replaced && (!dead || time.Since(since) < deadServerTime) {
		return
	}
	p.c.log.Info("removing a server from the Raft configuration", "server", s.ID, "replaced", replaced)
	p.c.background(func() {
		ctx, cancel := context.WithTimeout(p.c.life, handOverTimeout)
		defer cancel()
		if _, err := p.c.removeServer(ctx, string(s.ID)); err != nil {
			p.c.log.Error("a dead server could not be removed", "server", s.ID, "error", err)
		}
	})
}

func (p *pilot) isVoter(id raft.ServerID) bool {
	for _, s := range p.c.configuration().Servers {
		if s.ID == id {
			return s.Suffrage == raft.Voter
		}
	}
	return false
}
