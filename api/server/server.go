package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/api/ui"
	"github.com/weirproxy/weir/limit"
)

const pathConfigLimits = "/v1/config-limits" // between nodes only

// Bounds that need no setting.
const (
	maxBody       = 1 << 20  // of a client's request, in bytes
	maxLimitsBody = 15 << 20 // of all limits at once: they become one log entry, of at most 16 MiB
	maxPeerBody   = 16 << 20 // of a config's limits, between nodes
	maxPeerAnswer = 64 << 20 // of an answer from another node
	maxHeader     = 64 << 10

	headTimeout    = 5 * time.Second // for a request's head
	requestTimeout = 30 * time.Second
	answerTimeout  = time.Minute
	idleTimeout    = 2 * time.Minute
)

// Config configures the server.
type Config struct {
	// Node is this node's name.
	Node string
	// Hosts are further names that Host may carry, beyond localhost, Node and address literals.
	Hosts []string
	// Token gives full access, ReadToken read access. If both are empty, everybody has full access,
	// which is for loopback only. [Server.SetTokens] changes them.
	Token, ReadToken string
	// TLS makes the listener speak TLS, with HTTP/2 or HTTP/1.1 as the client chooses. With nil it
	// speaks plain HTTP.
	TLS *tls.Config
	// WriteTimeout bounds a write from its arrival until it is visible here, including the search
	// for a leader. A longer one outlasts longer elections; a shorter one gives clients their 503
	// sooner. 0: 5 s.
	WriteTimeout time.Duration
	// PeerTimeout bounds how long a read waits for other nodes. A longer one includes slow nodes'
	// use; a shorter one answers sooner when nodes are down. 0: 2 s.
	PeerTimeout time.Duration
	// KeepsUnits says that the node goes on without a session, with the slots and the parts of rates
	// that it held (lease.on_expiry = "keep").
	KeepsUnits bool
	// MetricsHosts is the number of hosts, and of names in each other scope, that /metrics shows; all
	// others share one name. 0 names none. [Server.SetMetricsHosts] changes it.
	MetricsHosts int
}

// Deps are the server's interfaces to the node.
type Deps struct {
	Log         Log
	Leader      Leader
	View        View
	Status      StatusSource
	Nodes       NodeSource
	Uses        UseSource
	Peers       PeerSource
	Connections Connections
	Lifecycle   Lifecycle
	Raft        Raft
	Snapshots   Snapshots
	Diagnostics Diagnostics
	// Events is the node's log of events; nil: the server makes its own.
	Events  *EventLog
	Metrics MetricSource
	// Proxies recognises requests through the cluster's proxies; nil: there are none.
	Proxies ProxySource
	Logger  hclog.Logger
}

// Server answers the API.
type Server struct {
	cfg     Config
	deps    Deps
	log     hclog.Logger
	audit   hclog.Logger
	guard   *guard
	public  router
	peer    router
	metrics http.Handler
	places  scopePlaces
	conns   *places // of the listener
	http    *http.Server
	cancel  context.CancelFunc // ends the waits of requests that are under way after Shutdown
	ctx     context.Context    // of all requests
	events  *EventLog
	ui      *ui.Page
	watcher *watcher // runs while the server serves

	attempts attempts
}

// New makes a server. It starts nothing.
func New(cfg Config, deps Deps) *Server {
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = 5 * time.Second
	}
	if cfg.PeerTimeout == 0 {
		cfg.PeerTimeout = 2 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{cfg: cfg, deps: deps, log: deps.Logger, guard: newGuard(cfg), cancel: cancel, ctx: ctx, events: deps.Events}
	s.audit = deps.Logger.Named("audit")
	if s.events == nil {
		s.events = NewEventLog(cfg.Node)
	}
	s.watcher, s.ui = newWatcher(s), ui.New()
	s.places = newScopePlaces(cfg.MetricsHosts)
	s.conns = newPlaces(maxConns, maxConnsPerAddr, deps.Logger)
	s.metrics = newMetrics(s, s.places)
	s.public = slices.Concat(s.sharedRoutes(false), s.debugRoutes(false), s.publicRoutes())
	s.peer = slices.Concat(s.sharedRoutes(true), s.debugRoutes(true), s.peerRoutes())
	s.http = &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       connContext,
		ConnState:         s.connState,
		ErrorLog:          quietLog(deps.Logger),

		DisableGeneralOptionsHandler: true, // OPTIONS * is answered like other paths
	}
	return s
}

func quietLog(l hclog.Logger) *log.Logger {
	return l.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})
}

// Handler returns the API for clients.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handling(r)
		lastUnlessRead(w, r)
		s.serve(w, r, s.check, s.public)
		s.giveWay(w, r)
	})
}

// check refuses requests from clients that may not call.
func (s *Server) check(r *http.Request) error {
	if err := s.checkDirect(r); err != nil {
		return err
	}
	return s.guard.check(r)
}

// PeerHandler returns the API for other nodes. It checks no token and no Host: it belongs on a port
// that only nodes reach.
func (s *Server) PeerHandler() http.Handler { return s.open(s.peer) }

// InProcess returns the API for the node's own process, which needs no token.
func (s *Server) InProcess() http.Handler { return s.open(s.public) }

func (s *Server) open(routes router) http.Handler {
	unchecked := func(*http.Request) error { return nil }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.serve(w, r, unchecked, routes)
	})
}

// Serve serves l until Shutdown, and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	ctx, stop := context.WithCancel(s.ctx)
	var watching sync.WaitGroup
	watching.Go(func() { s.Watch(ctx) })
	defer watching.Wait()
	defer stop()
	l = placedListener{l, s.conns}
	if s.cfg.TLS != nil {
		l = tls.NewListener(l, withProtocols(s.cfg.TLS))
	}
	if err := s.http.Serve(problemListener{l}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
	}
	return nil
}

// Watch follows the other nodes until ctx ends, for those who follow the events of all. Serve does
// it; it is for a [Server.Handler] that another server serves.
func (s *Server) Watch(ctx context.Context) { s.watcher.run(ctx) }

// withProtocols offers net/http's protocols over TLS (RFC 7301).
func withProtocols(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	return c
}

// Shutdown closes the listener and waits for requests under way. When ctx ends, it cuts them off
// and returns the context's error. Requests that come by the handlers end with Shutdown.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.cancel()
	s.watcher.close() // otherwise the streams would never end
	if err := s.http.Shutdown(ctx); err != nil {
		s.cancel()
		return errors.Join(fmt.Errorf("requests to the API were cut off: %w", err), s.http.Close())
	}
	return nil
}

// sharedRoutes serve clients and nodes alike.
func (s *Server) sharedRoutes(peer bool) router {
	oneLimit := map[string]endpoint{
		"GET": reading(s.limit), "PUT": s.writing(s.putLimit, peer, maxBody), "DELETE": s.writing(s.deleteLimit, peer, maxBody),
	}
	return router{
		{api.PathLimits, map[string]endpoint{"GET": reading(s.limits), "PUT": s.writing(s.replaceLimits, peer, maxLimitsBody)}},
		{api.PathLimits + "/" + limit.ScopeTotal.String(), oneLimit},
		{api.PathLimits + "/" + limit.ScopeConnection.String(), oneLimit},
		{api.PathLimits + "/{scope}/{pattern}", oneLimit},
		{api.PathNodes, map[string]endpoint{"GET": s.asking(s.nodes, peer)}},
		{api.PathHosts, map[string]endpoint{"GET": readingFor(peer, s.hosts)}},
		{api.PathHosts + "/{host}", map[string]endpoint{"GET": readingFor(peer, s.host)}},
		{api.PathUsage + "/{scope}/{name}", map[string]endpoint{"GET": readingFor(peer, s.usage)}},
		{api.PathUsage + "/{scope}", map[string]endpoint{"GET": readingFor(peer, s.usages)}},
		{api.PathConnections, map[string]endpoint{"GET": readingFor(peer, s.connections)}},
		{api.PathConnections + "/{id}", map[string]endpoint{"DELETE": bodiless(readingFor(peer, s.closeConnection))}},
		{api.PathSnapshot, s.snapshotEndpoints(peer)},
		{api.PathRaftPeers, map[string]endpoint{"GET": s.asking(s.raftPeers, peer)}},
		{api.PathRaftPeers + "/{name}", map[string]endpoint{"DELETE": s.writing(s.removeRaftPeer, peer, maxBody)}},
		{api.PathRaftTransfer, map[string]endpoint{"POST": s.writing(s.transferLeadership, peer, maxBody)}},
	}
}

// publicRoutes concern this node alone.
func (s *Server) publicRoutes() router {
	return router{
		{api.PathStatus, map[string]endpoint{"GET": s.atNode(false, reading(s.status))}},
		{api.PathExplain, map[string]endpoint{"GET": reading(s.explain)}},
		{api.PathEvents, map[string]endpoint{"GET": s.eventStream}},
		{pathUI, map[string]endpoint{"GET": s.page}},
		{pathUI + "{file}", map[string]endpoint{"GET": s.page}},
		{"/ui", map[string]endpoint{"GET": s.toPage}},
		{"/", map[string]endpoint{"GET": s.toPage}},
		{api.PathDrain, map[string]endpoint{"POST": bodiless(reading(s.drain)), "DELETE": bodiless(reading(s.undrain))}},
		{api.PathLeave, map[string]endpoint{"POST": bodiless(reading(s.leave))}},
		{api.PathReload, map[string]endpoint{"POST": bodiless(reading(s.reload))}},
		{api.PathMetrics, map[string]endpoint{"GET": s.atNode(false, s.serveMetrics)}},
		{api.PathOpenAPI, map[string]endpoint{"GET": s.description}},
		{api.PathHealthz, map[string]endpoint{"GET": reading(s.healthz)}},
		{api.PathReadyz, map[string]endpoint{"GET": reading(s.readyz)}},
	}
}

// peerRoutes serve nodes only.
func (s *Server) peerRoutes() router {
	return router{
		{api.PathStatus, map[string]endpoint{"GET": reading(s.status)}},
		{api.PathMetrics, map[string]endpoint{"GET": s.serveMetrics}},
		{pathWatch, map[string]endpoint{"GET": reading(s.watchPeer)}},
		{pathRestoredLimits, map[string]endpoint{"PUT": s.writingWithin(restoreTimeout, s.restoreLimits, true, maxPeerBody)}},
		{pathConfigLimits, map[string]endpoint{"PUT": s.writing(s.replaceConfigLimits, true, maxPeerBody)}},
	}
}
