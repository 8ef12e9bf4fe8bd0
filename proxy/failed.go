package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// failedFor is how long an address that could not be connected to is tried after the others of
	// its name. A higher value leaves a recovered address unused for longer; a lower one makes
	// connections wait for a dead address more often.
	failedFor = 30 * time.Second
	// maxFailed bounds the addresses remembered as failed.
	maxFailed = 1024
)

// failedAddrs remembers the addresses and ports that could not be connected to. As long as there
// are none, a look-up costs one atomic load.
type failedAddrs struct {
	n atomic.Int32 // len(until)

	mu    sync.RWMutex
	until map[netip.AddrPort]time.Time
}

// has reports whether addr failed within failedFor.
func (f *failedAddrs) has(addr netip.AddrPort, now time.Time) bool {
	if f.n.Load() == 0 {
		return false
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	until, ok := f.until[addr]
	return ok && now.Before(until)
}

// add remembers a failure. If the map is full, it drops the oldest failure.
func (f *failedAddrs) add(addr netip.AddrPort, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until == nil {
		f.until = map[netip.AddrPort]time.Time{}
	}
	f.until[addr] = now.Add(failedFor)
	var oldest netip.AddrPort
	for a, until := range f.until {
		switch {
		case !now.Before(until):
			delete(f.until, a)
		case !oldest.IsValid() || until.Before(f.until[oldest]):
			oldest = a
		}
	}
	if len(f.until) > maxFailed {
		delete(f.until, oldest)
	}
	f.n.Store(int32(len(f.until)))
}

// forget drops the failure of addr, which has been connected to since.
func (f *failedAddrs) forget(addr netip.AddrPort) {
	if f.n.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.until, addr)
	f.n.Store(int32(len(f.until)))
}
