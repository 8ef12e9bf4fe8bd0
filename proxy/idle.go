package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"

	"github.com/weirproxy/weir/limit"
)

// idlePool holds the upstream connections that are kept for reuse, by target. Each keeps its slot.
type idlePool struct {
	mu      sync.Mutex
	total   int
	puts    uint64
	targets map[limit.Target]*idleList
}

// idleList has one target's connections. Clients hold it from one request to the next, so that a
// request needs no look-up. It is in the pool while it has connections or clients.
type idleList struct {
	target  limit.Target
	newest  *flow
	n       int
	clients int
}

// join returns the target's list, which the client holds until leave.
func (p *idlePool) join(t limit.Target) *idleList {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.targets[t]
	if list == nil {
		list = &idleList{target: t}
		if p.targets == nil {
			p.targets = make(map[limit.Target]*idleList)
		}
		p.targets[t] = list
	}
	list.clients++
	return list
}

// leave gives a list back.
func (p *idlePool) leave(list *idleList) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list.clients--
	p.tidy(list)
}

// tidy forgets a list without connections and clients. The caller holds mu.
func (p *idlePool) tidy(list *idleList) {
	if list.n == 0 && list.clients == 0 {
		delete(p.targets, list.target)
	}
}

// idleLinks is a flow's place in its list. Guarded by the pool.
type idleLinks struct {
	put          uint64 // a serial number, in the order of the puts; 0: it is in no list
	older, newer *flow
}

// put offers a connection to the pool, and returns the put's serial number; 0 means that the pool
// is full. The caller holds the connection's list.
func (p *idlePool) put(f *flow) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := f.plain.list
	if p.total >= maxIdle || list.n >= maxIdlePerTarget {
		return 0
	}
	p.puts++
	f.plain.idle = idleLinks{put: p.puts, older: list.newest}
	if list.newest != nil {
		list.newest.plain.idle.newer = f
	}
	list.newest = f
	list.n++
	p.total++
	return f.plain.idle.put
}

// owner says whose requests a connection has carried: one user's from one address, or several
// users'.
type owner struct {
	addr    netip.Addr
	user    string
	several bool
	client  *conn // if not nil, only this client's: it has authenticated its connections
}

// serves reports whether a connection of the owner may carry the requests of o.
func (e owner) serves(o owner, private bool) bool {
	return e == o || !private && e.client == nil && o.client == nil
}

// take returns the list's most recently used connection, since it is the likeliest to be still open.
// If private, or if o's client authenticates its connections, only those that have carried no other
// owner's requests are considered. The caller holds the list.
func (p *idlePool) take(list *idleList, o owner, private bool) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := list.find(o, private)
	if f == nil {
		return nil
	}
	p.drop(f)
	if f.plain.owner != o {
		f.plain.owner.several = true
	}
	return f
}

// has reports whether take would return a connection.
func (p *idlePool) has(list *idleList, o owner, private bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return list.find(o, private) != nil
}

// find is take without taking. The caller holds mu.
func (l *idleList) find(o owner, private bool) *flow {
	f := l.newest
	for f != nil && !f.plain.owner.serves(o, private) {
		f = f.plain.idle.older
	}
	return f
}

// withdraw undoes a put, unless the connection has been taken since: then it may have been put
// again.
func (p *idlePool) withdraw(f *flow, put uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.plain.idle.put == put {
		p.drop(f)
	}
}

// remove removes f, if it is in the pool. It must never be put again.
func (p *idlePool) remove(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.plain.idle.put != 0 {
		p.drop(f)
	}
}

// drop removes a flow from its list. The caller holds mu.
func (p *idlePool) drop(f *flow) {
	links, list := f.plain.idle, f.plain.list
	f.plain.idle = idleLinks{}
	if links.older != nil {
		links.older.plain.idle.newer = links.newer
	}
	if links.newer != nil {
		links.newer.plain.idle.older = links.older
	} else {
		list.newest = links.older
	}
	p.total--
	list.n--
	p.tidy(list)
}

// retire closes the connections that a client has authenticated.
func (p *idlePool) retire(c *conn) {
	p.mu.Lock()
	flows := slices.DeleteFunc(p.list(), func(f *flow) bool { return f.plain.owner.client != c })
	p.mu.Unlock()
	for _, f := range flows {
		f.retire()
	}
}

// all returns the connections in the pool.
func (p *idlePool) all() []*flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list()
}

// list is all for a caller that holds mu.
func (p *idlePool) list() []*flow {
	flows := make([]*flow, 0, p.total)
	for _, list := range p.targets {
		for f := list.newest; f != nil; f = f.plain.idle.older {
			flows = append(flows, f)
		}
	}
	return flows
}

// giveWay closes the n connections that have been idle longest. It looks at all connections, so it
// is for a server that is short of descriptors.
func (p *idlePool) giveWay(n int) {
	p.mu.Lock()
	flows := p.list()
	slices.SortFunc(flows, func(a, b *flow) int { return cmp.Compare(a.plain.idle.put, b.plain.idle.put) })
	p.mu.Unlock()
	for _, f := range flows[:min(n, len(flows))] {
		f.retire()
	}
}
