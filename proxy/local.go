package proxy

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// localFor is how long it is remembered whether an address is this machine's. Longer, an
	// address that the machine is given meanwhile stays within reach for longer; shorter, the
	// kernel is asked more often.
	localFor = time.Second
	// maxLocal bounds the addresses that are remembered.
	maxLocal = 1024
)

// localCache remembers for a moment what ask has said. It is asked only about ports on which this
// node listens itself.
type localCache struct {
	ask func(netip.AddrPort) bool

	mu    sync.Mutex
	known map[netip.AddrPort]localAnswer
}

type localAnswer struct {
	local bool
	until time.Time
}

func newLocalCache(ask func(netip.AddrPort) bool) *localCache {
	return &localCache{ask: ask, known: make(map[netip.AddrPort]localAnswer)}
}

// isLocal reports whether a connection to addr would end on this machine.
func (c *localCache) isLocal(addr netip.AddrPort, now time.Time) bool {
	if addr.Addr().IsLoopback() {
		return true
	}
	c.mu.Lock()
	answer, found := c.known[addr]
	c.mu.Unlock()
	if found && now.Before(answer.until) {
		return answer.local
	}
	answer = localAnswer{local: c.ask(addr), until: now.Add(localFor)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxLocal {
		clear(c.known)
	}
	c.known[addr] = answer
	return answer.local
}
