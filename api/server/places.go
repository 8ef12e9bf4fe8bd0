package server

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Bounds of the API's listener. They fit into the descriptors that the proxy leaves to the node
// (proxy/descriptors.go), so that Raft, gossip and the log's files always have theirs, whatever
// callers without a token do.
const (
	maxConns        = 128
	maxConnsPerAddr = 96          // per address, so that some are left for others
	placesLogEvery  = time.Minute // between two lines about refused connections
)

// places bounds the listener's connections. When places run out, the address with the most
// connections loses its oldest one without a request under way. If all are busy, the new connection
// is closed.
type places struct {
	total, perAddr int
	log            hclog.Logger

	mu     sync.Mutex
	of     map[netip.Addr]map[*placedConn]struct{}
	count  int
	number uint64 // of the last connection

	turnedAway uint64    // since the last line
	said       time.Time // time of the last line
}

func newPlaces(total, perAddr int, log hclog.Logger) *places {
	return &places{total: total, perAddr: perAddr, log: log, of: map[netip.Addr]map[*placedConn]struct{}{}}
}

// placedListener accepts connections that have a place.
type placedListener struct {
	net.Listener
	places *places
}

func (l placedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if p, ok := l.places.take(c, time.Now()); ok {
			return p, nil
		}
		_ = c.Close()
	}
}

// placedConn is a connection that keeps its place until it is closed.
type placedConn struct {
	net.Conn
	places *places
	addr   netip.Addr
	number uint64 // in the order of arrival
	busy   bool   // a request is under way; guarded by places.mu
}

// CloseWrite closes the sending side; see problemConn.
func (c *placedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// Close implements [net.Conn].
func (c *placedConn) Close() error {
	c.places.free(c)
	return c.Conn.Close()
}

// take gives a connection a place, if need be by closing another connection.
func (p *places) take(c net.Conn, now time.Time) (*placedConn, bool) {
	p.mu.Lock()
	addr := sourceOf(c)
	var old *placedConn
	switch {
	case len(p.of[addr]) >= p.perAddr:
		old = oldestIdle(p.of[addr])
	case p.count >= p.total:
		old = oldestIdle(p.of[p.busiest()])
	}
	full := len(p.of[addr]) >= p.perAddr || p.count >= p.total
	if full {
		p.report(now)
	}
	if full && old == nil {
		p.mu.Unlock()
		return nil, false
	}
	if old != nil {
		p.remove(old)
	}
	p.number++
	placed := &placedConn{Conn: c, places: p, addr: addr, number: p.number}
	if p.of[addr] == nil {
		p.of[addr] = map[*placedConn]struct{}{}
	}
	p.of[addr][placed] = struct{}{}
	p.count++
	p.mu.Unlock()
	if old != nil {
		_ = old.Conn.Close()
	}
	return placed, true
}

// busiest returns the address with the most connections that has one without a request under way.
// The caller holds mu.
func (p *places) busiest() (most netip.Addr) {
	n := 0
	for addr, conns := range p.of {
		if len(conns) > n && oldestIdle(conns) != nil {
			most, n = addr, len(conns)
		}
	}
	return most
}

func oldestIdle(conns map[*placedConn]struct{}) (oldest *placedConn) {
	for c := range conns {
		if !c.busy && (oldest == nil || c.number < oldest.number) {
			oldest = c
		}
	}
	return oldest
}

func (p *places) free(c *placedConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(c)
}

// remove takes a connection out, once. The caller holds mu.
func (p *places) remove(c *placedConn) {
	if _, ok := p.of[c.addr][c]; !ok {
		return
	}
	delete(p.of[c.addr], c)
	if len(p.of[c.addr]) == 0 {
		delete(p.of, c.addr)
	}
	p.count--
}

// report logs that places run out, at most once per interval. The caller holds mu.
func (p *places) report(now time.Time) {
	p.turnedAway++
	if !p.said.IsZero() && now.Sub(p.said) < placesLogEvery {
		return
	}
	p.log.Warn("the API has no place for another connection: an idle one gives way, or the new one is closed",
		"turned_away", p.turnedAway, "most", p.total, "most_per_address", p.perAddr)
	p.turnedAway, p.said = 0, now
}

// noteState records whether a connection has a request under way.
func (p *places) noteState(conn net.Conn, state http.ConnState) {
	c := placedOf(conn)
	if c == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.busy = state == http.StateActive
}

// placedOf finds the placedConn beneath net/http's connection.
func placedOf(conn net.Conn) *placedConn {
	for {
		switch c := conn.(type) {
		case *placedConn:
			return c
		case *problemConn:
			conn = c.Conn
		case *tls.Conn:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

func sourceOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
