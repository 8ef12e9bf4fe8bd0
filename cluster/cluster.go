package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/gossip"
	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/lognoise"
	"github.com/weirproxy/weir/cluster/rpcport"
)

const (
	defaultLabel     = "weir"
	conflictTimeout  = 2 * time.Second
	leaderAskTimeout = 2 * time.Second
	drainProposals   = time.Second
	undoTimeout      = time.Second // of a start that has failed
	leaveRetry       = 300 * time.Millisecond
)

// Cluster is a node's part in its cluster.
type Cluster struct {
	cfg  Config
	log  hclog.Logger
	born time.Time

	life context.Context // ends when the node stops
	stop context.CancelFunc
	wg   sync.WaitGroup

	of       *handshake.Affiliation
	said     *lognoise.Said // lines that recur
	port     *rpcport.Port
	gossip   *gossip.Gossip
	handlers Handlers

	// These are set for servers only.
	stores     *stores
	acks       *ackBook
	past       *pastGuard
	electorate electorate
	netRaft    *raft.NetworkTransport
	raft       *raft.Raft
	raftReady  chan struct{} // closed once raft is set: Raft's goroutines call back before that
	raftEnded  chan struct{} // closed once Raft has shut down
	pilot      *pilot
	bootstrap  *bootstrapper
	proposals  *proposals
	verifier   *verifier
	muted      atomic.Bool // set by the watchdog: followers are sent nothing
	// superseded says that this server must not lead: it has formed a cluster alone, and an older
	// cluster still counts on it.
	superseded atomic.Bool

	leaderChanges atomic.Uint64

	nameTaken atomic.Bool // by another node: a goodbye from this one would be taken for its
	fatalOnce sync.Once
	downOnce  sync.Once
	down      chan struct{}
	started   chan struct{} // closed once gossip and raft are set, before other nodes can reach them

	leaderKick chan struct{} // gossip may name another leader
}

// New checks the configuration, binds both ports and opens the stores. An error is one line that
// names the setting.
func New(cfg Config) (*Cluster, error) {
	if err := cfg.normalise(); err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, log: cfg.Log, born: time.Now(), said: lognoise.Strangers(), proposals: newProposals(), raftReady: make(chan struct{}), raftEnded: make(chan struct{}), down: make(chan struct{}), started: make(chan struct{}),
		leaderKick: make(chan struct{}, 1),
	}
	c.life, c.stop = context.WithCancel(context.Background())
	if err := c.open(); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// open binds the ports and opens the files. On an error it releases them.
func (c *Cluster) open() (err error) {
	listener, err := net.Listen("tcp", c.cfg.RPC)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("cluster.rpc: %s is taken (%w): stop the other process, or change the address", c.cfg.RPC, syscall.EADDRINUSE)
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
	if c.gossip, err = gossip.Listen(gossip.Config{
		Name: c.cfg.Name, Bind: c.cfg.Gossip, Advertise: c.cfg.AdvertiseGossip, Join: c.cfg.Join,
		Keys: c.cfg.GossipKeys, Plaintext: c.cfg.Plaintext, Label: c.cfg.Label, Multiplier: c.cfg.Multiplier,
		Log: c.log.Named("gossip"), Door: door, Conflict: c.settleConflict, Fatal: c.fatal,
	}); err != nil {
		return err
	}
	self, err := c.advertisedRPC(listener)
	if err != nil {
		c.gossip.Close()
		return err
	}
	c.port = rpcport.New(rpcport.Config{
		Log: c.log.Named("rpc"), Listener: listener, Self: self, Door: door,
		TLS: c.cfg.TLS, Plaintext: c.cfg.Plaintext, Members: c.gossip.Machines,
	})
	return nil
}

// advertisedRPC returns the address that other nodes dial: the configured one, or if the port is
// bound to every address, the one that gossip advertises.
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
	ip, err := c.gossip.AdvertiseIP()
	if err != nil || ip.IsUnspecified() {
		return "", fmt.Errorf("cluster.advertise_rpc: set it: this node listens on every address, and which one others reach can't be guessed (%v)", err)
	}
	return net.JoinHostPort(ip.String(), bound), nil
}

// Start joins the cluster and begins to serve. On an error, Shutdown has been called.
func (c *Cluster) Start(h Handlers) error {
	if err := c.start(h); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
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
	if err := c.gossip.Start(meta); err != nil {
		return err
	}
	c.of.Seed = joinsNobody(c.cfg.Join, c.gossip.Addr().String(), c.cfg.Gossip, c.cfg.AdvertiseGossip)
	if c.cfg.Role == RoleServer {
		if err := c.startRaft(); err != nil {
			return err
		}
	}
	c.port.Serve(h.HTTP, func(s grpc.ServiceRegistrar) {
		clusterpb.RegisterControlServer(s, control{c: c})
		if h.Services != nil {
			h.Services(s)
		}
	}, c.fatal)
	close(c.started)
	c.gossip.Accept()
	c.port.Accept()
	c.background(func() { c.gossip.Run(c.life) })
	c.background(func() { c.followAddresses(c.life) })
	c.background(func() { c.followMembers(c.life) })
	c.background(func() { c.followLeader(c.life) })
	if c.raft != nil {
		c.background(func() { c.followLeadership(c.life) })
		c.background(func() { c.watch(c.life) })
		c.background(func() { c.noteState(c.life) })
		c.background(func() { c.followSilence(c.life) })
		c.background(func() { c.watchDataDir(c.life) })
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
		Identity: identity, Role: clusterpb.Role_ROLE_PROXY, RpcAddr: c.port.Self(), Version: c.cfg.Version, ConfigDigest: c.cfg.ConfigDigest,
		ApiAddr: c.cfg.APIAddr, Cluster: c.of.Cluster(),
	}
	machine, err := c.cfg.interfaceAddrs()
	if err != nil {
		c.log.Warn("this machine's addresses can't be listed: other nodes' proxies know its advertised ones only", "error", err)
	}
	l := c.listening()
	meta.Listening = l.Encode(machine)
	if c.cfg.Role == RoleServer {
		has, err := c.stores.hasState()
		if err != nil {
			return nil, damaged(c.cfg.Data, "in "+c.cfg.Data.Path(), err)
		}
		meta.Role = clusterpb.Role_ROLE_SERVER
		meta.LogVersion = max(c.cfg.LogVersion, 1)
		meta.BootstrapExpect, meta.HasState = uint32(max(c.cfg.BootstrapExpect, 0)), has
	}
	return meta, nil
}

// raftConfig is tuned for one network: a lost leader is replaced within about a second.
func (c *Cluster) raftConfig() *raft.Config {
	mult := time.Duration(c.cfg.Multiplier)
	conf := raft.DefaultConfig()
	conf.LocalID = c.serverID()
	conf.HeartbeatTimeout, conf.ElectionTimeout = c.raftTimeouts(), c.raftTimeouts()
	conf.LeaderLeaseTimeout = 500 * time.Millisecond * mult
	if c.past.doubt != nil {
		// The only voter of a configuration becomes leader without asking anybody. It has to listen
		// first, until it is released.
		conf.HeartbeatTimeout, conf.ElectionTimeout = longestLife, longestLife
	}
	// Followers may learn of commits up to half a second later: only the leader acts on them. In an
	// idle cluster these messages are most of the traffic.
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
	c.acks = &ackBook{}
	c.verifier = &verifier{check: c.verifySince}
	var err error
	if c.past, err = newPastGuard(c); err != nil {
		return damaged(c.cfg.Data, "in "+c.cfg.Data.Path(), err)
	}
	c.netRaft = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: addressBook{self: c.serverID(), selfAddr: c.port.Self(), lookup: c.dialAddress},
		Logger:                newQuietLogger(c.log.Named("raft-net")),
		Stream:                raftLayer{Listener: c.port.Listener(handshake.KindRaft), port: c.port},
		MaxPool:               3,
		Timeout:               3 * time.Second * time.Duration(c.cfg.Multiplier),
	})
	transport := newGuardedTransport(verifyingTransport{c.netRaft, c.acks, &c.muted}, c.past)
	c.background(func() { transport.run(c.life) })
	var node *raft.Raft
	err = trapped(func() (err error) {
		node, err = raft.NewRaft(c.raftConfig(), c.cfg.FSM, c.stores.log, c.stores.stable, c.stores.snapshots, transport)
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

// restoreTimeouts allows a server that had to listen first to stand for election. The only server
// of a cluster does so at once.
func (c *Cluster) restoreTimeouts() {
	normal := c.raftTimeouts()
	conf := c.raft.ReloadableConfig()
	conf.HeartbeatTimeout, conf.ElectionTimeout = normal, normal
	if err := c.raft.ReloadConfig(conf); err != nil {
		c.fatal(fmt.Errorf("this server can't stand for election: %w", err))
	}
}

// raftTimeouts is how long a leader may be silent, and how long an election may take.
func (c *Cluster) raftTimeouts() time.Duration {
	return 700 * time.Millisecond * time.Duration(c.cfg.Multiplier)
}

// background runs f until it returns; stopping the node waits for it.
func (c *Cluster) background(f func()) {
	if c.life.Err() == nil {
		c.wg.Go(f)
	}
}

func (c *Cluster) fatal(err error) {
	c.fatalOnce.Do(func() {
		c.log.Info("this node has to stop", "error", err) // cfg.Fatal prints it as the process's last line
		if c.cfg.Fatal != nil {
			go c.cfg.Fatal(err)
		}
	})
}

func (c *Cluster) setMeta(change func(*clusterpb.Meta)) {
	if err := c.gossip.Update(change); err != nil {
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

// dialAddress is addressOf for Raft's goroutines, which run before raft is set.
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
	if m, ok := c.Member(handshake.NameOf(string(id))); ok && m.Alive() && m.ServerID() == string(id) && m.RPCAddr != "" {
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

// ClusterID returns the id of this node's cluster, or "" until it is known.
func (c *Cluster) ClusterID() string { return c.of.Cluster() }

// plainAddress removes the id that Raft's transport may have put before an address.
func plainAddress(addr raft.ServerAddress) string {
	if _, after, ok := strings.Cut(string(addr), "@"); ok {
		return after
	}
	return string(addr)
}
