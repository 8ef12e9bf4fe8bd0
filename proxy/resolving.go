package proxy

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weirproxy/weir/limit"
)

// A SOCKS5 client can resolve names itself and ask for addresses. Limits on names then don't hold
// for it, and nothing in its requests says what the names were. So where such limits exist, the
// clients that ask for addresses are listed and logged. Some of them may mean addresses: nothing is
// refused for this, unless the policy says so.

const (
	// maxResolving bounds the clients listed. A new one takes the place of the one seen longest ago.
	maxResolving = 64
	// resolvingFor is how long a client is listed after its last such request, and how long it is
	// not logged again.
	resolvingFor = time.Hour
)

// ResolvingClient is a client that asks for addresses although limits count names.
type ResolvingClient struct {
	Client      netip.Addr
	Destination string // of the last such request, with its port
	Requests    int64  // such requests since it was listed
	LastSeen    time.Time
}

// resolving lists the clients that ask for addresses.
type resolving struct {
	mu      sync.Mutex
	clients map[netip.Addr]*resolvingClient
}

// resolvingClient is a listed client. Its destination is written only when it is listed: most are
// replaced by the next request's before that.
type resolvingClient struct {
	client      netip.Addr
	destination limit.Target
	requests    int64
	lastSeen    time.Time
}

// note counts a request, and reports whether its client was not listed before.
func (r *resolving) note(client netip.Addr, destination limit.Target, now time.Time) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.clients[client]
	if known == nil || now.Sub(known.lastSeen) >= resolvingFor {
		r.makeRoom(now)
		known, first = &resolvingClient{client: client}, true
		r.clients[client] = known
	}
	known.destination, known.lastSeen = destination, now
	known.requests++
	return first
}

// makeRoom drops the clients whose time is over and, if the list is still full, the one seen
// longest ago. The caller holds mu.
func (r *resolving) makeRoom(now time.Time) {
	if r.clients == nil {
		r.clients = make(map[netip.Addr]*resolvingClient)
	}
	var oldest *resolvingClient
	for addr, c := range r.clients {
		switch {
		case now.Sub(c.lastSeen) >= resolvingFor:
			delete(r.clients, addr)
		case oldest == nil || c.lastSeen.Before(oldest.lastSeen):
			oldest = c
		}
	}
	if len(r.clients) >= maxResolving {
		delete(r.clients, oldest.client)
	}
}

// ResolvingClients lists the clients that, in the last hour, asked for addresses over SOCKS5 while
// limits counted names, the latest first: at most 64.
func (s *Server) ResolvingClients() []ResolvingClient {
	return s.resolving.list(time.Now())
}

func (r *resolving) list(now time.Time) []ResolvingClient {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []ResolvingClient
	for c := range maps.Values(r.clients) {
		if now.Sub(c.lastSeen) < resolvingFor {
			list = append(list, ResolvingClient{c.client, c.destination.String(), c.requests, c.lastSeen})
		}
	}
	slices.SortFunc(list, func(a, b ResolvingClient) int {
		if byTime := b.LastSeen.Compare(a.LastSeen); byTime != 0 {
			return byTime
		}
		return a.Client.Compare(b.Client)
	})
	return list
}

// noteAddress notes a SOCKS5 request for an address, if limits count names.
func (s *Server) noteAddress(client netip.Addr, destination limit.Target) {
	if !s.admitter.CountsNames() {
		return
	}
	s.counters.Addresses.Add(1)
	if s.resolving.note(client.Unmap().WithZone(""), destination, time.Now()) && s.resolvers.Show() {
		s.log.Warn("a SOCKS5 client asks for an address, where limits count names: if it resolves names itself, they don't hold for it",
			"client", client, "destination", destination.String(),
			"hint", "write socks5h:// in place of socks5:// in the client's settings; socks5_names_only refuses addresses")
	}
}
