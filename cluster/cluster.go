package cluster

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/config/certs"
)

const (
	defaultLabel     = "weir"
	conflictTimeout  = 2 * time.Second
	leaderAskTimeout = 2 * time.Second
	drainProposals   = time.Second
	leaveRetry       = 300 * time.Millisecond
	maxMetaText      = 64
)

// Config says how a node takes part. Every address is "host:port"; port 0 takes a free one.
type Config struct {
	Name    string
	Role    Role
	Version string // spread by gossip, at most 64 bytes
	// Data is the node's open directory, or what stands for one. The caller closes it, after Shutdown.
	Data *DataDir

	// FSM is the replicated state of a server, nil for a proxy.
	FSM raft.FSM
	// LogVersion is the newest version of the log's commands that the FSM understands; 0 is 1.
	LogVersion uint32
	// AppliedIndex answers the index that the FSM has after a snapshot was restored; nil leaves WaitApplied waiting
	// for the next entry then.
	AppliedIndex func() uint64

	RPC             string // the TCP port that Raft, gRPC and the peers' HTTP share
	AdvertiseRPC    string // what others dial, where it differs
	Gossip          string // TCP and UDP
	AdvertiseGossip string
	Join            []string // gossip addresses or names, tried for ever
	// APIAddr is what the node's HTTP API listens on, for the others to know; its host may be unspecified.
	APIAddr string
	// ProxyAddrs are what the node's proxy listens on, likewise.
	ProxyAddrs []string
	// BootstrapExpect is the number of servers that form the cluster together; 0 never forms one, and waits to be
	// added. Every server of a cluster must have the same.
	BootstrapExpect int
	// TLS tells the node's certificate and CA as they are now, for mutual TLS on the rpc port; nil: it is not encrypted.
	TLS func() *certs.Set
	// GossipKeys encrypt gossip with the first, and decrypt it with any; nil: gossip is not encrypted.
	GossipKeys GossipKeys
	// Plaintext is what becomes of what isn't encrypted; "" is PlainRefuse. It is nothing to a node without TLS and keys.
	Plaintext Plaintext
	// Label keeps gossip of other systems apart that use the same addresses; "" is "weir".
	Label        string
	ConfigDigest string // spread by gossip, at most 64 bytes

	// Multiplier stretches the timings of Raft and gossip, for slow networks and starved machines: 1 (or 0) notices a dead
	// leader within about a second, 2 takes twice as long and bears pauses twice as long.
	Multiplier int

	Log hclog.Logger
	// Fatal is called, from a goroutine of its own and at most once, when the process must stop: the name is taken.
	Fatal func(error)

	// OnCommit is told how long each entry took that this server proposed as the leader, from being handed to Raft until
	// it was applied here; those that failed are not told. Many may call at once; it must not block. nil tells nobody.
	OnCommit func(time.Duration)

	// SessionLife says for how long a session may be alive after its leader was last confirmed (the
	// ttl, and the margin), and whether that is certain for the cluster. A server whose disk may be
	// an older copy waits for so long. nil: it is not known, and the longest that there can be
	// counts.
	SessionLife func() (life time.Duration, certain bool)

	// Tests set these.
	interfaceAddrs func() ([]net.Addr, error)
	addressesEvery time.Duration
	wrapStore      func(logStable) logStable
	patience       time.Duration // of the watchdog: with commits
	stall          time.Duration // and with the own disk
	listen         time.Duration // before a cluster is formed alone; negative: not at all
}

// Handlers is what a node does as part of the cluster. All are optional.
type Handlers struct {
	// Services registers gRPC services on the rpc port.
	Services func(grpc.ServiceRegistrar)
	// HTTP answers the peers' requests on the rpc port.
	HTTP http.Handler
	// Lead does the leader's work in one term, from the moment that the FSM holds everything committed before. It
	// returns soon after its context has ended, which says that the term is over; until then no other Lead begins.
	Lead func(ctx context.Context, term uint64)
	// MemberChanged is told of a member that is new or has changed, except that it became a suspect, which is told by
	// nobody. Changes in quick succession may be told as one; calls come one at a time.
	MemberChanged func(Member)
	// LeaderChanged is told the rpc address of a leader that this node has heard of, when it is another one than before.
	// It must not block.
	LeaderChanged func(rpcAddr string)
	// Superseded is told, once, that this server must not lead the cluster that it has formed, nor use what that cluster has
	// granted: an older cluster names it as a voter. It must not block.
	Superseded func(error)
}

// Cluster is a node's part in its cluster.
type Cluster struct {
	cfg  Config
	log  hclog.Logger
	born time.Time

	life context.Context // ends when the node stops
	stop context.CancelFunc
	wg   sync.WaitGroup

	of        *affiliation
	said      saidBefore // of gossip that is refused
	mux       *mux
	peers     *peers
	servers   *servers
	transport *gossipTransport
	gossip    *gossip
	handlers  Handlers

	// These are set for servers only.
	stores    *stores
	fsm       *appliedFSM
	acks      *ackBook
	past      *pastGuard
	netRaft   *raft.NetworkTransport
	raft      *raft.Raft
	raftReady chan struct{} // closed once raft is set: Raft's own goroutines come back before
	pilot     *pilot
	bootstrap *bootstrapper
	proposals *proposals
	verifier  *verifier
	muted     atomic.Bool // by the watchdog: followers are sent nothing
	// superseded says that an older cluster counts on this server, which has formed another one alone: it leads nobody.
	superseded atomic.Bool

	leaderChanges atomic.Uint64

	nameTaken atomic.Bool // by another node, which this one must not say goodbye for
	fatalOnce sync.Once
	downOnce  sync.Once
	down      chan struct{}
	started   chan struct{} // closed once gossip and Raft are set, before anybody else can reach them

	leaderKick chan struct{} // gossip may tell of another leader
}

// New checks the configuration, binds both ports and opens the stores. Errors are one line that names the setting.
func New(cfg Config) (*Cluster, error) {
	if err := cfg.normalise(); err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, log: cfg.Log, born: time.Now(), proposals: newProposals(), raftReady: make(chan struct{}), down: make(chan struct{}), started: make(chan struct{}),
		leaderKick: make(chan struct{}, 1),
	}
	c.life, c.stop = context.WithCancel(context.Background())
	if err := c.open(); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (cfg *Config) normalise() error {
	cfg.Multiplier = max(cfg.Multiplier, 1)
	if cfg.patience == 0 {
		cfg.patience = watchdogLimit * time.Duration(cfg.Multiplier)
	}
	if cfg.stall == 0 {
		cfg.stall = stallLimit * time.Duration(cfg.Multiplier)
	}
	switch {
	case cfg.listen == 0 && (cfg.Data == nil || cfg.Data.Path() == ""):
		cfg.listen = -1 // nothing that is kept in memory can have been lost
	case cfg.listen == 0:
		cfg.listen = listenFirst * time.Duration(cfg.Multiplier)
	}
	if cfg.interfaceAddrs == nil {
		cfg.interfaceAddrs = net.InterfaceAddrs
	}
	cfg.addressesEvery = cmp.Or(cfg.addressesEvery, addressesEvery)
	if cfg.Label == "" {
		cfg.Label = defaultLabel
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	cfg.Plaintext = cmp.Or(cfg.Plaintext, PlainRefuse)
	if cfg.OnCommit == nil {
		cfg.OnCommit = func(time.Duration) {}
	}
	switch {
	case cfg.Data == nil:
		return errors.New("a node needs a data directory, or MemoryDataDir")
	case cfg.Data.Name() != cfg.Name:
		return fmt.Errorf("the data directory belongs to node %q, not %q", cfg.Data.Name(), cfg.Name)
	case cfg.Role != RoleServer && cfg.Role != RoleProxy:
		return fmt.Errorf("unknown role %q: it is \"server\" or \"proxy\"", cfg.Role)
	case cfg.Role == RoleServer && cfg.FSM == nil:
		return errors.New("a server needs an FSM")
	case cfg.Plaintext != PlainRefuse && cfg.Plaintext != PlainAccept && cfg.Plaintext != PlainSend:
		return fmt.Errorf("cluster.plaintext: %q is not refuse, accept or send", cfg.Plaintext)
	case len(cfg.Version) > maxMetaText || len(cfg.ConfigDigest) > maxMetaText:
		return fmt.Errorf("the version and the config digest may have %d bytes", maxMetaText)
	}
	return cfg.GossipKeys.check()
}

// open takes the ports and files; on an error it gives back what it has taken.
func (c *Cluster) open() (err error) {
	listener, err := net.Listen("tcp", c.cfg.RPC)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("cluster.rpc: %s is in use by another process: stop that one, or change the address", c.cfg.RPC)
	}
	if err != nil {
		return fmt.Errorf("cluster.rpc: can't listen on %s: %w", c.cfg.RPC, err)
	}
	defer func() {
		if err != nil {
			_ = listener.Close()
		}
	}()
	if c.cfg.Role == RoleServer {
		if c.stores, err = openStores(c.cfg.Data, c.log.Named("raft"), c.cfg.wrapStore); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = c.stores.close()
			}
		}()
	}
	door := c.doorkeeper()
	logger := newQuietStandardLogger(c.log.Named("gossip"))
	if c.transport, err = listenGossip(c.cfg.Gossip, logger, door, c.gossipRefused); err != nil {
		return err
	}
	self, err := c.advertisedRPC(listener)
	if err != nil {
		c.transport.discard()
		return err
	}
	c.mux = newMux(c.log.Named("rpc"), listener, self, door, newSecurity(&c.cfg))
	c.peers = newPeers(c.mux)
	return nil
}

// doorkeeper speaks for this node on both of its ports.
func (c *Cluster) doorkeeper() *doorkeeper {
	saved := c.cfg.Data.state().Cluster
	c.of = &affiliation{id: saved, settled: saved != "", keep: c.keepClusterID, decided: c.clusterDecided}
	d := &doorkeeper{name: c.cfg.Name, of: c.of, introduction: c.introduce, heard: c.heardPreface}
	if c.cfg.Role == RoleServer {
		d.serverID = c.cfg.Data.ServerID()
	}
	return d
}

// joinsNobody reports whether cluster.join names no other node.
func joinsNobody(join []string, own ...string) bool {
	return !slices.ContainsFunc(join, func(addr string) bool { return !slices.Contains(own, addr) })
}

// introduce says what others need to know of this node where a connection begins.
func (c *Cluster) introduce(i *clusterpb.Introduction) {
	select {
	case <-c.started:
		i.GossipAddr, i.LeadsTerm = c.gossip.gossipIP.String(), c.leadingTerm()
	default: // neither is known yet
	}
}

// gossipRefused logs why there is no gossip with an address: at most once in a while for each machine.
func (c *Cluster) gossipRefused(peer string, err error) {
	log := c.log.Named("gossip")
	host, _, splitErr := net.SplitHostPort(peer)
	if splitErr != nil {
		host = peer
	}
	var wrong *misfit
	if errors.As(err, &wrong) && c.said.due(host+" "+wrong.kind(), time.Now()) || errors.Is(err, errUnmarked) && c.said.due(host+" unmarked", time.Now()) {
		log.Warn("no gossip with a node", "peer", peer, "reason", err)
		return
	}
	log.Debug("no gossip with a node", "peer", peer, "reason", err)
}

// keepClusterID writes down, for good, of which cluster this node is.
func (c *Cluster) keepClusterID(id string) error {
	return c.cfg.Data.update(func(saved *identity) { saved.Cluster = id })
}

// clusterDecided follows the moment at which this node knows its cluster: from then on it has nothing to do with members of
// others that it met before.
func (c *Cluster) clusterDecided(id string) {
	c.log.Info("this node's cluster is known", "cluster", id)
	c.mux.dropOthers(id)
	if err := c.gossip.decide(id); err != nil {
		c.log.Error("the gossip metadata can't be changed", "error", err)
	}
}

// advertisedRPC is what others dial: as configured, or where the port is bound to every address, the one that gossip
// advertises.
func (c *Cluster) advertisedRPC(listener net.Listener) (string, error) {
	_, bound, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return "", err
	}
	if c.cfg.AdvertiseRPC != "" {
		host, port, err := net.SplitHostPort(c.cfg.AdvertiseRPC)
		if err != nil {
			return "", fmt.Errorf("cluster.advertise_rpc: %q is not an address with a port", c.cfg.AdvertiseRPC)
		}
		if port == "0" {
			port = bound
		}
		return net.JoinHostPort(host, port), nil
	}
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	if !at.Addr().IsUnspecified() {
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String(), nil
	}
	advertise, port := "", 0
	if c.cfg.AdvertiseGossip != "" {
		ip, p, err := resolveBind(c.cfg.AdvertiseGossip)
		if err != nil {
			return "", fmt.Errorf("cluster.advertise_gossip: %w", err)
		}
		advertise, port = ip.String(), p
	}
	ip, _, err := c.transport.FinalAdvertiseAddr(advertise, port)
	if err != nil || ip.IsUnspecified() {
		return "", fmt.Errorf("cluster.advertise_rpc: set it: this node listens on every address, and which one others reach can't be guessed (%v)", err)
	}
	return net.JoinHostPort(ip.String(), bound), nil
}

// Start begins to take part. On an error, Shutdown has been called.
func (c *Cluster) Start(h Handlers) error {
	if err := c.start(h); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		_ = c.Shutdown(ctx)
		return err
	}
	return nil
}

func (c *Cluster) start(h Handlers) error {
	c.handlers = h
	meta, err := c.firstMeta()
	if err != nil {
		return err
	}
	if c.gossip, err = newGossip(gossipConfig{
		name: c.cfg.Name, advertise: c.cfg.AdvertiseGossip, everywhere: c.transport.everywhere, join: c.cfg.Join, keys: c.cfg.GossipKeys, plaintext: c.cfg.Plaintext, label: c.cfg.Label,
		mult: c.cfg.Multiplier, log: c.log.Named("gossip"), conflict: c.settleConflict, fatal: c.fatal,
	}, c.transport, meta); err != nil {
		return err
	}
	c.of.seed = joinsNobody(c.cfg.Join, c.gossip.gossipIP.String(), c.cfg.Gossip, c.cfg.AdvertiseGossip)
	if c.cfg.Role == RoleServer {
		if err := c.startRaft(); err != nil {
			return err
		}
	}
	c.servers = newServers(h.HTTP)
	clusterpb.RegisterControlServer(c.servers.grpc, control{c: c})
	if h.Services != nil {
		h.Services(c.servers.grpc)
	}
	c.servers.start(c.mux, c.fatal)
	close(c.started)
	c.transport.start()
	c.mux.start()
	c.background(func() { c.gossip.run(c.life) })
	c.background(func() { c.followAddresses(c.life) })
	c.background(func() { c.tellMembers(c.life) })
	c.background(func() { c.tellLeader(c.life) })
	if c.raft != nil {
		c.background(func() { c.followLeadership(c.life) })
		c.background(func() { c.watch(c.life) })
		c.background(func() { c.noteState(c.life) })
		if c.bootstrap != nil {
			c.background(func() { c.bootstrap.run(c.life) })
		}
	}
	return nil
}

func (c *Cluster) firstMeta() (*clusterpb.Meta, error) {
	identity, err := hex.DecodeString(c.cfg.Data.Identity())
	if err != nil {
		return nil, fmt.Errorf("the node's identity is damaged: %w", err)
	}
	meta := &clusterpb.Meta{
		Identity: identity, Role: clusterpb.Role_ROLE_PROXY, RpcAddr: c.mux.self, Version: c.cfg.Version, ConfigDigest: c.cfg.ConfigDigest,
		ApiAddr: c.cfg.APIAddr, Cluster: c.of.cluster(),
	}
	machine, err := c.cfg.interfaceAddrs()
	if err != nil {
		c.log.Warn("this machine's addresses can't be listed: other nodes' proxies know its advertised ones only", "error", err)
	}
	l := c.listening()
	meta.Listening = l.encode(machine)
	if c.cfg.Role == RoleServer {
		has, err := c.stores.hasState()
		if err != nil {
			return nil, err
		}
		meta.Role = clusterpb.Role_ROLE_SERVER
		meta.LogVersion = max(c.cfg.LogVersion, 1)
		meta.BootstrapExpect, meta.HasState = uint32(max(c.cfg.BootstrapExpect, 0)), has
	}
	return meta, nil
}

// raftConfig is tuned for one network: a leader that is gone is replaced within one to two seconds.
func (c *Cluster) raftConfig() *raft.Config {
	mult := time.Duration(c.cfg.Multiplier)
	conf := raft.DefaultConfig()
	conf.LocalID = c.serverID()
	conf.HeartbeatTimeout, conf.ElectionTimeout = c.raftTimeouts(), c.raftTimeouts()
	conf.LeaderLeaseTimeout = 500 * time.Millisecond * mult
	if c.past.doubt != nil {
		// The only voter of a configuration asks nobody before it leads. It has to listen first,
		// until it is released.
		conf.HeartbeatTimeout, conf.ElectionTimeout = longestLife, longestLife
	}
	// A follower that is told of commits within half a second is soon enough: what is committed is acted upon on the
	// leader, and this is what an idle cluster mostly does.
	conf.CommitTimeout = 250 * time.Millisecond
	conf.SnapshotInterval = 2 * time.Minute
	conf.SnapshotThreshold = 8192
	conf.TrailingLogs = 10240
	conf.MaxAppendEntries = 64
	conf.ShutdownOnRemove = false // a removed server goes on as a node
	conf.NoLegacyTelemetry = true
	conf.Logger = newQuietLogger(c.log.Named("raft"))
	return conf
}

func (c *Cluster) startRaft() error {
	c.fsm = newAppliedFSM(c.cfg.FSM, c.cfg.AppliedIndex)
	c.acks = &ackBook{}
	c.verifier = &verifier{check: c.verifySince}
	var err error
	if c.past, err = newPastGuard(c); err != nil {
		return damaged(c.cfg.Data, "in "+c.cfg.Data.Path(), err)
	}
	c.netRaft = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: addressBook{self: c.serverID(), selfAddr: c.mux.self, lookup: c.dialAddress},
		Logger:                newQuietLogger(c.log.Named("raft-net")),
		Stream:                raftLayer{Listener: c.mux.sub(kindRaft), mux: c.mux},
		MaxPool:               3,
		Timeout:               3 * time.Second * time.Duration(c.cfg.Multiplier),
	})
	transport := newGuardedTransport(verifyingTransport{c.netRaft, c.acks, &c.muted}, c.past)
	c.background(func() { transport.run(c.life) })
	var node *raft.Raft
	err = trapped(func() (err error) {
		node, err = raft.NewRaft(c.raftConfig(), c.fsm, c.stores.log, c.stores.stable, c.stores.snapshots, transport)
		return err
	})
	if err != nil {
		return damaged(c.cfg.Data, "in "+c.cfg.Data.Path(), err)
	}
	c.raft = node
	close(c.raftReady)
	c.background(func() { c.past.run(c.life) })
	c.pilot = newPilot(c)
	if c.cfg.BootstrapExpect > 0 && c.raftIsEmpty() {
		c.bootstrap = &bootstrapper{c: c, ballot: &ballot{dir: c.cfg.Data}}
		return nil
	}
	switch alone := c.alone(); {
	case alone && c.past.doubt == nil:
		c.campaign()
	case !alone && c.past.doubt != nil:
		c.restoreTimeouts()
	}
	return nil
}

// alone reports whether this server is the only one of its configuration.
func (c *Cluster) alone() bool {
	servers := c.configuration().Servers
	return len(servers) == 1 && servers[0].ID == c.serverID()
}

// restoreTimeouts lets a server that had to listen first stand for election. The only one of a
// cluster does so at once.
func (c *Cluster) restoreTimeouts() {
	normal := c.raftTimeouts()
	conf := c.raft.ReloadableConfig()
	conf.HeartbeatTimeout, conf.ElectionTimeout = normal, normal
	if err := c.raft.ReloadConfig(conf); err != nil {
		c.fatal(fmt.Errorf("this server can't stand for election: %w", err))
	}
}

// raftTimeouts is how long a leader may be silent, and an election take.
func (c *Cluster) raftTimeouts() time.Duration {
	return 700 * time.Millisecond * time.Duration(c.cfg.Multiplier)
}

// noteState tells the others when this server has Raft state.
func (c *Cluster) noteState(ctx context.Context) {
	for c.raftIsEmpty() {
		if !sleep(ctx, leaderPoll) {
			return
		}
	}
	c.setMeta(func(m *clusterpb.Meta) { m.HasState = true })
}

// tellMembers passes membership on.
func (c *Cluster) tellMembers(ctx context.Context) {
	had := make(map[string]string)
	for {
		select {
		case <-c.gossip.members.kick:
		case <-ctx.Done():
			return
		}
		changed := c.gossip.members.takeChanged()
		all := c.Members()
		for _, m := range all {
			if slices.Contains(changed, m.Name) && c.handlers.MemberChanged != nil {
				c.handlers.MemberChanged(m)
			}
		}
		c.dropDeparted(had, all)
		select {
		case c.leaderKick <- struct{}{}:
		default: // it has yet to look
		}
		if c.pilot != nil {
			c.pilot.membersChanged()
		}
	}
}

// tellLeader passes on who leads: as Raft knows it, or on a proxy as gossip tells. Who waits for a leader that has frozen, or is
// cut off, would otherwise learn of the next one only when its connection fails.
func (c *Cluster) tellLeader(ctx context.Context) {
	elected := make(chan raft.Observation, 1) // one that is dropped is told by the one that waits
	if c.raft != nil {
		observer := raft.NewObserver(elected, false, func(o *raft.Observation) bool {
			leader, ok := o.Data.(raft.LeaderObservation)
			if ok && leader.LeaderID != "" {
				c.leaderChanges.Add(1)
			}
			return ok
		})
		c.raft.RegisterObserver(observer)
		defer c.raft.DeregisterObserver(observer)
		if _, id := c.raft.LeaderWithID(); id != "" {
			c.leaderChanges.CompareAndSwap(0, 1) // a leader that was there before the observer
		}
	}
	told := ""
	for {
		if _, addr := c.Leader(); addr != "" && addr != told && c.handlers.LeaderChanged != nil {
			told = addr
			if c.raft == nil {
				c.leaderChanges.Add(1)
			}
			c.handlers.LeaderChanged(addr)
		}
		select {
		case <-elected:
		case <-c.leaderKick:
		case <-ctx.Done():
			return
		}
	}
}

// dropDeparted closes connections to addresses that a member had, and nobody has any more. A dead node's stay: it may
// not be dead. had holds each member's address, from one call to the next.
func (c *Cluster) dropDeparted(had map[string]string, all []Member) {
	keep := make(map[string]bool)
	var gone []string
	for _, m := range all {
		if old := had[m.Name]; old != "" && old != m.RPCAddr {
			gone = append(gone, old)
		}
		had[m.Name] = m.RPCAddr
		if m.Health == HealthLeft {
			gone = append(gone, m.RPCAddr)
		} else {
			keep[m.RPCAddr] = true
		}
	}
	for _, addr := range gone {
		if !keep[addr] {
			c.peers.drop(addr)
		}
	}
}

// background runs f as part of the node's life.
func (c *Cluster) background(f func()) {
	if c.life.Err() == nil {
		c.wg.Go(f)
	}
}

func (c *Cluster) fatal(err error) {
	c.fatalOnce.Do(func() {
		c.log.Info("this node has to stop", "error", err) // whoever is told prints it as the process's last word
		if c.cfg.Fatal != nil {
			go c.cfg.Fatal(err)
		}
	})
}

func (c *Cluster) setMeta(change func(*clusterpb.Meta)) {
	if err := c.gossip.update(change); err != nil {
		c.log.Error("the gossip metadata can't be changed", "error", err)
	}
}

func (c *Cluster) serverID() raft.ServerID { return raft.ServerID(c.cfg.Data.ServerID()) }

func (c *Cluster) configuration() raft.Configuration {
	return c.raft.GetConfiguration().Configuration()
}

func (c *Cluster) raftIsEmpty() bool {
	return c.raft.LastIndex() == 0 && len(c.configuration().Servers) == 0
}

// dialAddress is addressOf for Raft's goroutines.
func (c *Cluster) dialAddress(id raft.ServerID) (string, bool) {
	select {
	case <-c.raftReady:
		return c.addressOf(id)
	default:
		return "", false
	}
}

// addressOf finds a server's rpc address.
func (c *Cluster) addressOf(id raft.ServerID) (string, bool) {
	if m, ok := c.Member(NameOf(string(id))); ok && m.Alive() && m.ServerID() == string(id) && m.RPCAddr != "" {
		return m.RPCAddr, true
	}
	if c.raft == nil {
		return "", false
	}
	for _, s := range c.configuration().Servers {
		if s.ID == id {
			return string(s.Address), true
		}
	}
	return "", false
}

func (c *Cluster) self() Member {
	m, _ := c.Member(c.cfg.Name)
	return m
}

// ClusterID is the id of the cluster that this node is of; "" until it is known.
func (c *Cluster) ClusterID() string { return c.of.cluster() }

// plainAddress is an address without the id that Raft's transport may have put before it.
func plainAddress(addr raft.ServerAddress) string {
	if _, after, ok := strings.Cut(string(addr), "@"); ok {
		return after
	}
	return string(addr)
}
