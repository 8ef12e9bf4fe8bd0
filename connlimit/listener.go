package connlimit

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Listener returns a listener whose connections are counted until they are closed. It accepts from
// inner; its connections are of type *Conn.
//
// What is over a limit never reaches Accept. It is closed, after Config.Answer where that is set,
// or waits for its turn where Limits.Wait says so; none of that holds up the next connection.
// Errors of inner's Accept are passed on. Close closes inner, and the connections that wait.
//
// Once a connection has had to wait, here or for Config.Cluster, a goroutine accepts ahead of the
// server. It stops while one that has been admitted is not taken yet, so it is one or two ahead.
// Those that wait come on top: Limits.MaxWaiting bounds those in the queue, and Limits.Total those
// that wait for the cluster. Each has a goroutine.
//
// A connection that has to be read from before its RemoteAddr is known, such as one of a listener
// for the PROXY protocol, holds up no other either. Until then it is under no limit, so give that
// listener a timeout for its header. All connections but those of TCP, Unix sockets and crypto/tls
// are asked for their address on a goroutine each, as if they had to wait.
//
// For TLS, wrap what Listener returns: tls.NewListener(limiter.Listener(inner), config), or
// http.Server.ServeTLS. Config.Answer writes below TLS then, where a client can't read it; Guard
// answers through TLS. Only a server that needs no *tls.Conn can have it the other way round, with
// an Answer through TLS: limiter.Listener(tls.NewListener(inner, config)). An http.Server would
// take its connections for plain ones: Request.TLS is nil, and HTTP/2 fails if config offers it.
func (l *Limiter) Listener(inner net.Listener) net.Listener {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &listener{Listener: inner, limiter: l, ctx: ctx, cancel: cancel,
		turn: make(chan struct{}, 1), ready: make(chan *Conn), failed: make(chan error)}
}

type listener struct {
	net.Listener
	limiter *Limiter
	ctx     context.Context // ends with Close
	cancel  context.CancelCauseFunc
	turn    chan struct{} // held by whoever offers a connection to Accept
	ready   chan *Conn
	failed  chan error
	// ahead is set once a connection has had to wait: from then on a goroutine accepts from inner,
	// and Accept takes what comes first.
	ahead atomic.Bool
}

// Accept returns the next connection that is within the limits.
func (l *listener) Accept() (net.Conn, error) {
	for !l.ahead.Load() {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if counted := l.admit(conn); counted != nil {
			return counted, nil
		}
	}
	if l.ctx.Err() != nil {
		return nil, l.errClosed()
	}
	select {
	case conn := <-l.ready:
		return conn, nil
	case err := <-l.failed:
		return nil, err
	case <-l.ctx.Done():
		return nil, l.errClosed()
	}
}

func (l *listener) errClosed() error {
	addr := l.Addr()
	network := ""
	if addr != nil {
		network = addr.Network()
	}
	return &net.OpError{Op: "accept", Net: network, Addr: addr, Err: net.ErrClosed}
}

// Close stops accepting. Connections that were accepted go on.
func (l *listener) Close() error {
	err := l.Listener.Close()
	l.cancel(net.ErrClosed)
	return err
}

// run accepts ahead of those who call Accept, while nothing is left for them to take, until the
// listener is closed. An error waits to be taken, so one that lasts does not make it spin.
func (l *listener) run() {
	for l.takeTurn() {
		<-l.turn
		conn, err := l.Listener.Accept()
		if err != nil {
			select {
			case l.failed <- err:
			case <-l.ctx.Done():
			}
		} else if counted := l.admit(conn); counted != nil {
			l.deliver(counted)
		}
	}
}

// admit returns conn, counted, if there is a slot for it at once. It leaves conn to a goroutine if
// it may have to wait, if only for its address, and refuses it otherwise.
func (l *listener) admit(conn net.Conn) *Conn {
	c := l.limiter.current()
	book := l.limiter.conns
	if knowsAddr(conn) && c.afterConn() == 0 && book.queue.waiting.Load() == 0 {
		var w wait
		if c.Connections.Wait > 0 {
			w = forTurn
		}
		slot, err := book.take(addrOf(conn), w)
		if err == nil {
			return &Conn{Conn: conn, slot: slot, limits: l.limiter}
		}
		if c.Connections.Wait == 0 {
			l.limiter.refuse(conn, c, err)
			return nil
		}
	}
	go l.admitLater(conn)
	if !l.ahead.Swap(true) {
		go l.run()
	}
	return nil
}

// admitLater waits for conn's address, in the queue here, and then for the cluster.
func (l *listener) admitLater(conn net.Conn) {
	addr := l.addrOf(conn)
	c := l.limiter.current()
	then := c.afterConn()
	slot, err := l.limiter.conns.acquire(l.ctx, addr, then)
	if err == nil && then == forCluster {
		cc := clusterContext{l.ctx, func() { abort(conn) }}
		slot, err = l.limiter.hold(cc, l.limiter.conns, c, slot, addr)
	}
	switch {
	case err == nil:
		l.deliver(&Conn{Conn: conn, slot: slot, limits: l.limiter})
	case l.ctx.Err() != nil:
		discard(conn)
	default:
		l.limiter.refuse(conn, c, err)
	}
}

// addrOf returns the address of conn, which Close closes while it is read from.
func (l *listener) addrOf(conn net.Conn) netip.Addr {
	if !knowsAddr(conn) {
		stop := context.AfterFunc(l.ctx, func() { abort(conn) })
		defer stop()
	}
	return addrOf(conn)
}

// takeTurn waits until no other connection is offered to Accept. It is false once l is closed.
func (l *listener) takeTurn() bool {
	select {
	case l.turn <- struct{}{}:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// deliver offers counted to whoever calls Accept, in the order in which connections were admitted.
func (l *listener) deliver(counted *Conn) {
	if !l.takeTurn() {
		discard(counted)
		return
	}
	defer func() { <-l.turn }()
	select {
	case l.ready <- counted:
	case <-l.ctx.Done():
		discard(counted)
	}
}

// refuse closes conn, after the answer if there is one, and room for another. It does not block.
func (l *Limiter) refuse(conn net.Conn, c *Config, why error) {
	if c.Answer == nil || l.answers.Add(1) > int64(c.MaxAnswers) {
		if c.Answer != nil {
			l.answers.Add(-1)
		}
		discard(conn)
		return
	}
	go func() {
		defer l.answers.Add(-1)
		defer discard(conn)
		// Also what Answer does without a deadline, such as computing, is not the client's to prolong.
		if conn.SetDeadline(time.Now().Add(c.AnswerTimeout)) != nil {
			return
		}
		c.Answer(conn, why)
		linger(conn)
	}()
}

// linger ends the sending side and reads on until the client closes, too, or the deadline. Closing
// with data unread would reset the connection, and a reset may overtake the answer (RFC 9112,
// section 9.6).
func linger(conn net.Conn) {
	w, ok := conn.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil {
		return
	}
	if inner(conn) != nil {
		// After TLS has said goodbye, TCP must, too.
		conn = innermost(conn)
		if w, ok := conn.(interface{ CloseWrite() error }); ok {
			w.CloseWrite()
		}
	}
	io.Copy(io.Discard, io.LimitReader(conn, 1<<20))
}
