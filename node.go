package weir

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/resolve"
)

// Node is a running node. Its methods are safe for concurrent use.
type Node struct {
	// The parts, wired together. Requests go proxy → manager → (stream) → leases → members → store.
	source   Source
	log      hclog.Logger
	data     *cluster.DataDir
	store    *fsm.Store // nil on role proxy
	entries  entryLog   // nil on role proxy
	members  membership
	manager  *lease.Manager
	leases   *leader.Server // nil on role proxy
	resolver *resolve.Resolver
	proxy    *proxy.Server
	api      *server.Server
	events   *server.EventLog
	access   accessLog
	started  time.Time
	streams  leaseStreams
	reclaims reclaims
	timings  timings
	keeper   *limitsKeeper // nil without a data directory
	certs    certificates
	permits  permits
	watching sync.Once // starts what the API needs without a listener

	proxyListeners []net.Listener // in the order of the config
	apiListener    net.Listener   // nil for none

	ports        *portBook     // used by forbidOwnPorts
	portsChanged chan struct{} // of capacity 1: wakes guardOwnPorts

	leadingTerm atomic.Uint64 // the term in which this node leads, with everything before it applied; 0: none

	reloader reloader
	applying sync.Mutex                    // held while settings change
	cfg      atomic.Pointer[config.Config] // replaced as a whole

	turning sync.Mutex // held while draining begins or ends; before mu

	parts  sync.WaitGroup  // what begin has started
	life   context.Context // of the parts
	end    context.CancelFunc
	must   context.Context // done once the node must stop, for its cause
	stop   context.CancelCauseFunc
	closed func() error // the work of Close, done once

	impatient context.CancelFunc // ends Close's wait for connections and permits

	reloading      atomic.Int32           // how many reloads are under way
	reloadedDigest atomic.Pointer[string] // of this node's config; nil before the first reload

	left atomic.Bool // the cluster, for good

	mu          sync.Mutex
	stopping    bool
	parting     bool // it says goodbye, or has
	disagreeing string
}

// StartFrom starts a node with settings in the config file's form. If ctx has ended, nothing is
// started, and the error wraps the context's and its cause.
func StartFrom(ctx context.Context, s Source) (*Node, error) {
	cfg := s.Config
	n := &Node{source: s, log: s.Log, started: time.Now(), events: server.NewEventLog(cfg.Name)}
	n.cfg.Store(cfg)
	n.access = accessLog{log: n.log, lines: s.Lines}
	n.ports, n.portsChanged = newPortBook(), make(chan struct{}, 1)
	n.must, n.stop = context.WithCancelCause(context.Background())
	n.life, n.end = context.WithCancel(context.Background())
	n.warn(cfg)
	if err := n.build(); err != nil {
		return nil, errors.Join(err, n.abandon())
	}
	if ctx.Err() != nil {
		return nil, errors.Join(whyEnded(ctx), n.abandon())
	}
	if err := n.begin(); err != nil {
		return nil, errors.Join(err, n.abandon())
	}
	return n, nil
}

// build makes the parts, beginning with those that another process may hold: ports and the data
// directory.
func (n *Node) build() (err error) {
	cfg := n.cfg.Load()
	for _, addr := range cfg.Proxy.Listen {
		l, err := listen(cfg, "proxy.listen", addr)
		if err != nil {
			return err
		}
		n.proxyListeners = append(n.proxyListeners, l)
	}
	if cfg.API.Listen != "" {
		if n.apiListener, err = listen(cfg, "api.listen", cfg.API.Listen); err != nil {
			return err
		}
	}
	if n.certs, err = openCertificates(cfg, n.log); err != nil {
		return err
	}
	if n.data, err = openData(cfg); err != nil {
		return err
	}
	if n.data.Path() != "" {
		n.keeper = &limitsKeeper{path: filepath.Join(n.data.Path(), limitsFile), log: n.log}
	}
	if err := n.join(); err != nil {
		return err
	}
	clock, err := leaseClock()
	if err != nil {
		return err
	}
	n.manager = lease.NewManager(lease.ManagerConfig{
		Name: cfg.Name, Identity: n.data.Identity(), OnExpiry: expiries[cfg.Lease.OnExpiry],
		Affiliation: n.members, Connect: n.connect, Clock: clock, Log: n.log.Named("lease"),
		Limits: n.lastLimits(), OnLimits: n.keepLimits, OnFence: n.events.Fenced,
	})
	n.resolver = resolve.New(resolve.Config{TTLMax: cfg.Proxy.DNSTTLMax, OnLookup: n.timings.lookup.Observe, Log: n.log.Named("dns")})
	proxyConfig := proxy.Config{
		Node: cfg.Name, Pseudonym: viaName(cfg.Name, n.data.Identity()), Policy: policy(cfg), ServesTLS: n.certs.proxy != nil,
		NodeGreeting: cluster.Greeting,
		OnQueueWait:  n.timings.queueWait.Observe, OnDial: n.timings.dial.Observe,
	}
	lines, err := n.access.prepare(cfg)
	if err != nil {
		return err
	}
	if err := n.access.use(lines, func(to proxy.LineOutput) { proxyConfig.Lines = to }); err != nil {
		return err
	}
	n.proxy, err = proxy.New(proxyConfig, admitter{n.manager}, n.resolver, n.log.Named("proxy"))
	if err != nil {
		return err
	}
	n.api = n.newAPI()
	n.reloader = reloader{
		settings: n.reloadSettings, digest: n.setDigest, limits: n.replaceConfigLimits,
		turn: make(chan struct{}, 1),
	}
	return nil
}

// join makes the node's part in its cluster, and the leader's side of the lease on a server.
func (n *Node) join() error {
	cfg := n.cfg.Load()
	if cfg.Role == config.RoleServer {
		n.store = fsm.NewStore(n.log.Named("fsm"), n.stop)
	}
	if n.source.alone {
		log := leader.NewLocal(n.store)
		n.entries, n.members = log, &alone{name: cfg.Name, version: n.source.Version, log: log, since: n.started}
	} else {
		c := n.clusterConfig()
		if n.store != nil {
			c.FSM, c.LogVersion = n.store, fsm.LogVersion
		}
		members, err := cluster.New(c)
		if err != nil {
			return err
		}
		n.entries, n.members = leaseLog{members, n.store}, members
	}
	if n.store != nil {
		n.leases = leader.New(n.entries, n.store, n.leaderAddr, n.log.Named("lease"))
		n.leases.OnEnd = n.sessionEnded
	}
	return nil
}

// begin starts the parts. What fails later stops the node.
func (n *Node) begin() error {
	if err := n.members.Start(n.handlers()); err != nil {
		return err
	}
	ctx := n.life
	part := func(name string, f func() error) {
		n.parts.Go(func() {
			if err := f(); err != nil {
				n.stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("certificates", func() error { n.certs.run(ctx); return nil })
	n.forbidOwnPorts(ctx)
	part("own ports", func() error { n.guardOwnPorts(ctx); return nil })
	part("users", func() error { n.watchUsers(ctx); return nil })
	if n.store != nil {
		part("cluster id", func() error { return n.followClusterID(ctx) })
		part("config digest", func() error { return n.spreadDigest(ctx) })
	}
	part("lease", func() error { return n.manager.Run(ctx) })
	for _, l := range n.proxyListeners {
		part("proxy", func() error { return n.serveProxy(l) })
	}
	if n.apiListener != nil {
		part("api", func() error { return n.api.Serve(n.apiListener) })
	}
	cfg := n.cfg.Load()
	n.log.Info("node started", "node", cfg.Name, "role", string(cfg.Role), "version", n.source.Version,
		"proxy", strings.Join(n.proxyAddrs(), ", "), "api", address(n.apiListener),
		"rpc", n.members.RPCAddr(), "gossip", n.members.GossipAddr())
	return nil
}

// ErrLeave is the reason of a node that must stop because it was asked to leave its cluster.
var ErrLeave = errors.New("asked to leave the cluster")

// ErrClosed is the error of a node after its Close.
var ErrClosed = errors.New("the node is closed")

// ErrDataDirInUse is wrapped by the error of a [Start] whose data directory another node has, of
// this process or another one. The text says which.
var ErrDataDirInUse = cluster.ErrDataDirInUse

// Done returns a channel that is closed when the node must stop: because one of its parts has
// failed, or it was asked through the API to leave its cluster. Err tells why. The node still needs
// its Close.
func (n *Node) Done() <-chan struct{} { return n.must.Done() }

// Err returns why the node must stop: [ErrLeave], another error if a part has failed, [ErrClosed]
// after Close, and nil while it need not.
func (n *Node) Err() error { return context.Cause(n.must) }

// Pulse is a node's sign of life.
type Pulse struct {
	Session      string // the state of its session: "none", "live", "expired" …
	Connections  int    // open at upstreams
	Late         time.Duration
	DrainTimeout time.Duration // how long Close lets connections end
}

// Pulse returns the node's sign of life. Late is how long the lease has not read its clock, which
// it does several times a second: after some seconds the process is stuck.
func (n *Node) Pulse() Pulse {
	return Pulse{n.manager.Session().State, n.proxy.Open(), n.manager.Late(), n.drainTimeout()}
}

// Bounds of the steps of a shutdown that wait for other nodes: it ends even without a quorum.
const (
	goodbyeTimeout  = 3 * time.Second
	leaveTimeout    = 15 * time.Second
	shutdownTimeout = 10 * time.Second
)

// leftShown is how long the API shows that the node has left: two looks of weir leave, which can't
// know it otherwise, since a node that has failed to leave ends as well.
const leftShown = 2 * time.Second

// Close stops the node. It takes no new work, answers an [Node.Acquire] that waits with
// [ErrDraining], and waits for connections and permits to end until ctx ends or the drain timeout
// (30 s by default) passes: connections that are left then are reset, and permits are lost. Then it
// returns every slot, says goodbye, and waits until everything of the node has ended. That takes
// some seconds more at most, also without a cluster. Slots of permits that are not released then
// come back to the cluster when the lease has run out.
//
// A node that has failed resets its connections at once. A second call waits for the first, and
// returns the same. The context of either ends the wait for connections and permits.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	if n.closed == nil {
		patience, end := context.WithCancel(context.Background())
		n.impatient = end
		n.closed = sync.OnceValue(func() error {
			defer end()
			return n.shutdown(patience)
		})
	}
	closed, impatient := n.closed, n.impatient
	n.mu.Unlock()
	defer context.AfterFunc(ctx, impatient)()
	return closed()
}

func (n *Node) shutdown(patience context.Context) error {
	defer n.stop(ErrClosed)
	graceful := n.Err() == nil || n.isLeaving()
	n.setStopping()
	n.members.SetDraining(true)
	n.manager.Drain()
	n.drain(patience, graceful)
	leave := n.part()
	var errs []error
	if graceful {
		err := n.goodbye(leave)
		n.left.Store(leave && err == nil)
		errs = append(errs, err)
	}
	parted := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	errs = append(errs, n.members.Shutdown(ctx))
	if n.left.Load() && n.apiListener != nil {
		select {
		case <-time.After(time.Until(parted.Add(leftShown))):
		case <-patience.Done():
		}
	}
	errs = append(errs, n.api.Shutdown(ctx))
	n.proxy.Close()
	n.resolver.Close()
	if n.keeper != nil {
		n.keeper.wait(ctx)
	}
	errs = append(errs, n.access.close(), n.data.Close())
	n.end()
	n.parts.Wait()
	return errors.Join(errs...)
}

// drain waits for connections and permits to end. Those that do not end in time are reset, or lost.
func (n *Node) drain(ctx context.Context, graceful bool) {
	timeout := n.drainTimeout()
	if !graceful {
		timeout = 0
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	released := n.permits.close()
	if err := n.proxy.Drain(ctx); err != nil && graceful {
		n.log.Warn("not all connections ended in time; the rest were reset", "drain_timeout", timeout)
	}
	select {
	case <-released:
	case <-ctx.Done():
		n.permits.sever()
	}
}

func (n *Node) drainTimeout() time.Duration {
	return n.cfg.Load().Proxy.DrainTimeout
}

// goodbye returns the session and, with leave, removes the server from the Raft configuration.
func (n *Node) goodbye(leave bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout)
	defer cancel()
	session, err := n.manager.Goodbye(ctx)
	if err != nil {
		n.log.Warn("the leader could not be told that this node stops; gossip tells it", "error", err)
	}
	n.members.SetSessionLeft(session)
	if !leave {
		return nil
	}
	ctx, cancel = context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	return n.members.Leave(ctx)
}

// abandon releases everything that build had made when it failed.
func (n *Node) abandon() error {
	var errs []error
	for _, l := range append(n.proxyListeners, n.apiListener) {
		if l != nil {
			_ = l.Close()
		}
	}
	if n.members != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		errs = append(errs, n.members.Shutdown(ctx))
	}
	if n.proxy != nil {
		n.proxy.Close()
	}
	if n.resolver != nil {
		n.resolver.Close()
	}
	errs = append(errs, n.access.close())
	if n.data != nil {
		errs = append(errs, n.data.Close())
	}
	n.end()
	n.stop(ErrClosed)
	return errors.Join(errs...)
}

// listen binds a port for workers or operators. Its error names the setting.
func listen(cfg *config.Config, setting, addr string) (net.Listener, error) {
	lc := net.ListenConfig{Control: proxy.Control}
	lc.SetMultipathTCP(false) // the proxy reads a connection's state from the kernel as plain TCP has it
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err == nil {
		return l, nil
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	where := ""
	if at := cfg.Origins[setting]; at.Line > 0 {
		where = fmt.Sprintf(" (%s:%d)", at.File, at.Line)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s%s: %s is taken (%w): stop the other process, or choose another port", setting, where, addr, syscall.EADDRINUSE)
	}
	return nil, fmt.Errorf("%s%s: can't listen on %s: %w", setting, where, addr, err)
}

func openData(cfg *config.Config) (*cluster.DataDir, error) {
	if cfg.DataDir == "" {
		return cluster.MemoryDataDir(cfg.Name), nil
	}
	return cluster.OpenDataDir(cfg.DataDir, cfg.Name)
}
