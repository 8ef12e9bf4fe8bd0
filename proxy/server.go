package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// counter is a number that only the owner of what it counts resets.
type counter = atomic.Int64

// Counters are what the server has done since it was made; all but Clients only grow.
type Counters struct {
	Clients    counter // client connections open now
	Requests   counter // requests with a well-formed head
	Tunnels    counter // CONNECT and upgrade tunnels begun
	Exchanges  counter // plain requests that an upstream answered
	Reused     counter // of them, on a kept-alive upstream connection
	Retries    counter // requests sent again because a kept-alive connection was stale
	Refused    counter // answers of the proxy's own
	DialErrors counter
	BytesIn    counter // from clients to upstreams, of finished tunnels and requests: [Server.Bytes] has all
	BytesOut   counter

	// Refusals are the answers of the proxy's own by their reason; Refused is their sum.
	Refusals [refusalCount]counter
}

// Server is the proxy of one node. Make one with [New].
type Server struct {
	node      string
	status    string                 // the node in Proxy-Status
	pseudonym atomic.Pointer[string] // the node in Via
	policy    atomic.Pointer[Policy]
	forbidden atomic.Pointer[forbidden]
	local     *localCache
	greeting  string // that no tunnel's upstream may begin with
	loop      atomic.Pointer[loopMark]
	gate      *gate
	tls       *tls.Config // nil: clients speak plain HTTP
	admitter  Admitter
	resolver  Resolver
	failed    failedAddrs
	log       hclog.Logger
	lines     *lines
	counters  Counters
	onWait    func(time.Duration)
	onDial    func(time.Duration)
	buffers   bufferPool
	pipes     pipePool
	idle      idlePool
	flows     registry
	resets    resetLog
	hangups   *hangups
	dozing    *dozeSet
	refusals  [refusalCount]*sampler

	accepts, handshakes *sampler

	draining atomic.Bool // new requests are refused
	stopping atomic.Bool // and clients that wait for nothing are not waited for

	ctx    context.Context // ends when the remaining work is to be dropped
	cancel context.CancelCauseFunc
	places chan struct{}  // one for each client connection
	work   sync.WaitGroup // clients and flows with a slot

	rested  chan *client // to workers that rest; closed once no client comes any more
	resting atomic.Int64
	ended   sync.Once

	mu        sync.Mutex
	look      *time.Timer // runs lookAround
	lull      *time.Timer // runs lullQuiet
	closed    bool        // no listener and no client is taken any more
	listeners map[*listener]struct{}
	clients   map[*client]struct{}
	fronts    map[*front]struct{} // those that have not come to a request yet
}

// New makes a server. Close it also where Serve was never called.
func New(cfg Config, admitter Admitter, resolver Resolver, log hclog.Logger) (*Server, error) {
	if cfg.Node == "" {
		return nil, errors.New("proxy: the node has no name: set name in the configuration")
	}
	if err := cfg.Policy.Validate(); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	hangups, err := newHangups()
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if cfg.MaxClients <= 0 {
		cfg.MaxClients = defaultMaxClients(cfg.TLS != nil)
	}
	nobody := func(time.Duration) {}
	if cfg.OnQueueWait == nil {
		cfg.OnQueueWait = nobody
	}
	if cfg.OnDial == nil {
		cfg.OnDial = nobody
	}
	s := &Server{
		node:      cfg.Node,
		status:    statusName(cfg.Node),
		local:     newLocalCache(isLocal),
		greeting:  cfg.NodeGreeting,
		gate:      newGate(),
		admitter:  admitter,
		resolver:  resolver,
		log:       log,
		lines:     newLines(cfg.Lines, log),
		onWait:    cfg.OnQueueWait,
		onDial:    cfg.OnDial,
		hangups:   hangups,
		places:    make(chan struct{}, cfg.MaxClients),
		rested:    make(chan *client),
		listeners: make(map[*listener]struct{}),
		clients:   make(map[*client]struct{}),
		fronts:    make(map[*front]struct{}),
		tls:       clientTLS(cfg.TLS),
	}
	s.SetPseudonym(cmp.Or(cfg.Pseudonym, cfg.Node))
	s.newSamplers()
	cfg.Policy.roster = newRoster(cfg.Policy.Users, nil)
	s.policy.Store(&cfg.Policy)
	if s.dozing, err = newDozeSet(&s.flows); err != nil {
		hangups.close()
		s.lines.close()
		return nil, fmt.Errorf("proxy: %w", err)
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look = time.AfterFunc(lookEvery, s.lookAround)
	s.lull = time.AfterFunc(dozeAfter, s.lullQuiet)
	return s, nil
}

// lullQuiet lets tunnels doze that have been quiet.
func (s *Server) lullQuiet() {
	for _, f := range s.flows.quiet() {
		f.drowse()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.lull.Reset(dozeAfter)
	}
}

// lookAround does, from time to time, what only connections need that have come to last: most are over before, and never
// pay for it.
func (s *Server) lookAround() {
	for _, f := range s.flows.lasting(time.Now().Add(-lookEvery)) {
		f.keepAlive()
	}
	s.pipes.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.look.Reset(lookEvery)
	}
}

// defaultMaxClients leaves the node 256 descriptors for itself, beside those of the pipes: running out of them would take
// consensus down with the proxy.
func defaultMaxClients(tls bool) int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 512
	}
	free := int(max(min(limit.Cur, 1<<22), 512) - 256 - 2*maxPipes)
	if tls {
		return free / 4
	}
	return free / 2
}

// clientTLS is cfg for proxy clients: HTTP/1.1 is all that they are spoken to in.
func clientTLS(cfg *tls.Config) *tls.Config {
	if cfg == nil {
		return nil
	}
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	return cfg
}

// SetPolicy replaces the policy. Requests that wait or dial already keep theirs.
func (s *Server) SetPolicy(p Policy) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	p.roster = newRoster(p.Users, s.policy.Load().roster)
	s.policy.Store(&p)
	for _, f := range s.idle.all() {
		if !p.allowsDestination(f.addr) {
			f.retire()
		}
	}
	return nil
}

// Counters are live: read them whenever.
func (s *Server) Counters() *Counters { return &s.counters }

// Serve accepts clients from l, which must be a TCP listener, until Drain or Close closes it; then it
// returns nil. It takes l over, also when it fails. It may run for several listeners at once.
func (s *Server) Serve(l net.Listener) error {
	ln, err := newListener(l)
	if err != nil {
		return fmt.Errorf("serve proxy clients on %v: %w", l.Addr(), err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		ln.close()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	for {
		select {
		case s.places <- struct{}{}:
		case <-s.ctx.Done():
			return nil
		}
		fd, addr, err := s.accept(ln)
		if err != nil {
			<-s.places
			if s.isClosed() {
				return nil
			}
			return fmt.Errorf("accept proxy clients on %v: %w", l.Addr(), err)
		}
		balanced := contains(s.policy.Load().ProxyProtocolFrom, addr.Addr())
		if s.tls != nil {
			s.greet(fd, addr, balanced)
			continue
		}
		c := newClient(s, fd, addr)
		c.balanced = balanced
		s.start(c)
	}
}

// accept waits out errors that pass, such as too many open files.
func (s *Server) accept(l *listener) (fd int, addr netip.AddrPort, err error) {
	pause := time.Duration(0)
	for {
		fd, addr, err = l.accept()
		if err == nil || !isExhausted(err) && !isReset(err) && !errors.Is(err, unix.ECONNABORTED) {
			return fd, addr, err
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		if s.accepts.show() {
			s.log.Warn("a client could not be accepted", "error", err, "retry_in", pause)
		}
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			return 0, addr, err
		}
	}
}

// start hands a client to a worker: one that has served before and rests, if there is any.
func (s *Server) start(c *client) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		c.sock.close()
		<-s.places
		return
	}
	s.clients[c] = struct{}{}
	s.work.Add(1)
	s.mu.Unlock()
	s.counters.Clients.Add(1)
	select {
	case s.rested <- c:
	default:
		go s.serveClients(c)
	}
}

// serveClients serves one client after another. A worker that goes on spares the next client the growing of a stack.
func (s *Server) serveClients(c *client) {
	h := new(head)
	for c != nil {
		if c.serve(h) {
			s.left(c)
		}
		if s.resting.Add(1) > maxResting {
			s.resting.Add(-1)
			return
		}
		c = <-s.rested
		s.resting.Add(-1)
	}
}

// left forgets a client whose connection is over.
func (s *Server) left(c *client) {
	c.end()
	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
	s.counters.Clients.Add(-1)
	<-s.places
	s.work.Done()
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// SetDraining starts or ends draining, with the listeners kept open: new requests are refused (503, "draining"), idle
// connections of clients and to upstreams are closed, tunnels and requests in progress go on.
func (s *Server) SetDraining(draining bool) {
	s.draining.Store(draining)
	if draining {
		s.closeIdle()
	}
}

// Draining reports whether new requests are refused.
func (s *Server) Draining() bool { return s.draining.Load() }

// closeIdle closes the connections that nobody uses.
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
// and every slot is released. When ctx ends first, the rest is reset, and its error returned.
// Afterwards the server is closed.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.look.Stop()
	s.lull.Stop()
	for l := range s.listeners {
		l.close()
	}
	clear(s.listeners)
	s.mu.Unlock()
	s.stopping.Store(true)
	s.SetDraining(true)
	s.dropGreetings()

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
	s.ended.Do(func() { close(s.rested) })
	s.pipes.close()
	s.hangups.close()
	s.dozing.close()
	s.closeSamplers()
	s.lines.close()
	return err
}

// Close resets everything and waits until all slots are released.
func (s *Server) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// The error is that the context has ended.
	_ = s.Drain(ctx)
}

// abortAll resets all clients and upstreams.
func (s *Server) abortAll() {
	s.cancel(errShutdown)
	for _, f := range s.flows.all() {
		f.abort(errShutdown)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		go c.sock.reset()
	}
}
