package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
)

// What the API shows of the node, and does to it.

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
	index, res, err := propose(ctx, a.members, 0, c)
	return index, res, apiError(err)
}

// Committed implements [api.Log]: the log's limits, which the node's own may be a moment behind.
func (a *agent) Committed() *fsm.Table {
	if a.store == nil {
		return fsm.NewTable(0, 0, nil)
	}
	return a.store.Table()
}

// ConfigLimits implements [api.Log]. The limits are read before leadership is confirmed: another
// leader could have changed them only in a later term, which the confirmation would have met. A
// leader's own term begins with all entries before it applied, which is when lead is called.
func (a *agent) ConfigLimits(ctx context.Context) (limits []fsm.Limit, ok bool) {
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

// apiError says in the API's words what went wrong in the cluster's.
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
func (a *agent) Table() *fsm.Table {
	if t := a.manager.Table(); t != nil {
		return t
	}
	if a.store != nil {
		return a.store.Table()
	}
	return fsm.NewTable(0, 0, nil)
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
	role, leaving, proxyTLS := a.cfg.Role, a.leaving, a.cfg.Proxy.TLS.Enabled()
	a.mu.Unlock()
	leader, _ := a.members.Leader()
	ready, _ := a.Ready()
	r := a.members.RaftStatus()
	return api.Status{
		Node: a.name(), Cluster: a.members.ClusterID(), Version: thisBuild().Version, Role: string(role), Leader: leader, Ready: ready,
		Session:             a.sessionStatus(),
		Raft:                api.RaftStatus{State: r.State, Term: r.Term, LastIndex: r.LastIndex, CommitIndex: r.CommitIndex, AppliedIndex: r.AppliedIndex},
		ConfigDisagreements: a.disagreements(),
		Draining:            leaving || a.proxy.Draining(), Leaving: leaving,
		Connections: a.proxy.Open(),
		ProxyAddr:   a.proxyListener.Addr().String(), ProxyTLS: proxyTLS, APIAddr: a.apiListener.Addr().String(),
		DiskFull: r.DiskFull, DiskStalled: r.DiskStalled,
	}
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
	case a.manager.Session().State != lease.SessionLive:
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
			Name: m.Name, Role: string(m.Role), Leader: m.Name == leader, Health: string(m.Health), Session: lease.SessionNone, Draining: m.Draining,
			Version: m.Version, Addresses: api.Addresses{RPC: m.RPCAddr, Gossip: m.GossipAddr},
		}
		if s, ok := sessions[m.Name]; ok {
			n.Session = s.State
			if m.Health != cluster.HealthAlive || s.State != lease.SessionLive { // not while it reconnects
				n.ReclaimIn = reclaim(s)
			}
			delete(sessions, m.Name)
		}
		nodes = append(nodes, n)
	}
	for name, s := range sessions { // gossip has forgotten them, or does not know them yet
		nodes = append(nodes, api.Node{Name: name, Role: string(config.RoleServer), Health: string(cluster.HealthDead), Session: s.State, ReclaimIn: reclaim(s)})
	}
	return nodes
}

func reclaim(s lease.SessionInfo) *api.Duration {
	if s.ReclaimedIn <= 0 {
		return nil
	}
	d := api.Duration(s.ReclaimedIn)
	return &d
}

// sessions are the leader's view of the sessions; elsewhere, this node's own.
func (a *agent) sessions() map[string]lease.SessionInfo {
	out := map[string]lease.SessionInfo{}
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
	if s := a.manager.Session(); s.State != lease.SessionNone {
		out[a.name()] = lease.SessionInfo{ID: s.ID, Node: a.name(), State: s.State}
	}
	return out
}

// HostUses implements [api.UseSource].
func (a *agent) HostUses() []api.HostUse {
	hosts := a.manager.Hosts()
	out := make([]api.HostUse, len(hosts))
	for i, h := range hosts {
		out[i] = hostUse(h)
	}
	return out
}

// HostUse implements [api.UseSource].
func (a *agent) HostUse(key fsm.Key) (api.HostUse, bool) {
	h, ok := a.manager.Host(key)
	return hostUse(h), ok
}

func hostUse(h lease.HostUse) api.HostUse {
	return api.HostUse{Key: h.Key, Granted: h.Granted, InUse: h.InUse, Idle: h.Idle, Waiting: h.Waiting, Admitted: h.Admitted, Rejected: h.Rejected}
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

// Drain implements [api.Lifecycle].
func (a *agent) Drain(context.Context) error {
	a.turning.Lock()
	defer a.turning.Unlock()
	if a.isLeaving() || a.proxy.Draining() {
		return nil
	}
	a.log.Info("draining: no new connections; those that are open may end")
	a.proxy.SetDraining(true)
	a.manager.Drain()
	a.members.SetDraining(true)
	a.events.Drain(true)
	return nil
}

// Undrain implements [api.Lifecycle].
func (a *agent) Undrain(context.Context) error {
	a.turning.Lock()
	defer a.turning.Unlock()
	if a.isLeaving() {
		return fmt.Errorf("%w: %s is stopping or leaving the cluster, which can't be taken back: start it again instead", api.ErrConflict, a.name())
	}
	if !a.proxy.Draining() {
		return nil
	}
	a.log.Info("no longer draining: new connections are taken again")
	a.manager.Undrain()
	a.proxy.SetDraining(false)
	a.members.SetDraining(false)
	a.events.Drain(false)
	return nil
}

func (a *agent) isLeaving() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leaving
}

// setLeaving notes that the node stops. From then on draining can't be ended.
func (a *agent) setLeaving() {
	a.turning.Lock()
	defer a.turning.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaving = true
}

// Leave implements [api.Lifecycle].
func (a *agent) Leave(context.Context) error {
	a.setLeaving()
	a.leave()
	return nil
}

// Reload implements [api.Lifecycle].
func (a *agent) Reload(ctx context.Context) (api.Reloaded, error) {
	a.reloading.Lock() // or gossip could tell the digest of one file while the cluster has the limits of another
	defer a.reloading.Unlock()
	cfg, reloaded, err := a.reloadSettings()
	if err != nil {
		return api.Reloaded{}, err
	}
	a.members.SetConfigDigest(config.Digest(cfg))
	changed, err := a.api.ReplaceConfigLimits(ctx, limitsOf(cfg))
	if err != nil {
		return api.Reloaded{}, fmt.Errorf("the node's own settings are applied, the limits are not: %w", err)
	}
	if changed && !slices.Contains(reloaded.Applied, "limits") { // the cluster had another node's
		reloaded.Applied = append(reloaded.Applied, "limits")
	}
	a.checkAgreement()
	a.log.Info("reloaded", "applied", reloaded.Applied, "need_restart", reloaded.NeedRestart)
	return reloaded, nil
}

// reloadSettings applies the node's own settings.
func (a *agent) reloadSettings() (*config.Config, api.Reloaded, error) {
	a.applying.Lock()
	defer a.applying.Unlock()
	next, err := a.source.load()
	if err != nil {
		return nil, api.Reloaded{}, fmt.Errorf("%w:\n%w", api.ErrInvalidConfig, err)
	}
	a.mu.Lock()
	live, restart := config.Diff(a.cfg, next)
	cfg := *a.cfg // what needs a restart stays as it runs
	cfg.Log.Level, cfg.Limits, cfg.Origins = next.Log.Level, next.Limits, next.Origins
	cfg.API.MetricsHosts = next.API.MetricsHosts
	if config.TokensCanChange(a.cfg, next) {
		cfg.API.TokenFile, cfg.API.Token = next.API.TokenFile, next.API.Token
		cfg.API.ReadTokenFile, cfg.API.ReadToken = next.API.ReadTokenFile, next.API.ReadToken
	}
	if (cfg.Cluster.GossipKey == "") == (next.Cluster.GossipKey == "") {
		cfg.Cluster.GossipKey, cfg.Cluster.GossipAcceptKeys = next.Cluster.GossipKey, next.Cluster.GossipAcceptKeys
	}
	running := cfg.Proxy
	cfg.Proxy = next.Proxy
	cfg.Proxy.Listen, cfg.Proxy.TLS = running.Listen, running.TLS
	a.mu.Unlock()
	if err := a.reloadSecrets(&cfg); err != nil {
		return nil, api.Reloaded{}, err
	}
	if err := a.access.open(&cfg, a.proxy.SetLines); err != nil {
		return nil, api.Reloaded{}, fmt.Errorf("%w: %w", api.ErrInvalidConfig, err)
	}
	if err := a.proxy.SetPolicy(policy(&cfg)); err != nil {
		return nil, api.Reloaded{}, fmt.Errorf("%w: %w", api.ErrInvalidConfig, err)
	}
	a.resolver.SetTTLMax(cfg.Proxy.DNSTTLMax)
	a.log.SetLevel(hclog.LevelFromString(cfg.Log.Level))
	a.api.SetMetricsHosts(cfg.API.MetricsHosts)
	a.api.SetTokens(string(cfg.API.Token), string(cfg.API.ReadToken))
	a.mu.Lock()
	a.cfg = &cfg
	a.mu.Unlock()
	a.checkOwnPorts()
	return &cfg, api.Reloaded{Applied: live, NeedRestart: restart}, nil
}

// reloadSecrets takes certificates and gossip keys as they are now.
func (a *agent) reloadSecrets(cfg *config.Config) error {
	if err := a.certs.reload(); err != nil {
		return fmt.Errorf("%w: %w", api.ErrInvalidConfig, err)
	}
	if keys := gossipKeys(cfg); keys != nil {
		return a.members.SetGossipKeys(keys)
	}
	return nil
}

// reloadOnSignal reloads where nobody waits for the answer but the log.
func (a *agent) reloadOnSignal(ctx context.Context) {
	if _, err := a.Reload(ctx); err != nil {
		a.log.Error("reload failed", "error", err)
	}
}

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

// leads reports whether the only peer that a name means is the leader.
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

// leaderChanged is told when this node has heard of another leader.
func (a *agent) leaderChanged(addr string) {
	a.streams.leaderChanged(addr)
	if name, now := a.members.Leader(); now == addr {
		a.events.Leader(name, a.members.RaftStatus().Term)
	}
	a.checkOwnPorts() // a node without Raft state knows its cluster by the leader
}

// memberChanged follows gossip: a node may be dead, one that has left gave its session back, and a
// config may disagree.
func (a *agent) memberChanged(m cluster.Member) {
	a.events.Member(m.Name, string(m.Role), string(m.Health))
	if a.leases != nil {
		a.leases.Health(m.Name, m.Health == cluster.HealthDead)
		if m.Health == cluster.HealthLeft {
			a.leases.Left(lease.Farewell{Node: m.Name, Session: m.SessionLeft})
		}
	}
	a.checkOwnPorts()
	a.checkAgreement()
}

// disagreements names the nodes whose config differs from what the cluster has.
func (a *agent) disagreements() []string {
	digest := a.clusterDigest()
	names := []string{}
	for _, m := range a.members.Members() {
		if m.Alive() && m.ConfigDigest != "" && digest != "" && m.ConfigDigest != digest {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names
}

// clusterDigest is the digest of a config that agrees with the cluster; "" while nothing is known.
// A node without Raft state takes the leader's config for it.
func (a *agent) clusterDigest() string {
	if a.store == nil {
		leader, _ := a.members.Leader()
		m, _ := a.members.Member(leader)
		return m.ConfigDigest
	}
	var c config.Config
	a.store.Read(func(st *fsm.State) {
		c.Lease.TTL = st.TTL()
		for _, l := range st.ConfigLimits() {
			c.Limits = append(c.Limits, config.Limit{
				Pattern: l.Pattern.String(), Connections: l.Connections, Shared: l.Shared,
				Queue: config.Queue{Timeout: l.Queue.Timeout, Size: l.Queue.Size},
			})
		}
	})
	if c.Lease.TTL == 0 {
		return ""
	}
	return config.Digest(&c)
}

// checkAgreement logs when other nodes' configs begin or cease to disagree with the cluster's.
func (a *agent) checkAgreement() {
	names := strings.Join(a.disagreements(), ", ")
	a.mu.Lock()
	changed := names != a.disagreeing
	a.disagreeing = names
	a.mu.Unlock()
	switch {
	case changed && names != "":
		a.log.Warn("configs disagree with the cluster on lease.ttl or limits; the last reload wins", "nodes", names)
	case changed:
		a.log.Info("all configs agree with the cluster")
	}
}

// problemsError is a config's problems as one error.
func problemsError(problems config.Diagnostics) error {
	var b strings.Builder
	_ = config.WriteDiagnostics(&b, problems) // a Builder never fails
	return errors.New("the config has " + count(len(problems), "problem") + ":\n" + strings.TrimSuffix(b.String(), "\n"))
}
