package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/proxy/accesslog"
	"github.com/weirproxy/weir/proxy/auth"
	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/sock"
)

// counter is a number that others may read, but not reset.
type counter = atomic.Int64

// Counters count the server's work since it was made. All but Clients only grow.
type Counters struct {
	Clients    counter // client connections open now
	Requests   counter // requests with a well-formed head
	Tunnels    counter // CONNECT, SOCKS5 and upgrade tunnels begun
	Addresses  counter // SOCKS5 requests for an address while limits counted names
	Exchanges  counter // plain requests that an upstream answered
	Reused     counter // exchanges on a kept-alive upstream connection
	Retries    counter // requests sent again because a kept-alive connection was stale
	Refused    counter // refusals
	DialErrors counter
	BytesIn    counter // from clients to upstreams; finished tunnels and requests only, see [Server.Bytes]
	BytesOut   counter

	// Refusals counts refusals by reason; Refused is their sum.
	Refusals [refusalCount]counter
	limits   limitCounters // those of limits again, see [Counters.RefusedBy]
}

// Server is the proxy of one node. Make one with [New].
type Server struct {
	node      string
	status    string                 // the node in Proxy-Status
	pseudonym atomic.Pointer[string] // the node in Via
	policy    atomic.Pointer[Policy]
	forbidden atomic.Pointer[forbidden]
	local     *sock.LocalCache
	greeting  string // the first bytes of ports that only nodes dial
	loop      atomic.Pointer[loopMark]
	gate      *auth.Gate
	admitter  Admitter
	resolver  Resolver
	failed    failedAddrs
	log       hclog.Logger
	lines     *accesslog.Log
	counters  Counters
	onWait    func(time.Duration)
	onDial    func(time.Duration)
	buffers   sock.Buffers
	pipes     sock.Pipes
	idle      idlePool
	names     clientNames
	flows     registry
	resets    resetLog
	hangups   *sock.Hangups
	sleepers  *sleepSet
	refusals  [refusalCount]*accesslog.Sampler

	resolving resolving

	accepts, handshakes, crowded, resolvers *accesslog.Sampler

	draining atomic.Bool // new requests are refused
	stopping atomic.Bool // Drain has begun: clients without a request are closed, new ones too

	ctx    context.Context // ends when remaining work is to be dropped
	cancel context.CancelCauseFunc
	places chan struct{} // one entry for each connection of an allowed client
	// strangers has one entry for each connection that allow_clients refuses, until it has been
	// answered.
	strangers chan struct{}
	upstreams atomic.Int64   // flows with a slot: connected or dialling
	closings  atomic.Int64   // those of them that wait for the upstream's FIN after ours
	work      sync.WaitGroup // clients and flows with a slot

	toIdleWorker chan *conn // to idle workers; closed once no client can come any more
	idleWorkers  atomic.Int64
	ended        sync.Once

	mu         sync.Mutex
	look       *time.Timer // runs lookAround
	sleepTimer *time.Timer // runs sleepQuiet
	closed     bool        // no new listeners or clients
	listeners  map[*sock.Listener]struct{}
	clients    map[*conn]struct{}
	newcomers  map[*newcomer]struct{}
}

// New makes a server. It must be closed even if Serve was never called.
func New(cfg Config, admitter Admitter, resolver Resolver, log hclog.Logger) (*Server, error) {
	if cfg.Node == "" {
		return nil, errors.New("proxy: the node has no name: set name in the configuration")
	}
	if err := cfg.Policy.Validate(); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	hangups, err := sock.NewHangups()
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if cfg.MaxClients <= 0 {
		cfg.MaxClients = defaultMaxClients(cfg.ServesTLS)
	}
	nobody := func(time.Duration) {}
	if cfg.OnQueueWait == nil {
		cfg.OnQueueWait = nobody
	}
	if cfg.OnDial == nil {
		cfg.OnDial = nobody
	}
	s := &Server{
		node:         cfg.Node,
		status:       http1.StatusName(cfg.Node),
		local:        sock.NewLocalCache(sock.IsLocal),
		greeting:     cfg.NodeGreeting,
		gate:         auth.NewGate(),
		admitter:     admitter,
		resolver:     resolver,
		log:          log,
		lines:        accesslog.New(cfg.Lines, log),
		onWait:       cfg.OnQueueWait,
		onDial:       cfg.OnDial,
		hangups:      hangups,
		places:       make(chan struct{}, cfg.MaxClients),
		strangers:    make(chan struct{}, maxStrangers),
		toIdleWorker: make(chan *conn),
		listeners:    make(map[*sock.Listener]struct{}),
		clients:      make(map[*conn]struct{}),
		newcomers:    make(map[*newcomer]struct{}),
	}
	s.SetPseudonym(cmp.Or(cfg.Pseudonym, cfg.Node))
	s.newSamplers()
	cfg.Policy.roster = auth.NewRoster(cfg.Policy.Users, nil)
	s.policy.Store(&cfg.Policy)
	if s.sleepers, err = newSleepSet(&s.flows); err != nil {
		hangups.Close()
		s.lines.Close()
		return nil, fmt.Errorf("proxy: %w", err)
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look = time.AfterFunc(lookEvery, s.lookAround)
	s.sleepTimer = time.AfterFunc(sleepAfter, s.sleepQuiet)
	return s, nil
}

// sleepQuiet puts tunnels to sleep that have been idle.
func (s *Server) sleepQuiet() {
	for _, f := range s.flows.quiet() {
		f.putToSleep()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.sleepTimer.Reset(sleepAfter)
	}
}

// lookAround does, from time to time, the work that only long-lived connections need. Most
// connections are over before and never pay for it.
func (s *Server) lookAround() {
	for _, f := range s.flows.lasting(time.Now().Add(-lookEvery)) {
		f.keepAlive()
	}
	s.pipes.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.look.Reset(lookEvery)
	}
}

// SetPseudonym changes the node's name in Via. No proxy of another cluster may have the same.
func (s *Server) SetPseudonym(name string) {
	name = Pseudonym(name)
	s.pseudonym.Store(&name)
}

// via returns the node's name in Via.
func (s *Server) via() string { return *s.pseudonym.Load() }

// Control sets the options that accepted connections inherit. Serve sets them too, but as a
// [net.ListenConfig]'s Control it also covers connections that arrive before Serve.
func Control(network, address string, raw syscall.RawConn) error {
	return sock.Control(network, address, raw)
}

// Pseudonym converts a name to the form that Via needs: a token.
func Pseudonym(name string) string { return http1.ViaName(name) }

// SetPolicy replaces the policy. Requests that are waiting or dialling keep the old one.
func (s *Server) SetPolicy(p Policy) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	p.roster = auth.NewRoster(p.Users, s.policy.Load().roster)
	s.policy.Store(&p)
	for _, f := range s.idle.all() {
		if !p.allowsDestination(f.addr) {
			f.retire()
		}
	}
	return nil
}

// Counters returns the live counters; they can be read at any time.
func (s *Server) Counters() *Counters { return &s.counters }

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// SetDraining starts or ends draining while the listeners stay open: new requests are refused (503,
// "draining"), idle connections to clients and upstreams are closed, and tunnels and requests in
// progress go on. What waits in the [Admitter] is for that to refuse.
func (s *Server) SetDraining(draining bool) {
	s.draining.Store(draining)
	if draining {
		s.closeIdle()
	}
}

// Draining reports whether new requests are refused.
func (s *Server) Draining() bool { return s.draining.Load() }

// closeIdle closes the connections that are not in use.
func (s *Server) closeIdle() {
	for _, f := range s.idle.all() {
		f.retire()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		c.closeIdle()
	}
}

// Drain closes the listeners, refuses new requests and waits until the work in progress has ended
// and every slot is released. If ctx ends first, the remaining connections are reset, and ctx's
// error is returned. Afterwards the server is closed.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.look.Stop()
	s.sleepTimer.Stop()
	for l := range s.listeners {
		l.Close()
	}
	clear(s.listeners)
	s.mu.Unlock()
	s.stopping.Store(true)
	s.SetDraining(true)
	s.dropNewcomers()

	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
		s.abortAll()
		<-done
	}
	s.cancel(errShutdown)
	s.ended.Do(func() { close(s.toIdleWorker) })
	s.pipes.Close()
	s.hangups.Close()
	s.sleepers.close()
	s.closeSamplers()
	s.lines.Close()
	return err
}

// Close resets everything and waits until all slots are released.
func (s *Server) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// The error only says that the context has ended.
	_ = s.Drain(ctx)
}

// abortAdmissions ends the flows that have no slot yet, which are known to their clients only.
func (s *Server) abortAdmissions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if f := c.current(); f != nil {
			f.abort(errShutdown)
		}
	}
}

// abortAll resets all clients and upstreams, and the TLS of clients that are gone but whose last
// bytes are still on their way.
func (s *Server) abortAll() {
	s.abortAdmissions() // first, so that they end for this reason
	s.cancel(errShutdown)
	for _, f := range s.flows.all() {
		f.abort(errShutdown)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		go c.sock.Reset()
	}
	for n := range s.newcomers {
		go n.wire.Reset()
	}
}
