package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// failedFor is how long an address that could not be connected to is tried after the others of
	// its name. Raising it leaves one that has recovered unused for longer; lowering it makes
	// connections wait for a dead one more often.
	failedFor = 30 * time.Second
	// maxFailed bounds the addresses that are remembered as failed.
	maxFailed = 1024
)

// failedAddrs remembers which addresses could not be connected to, port by port. While there are
// none, asking costs one atomic load.
type failedAddrs struct {
	n atomic.Int32 // of until

	mu    sync.RWMutex
	until map[netip.AddrPort]time.Time
}

// has reports whether the address has failed lately.
func (f *failedAddrs) has(addr netip.AddrPort, now time.Time) bool {
	if f.n.Load() == 0 {
		return false
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	until, ok := f.until[addr]
	return ok && now.Before(until)
}

// add remembers a failure. Where there is no room, the oldest failure is forgotten.
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

// forget is for an address that could be connected to.
func (f *failedAddrs) forget(addr netip.AddrPort) {
	if f.n.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.until, addr)
	f.n.Store(int32(len(f.until)))
}
