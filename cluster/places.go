package cluster

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

const (
	// placesLogEvery is the interval of the log line about connections that were closed for want of
	// places.
	placesLogEvery = time.Minute
	// membersEvery is how long a list of the members' machines is reused while places are short.
	membersEvery = time.Second
	// perSourceShare: one address, unless it is a member's, may have one in this many places.
	perSourceShare = 2
	fewOpenFiles   = 512
	// grace is how long a connection keeps its place in any case, because a node's first bytes are
	// under way. A longer grace lets more of them arrive; a shorter one delays the next connection
	// less during a flood.
	grace = 25 * time.Millisecond
)

// places bounds the connections of one kind to a port of this node, since strangers can open any
// number. When places run out, the address with the most connections, other than a member's, loses
// one: its oldest silent connection, or else its oldest. So a flood closes its own connections, and
// members' machines keep theirs.
type places struct {
	what             string
	log              hclog.Logger
	total, perSource int
	// beyond allows members places above the total.
	beyond bool
	// members lists the addresses of the members' machines; nil: none are known.
	members func() map[netip.Addr]struct{}

	mu     sync.Mutex
	of     map[netip.Addr]map[*placed]struct{}
	count  int
	number uint64 // of the last connection

	known   map[netip.Addr]struct{}
	knownAt time.Time

	closed uint64 // since the last line
	said   time.Time
}

// placed is a connection that has a place.
type placed struct {
	in     *places
	conn   io.Closer
	source netip.Addr
	number uint64
	since  time.Time
	spoken bool // guarded by places.mu
}

func newPlaces(what string, log hclog.Logger, total int) *places {
	return &places{what: what, log: log, total: total, perSource: max(total/perSourceShare, 1), of: make(map[netip.Addr]map[*placed]struct{})}
}

// openFiles is the process's limit of descriptors. The proxy leaves two fifths of it to the node,
// of which the API takes 128. The bounds below take half of the remainder; members' connections and
// files use the rest.
func openFiles() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return fewOpenFiles
	}
	return int(min(max(limit.Cur, fewOpenFiles), 1<<22))
}

// The places of the rpc port, before and after the handshake, and those of gossip over TCP.
func greetingPlaces() int { return min(openFiles()/12, 256) }
func settledPlaces() int  { return min(openFiles()/16, 4096) }
func gossipPlaces() int   { return min(openFiles()/32, 128) }

// take gives a connection a place, if need be by closing another connection. It returns nil if no
// place can be had, or once the node has stopped, which closes stopped.
func (p *places) take(conn net.Conn, stopped <-chan struct{}) *placed {
	for {
		c, wait := p.try(conn, time.Now())
		if wait <= 0 {
			return c
		}
		select {
		case <-time.After(wait):
		case <-stopped:
			return nil
		}
	}
}

// try is take without its wait: the connection that has to go is first allowed its grace.
func (p *places) try(conn net.Conn, now time.Time) (c *placed, wait time.Duration) {
	source := sourceOf(conn.RemoteAddr())
	p.mu.Lock()
	old, ok := p.makeRoom(source, now)
	if old != nil {
		if wait = grace - now.Sub(old.since); wait > 0 {
			p.mu.Unlock()
			return nil, wait
		}
	}
	if ok {
		p.number++
		c = &placed{in: p, conn: conn, source: source, number: p.number, since: now}
		if p.of[source] == nil {
			p.of[source] = make(map[*placed]struct{})
		}
		p.of[source][c] = struct{}{}
		p.count++
	}
	if old != nil {
		p.remove(old)
	}
	if old != nil || !ok {
		p.report(now)
	}
	p.mu.Unlock()
	if old != nil {
		_ = old.conn.Close()
	}
	return c, 0
}

// makeRoom decides whether a connection from an address gets a place, and which connection is
// closed for it. The caller holds mu.
func (p *places) makeRoom(source netip.Addr, now time.Time) (old *placed, ok bool) {
	crowd := len(p.of[source]) >= p.perSource
	if !crowd && p.count < p.total {
		return nil, true
	}
	member := p.isMember(source, now)
	switch {
	case member && p.beyond:
		return nil, true
	case !member && crowd:
		return dispensable(p.of[source]), true
	case p.count < p.total:
		return nil, true
	}
	if old = dispensable(p.busiest(false)); old == nil && member {
		old = dispensable(p.busiest(true))
	}
	return old, old != nil
}

// isMember reports whether an address belongs to a member's machine. The caller holds mu.
func (p *places) isMember(source netip.Addr, now time.Time) bool {
	if p.members != nil && (p.known == nil || now.Sub(p.knownAt) >= membersEvery) {
		p.known, p.knownAt = p.members(), now
	}
	_, ok := p.known[source]
	return ok
}

// busiest returns the connections of the address that has the most, among members' machines or
// among others. The caller holds mu and has called isMember.
func (p *places) busiest(members bool) (most map[*placed]struct{}) {
	for source, conns := range p.of {
		if _, member := p.known[source]; member == members && len(conns) > len(most) {
			most = conns
		}
	}
	return most
}

// dispensable returns the oldest silent connection, or else the oldest.
func dispensable(conns map[*placed]struct{}) (first *placed) {
	for c := range conns {
		if first == nil || (c.spoken == first.spoken && c.number < first.number) || (!c.spoken && first.spoken) {
			first = c
		}
	}
	return first
}

// remove takes a connection out, once. The caller holds mu.
func (p *places) remove(c *placed) {
	if _, ok := p.of[c.source][c]; !ok {
		return
	}
	delete(p.of[c.source], c)
	if len(p.of[c.source]) == 0 {
		delete(p.of, c.source)
	}
	p.count--
}

// report logs that places run out, at most once per interval. The caller holds mu.
func (p *places) report(now time.Time) {
	p.closed++
	if !p.said.IsZero() && now.Sub(p.said) < placesLogEvery {
		return
	}
	p.log.Warn("no place for another connection: closed the oldest of the address that has the most", "of", p.what,
		"closed", p.closed, "places", p.total, "hint", "let only nodes reach the port")
	p.closed, p.said = 0, now
}

// spoke records that bytes have come over the connection.
func (c *placed) spoke() {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.spoken = true
}

// free gives the place back.
func (c *placed) free() {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.remove(c)
}

func sourceOf(addr net.Addr) netip.Addr {
	if a, ok := addr.(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// placedStream is a stream that keeps its place until it is closed.
type placedStream struct {
	net.Conn
	place *placed
}

// Close implements [net.Conn].
func (c *placedStream) Close() error {
	c.place.free()
	return c.Conn.Close()
}

// machines returns the addresses at which members are dialled.
func (c *Cluster) machines() map[netip.Addr]struct{} {
	machines := make(map[netip.Addr]struct{})
	for _, m := range c.gossip.members.list(time.Now()) {
		for _, text := range []string{m.RPCAddr, m.GossipAddr} {
			if at, err := netip.ParseAddrPort(text); err == nil {
				machines[at.Addr().Unmap().WithZone("")] = struct{}{}
			}
		}
	}
	return machines
}
