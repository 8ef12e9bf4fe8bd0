package sock

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// localFor is how long an answer is remembered. With a higher value, an address that is newly
	// given to the machine stays reachable for longer; with a lower one, the kernel is asked more
	// often.
	localFor = time.Second
	// maxLocal bounds the remembered addresses.
	maxLocal = 1024
)

// LocalCache caches the answers of ask for localFor. It is used only for ports on which this node
// listens on all addresses, and for Dialled.
type LocalCache struct {
	ask func(netip.AddrPort) bool

	mu    sync.Mutex
	known map[netip.AddrPort]localAnswer
}

type localAnswer struct {
	local bool
	until time.Time
}

// NewLocalCache makes an empty cache.
func NewLocalCache(ask func(netip.AddrPort) bool) *LocalCache {
	return &LocalCache{ask: ask, known: make(map[netip.AddrPort]localAnswer)}
}

// IsLocal reports whether a connection to addr would end on this machine.
func (c *LocalCache) IsLocal(addr netip.AddrPort, now time.Time) bool {
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
