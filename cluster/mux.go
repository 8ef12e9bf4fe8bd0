package cluster

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
)

const (
	dialTimeout    = 3 * time.Second
	prefaceTimeout = 5 * time.Second
	// silenceTimeout ends a connection whose peer acknowledges nothing for so long. Shorter, a busy
	// network breaks more of them; longer, a node takes longer to be heard again after a partition.
	silenceTimeout = 3 * time.Second
	// probeEvery is how often an idle connection's peer is asked whether it is still there: one
	// that has forgotten the connection says so at once.
	probeEvery       = time.Second
	acceptRetryFirst = 5 * time.Millisecond
	acceptRetryLast  = time.Second
)

// mux shares one TCP listener between the kinds of connection, and dials in the same way. It knows
// every connection that it has accepted or dialled, and closes them all in the end.
type mux struct {
	log      hclog.Logger
	listener net.Listener
	door     *doorkeeper
	self     string // the address that others dial this node at
	security *security
	said     *saidBefore
	subs     map[kind]*subListener
	greeting *places // connections that have not shown yet that they come from a node
	settled  *places // and those that have, but without a certificate
	closed   chan struct{}
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[*trackedConn]struct{}
}

// newMux takes over an open listener. self is what others dial, and becomes the listeners' address.
// Without security nothing is encrypted.
func newMux(log hclog.Logger, listener net.Listener, self string, door *doorkeeper, s *security) *mux {
	m := &mux{
		log: log, listener: listener, self: self, door: door, security: s,
		said:     newStrangersSaid(),
		subs:     make(map[kind]*subListener),
		greeting: newPlaces("connections to the rpc port that have yet to open with a node's handshake", log, greetingPlaces()),
		settled:  newPlaces("connections to the rpc port without TLS", log, settledPlaces()),
		closed:   make(chan struct{}),
		conns:    make(map[*trackedConn]struct{}),
	}
	m.settled.beyond = true
	for _, k := range []kind{kindRaft, kindGRPC, kindHTTP} {
		m.subs[k] = &subListener{addr: address(self), accepted: make(chan net.Conn), closed: make(chan struct{})}
	}
	return m
}

// start begins to accept.
func (m *mux) start() {
	m.wg.Go(m.accept)
}

// sub returns the listener of one kind of connection.
func (m *mux) sub(k kind) net.Listener { return m.subs[k] }

// dial opens a connection of a kind to a node. target is the Raft id of the server that must
// answer, or "". The connection is open once the other node has accepted it. The node's own address
// leads there without a socket.
func (m *mux) dial(ctx context.Context, addr string, k kind, target string) (net.Conn, error) {
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
		m.tell("a node can't be connected to", addr, addr, err)
		return nil, fmt.Errorf("the connection to %s can't be opened: %w", addr, err)
	}
	return conn, nil
}

// open makes a connection that has just been dialled one that the other node has accepted: as a
// node's, over TLS where this node encrypts.
func (m *mux) open(ctx context.Context, held *trackedConn, k kind, target, addr string) (conn net.Conn, err error) {
	stop := context.AfterFunc(ctx, func() { _ = held.Close() })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
	}()
	if err := held.SetDeadline(deadlineOf(ctx)); err != nil {
		return nil, err
	}
	conn = held
	if m.security.encrypts() {
		if conn, err = m.security.open(ctx, held, target); err != nil {
			return nil, err
		}
	}
	other, err := m.door.open(conn, k, target, addr, metDialled)
	if err != nil {
		return nil, explainTLS(err)
	}
	m.mark(held, other.GetCluster())
	return conn, held.SetDeadline(time.Time{})
}

// mark notes of which cluster a connection's other end is.
func (m *mux) mark(c *trackedConn, cluster string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.cluster = cluster
}

// dropOthers closes the connections to members of other clusters than this one.
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

// tell logs why a connection was not made. What a person has to deal with is a warning, once in
// half a minute for each peer: it comes back with every attempt.
func (m *mux) tell(msg, peer, host string, err error) {
	var wrong *misfit
	if errors.As(err, &wrong) && m.said.due(host+" "+wrong.kind(), time.Now()) {
		m.log.Warn(msg, "peer", peer, "reason", wrong)
		return
	}
	m.log.Debug(msg, "peer", peer, "reason", err)
}

func (m *mux) dialSelf(ctx context.Context, k kind) (net.Conn, error) {
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
		// Typically the process is out of file descriptors.
		if m.said.due("accept", time.Now()) {
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

// greet reads the preface in a goroutine of its own, as long as the connection keeps its place.
func (m *mux) greet(raw net.Conn) {
	place := m.greeting.take(raw, m.closed)
	if place == nil {
		_ = raw.Close()
		return
	}
	conn, err := m.track(raw)
	if err != nil {
		place.free()
		return
	}
	m.wg.Go(func() {
		taken, sub, err := m.classify(conn, place)
		place.free()
		if err == nil {
			err = sub.hand(context.Background(), taken)
		}
		if err != nil {
			m.tell("closed a connection on the rpc port", raw.RemoteAddr().String(), hostOf(raw.RemoteAddr()), err)
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

// classify reads the preface, from within TLS where the connection begins with it, and answers what
// is to be used.
func (m *mux) classify(conn *trackedConn, place *placed) (net.Conn, *subListener, error) {
	if err := conn.SetDeadline(time.Now().Add(prefaceTimeout)); err != nil {
		return nil, nil, err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return nil, nil, fmt.Errorf("it has sent nothing: %w", err)
	}
	place.spoke()
	begun := &rewound{trackedConn: conn, first: first}
	var taken net.Conn = begun
	secure := first[0] == handshakeRecord
	if secure {
		if m.security == nil {
			_, _ = conn.Write(mismatch[:]) // it is closed in any case
			return nil, nil, errPeerHasTLS
		}
		server := tls.Server(begun, m.security.server())
		if err := server.Handshake(); err != nil {
			return nil, nil, explainTLS(err)
		}
		taken = &secureConn{Conn: server, held: conn}
	}
	p, err := readPreface(taken)
	var other *misfit // it is a node, of another version
	if (err == nil || errors.As(err, &other)) && !secure && !m.security.hearsPlain() {
		_, _ = conn.Write(mismatch[:])
		return nil, nil, errPeerWantsPlain
	}
	if err != nil {
		return nil, nil, err
	}
	if err := m.door.answer(taken, p, func(k kind) bool { return m.subs[k] != nil }); err != nil {
		return nil, nil, err
	}
	if p.GetKind() == kindProbe {
		return nil, nil, errProbed
	}
	m.mark(conn, p.GetFrom().GetCluster())
	if !secure {
		taken = conn // the byte looked at was the preface's
		if !m.settle(conn) {
			return nil, nil, errNoPlace
		}
	}
	if p.GetKind() == kindRaft {
		// gRPC and HTTP have timeouts of their own; a Raft peer dials when it has something to say.
		return &firstWord{Conn: taken}, m.subs[kindRaft], conn.SetDeadline(time.Now().Add(prefaceTimeout))
	}
	return taken, m.subs[p.GetKind()], conn.SetDeadline(time.Time{})
}

// firstWord is a connection on which something has to come before its deadline, which is over then.
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

// errNoPlace closes a connection without TLS, which anybody can open, while those of members have
// all places.
var errNoPlace = errors.New("there is no place for another connection without TLS")

// settle gives a connection the place of one that is not encrypted, until it is closed.
func (m *mux) settle(c *trackedConn) bool {
	place := m.settled.take(c, m.closed)
	if place == nil {
		return false
	}
	place.spoke()
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, open := m.conns[c]; !open {
		place.free()
		return true // who has closed it is told by the next read
	}
	c.place = place
	return true
}

// errProbed ends a connection that was opened only to learn who listens.
var errProbed = errors.New("it only asked who listens")

// track registers a connection, or closes it where the mux is closed.
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

// trackedConn is forgotten by its mux when it is closed.
type trackedConn struct {
	net.Conn
	mux     *mux
	cluster string  // of the other end, as far as it is known; guarded by the mux
	place   *placed // likewise; nil: it needs none
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
			place.free()
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

// hand gives a connection to Accept, or fails once the listener is closed.
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

// Addr implements [net.Listener]: it is what others dial.
func (l *subListener) Addr() net.Addr { return l.addr }

// address is a host and port as others dial it.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }
