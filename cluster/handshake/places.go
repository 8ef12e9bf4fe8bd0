package handshake

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

// Places bounds the connections of one kind to a port of this node, since strangers can open any
// number. When places run out, the address with the most connections, other than a member's, loses
// one: its oldest silent connection, or else its oldest. So a flood closes its own connections, and
// members' machines keep theirs.
type Places struct {
	what             string
	log              hclog.Logger
	total, perSource int
	// Beyond allows members places above the total.
	Beyond bool
	// Members lists the addresses of the members' machines; nil: none are known.
	Members func() map[netip.Addr]struct{}

	mu     sync.Mutex
	of     map[netip.Addr]map[*Place]struct{}
	count  int
	number uint64 // of the last connection

	known   map[netip.Addr]struct{}
	knownAt time.Time

	closed uint64 // since the last line
	said   time.Time
}

// Place is what a connection has until it ends.
type Place struct {
	in     *Places
	conn   io.Closer
	source netip.Addr
	number uint64
	since  time.Time
	spoken bool // guarded by places.mu
}

// NewPlaces makes a number of places for the connections that what describes in the log.
func NewPlaces(what string, log hclog.Logger, total int) *Places {
	return &Places{what: what, log: log, total: total, perSource: max(total/perSourceShare, 1), of: make(map[netip.Addr]map[*Place]struct{})}
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

// GreetingPlaces is the number of places on the rpc port before the handshake is over.
func GreetingPlaces() int { return min(openFiles()/12, 256) }

// SettledPlaces is the number of places on the rpc port after a handshake without TLS.
func SettledPlaces() int { return min(openFiles()/16, 4096) }

// GossipPlaces is the number of places of gossip over TCP.
func GossipPlaces() int { return min(openFiles()/32, 128) }

// Take gives a connection a place, if need be by closing another connection. It returns nil if no
// place can be had, or once the node has stopped, which closes stopped.
func (p *Places) Take(conn net.Conn, stopped <-chan struct{}) *Place {
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

// try is Take without its wait: the connection that has to go is first allowed its grace.
func (p *Places) try(conn net.Conn, now time.Time) (c *Place, wait time.Duration) {
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
		c = &Place{in: p, conn: conn, source: source, number: p.number, since: now}
		if p.of[source] == nil {
			p.of[source] = make(map[*Place]struct{})
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
func (p *Places) makeRoom(source netip.Addr, now time.Time) (old *Place, ok bool) {
	crowd := len(p.of[source]) >= p.perSource
	if !crowd && p.count < p.total {
		return nil, true
	}
	member := p.isMember(source, now)
	switch {
	case member && p.Beyond:
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
func (p *Places) isMember(source netip.Addr, now time.Time) bool {
	if p.Members != nil && (p.known == nil || now.Sub(p.knownAt) >= membersEvery) {
		p.known, p.knownAt = p.Members(), now
	}
	_, ok := p.known[source]
	return ok
}

// busiest returns the connections of the address that has the most, among members' machines or
// among others. The caller holds mu and has called isMember.
func (p *Places) busiest(members bool) (most map[*Place]struct{}) {
	for source, conns := range p.of {
		if _, member := p.known[source]; member == members && len(conns) > len(most) {
			most = conns
		}
	}
	return most
}

// dispensable returns the oldest silent connection, or else the oldest.
func dispensable(conns map[*Place]struct{}) (first *Place) {
	for c := range conns {
		if first == nil || (c.spoken == first.spoken && c.number < first.number) || (!c.spoken && first.spoken) {
			first = c
		}
	}
	return first
}

// remove takes a connection out, once. The caller holds mu.
func (p *Places) remove(c *Place) {
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
func (p *Places) report(now time.Time) {
	p.closed++
	if !p.said.IsZero() && now.Sub(p.said) < placesLogEvery {
		return
	}
	p.log.Warn("no place for another connection: closed the oldest of the address that has the most", "of", p.what,
		"closed", p.closed, "places", p.total, "hint", "let only nodes reach the port")
	p.closed, p.said = 0, now
}

// Spoke records that bytes have come over the connection.
func (c *Place) Spoke() {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.spoken = true
}

// Free gives the place back.
func (c *Place) Free() {
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

// Taken returns how many places are taken.
func (p *Places) Taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}
