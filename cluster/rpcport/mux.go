package rpcport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/cluster/lognoise"
)

const (
	dialTimeout = 3 * time.Second
	// silenceTimeout ends a connection whose peer acknowledges nothing for this long. A shorter
	// time breaks more connections on a busy network; with a longer one, a node takes longer to
	// reconnect after a partition.
	silenceTimeout = 3 * time.Second
	// probeEvery is the interval of TCP keep-alives on an idle connection. A peer that has lost the
	// connection answers with a reset at once.
	probeEvery       = time.Second
	acceptRetryFirst = 5 * time.Millisecond
	acceptRetryLast  = time.Second
)

// mux shares one TCP listener between the kinds of connection, and dials them too. It tracks every
// connection that it has accepted or dialled, and closes them all at its end.
type mux struct {
	log      hclog.Logger
	listener net.Listener
	door     *handshake.Doorkeeper
	self     string // the address at which others dial this node
	security *security
	said     *lognoise.Said
	subs     map[handshake.Kind]*subListener
	greeting *handshake.Places // connections that have not proved yet that they come from a node
	settled  *handshake.Places // those that have, but without a certificate
	closed   chan struct{}
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[*trackedConn]struct{}
}

// newMux takes over an open listener. self is the address that others dial, and becomes the address
// of the listeners. Without security, nothing is encrypted.
func newMux(log hclog.Logger, listener net.Listener, self string, door *handshake.Doorkeeper, s *security) *mux {
	m := &mux{
		log: log, listener: listener, self: self, door: door, security: s,
		said:     lognoise.Strangers(),
		subs:     make(map[handshake.Kind]*subListener),
		greeting: handshake.NewPlaces("connections to the rpc port that have yet to open with a node's handshake", log, handshake.GreetingPlaces()),
		settled:  handshake.NewPlaces("connections to the rpc port without TLS", log, handshake.SettledPlaces()),
		closed:   make(chan struct{}),
		conns:    make(map[*trackedConn]struct{}),
	}
	m.settled.Beyond = true
	for _, k := range []handshake.Kind{handshake.KindRaft, handshake.KindGRPC, handshake.KindHTTP} {
		m.subs[k] = &subListener{addr: address(self), accepted: make(chan net.Conn), closed: make(chan struct{})}
	}
	return m
}

// start begins to accept.
func (m *mux) start() {
	m.wg.Go(m.accept)
}

// sub returns the listener of one kind of connection.
func (m *mux) sub(k handshake.Kind) net.Listener { return m.subs[k] }

// dial opens a connection of a kind to a node, and returns once that node has accepted it. target
// is the Raft id of the server that must answer, or "". A dial to the node's own address uses no
// socket.
func (m *mux) dial(ctx context.Context, addr string, k handshake.Kind, target string) (net.Conn, error) {
	if addr == m.self {
		return m.dialSelf(ctx, k)
	}
	dialer := net.Dialer{Timeout: dialTimeout} // an HTTP client detaches its dials from their requests
	raw, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	held, err := m.track(raw)
	if err != nil {
		return nil, err
	}
	conn, err := m.open(ctx, held, k, target, addr)
	if err != nil {
		_ = held.Close()
		m.report("a node can't be connected to", addr, addr, err)
		return nil, fmt.Errorf("the connection to %s can't be opened: %w", addr, err)
	}
	return conn, nil
}

// open does the handshake on a connection that was just dialled, over TLS if this node encrypts.
// The other node has accepted the connection that it returns.
func (m *mux) open(ctx context.Context, held *trackedConn, k handshake.Kind, target, addr string) (conn net.Conn, err error) {
	stop := context.AfterFunc(ctx, func() { _ = held.Close() })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
	}()
	if err := held.SetDeadline(handshake.Deadline(ctx)); err != nil {
		return nil, err
	}
	conn = held
	if m.security.encrypts() {
		if conn, err = m.security.open(ctx, held, target); err != nil {
			return nil, err
		}
	}
	other, err := m.door.Open(conn, k, target, addr, handshake.MetDialled)
	if err != nil {
		return nil, explainTLS(err)
	}
	m.mark(held, other.GetCluster())
	return conn, held.SetDeadline(time.Time{})
}

// mark records the cluster of a connection's other end.
func (m *mux) mark(c *trackedConn, cluster string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.cluster = cluster
}

// dropOthers closes the connections to members of other clusters.
func (m *mux) dropOthers(cluster string) {
	m.mu.Lock()
	var others []*trackedConn
	for c := range m.conns {
		if c.cluster != "" && c.cluster != cluster {
			others = append(others, c)
		}
	}
	m.mu.Unlock()
	for _, c := range others {
		_ = c.Close()
	}
}

// report logs why a connection was not made. A cause that a person must mend is a warning, at most
// once in half a minute for each peer, because it recurs with every attempt.
func (m *mux) report(msg, peer, host string, err error) {
	var wrong *handshake.Misfit
	if errors.As(err, &wrong) && m.said.Due(host+" "+wrong.Kind(), time.Now()) {
		m.log.Warn(msg, "peer", peer, "reason", wrong)
		return
	}
	m.log.Debug(msg, "peer", peer, "reason", err)
}

func (m *mux) dialSelf(ctx context.Context, k handshake.Kind) (net.Conn, error) {
	client, server := net.Pipe()
	near, err := m.track(client)
	if err != nil {
		_ = server.Close()
		return nil, err
	}
	far, err := m.track(server)
	if err == nil {
		err = m.subs[k].hand(ctx, far)
	}
	if err != nil {
		_ = near.Close()
		_ = server.Close()
		return nil, err
	}
	return near, nil
}

// close stops listening and closes every connection. It waits for the mux's own goroutines.
func (m *mux) close() {
	m.mu.Lock()
	select {
	case <-m.closed:
		m.mu.Unlock()
		return
	default:
	}
	close(m.closed)
	open := make([]*trackedConn, 0, len(m.conns))
	for c := range m.conns {
		open = append(open, c)
	}
	m.mu.Unlock()
	_ = m.listener.Close()
	for _, sub := range m.subs {
		_ = sub.Close()
	}
	for _, c := range open {
		_ = c.Close()
	}
	m.wg.Wait()
}

func (m *mux) accept() {
	retry := acceptRetryFirst
	for {
		conn, err := m.listener.Accept()
		if err == nil {
			retry = acceptRetryFirst
			m.greet(conn)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Usually the process is out of file descriptors.
		if m.said.Due("accept", time.Now()) {
			m.log.Error("can't accept a connection on the rpc port", "error", err, "retry_in", retry)
		}
		select {
		case <-time.After(retry):
			retry = min(2*retry, acceptRetryLast)
		case <-m.closed:
			return
		}
	}
}

// greet reads the preface in a goroutine of its own. The connection keeps its place until it ends.
func (m *mux) greet(raw net.Conn) {
	place := m.greeting.Take(raw, m.closed)
	if place == nil {
		_ = raw.Close()
		return
	}
	conn, err := m.track(raw)
	if err != nil {
		place.Free()
		return
	}
	m.wg.Go(func() {
		taken, sub, err := m.classify(conn, place)
		place.Free()
		if err == nil {
			err = sub.hand(context.Background(), taken)
		}
		if err != nil {
			m.report("closed a connection on the rpc port", raw.RemoteAddr().String(), hostOf(raw.RemoteAddr()), err)
			_ = conn.Close()
		}
	})
}

func hostOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}

// classify reads the preface, inside TLS if the connection begins with TLS, and answers a preface
// of a kind that is served.
func (m *mux) classify(conn *trackedConn, place *handshake.Place) (net.Conn, *subListener, error) {
	if err := conn.SetDeadline(time.Now().Add(handshake.Timeout)); err != nil {
		return nil, nil, err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return nil, nil, fmt.Errorf("it has sent nothing: %w", err)
	}
	place.Spoke()
	begun := &rewound{trackedConn: conn, first: first}
	var taken net.Conn = begun
	secure := first[0] == handshake.TLSHandshake
	if secure {
		if m.security == nil {
			_, _ = conn.Write(mismatch[:]) // the connection is closed in any case
			return nil, nil, errPeerHasTLS
		}
		server := tls.Server(begun, m.security.server())
		if err := server.Handshake(); err != nil {
			return nil, nil, explainTLS(err)
		}
		taken = &secureConn{Conn: server, held: conn}
	}
	p, err := handshake.ReadPreface(taken)
	var other *handshake.Misfit // the other end is a node of another version
	if (err == nil || errors.As(err, &other)) && !secure && !m.security.hearsPlain() {
		_, _ = conn.Write(mismatch[:])
		return nil, nil, errPeerWantsPlain
	}
	if err != nil {
		return nil, nil, err
	}
	if err := m.door.Answer(taken, p, func(k handshake.Kind) bool { return m.subs[k] != nil }); err != nil {
		return nil, nil, err
	}
	if p.GetKind() == handshake.KindProbe {
		return nil, nil, handshake.ErrProbed
	}
	m.mark(conn, p.GetFrom().GetCluster())
	if !secure {
		taken = conn // the first byte belongs to the preface
		if !m.settle(conn) {
			return nil, nil, errNoPlace
		}
	}
	if p.GetKind() == handshake.KindRaft {
		// gRPC and HTTP have timeouts of their own. A Raft peer dials when it has something to
		// send, so its first bytes are due soon.
		return &firstWord{Conn: taken}, m.subs[handshake.KindRaft], conn.SetDeadline(time.Now().Add(handshake.Timeout))
	}
	return taken, m.subs[p.GetKind()], conn.SetDeadline(time.Time{})
}

// firstWord is a connection with a deadline for its first bytes. Once they have come, the deadline
// is lifted.
type firstWord struct {
	net.Conn
	heard bool // by the one reader
}

// Read implements [net.Conn].
func (c *firstWord) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard {
		c.heard = true
		err = cmp.Or(err, c.SetDeadline(time.Time{}))
	}
	return n, err
}

// errNoPlace closes a connection without TLS, which anybody can open, while members' connections
// use all places.
var errNoPlace = errors.New("there is no place for another connection without TLS")

// settle gives an unencrypted connection a place, until it is closed.
func (m *mux) settle(c *trackedConn) bool {
	place := m.settled.Take(c, m.closed)
	if place == nil {
		return false
	}
	place.Spoke()
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, open := m.conns[c]; !open {
		place.Free()
		return true // closed meanwhile: the next read fails
	}
	c.place = place
	return true
}

// track registers a connection, or closes it if the mux is closed.
func (m *mux) track(raw net.Conn) (*trackedConn, error) {
	if err := endAfterSilence(raw, silenceTimeout); err != nil {
		m.log.Debug("a connection may outlive its peer's silence", "peer", raw.RemoteAddr(), "error", err)
	}
	c := &trackedConn{Conn: raw, mux: m}
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
		_ = raw.Close()
		return nil, net.ErrClosed
	default:
	}
	m.conns[c] = struct{}{}
	return c, nil
}

// trackedConn leaves its mux when it is closed.
type trackedConn struct {
	net.Conn
	mux     *mux
	cluster string           // of the other end, if known; guarded by the mux
	place   *handshake.Place // guarded by the mux; nil: it needs none
	once    sync.Once
	err     error
}

func (c *trackedConn) Close() error {
	c.once.Do(func() {
		c.mux.mu.Lock()
		delete(c.mux.conns, c)
		place := c.place
		c.mux.mu.Unlock()
		if place != nil {
			place.Free()
		}
		c.err = c.Conn.Close()
	})
	return c.err
}

// subListener hands out the connections of one kind.
type subListener struct {
	addr     address
	accepted chan net.Conn
	once     sync.Once
	closed   chan struct{}
}

// hand passes a connection to Accept, or fails once the listener is closed.
func (l *subListener) hand(ctx context.Context, conn net.Conn) error {
	select {
	case l.accepted <- conn:
		return nil
	case <-l.closed:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Accept implements [net.Listener].
func (l *subListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *subListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements [net.Listener]. It returns the address that others dial.
func (l *subListener) Addr() net.Addr { return l.addr }

// address is a host and port as others dial it.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }
