package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/proxy"
	"github.com/weirproxy/weir/proxy/resolve"
)

func newAgentCommand() *cobra.Command {
	var paths []string
	var dev bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node",
		Long: `Run one node: a forward proxy that shares its connection limits with the other nodes of its cluster.

On SIGTERM or SIGINT the node drains, gives back every slot and exits 0; a second signal stops it at once. SIGHUP reloads.`,
		Example: `  weir agent --dev
  weir agent --config /etc/weir/weir.hcl
  weir agent --config /etc/weir/conf.d`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 && !dev {
				return usagef(cmd, "say where the config is (--config PATH), or run a single node without one (--dev)")
			}
			return runAgent(cmd.Context(), source{paths: paths, dev: dev})
		},
	}
	cmd.Flags().StringArrayVar(&paths, "config", nil, "a config file, or a directory of *.hcl; may be repeated")
	cmd.Flags().BoolVar(&dev, "dev", false, "one node, in memory, on loopback: proxy 127.0.0.1:8080, API 127.0.0.1:8081")
	return cmd
}

// source is the origin of a node's config, read at the start and at each reload.
type source struct {
	paths []string
	dev   bool
}

// load reads the config; the error holds every problem, as weir validate prints them.
func (s source) load() (*config.Config, error) {
	c, problems := config.Load(s.paths, config.Options{Dev: s.dev, Running: true})
	if len(problems) > 0 {
		return nil, problemsError(problems)
	}
	return c, nil
}

// problemsError returns a config's problems as one error.
func problemsError(problems config.Diagnostics) error {
	var b strings.Builder
	_ = config.WriteDiagnostics(&b, problems) // a Builder never fails
	return errors.New("the config has " + count(len(problems), "problem") + ":\n" + strings.TrimSuffix(b.String(), "\n"))
}

// agent is one node: its parts, wired together. Requests go proxy → manager → (stream) → leases →
// members → store.
type agent struct {
	source   source
	log      hclog.InterceptLogger
	data     *cluster.DataDir
	store    *fsm.Store // nil on role proxy
	members  *cluster.Cluster
	manager  *lease.Manager
	leases   *leader.Server // nil on role proxy
	resolver *resolve.Resolver
	proxy    *proxy.Server
	api      *api.Server
	events   *api.EventLog
	recent   logRing
	access   accessLog
	started  time.Time
	streams  leaseStreams
	reclaims reclaims
	timings  timings
	keeper   *limitsKeeper // nil without a data directory
	certs    certificates
	notify   *notifier

	proxyListeners []net.Listener // at least one, in the order of the config
	apiListener    net.Listener

	fatal chan error         // why the process must stop
	leave context.CancelFunc // asks to leave
	asked context.Context    // done once leave was called

	ports        *portBook     // used by forbidOwnPorts
	portsChanged chan struct{} // of capacity 1: wakes guardOwnPorts

	leadingTerm atomic.Uint64 // the term in which this node leads, with everything before it applied; 0: none

	reloader reloader
	applying sync.Mutex // settings; held before mu

	turning sync.Mutex // held while draining begins or ends; before mu

	mu          sync.Mutex
	cfg         *config.Config
	leaving     bool
	disagreeing string
}

// runAgent starts a node, runs it until it must stop, and stops it.
func runAgent(ctx context.Context, src source) error {
	cfg, err := src.load()
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	a := &agent{source: src, cfg: cfg, started: time.Now(), fatal: make(chan error, 8), events: api.NewEventLog(cfg.Name)}
	a.log = newLogger(cfg.Log, &a.recent)
	a.access.log = a.log
	a.ports, a.portsChanged = newPortBook(), make(chan struct{}, 1)
	a.asked, a.leave = context.WithCancel(context.Background())
	defer a.leave()
	a.notify = newNotifier(os.Getenv, os.Getpid(), a.log)
	defer a.notify.close()
	for _, w := range config.Warnings(cfg) {
		a.log.Warn(w.Message, "at", w.At.String(), "hint", w.Hint)
	}
	if err := a.build(); err != nil {
		return errors.Join(err, a.abandon())
	}
	return a.run(ctx, signals)
}

// build makes the parts, beginning with those that another process may hold: ports and the data
// directory.
func (a *agent) build() (err error) {
	cfg := a.cfg
	for _, addr := range cfg.Proxy.Listen {
		l, err := listen(cfg, "proxy.listen", addr)
		if err != nil {
			return err
		}
		a.proxyListeners = append(a.proxyListeners, l)
	}
	if a.apiListener, err = listen(cfg, "api.listen", cfg.API.Listen); err != nil {
		return err
	}
	if a.certs, err = openCertificates(cfg, a.log); err != nil {
		return err
	}
	if a.data, err = openData(cfg); err != nil {
		return err
	}
	if a.data.Path() != "" {
		a.keeper = &limitsKeeper{path: filepath.Join(a.data.Path(), limitsFile), log: a.log}
	}
	clusterConfig := a.clusterConfig()
	if cfg.Role == config.RoleServer {
		a.store = fsm.NewStore(a.log.Named("fsm"), a.stop)
		clusterConfig.FSM = a.store
		clusterConfig.AppliedIndex = a.appliedIndex
		clusterConfig.LogVersion = fsm.LogVersion
	}
	if a.members, err = cluster.New(clusterConfig); err != nil {
		return err
	}
	if a.store != nil {
		a.leases = leader.New(leaseLog{a.members, a.store}, a.store, a.leaderAddr, a.log.Named("lease"))
		a.leases.OnEnd = a.sessionEnded
	}
	clock, err := leaseClock()
	if err != nil {
		return err
	}
	a.manager = lease.NewManager(lease.ManagerConfig{
		Name: cfg.Name, Identity: a.data.Identity(), OnExpiry: expiries[cfg.Lease.OnExpiry],
		Affiliation: a.members, Connect: a.connect, Clock: clock, Log: a.log.Named("lease"),
		Limits: a.lastLimits(), OnLimits: a.keepLimits, OnFence: a.events.Fenced,
	})
	a.resolver = resolve.New(resolve.Config{TTLMax: cfg.Proxy.DNSTTLMax, OnLookup: a.timings.lookup.Observe, Log: a.log.Named("dns")})
	proxyConfig := proxy.Config{
		Node: cfg.Name, Pseudonym: viaName(cfg.Name, a.data.Identity()), Policy: policy(cfg), TLS: a.certs.proxyTLS(),
		NodeGreeting: cluster.Greeting,
		OnQueueWait:  a.timings.queueWait.Observe, OnDial: a.timings.dial.Observe,
	}
	if err := a.access.open(cfg, func(to proxy.LineOutput) { proxyConfig.Lines = to }); err != nil {
		return err
	}
	a.proxy, err = proxy.New(proxyConfig, admitter{a.manager}, a.resolver, a.log.Named("proxy"))
	if err != nil {
		return err
	}
	a.api = a.newAPI()
	a.reloader = reloader{
		settings: a.reloadSettings, digest: a.members.SetConfigDigest, limits: a.api.ReplaceConfigLimits,
		turn: make(chan struct{}, 1),
	}
	return nil
}

// run serves until a signal, a request to leave, or a failure; then it stops in order.
func (a *agent) run(ctx context.Context, signals <-chan os.Signal) error {
	if err := a.members.Start(a.handlers()); err != nil {
		return errors.Join(err, a.abandon())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	part := func(name string, f func() error) {
		parts.Go(func() {
			if err := f(); err != nil {
				a.stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("certificates", func() error { a.certs.run(ctx); return nil })
	a.forbidOwnPorts(ctx)
	part("own ports", func() error { a.guardOwnPorts(ctx); return nil })
	part("users", func() error { a.watchUsers(ctx); return nil })
	if a.store != nil {
		part("cluster id", func() error { return a.followClusterID(ctx) })
	}
	part("lease", func() error { return a.manager.Run(ctx) })
	for _, l := range a.proxyListeners {
		part("proxy", func() error { return a.proxy.Serve(l) })
	}
	part("api", func() error { return a.api.Serve(a.apiListener) })
	a.log.Info("node started", "node", a.cfg.Name, "role", string(a.cfg.Role), "version", thisBuild().Version,
		"proxy", strings.Join(a.proxyAddrs(), ", "), "api", a.apiListener.Addr().String(),
		"rpc", a.members.RPCAddr(), "gossip", a.members.GossipAddr())

	a.notify.ready()
	why := a.wait(ctx, signals)
	a.notify.stopping(a.drainTimeout())
	stopped := make(chan error, 1)
	go func() {
		stopped <- a.shutdown(why == nil || errors.Is(why, errLeave), errors.Is(why, errLeave))
		cancel()
		parts.Wait()
		close(stopped)
	}()
	return a.finish(why, signals, stopped)
}

// errLeave is the reason of a node that stops because it was asked to leave.
var errLeave = errors.New("asked to leave the cluster")

// wait returns why the node must stop: nil for a signal.
func (a *agent) wait(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-a.fatal:
			return err
		case <-a.asked.Done():
			return errLeave
		case s := <-signals:
			if s != syscall.SIGHUP {
				a.log.Info("stopping: draining first; a second signal stops at once", "signal", s.String())
				return nil
			}
			a.notify.reloading()
			a.reloadOnSignal(ctx)
			a.notify.ready()
		case <-a.notify.due():
			a.pulse()
		}
	}
}

// finish waits for the shutdown, or for a second signal.
func (a *agent) finish(why error, signals <-chan os.Signal, stopped <-chan error) error {
	var failed error
	for {
		select {
		case err, more := <-stopped:
			if more {
				failed = err
				continue
			}
			if why != nil && !errors.Is(why, errLeave) {
				return why
			}
			if failed == nil {
				a.log.Info("stopped")
			}
			return failed
		case s := <-signals:
			if s != syscall.SIGHUP {
				return fmt.Errorf("stopped at once by a second signal (%v): connections were cut", s)
			}
		case <-a.notify.due():
			a.notify.alive(0, "stopping") // its time is bounded, here and by the service manager
		}
	}
}

// Bounds of the steps of a shutdown that wait for other nodes: it ends even without a quorum.
const (
	goodbyeTimeout  = 3 * time.Second
	leaveTimeout    = 15 * time.Second
	shutdownTimeout = 10 * time.Second
)

// shutdown ends connections (gracefully, or at once), returns every slot, says goodbye, and stops
// the parts.
func (a *agent) shutdown(graceful, leave bool) error {
	a.setLeaving()
	a.members.SetDraining(true)
	drain := a.drainTimeout()
	if !graceful {
		drain = 0
	}
	a.manager.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	if err := a.proxy.Drain(ctx); err != nil && graceful {
		a.log.Warn("not all connections ended in time; the rest were reset", "drain_timeout", drain)
	}
	cancel()

	var errs []error
	if graceful {
		errs = append(errs, a.goodbye(leave))
	}
	ctx, cancel = context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	errs = append(errs, a.members.Shutdown(ctx), a.api.Shutdown(ctx))
	a.proxy.Close()
	a.resolver.Close()
	if a.keeper != nil {
		a.keeper.wait(ctx)
	}
	return errors.Join(append(errs, a.access.close(), a.data.Close())...)
}

func (a *agent) drainTimeout() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg.Proxy.DrainTimeout
}

// goodbye returns the session and, with leave, removes the server from the Raft configuration.
func (a *agent) goodbye(leave bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout)
	defer cancel()
	session, err := a.manager.Goodbye(ctx)
	if err != nil {
		a.log.Warn("the leader could not be told that this node stops; gossip tells it", "error", err)
	}
	a.members.SetSessionLeft(session)
	if !leave {
		return nil
	}
	ctx, cancel = context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	return a.members.Leave(ctx)
}

// abandon releases everything that build had made when it failed.
func (a *agent) abandon() error {
	var errs []error
	for _, l := range append(a.proxyListeners, a.apiListener) {
		if l != nil {
			_ = l.Close()
		}
	}
	if a.members != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		errs = append(errs, a.members.Shutdown(ctx))
	}
	if a.proxy != nil {
		a.proxy.Close()
	}
	if a.resolver != nil {
		a.resolver.Close()
	}
	errs = append(errs, a.access.close())
	if a.data != nil {
		errs = append(errs, a.data.Close())
	}
	return errors.Join(errs...)
}

// proxyAddrs returns where the proxy listens.
func (a *agent) proxyAddrs() []string {
	addrs := make([]string, len(a.proxyListeners))
	for i, l := range a.proxyListeners {
		addrs[i] = l.Addr().String()
	}
	return addrs
}

// stop makes the process end with an error.
func (a *agent) stop(err error) {
	select {
	case a.fatal <- err:
	default: // the process is ending already
	}
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
	if at, ok := cfg.Origins[setting]; ok {
		where = fmt.Sprintf(" (%s:%d)", at.File, at.Line)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s%s: %s is taken: stop the other process, or choose another port", setting, where, addr)
	}
	return nil, fmt.Errorf("%s%s: can't listen on %s: %w", setting, where, addr, err)
}

func openData(cfg *config.Config) (*cluster.DataDir, error) {
	if cfg.DataDir == "" {
		return cluster.MemoryDataDir(cfg.Name), nil
	}
	return cluster.OpenDataDir(cfg.DataDir, cfg.Name)
}

func newLogger(c config.Log, also io.Writer) hclog.InterceptLogger {
	return hclog.NewInterceptLogger(&hclog.LoggerOptions{
		Name: "weir", Level: hclog.LevelFromString(c.Level), JSONFormat: c.Format == "json", Output: io.MultiWriter(also, os.Stderr),
	})
}
