package weir

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy"
)

// The packages' needs of each other, wired. Nothing is decided here.

var expiries = map[config.OnExpiry]lease.Expiry{
	config.OnExpiryClose: lease.ExpiryClose,
	config.OnExpiryDrain: lease.ExpiryDrain,
	config.OnExpiryKeep:  lease.ExpiryKeep,
}

func policy(c *config.Config) proxy.Policy {
	p := c.Proxy
	return proxy.Policy{
		Protocols: protocols(p.Protocols), NamesOnly: p.SOCKS5NamesOnly,
		RejectStatus: p.RejectStatus, DialTimeout: p.DialTimeout, HeaderTimeout: p.HeaderTimeout,
		TunnelIdleTimeout: p.TunnelIdleTimeout, HalfCloseTimeout: p.HalfCloseTimeout,
		ResponseTimeout: p.ResponseTimeout, PrivateConnections: !p.ShareKeptConnections,
		AllowClients: p.AllowClients, DenyDestinations: p.DenyDestinations, AllowDestinations: p.AllowDestinations,
		Users: users(p.Users), ProxyProtocolFrom: p.ProxyProtocolFrom,
	}
}

func protocols(list []config.Protocol) (set proxy.Protocols) {
	for _, p := range list {
		switch p {
		case config.ProtocolHTTP:
			set |= proxy.HTTP
		case config.ProtocolSOCKS5:
			set |= proxy.SOCKS5
		}
	}
	return set
}

// proxyAddrs returns where the proxy listens.
func (n *Node) proxyAddrs() []string {
	addrs := make([]string, len(n.proxyListeners))
	for i, l := range n.proxyListeners {
		addrs[i] = l.Addr().String()
	}
	return addrs
}

func users(list []config.User) []proxy.User {
	out := make([]proxy.User, len(list))
	for i, u := range list {
		out[i] = proxy.User{Name: u.Name, Hash: string(u.Hash)}
	}
	return out
}

func (n *Node) clusterConfig() cluster.Config {
	c := n.cfg.Load()
	return cluster.Config{
		Name: c.Name, Role: cluster.Role(c.Role), Version: n.source.Version, Data: n.data,
		RPC: c.Cluster.RPC, AdvertiseRPC: c.Cluster.AdvertiseRPC,
		Gossip: c.Cluster.Gossip, AdvertiseGossip: c.Cluster.AdvertiseGossip,
		APIAddr: address(n.apiListener), ProxyAddrs: n.proxyAddrs(),
		Join: c.Cluster.Join, BootstrapExpect: c.Cluster.BootstrapExpect,
		GossipKeys: gossipKeys(c), TLS: n.certs.rpcTLS(), Plaintext: cluster.Plaintext(c.Cluster.Plaintext),
		ConfigDigest: config.Digest(c.Lease.TTL, c.ClusterLimits()), OnCommit: n.timings.commits.Observe, Log: n.log.Named("cluster"), Fatal: n.stop,
		SessionLife: n.sessionLife,
	}
}

// sessionLife returns how long a session may stay alive after its leader was last confirmed. Until
// the cluster's ttl is known, the config's counts.
func (n *Node) sessionLife() (life time.Duration, certain bool) {
	if n.store != nil {
		n.store.Read(func(st *fsm.State) {
			if st.ClusterID() != "" {
				life, certain = st.TTL()+leasepb.Margin, true
			}
		})
	}
	if !certain {
		life = n.cfg.Load().Lease.TTL + leasepb.Margin
	}
	return life, certain
}

func (n *Node) handlers() cluster.Handlers {
	h := cluster.Handlers{
		HTTP:           n.api.PeerHandler(),
		MembersChanged: n.membersChanged,
		LeaderChanged:  n.leaderChanged,
		Superseded:     func(error) { n.manager.GiveUp() },
		Services:       func(grpc.ServiceRegistrar) {},
	}
	if n.leases != nil {
		h.Services = func(r grpc.ServiceRegistrar) { leasepb.RegisterLeaseServer(r, n.leases) }
		h.Lead = n.lead
	}
	return h
}

// lead does the leader's work of one term. The very first leader writes the cluster's settings.
func (n *Node) lead(ctx context.Context, term uint64) {
	found := func() error {
		res, err := n.entries.Propose(ctx, term, n.initial())
		return cmp.Or(err, res.Err)
	}
	if !foundCluster(ctx, found, func() bool { return n.clusterID() != "" }, n.log) {
		return
	}
	if err := n.members.SetClusterID(n.clusterID()); err != nil { // before any node is admitted
		n.stop(err)
		return
	}
	n.leadingTerm.Store(term)
	defer n.leadingTerm.Store(0)
	var left []leader.Farewell
	for _, m := range n.members.Members() {
		if m.Health == cluster.HealthLeft && m.SessionLeft != 0 {
			left = append(left, leader.Farewell{Node: m.Name, Session: m.SessionLeft})
		}
	}
	n.leases.Lead(ctx, term, n.members.GrantHold(), left...)
}

// foundPause is the pause between two attempts to write the cluster's settings. Entries that the
// state machine refuses stay in the log: without a pause, refusals would fill it.
const foundPause = 200 * time.Millisecond

// foundCluster writes the cluster's settings unless it has some. It reports false if ctx ended
// first.
func foundCluster(ctx context.Context, found func() error, founded func() bool, log hclog.Logger) bool {
	for !founded() {
		err := found()
		if err == nil {
			continue
		}
		log.Warn("the cluster's settings can't be written yet", "error", err)
		select {
		case <-time.After(foundPause):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// initial returns the cluster's first entry: its id, its ttl, and the limits of this node's config.
func (n *Node) initial() *fsm.Init {
	cfg := n.cfg.Load()
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails: it stops the program instead
	return &fsm.Init{ClusterID: hex.EncodeToString(id), TTL: cfg.Lease.TTL, Limits: cfg.ClusterLimits()}
}

// followClusterID adopts the cluster id as soon as the log contains it.
func (n *Node) followClusterID(ctx context.Context) error {
	for {
		changed := n.store.Changed()
		if id := n.clusterID(); id != "" {
			return n.members.SetClusterID(id)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *Node) clusterID() (id string) {
	n.store.Read(func(st *fsm.State) { id = st.ClusterID() })
	return id
}

// entryLog is the log that the state is replicated by: Raft's, or that of a node that is alone.
type entryLog interface {
	leader.Log
	// Append is Propose, and returns the entry's index too. Term 0 is whatever term it is.
	Append(ctx context.Context, term uint64, c fsm.Command) (index uint64, res fsm.Result, err error)
}

// leaseLog is Raft's log.
type leaseLog struct {
	members *cluster.Cluster
	store   *fsm.Store
}

// Propose implements [leader.Log].
func (l leaseLog) Propose(ctx context.Context, term uint64, c fsm.Command) (fsm.Result, error) {
	_, res, err := l.Append(ctx, term, c)
	if err != nil && !errors.Is(err, cluster.ErrUnknownOutcome) {
		// This includes a hand-over that fails after all: the term goes on.
		err = fmt.Errorf("%w: %w", leader.ErrNotProposed, err)
	}
	return res, err
}

// VerifyLeader implements [leader.Log].
func (l leaseLog) VerifyLeader(ctx context.Context) error { return l.members.VerifyLeader(ctx) }

// LastLed implements [leader.Log].
func (l leaseLog) LastLed(ctx context.Context, term uint64) (time.Duration, error) {
	return l.members.LastLed(ctx, term)
}

// Append implements [entryLog].
func (l leaseLog) Append(ctx context.Context, term uint64, c fsm.Command) (uint64, fsm.Result, error) {
	if err := checkVersion(l.store, c, l.members.CheckLogVersion); err != nil {
		return 0, fsm.Result{}, err
	}
	index, response, err := l.members.Propose(ctx, term, fsm.Encode(c))
	if err != nil {
		return 0, fsm.Result{}, err
	}
	res, ok := response.(*fsm.Result)
	if !ok {
		return 0, fsm.Result{}, fmt.Errorf("the state machine answered with %T", response)
	}
	return index, *res, nil
}

// checkVersion refuses an entry that some server would stop at. What the state holds already
// needs no asking: all servers have read it, or have stopped before.
func checkVersion(store *fsm.Store, c fsm.Command, ask func(version uint32) error) error {
	need := fsm.VersionOf(c)
	if need <= 1 {
		return nil
	}
	var held uint32
	store.Read(func(st *fsm.State) { held = st.LogVersion() })
	if need <= held {
		return nil
	}
	return ask(need)
}

// admitter lets the proxy acquire slots from the manager.
type admitter struct{ manager *lease.Manager }

// Begin implements [proxy.Admitter].
func (a admitter) Begin(ctx context.Context, s *limit.Subject, h lease.Holder, ended proxy.Claims) (proxy.Claims, error) {
	r, again := ended.(*lease.Request)
	if !again {
		r = new(lease.Request)
	}
	if err := a.manager.Begin(ctx, r, s, h); err != nil {
		return nil, err // a nil *lease.Request in the interface would not be nil
	}
	return r, nil
}

// Acquire implements [proxy.Admitter].
func (a admitter) Acquire(ctx context.Context, t limit.Target, h lease.Holder) (proxy.Slot, error) {
	s := new(lease.Slot)
	if err := a.manager.Acquire(ctx, s, t, h); err != nil {
		return nil, err // a nil *lease.Slot in the interface would not be nil
	}
	return s, nil
}

// Take implements [proxy.Admitter].
func (a admitter) Take(ctx context.Context, s *limit.Subject, waited time.Duration) error {
	if err := a.manager.Admit(s); err != nil {
		return err
	}
	return a.manager.Take(ctx, s, waited)
}

// Meter implements [proxy.Admitter].
func (a admitter) Meter(s *limit.Subject, r limit.Resource, w lease.Waker, former proxy.Meter) proxy.Meter {
	if m, ok := former.(*lease.Meter); ok {
		a.manager.GoOn(m, s, w)
		return m
	}
	m := new(lease.Meter)
	a.manager.Init(m, s, r, w)
	return m
}

// Paces implements [proxy.Admitter].
func (a admitter) Paces(direction limit.Resource) bool {
	table := a.manager.Table()
	return table != nil && table.Paces(direction)
}

// Limit implements [proxy.Admitter].
func (a admitter) Limit(t limit.Target) (limit.Limit, bool) {
	table := a.manager.Table()
	if table == nil {
		return limit.Limit{}, false
	}
	l, _ := table.Match(t)
	if !l.Capped() {
		return limit.Limit{}, false
	}
	return *l, true
}

// CountsNames implements [proxy.Admitter].
func (a admitter) CountsNames() bool {
	table := a.manager.Table()
	return table != nil && table.CountsNames()
}

// address is a listener's; "" without one.
func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

func (n *Node) leaderAddr() string {
	_, addr := n.members.Leader()
	return addr
}

// connect opens a lease stream to the leader if one is known, and otherwise to any server, which
// names the leader.
func (n *Node) connect(ctx context.Context, hint string) (lease.Stream, error) {
	if n.source.alone {
		return n.leases.Open(ctx, n.parts.Go)
	}
	changes := n.streams.seen()
	addr := hint
	if addr == "" {
		addr = n.leaderAddr()
	}
	if addr == "" && n.store != nil {
		return nil, errors.New("no leader is known yet") // this server will learn of a leader as soon as any other node
	}
	if addr == "" {
		var servers []string
		for _, m := range n.members.Servers() {
			if m.Alive() {
				servers = append(servers, m.RPCAddr)
			}
		}
		if len(servers) == 0 {
			return nil, errors.New("no server is known yet")
		}
		addr = servers[mrand.IntN(len(servers))]
	}
	conn, err := n.members.GRPCConn(addr)
	if err != nil {
		return nil, err
	}
	return n.streams.open(ctx, conn, addr, changes)
}

// limitsFile is the file in the data directory with the newest known limits. A node that starts
// while the cluster is down lets requests to hosts without a limit through.
const limitsFile = "limits.pb"

func (n *Node) lastLimits() *limit.Table {
	if n.data.Path() == "" {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(n.data.Path(), limitsFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		var table *limit.Table
		if table, err = leasepb.UnmarshalTable(b); err == nil {
			n.keeper.note(table.Index)
			return table
		}
	}
	n.log.Warn("the limits last known can't be read; all hosts count as limited until the cluster is reached", "error", err)
	return nil
}

func (n *Node) keepLimits(t *limit.Table) {
	n.checkAgreement()
	if n.keeper != nil {
		n.keeper.keep(t)
	}
}
