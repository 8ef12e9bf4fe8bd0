package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// The API's view of the node, and its actions on it.

func (a *agent) newAPI() *api.Server {
	c := a.cfg
	return api.New(api.Config{
		Node: c.Name, Hosts: c.API.Hosts, Token: string(c.API.Token), ReadToken: string(c.API.ReadToken), TLS: a.certs.apiTLS(),
		MetricsHosts: c.API.MetricsHosts,
	}, api.Deps{
		Log: a, Leader: a, Events: a.events, View: a, Status: a, Nodes: a, Uses: a, Peers: a, Connections: a, Lifecycle: a, Raft: a, Snapshots: a, Diagnostics: a, Metrics: a, Proxies: a,
		Logger: a.log.Named("api"),
	})
}

// Propose implements [api.Log].
func (a *agent) Propose(ctx context.Context, c fsm.Command) (uint64, fsm.Result, error) {
	if a.store == nil {
		return 0, fsm.Result{}, api.ErrNotLeader
	}
	index, res, err := propose(ctx, a.members, a.store, 0, c)
	return index, res, apiError(err)
}

// Committed implements [api.Log]: the log's limits, which the node's own may be a moment behind.
func (a *agent) Committed() *limit.Table {
	if a.store == nil {
		return limit.NewTable(0, 0, nil)
	}
	return a.store.Table()
}

// ConfigLimits implements [api.Log]. It reads the limits before it confirms leadership: another
// leader could have changed them only in a later term, and the confirmation would fail then. In a
// leader's own term all earlier entries are applied, because that comes before the call of lead.
func (a *agent) ConfigLimits(ctx context.Context) (limits []limit.Limit, ok bool) {
	term := a.leadingTerm.Load()
	if term == 0 {
		return nil, false
	}
	a.store.Read(func(st *fsm.State) { limits = st.ConfigLimits() })
	if err := a.members.VerifyLeader(ctx); err != nil {
		return nil, false
	}
	return limits, a.members.RaftStatus().Term == term
}

// apiError translates the cluster's errors into the API's.
func apiError(err error) error {
	for _, e := range []struct{ from, to error }{
		{cluster.ErrNotLeader, api.ErrNotLeader},
		{cluster.ErrDiskFull, api.ErrDiskFull},
		{cluster.ErrUnknownOutcome, api.ErrOutcomeUnknown},
		{cluster.ErrTooLarge, api.ErrTooLarge},
		{cluster.ErrMixedVersions, api.ErrMixedVersions},
		{cluster.ErrBusy, api.ErrNotLeader},
		{cluster.ErrClosed, api.ErrNotLeader},
		{cluster.ErrUnknownPeer, api.ErrNotFound},
		{cluster.ErrUnsafe, api.ErrConflict},
		{cluster.ErrNoRaft, api.ErrNoRaft},
	} {
		if errors.Is(err, e.from) {
			return fmt.Errorf("%w: %w", e.to, err)
		}
	}
	return err
}

// Leader implements [api.Leader].
func (a *agent) Leader() (name string, rt http.RoundTripper, self, ok bool) {
	name, addr := a.members.Leader()
	switch {
	case addr == "":
		return "", nil, false, false
	case name == a.name():
		return name, nil, true, true
	}
	return name, a.members.RoundTripper(addr), false, true
}

func (a *agent) name() string { return a.data.Name() }

// Table implements [api.View]: the limits that this node goes by.
func (a *agent) Table() *limit.Table {
	if t := a.manager.Table(); t != nil {
		return t
	}
	if a.store != nil {
		return a.store.Table()
	}
	return limit.NewTable(0, 0, nil)
}

// WaitTable implements [api.View]. It also waits for the copy of the limits by which this node goes
// at its next start, until it hears from the cluster: a limit that somebody has been told of must
// not be forgotten by a crash.
func (a *agent) WaitTable(ctx context.Context, index uint64) error {
	if err := a.manager.WaitTable(ctx, index); err != nil {
		return err
	}
	if a.keeper != nil {
		ctx, cancel := context.WithTimeout(ctx, keepWithin)
		defer cancel()
		a.keeper.await(ctx, index)
	}
	return nil
}

// Status implements [api.StatusSource].
func (a *agent) Status() api.Status {
	a.mu.Lock()
	role, leaving, proxyTLS, protocols := a.cfg.Role, a.leaving, a.cfg.Proxy.TLS.Enabled(), a.cfg.Proxy.Protocols
	a.mu.Unlock()
	leader, _ := a.members.Leader()
	ready, _ := a.Ready()
	r := a.members.RaftStatus()
	proxies := a.proxyAddrs()
	st := api.Status{
		Node: a.name(), Cluster: a.members.ClusterID(), Version: thisBuild().Version, Role: string(role), Leader: leader, Ready: ready,
		Session:             a.sessionStatus(),
		Raft:                api.RaftStatus{State: r.State, Term: r.Term, LastIndex: r.LastIndex, CommitIndex: r.CommitIndex, AppliedIndex: r.AppliedIndex},
		ConfigDisagreements: a.disagreements(),
		Draining:            leaving || a.proxy.Draining(), Leaving: leaving,
		Connections: a.proxy.Open(),
		ProxyAddr:   proxies[0], ProxyAddrs: proxies, ProxyTLS: proxyTLS, APIAddr: a.apiListener.Addr().String(),
		DiskFull: r.DiskFull, DiskStalled: r.DiskStalled,
	}
	for _, p := range protocols {
		st.ProxyProtocols = append(st.ProxyProtocols, string(p))
	}
	for _, c := range a.proxy.ResolvingClients() {
		st.ResolvingClients = append(st.ResolvingClients, api.ResolvingClient{
			Client: c.Client.String(), Destination: c.Destination, Requests: c.Requests, LastSeen: c.LastSeen,
		})
	}
	return st
}

func (a *agent) sessionStatus() api.SessionStatus {
	s := a.manager.Session()
	return api.SessionStatus{ID: s.ID, State: s.State, ExpiresIn: api.Duration(s.ExpiresIn)}
}

// Ready implements [api.StatusSource]: able to admit.
func (a *agent) Ready() (bool, string) {
	a.mu.Lock()
	leaving := a.leaving
	a.mu.Unlock()
	switch {
	case leaving || a.proxy.Draining():
		return false, "the node is draining"
	case a.manager.Session().State != leasepb.SessionLive:
		return false, "no live session: the cluster's leader has not been reached yet"
	}
	return true, ""
}

// Nodes implements [api.NodeSource].
func (a *agent) Nodes() []api.Node {
	sessions := a.sessions()
	leader, _ := a.members.Leader()
	var nodes []api.Node
	for _, m := range a.members.Members() {
		n := api.Node{
			Name: m.Name, Role: string(m.Role), Leader: m.Name == leader, Health: string(m.Health), Session: leasepb.SessionNone, Draining: m.Draining,
			Version: m.Version, Addresses: api.Addresses{RPC: m.RPCAddr, Gossip: m.GossipAddr},
		}
		if s, ok := sessions[m.Name]; ok {
			n.Session = s.State
			if m.Health != cluster.HealthAlive || s.State != leasepb.SessionLive { // not while it reconnects
				n.ReclaimIn = reclaim(s)
			}
			delete(sessions, m.Name)
		}
		nodes = append(nodes, n)
	}
	for name, s := range sessions { // nodes that gossip has forgotten, or does not know yet
		nodes = append(nodes, api.Node{Name: name, Role: string(config.RoleServer), Health: string(cluster.HealthDead), Session: s.State, ReclaimIn: reclaim(s)})
	}
	return nodes
}

func reclaim(s leader.SessionInfo) *api.Duration {
	if s.ReclaimedIn <= 0 {
		return nil
	}
	d := api.Duration(s.ReclaimedIn)
	return &d
}

// sessions are the leader's view of the sessions; elsewhere, this node's own.
func (a *agent) sessions() map[string]leader.SessionInfo {
	out := map[string]leader.SessionInfo{}
	if a.leases != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if infos, ok := a.leases.Sessions(ctx); ok {
			for _, s := range infos {
				out[s.Node] = s
			}
			return out
		}
	}
	if s := a.manager.Session(); s.State != leasepb.SessionNone {
		out[a.name()] = leader.SessionInfo{ID: s.ID, Node: a.name(), State: s.State}
	}
	return out
}

// Peers implements [api.PeerSource].
func (a *agent) Peers() []api.Peer {
	var peers []api.Peer
	for _, m := range a.members.Members() {
		if m.Name != a.name() && m.Health != cluster.HealthLeft {
			peers = append(peers, api.Peer{Name: m.Name, RT: a.members.RoundTripper(m.RPCAddr)})
		}
	}
	return peers
}

// Connections implements [api.Connections].
func (a *agent) Connections(host string) []api.Connection {
	var out []api.Connection
	for _, c := range a.proxy.Connections(host) {
		out = append(out, api.Connection{
			ID: c.ID, Client: c.Client, User: c.User, Host: c.Host, Port: c.Port, Kind: c.Kind.String(), Since: c.Since,
			BytesOut: c.BytesIn, BytesIn: c.BytesOut, Limited: c.Limited, // the proxy counts from the client's side
		})
	}
	return out
}

// CloseConnection implements [api.Connections].
func (a *agent) CloseConnection(id string) bool { return a.proxy.CloseConnection(id) }

// RaftPeers implements [api.Raft].
func (a *agent) RaftPeers() ([]api.RaftPeer, error) {
	if a.store == nil {
		return nil, api.ErrNoRaft
	}
	peers := []api.RaftPeer{}
	for _, p := range a.members.Peers() {
		peers = append(peers, api.RaftPeer{Name: p.Name, ID: p.ID, Address: p.Address, Voter: p.Voter, Leader: p.Leader})
	}
	return peers, nil
}

// RemovePeer implements [api.Raft].
func (a *agent) RemovePeer(ctx context.Context, name string) error {
	err := a.members.RemovePeer(ctx, name)
	if errors.Is(err, cluster.ErrUnsafe) && leads(a.members.Peers(), name) {
		return fmt.Errorf("%w: %s leads the cluster: hand leadership to another server first (weir raft transfer), then remove it", api.ErrConflict, name)
	}
	return apiError(err)
}

// leads reports whether a name means one peer only, and that one leads.
func leads(peers []cluster.Peer, name string) bool {
	means := slices.DeleteFunc(slices.Clone(peers), func(p cluster.Peer) bool { return p.Name != name && p.ID != name })
	return len(means) == 1 && means[0].Leader
}

// TransferLeadership implements [api.Raft].
func (a *agent) TransferLeadership(ctx context.Context, to string) error {
	return apiError(a.members.Transfer(ctx, to))
}

// Freeze implements [api.Snapshots].
func (a *agent) Freeze() (*fsm.Frozen, error) {
	if a.store == nil {
		return nil, api.ErrNoRaft
	}
	return a.store.Freeze()
}

// leaderChanged is called when this node learns of a new leader.
func (a *agent) leaderChanged(addr string) {
	a.streams.leaderChanged(addr)
	if name, now := a.members.Leader(); now == addr {
		a.events.Leader(name, a.members.RaftStatus().Term)
	}
	a.checkOwnPorts() // a node without Raft state knows its cluster by the leader
}

// membersChanged passes changes in gossip on: a dead node to the lease, the session of a node that
// has left, and changed ports and configs.
func (a *agent) membersChanged(changed []cluster.Member) {
	for _, m := range changed {
		a.events.Member(m.Name, string(m.Role), string(m.Health))
		if a.leases == nil {
			continue
		}
		a.leases.Health(m.Name, m.Health == cluster.HealthDead)
		if m.Health == cluster.HealthLeft {
			a.leases.Left(leader.Farewell{Node: m.Name, Session: m.SessionLeft})
		}
	}
	a.checkOwnPorts()
	a.checkAgreement()
}
