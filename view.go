package weir

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
)

// view is the node as the API shows it, and the API's actions on it.
type view struct{ *Node }

func (n *Node) newAPI() *server.Server {
	c, v := n.cfg.Load(), view{n}
	return server.New(server.Config{
		Node: c.Name, Hosts: c.API.Hosts, Token: string(c.API.Token), ReadToken: string(c.API.ReadToken), TLS: n.certs.apiTLS(),
		MetricsHosts: c.API.MetricsHosts, KeepsUnits: c.Lease.OnExpiry == config.OnExpiryKeep,
	}, server.Deps{
		Log: v, Leader: v, Events: n.events, View: v, Status: v, Nodes: v, Uses: v, Peers: v, Connections: v,
		Lifecycle: v, Raft: v, Snapshots: v, Diagnostics: v, Metrics: v, Proxies: v,
		Logger: n.log.Named("api"),
	})
}

// Propose implements [server.Log].
func (v view) Propose(ctx context.Context, c fsm.Command) (uint64, fsm.Result, error) {
	if v.store == nil {
		return 0, fsm.Result{}, server.ErrNotLeader
	}
	index, res, err := v.entries.Append(ctx, 0, c)
	return index, res, apiError(err)
}

// Committed implements [server.Log]: the log's limits, which the node's own may be a moment
// behind.
func (v view) Committed() *limit.Table {
	if v.store == nil {
		return limit.NewTable(0, 0, nil)
	}
	return v.store.Table()
}

// ConfigLimits implements [server.Log]. It reads the limits before it confirms leadership: another
// leader could have changed them only in a later term, and the confirmation would fail then. In a
// leader's own term all earlier entries are applied, because that comes before the call of lead.
func (v view) ConfigLimits(ctx context.Context) (limits []limit.Limit, ok bool) {
	term := v.leadingTerm.Load()
	if term == 0 {
		return nil, false
	}
	v.store.Read(func(st *fsm.State) { limits = st.ConfigLimits() })
	if err := v.members.VerifyLeader(ctx); err != nil {
		return nil, false
	}
	return limits, v.members.RaftStatus().Term == term
}

// apiError translates the cluster's errors into the API's.
func apiError(err error) error {
	for _, e := range []struct{ from, to error }{
		{cluster.ErrNotLeader, server.ErrNotLeader},
		{cluster.ErrDiskFull, server.ErrDiskFull},
		{cluster.ErrUnknownOutcome, server.ErrOutcomeUnknown},
		{cluster.ErrTooLarge, server.ErrTooLarge},
		{cluster.ErrMixedVersions, server.ErrMixedVersions},
		{cluster.ErrBusy, server.ErrNotLeader},
		{cluster.ErrClosed, server.ErrNotLeader},
		{cluster.ErrUnknownPeer, server.ErrNotFound},
		{cluster.ErrUnsafe, server.ErrConflict},
		{cluster.ErrNotTransferred, server.ErrConflict},
		{cluster.ErrNoRaft, server.ErrNoRaft},
	} {
		if errors.Is(err, e.from) {
			return fmt.Errorf("%w: %w", e.to, err)
		}
	}
	return err
}

// Leader implements [server.Leader].
func (v view) Leader() (name string, rt http.RoundTripper, self, ok bool) {
	name, addr := v.members.Leader()
	switch {
	case addr == "":
		return "", nil, false, false
	case name == v.name():
		return name, nil, true, true
	}
	return name, v.members.RoundTripper(addr), false, true
}

func (n *Node) name() string { return n.data.Name() }

// Table implements [server.View]: the limits that this node goes by.
func (v view) Table() *limit.Table {
	if t := v.manager.Table(); t != nil {
		return t
	}
	if v.store != nil {
		return v.store.Table()
	}
	return limit.NewTable(0, 0, nil)
}

// WaitTable implements [server.View]. It also waits for the copy of the limits by which this node
// goes at its next start, until it hears from the cluster: a limit that somebody has been told of
// must not be forgotten by a crash.
func (v view) WaitTable(ctx context.Context, index uint64) error {
	if err := v.manager.WaitTable(ctx, index); err != nil {
		return err
	}
	if v.keeper != nil {
		ctx, cancel := context.WithTimeout(ctx, keepWithin)
		defer cancel()
		v.keeper.await(ctx, index)
	}
	return nil
}

// Status implements [server.StatusSource].
func (v view) Status() api.Status {
	cfg := v.cfg.Load()
	role, proxyTLS, protocols := cfg.Role, cfg.Proxy.TLS.Enabled(), cfg.Proxy.Protocols
	leader, _ := v.members.Leader()
	ready, _ := v.Ready()
	r := v.members.RaftStatus()
	proxies := v.proxyAddrs()
	st := api.Status{
		Node: v.name(), Cluster: v.members.ClusterID(), Version: v.source.Version, Role: string(role), Leader: leader, Ready: ready,
		Session:             v.sessionStatus(),
		Raft:                api.RaftStatus{State: r.State, Term: r.Term, LastIndex: r.LastIndex, CommitIndex: r.CommitIndex, AppliedIndex: r.AppliedIndex},
		ConfigDisagreements: v.disagreements(),
		Draining:            v.isStopping() || v.proxy.Draining(), Leaving: v.isLeaving(), Left: v.left.Load(),
		Connections: v.proxy.Open(),
		ProxyAddr:   strings.Join(proxies[:min(len(proxies), 1)], ""), ProxyAddrs: proxies, ProxyTLS: proxyTLS, APIAddr: address(v.apiListener),
		DiskFull: r.DiskFull, DiskStalled: r.DiskStalled,
	}
	for _, p := range protocols {
		st.ProxyProtocols = append(st.ProxyProtocols, string(p))
	}
	for _, c := range v.proxy.ResolvingClients() {
		st.ResolvingClients = append(st.ResolvingClients, api.ResolvingClient{
			Client: c.Client.String(), Destination: c.Destination, Requests: c.Requests, LastSeen: c.LastSeen,
		})
	}
	return st
}

func (n *Node) sessionStatus() api.SessionStatus {
	s := n.manager.Session()
	return api.SessionStatus{ID: s.ID, State: s.State, ExpiresIn: api.Duration(s.ExpiresIn)}
}

// Ready implements [server.StatusSource]: able to admit.
func (v view) Ready() (bool, string) {
	switch {
	case v.isStopping() || v.proxy.Draining():
		return false, "the node is draining"
	}
	why := unready(v.manager.Session().State, v.cfg.Load().Lease.OnExpiry)
	return why == "", why
}

// unready says why a node whose session is in a state can't admit, or nothing if it can: with keep
// also without a session, once it has had one.
func unready(session string, on config.OnExpiry) string {
	switch {
	case session == leasepb.SessionLive, session == leasepb.SessionFenced && on == config.OnExpiryKeep:
		return ""
	case session == leasepb.SessionNone:
		return "no live session: the cluster's leader has not been reached yet"
	}
	return "no live session: the cluster's leader is no longer reached: a majority of the servers must be up, and this node must reach them"
}

// Nodes implements [server.NodeSource].
func (v view) Nodes() []api.Node {
	sessions := v.sessions()
	leading, _ := v.members.Leader()
	return nodes(v.members.Members(), v.members.Peers(), leading, sessions)
}

// nodes puts together what gossip knows of the members and the sessions that they have. leading is
// the leader's name, if there is one. Of a node that gossip does not know, only the Raft
// configuration tells that it is a server.
func nodes(members []cluster.Member, peers []cluster.Peer, leading string, sessions map[string]leader.SessionInfo) []api.Node {
	sessions = maps.Clone(sessions)
	var nodes []api.Node
	for _, m := range members {
		n := api.Node{
			Name: m.Name, Role: string(m.Role), Leader: m.Name == leading, Health: string(m.Health), Session: leasepb.SessionNone,
			// A node drains before it leaves, so its last word is that it drains. There is no proxy
			// any more.
			Draining: m.Draining && m.Health != cluster.HealthLeft,
			Version:  m.Version, Addresses: api.Addresses{RPC: m.RPCAddr, Gossip: m.GossipAddr},
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
		n := api.Node{Name: name, Health: string(cluster.HealthDead), Session: s.State, ReclaimIn: reclaim(s)}
		id := cluster.Member{Name: name, Identity: s.Identity}.ServerID()
		if slices.ContainsFunc(peers, func(p cluster.Peer) bool { return p.ID == id }) {
			n.Role = string(config.RoleServer)
		}
		nodes = append(nodes, n)
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
func (n *Node) sessions() map[string]leader.SessionInfo {
	out := map[string]leader.SessionInfo{}
	if n.leases != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if infos, ok := n.leases.Sessions(ctx); ok {
			for _, s := range infos {
				out[s.Node] = s
			}
			return out
		}
	}
	if s := n.manager.Session(); s.State != leasepb.SessionNone {
		out[n.name()] = leader.SessionInfo{ID: s.ID, Node: n.name(), State: s.State}
	}
	return out
}

// Peers implements [server.PeerSource].
func (v view) Peers() []server.Peer {
	var peers []server.Peer
	for _, m := range v.members.Members() {
		if m.Name != v.name() && m.Health != cluster.HealthLeft {
			peers = append(peers, server.Peer{Name: m.Name, Dead: m.Health == cluster.HealthDead, RT: v.members.RoundTripper(m.RPCAddr)})
		}
	}
	return peers
}

// Connections implements [server.Connections].
func (v view) Connections(host string) []api.Connection {
	var out []api.Connection
	for _, c := range v.proxy.Connections(host) {
		out = append(out, api.Connection{
			ID: c.ID, Client: c.Client, User: c.User, Host: c.Host, Port: c.Port, Protocol: c.Kind.String(), Since: c.Since,
			BytesOut: c.BytesIn, BytesIn: c.BytesOut, Limited: c.Limited, // the proxy counts from the client's side
		})
	}
	return out
}

// CloseConnection implements [server.Connections].
func (v view) CloseConnection(id string) bool { return v.proxy.CloseConnection(id) }

// RaftPeers implements [server.Raft].
func (v view) RaftPeers() ([]api.RaftPeer, error) {
	if v.store == nil {
		return nil, server.ErrNoRaft
	}
	peers := []api.RaftPeer{}
	for _, p := range v.members.Peers() {
		peers = append(peers, api.RaftPeer{Name: p.Name, ID: p.ID, Address: p.Address, Voter: p.Voter, Leader: p.Leader})
	}
	return peers, nil
}

// RemovePeer implements [server.Raft].
func (v view) RemovePeer(ctx context.Context, name string) (uint64, error) {
	index, err := v.members.RemovePeer(ctx, name)
	if errors.Is(err, cluster.ErrUnsafe) && leads(v.members.Peers(), name) {
		return 0, fmt.Errorf("%w: %s leads the cluster: hand leadership to another server first (weir raft transfer), then remove it", server.ErrConflict, name)
	}
	return index, apiError(err)
}

// leads reports whether a name means one peer only, and that one leads.
func leads(peers []cluster.Peer, name string) bool {
	means := slices.DeleteFunc(slices.Clone(peers), func(p cluster.Peer) bool { return p.Name != name && p.ID != name })
	return len(means) == 1 && means[0].Leader
}

// TransferLeadership implements [server.Raft].
func (v view) TransferLeadership(ctx context.Context, to string) error {
	return apiError(v.members.Transfer(ctx, to))
}

// Freeze implements [server.Snapshots].
func (v view) Freeze() (*fsm.Frozen, error) {
	if v.store == nil {
		return nil, server.ErrNoRaft
	}
	return v.store.Freeze()
}

// leaderChanged is called when this node learns of a new leader.
func (n *Node) leaderChanged(addr string) {
	n.streams.leaderChanged(addr)
	if name, now := n.members.Leader(); now == addr {
		n.events.Leader(name, n.members.RaftStatus().Term)
	}
	n.checkOwnPorts() // a node without Raft state knows its cluster by the leader
}

// membersChanged passes changes in gossip on: a dead node to the lease, the session of a node that
// has left, and changed ports and configs.
func (n *Node) membersChanged(changed []cluster.Member) {
	for _, m := range changed {
		n.events.Member(m.Name, string(m.Role), string(m.Health))
		if n.leases == nil {
			continue
		}
		n.leases.Health(m.Name, m.Health == cluster.HealthDead)
		if m.Health == cluster.HealthLeft {
			n.leases.Left(leader.Farewell{Node: m.Name, Session: m.SessionLeft})
		}
	}
	n.checkOwnPorts()
	n.checkAgreement()
}
