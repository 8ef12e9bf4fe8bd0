package rpcport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/weirproxy/weir/cluster/handshake"
)

const (
	keepaliveTime     = 10 * time.Second // the minimum of gRPC's client
	keepaliveTimeout  = 3 * time.Second
	keepaliveMinimum  = 5 * time.Second // the minimum that a server accepts
	connectTimeout    = 3 * time.Second
	reconnectFirst    = 100 * time.Millisecond
	reconnectLast     = 2 * time.Second
	peerIdleTimeout   = 90 * time.Second
	peerIdleConns     = 4
	peerHeaderTimeout = 10 * time.Second
	peerHeaderBytes   = 64 << 10
	maxStreams        = 1024     // on one connection
	maxMessage        = 64 << 20 // of an answer, in bytes: a node gets all limits in one message
	maxRequest        = 16 << 20 // the largest message to a server: an older node states all its holdings in one
	serverStopTimeout = 2 * time.Second
)

// peers holds this node's connections to the others' rpc ports.
type peers struct {
	mux  *mux
	http *http.Transport

	mu     sync.Mutex
	closed bool
	conns  map[string]*grpc.ClientConn // by rpc address
}

func newPeers(m *mux) *peers {
	p := &peers{mux: m, conns: make(map[string]*grpc.ClientConn)}
	p.http = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return m.dial(ctx, addr, handshake.KindHTTP, "")
		},
		MaxIdleConnsPerHost:   peerIdleConns,
		IdleConnTimeout:       peerIdleTimeout,
		ResponseHeaderTimeout: 0, // the caller's context bounds it
		DisableCompression:    true,
	}
	return p
}

// grpcConn returns the connection to an rpc address, which connects on first use.
func (p *peers) grpcConn(addr string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if conn, ok := p.conns[addr]; ok {
		return conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return p.mux.dial(ctx, addr, handshake.KindGRPC, "")
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectLast},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("no connection to %s can be made: %w", addr, err)
	}
	p.conns[addr] = conn
	return conn, nil
}

// drop closes the connection to an address that no member has any more.
func (p *peers) drop(addr string) {
	p.mu.Lock()
	conn := p.conns[addr]
	delete(p.conns, addr)
	p.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// close closes every connection; new ones are refused.
func (p *peers) close() {
	p.mu.Lock()
	p.closed = true
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
	}
	p.http.CloseIdleConnections()
}

// roundTripper sends requests to one rpc address, whatever the host in their URL.
func (p *peers) roundTripper(addr string) http.RoundTripper {
	return peerTransport{addr: addr, http: p.http}
}

type peerTransport struct {
	addr string
	http *http.Transport
}

// RoundTrip implements [http.RoundTripper].
func (t peerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", t.addr
	return t.http.RoundTrip(r)
}

// servers serve everything on the rpc port except Raft.
type servers struct {
	grpc *grpc.Server
	http *http.Server
	wg   sync.WaitGroup
}

func newServers(handler http.Handler) *servers {
	if handler == nil {
		handler = http.NotFoundHandler()
	}
	return &servers{
		grpc: grpc.NewServer(
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMinimum, PermitWithoutStream: true}),
			grpc.MaxConcurrentStreams(maxStreams),
			grpc.MaxRecvMsgSize(maxRequest),
			grpc.ConnectionTimeout(connectTimeout),
			grpc.WaitForHandlers(true),
		),
		http: &http.Server{Handler: handler, ReadHeaderTimeout: peerHeaderTimeout, IdleTimeout: peerIdleTimeout, MaxHeaderBytes: peerHeaderBytes},
	}
}

func (s *servers) start(m *mux, failed func(error)) {
	s.wg.Go(func() {
		if err := s.grpc.Serve(m.sub(handshake.KindGRPC)); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
			failed(fmt.Errorf("the gRPC server has failed: %w", err))
		}
	})
	s.wg.Go(func() {
		if err := s.http.Serve(m.sub(handshake.KindHTTP)); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			failed(fmt.Errorf("the peers' HTTP server has failed: %w", err))
		}
	})
}

// stop ends streams and requests, and waits a bounded time for their handlers.
func (s *servers) stop() (clean bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.Stop()
		_ = s.http.Close()
		s.wg.Wait()
	}()
	select {
	case <-done:
		return true
	case <-time.After(serverStopTimeout):
		return false
	}
}
