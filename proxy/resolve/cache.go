package resolve

import (
	"hash/maphash"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The bounds of the cache. It is divided into shards, so that connections to different names rarely
// share a lock.
const (
	shardCount    = 64
	maxNames      = 8192    // remembered, in all shards
	maxCacheBytes = 4 << 20 // of their addresses
	// usedStep is how exactly a name's latest use is known. A finer one writes to memory that all
	// processors read.
	usedStep = time.Second
	// entryBytes and addrBytes are about what an entry and each of its addresses take.
	entryBytes, addrBytes = 320, 24
)

// entry is the knowledge of one name. It does not change but for the atomics.
type entry struct {
	groups groups
	err    *net.DNSError // in place of addresses
	from   time.Time
	ttl    time.Duration
	// withheld families did not come though the other did.
	withheld [families]bool

	turn atomic.Uint32
	used atomic.Int64 // nanoseconds since the resolver began
}

// until is when the entry expires.
func (e *entry) until(ttlMax time.Duration) time.Time { return e.from.Add(min(e.ttl, ttlMax)) }

// size is about the memory that the entry takes.
func (e *entry) size(name string) int {
	return entryBytes + 2*len(name) + e.groups.len()*addrBytes
}

// shard is a part of the cache, with the lookups under way for its names.
type shard struct {
	mu      sync.RWMutex
	entries map[string]*entry
	flights map[string]*flight
	bytes   int

	remembered atomic.Int64 // lookups answered from it
}

// get returns a name's entry, expired or not; nil where there is none.
func (s *shard) get(name string) *entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.entries[name]
}

// put remembers an entry. The least recently used ones make room. Needs the lock.
func (s *shard) put(name string, e *entry) {
	if old := s.entries[name]; old != nil {
		e.turn.Store(old.turn.Load())
		s.bytes -= old.size(name)
	}
	s.entries[strings.Clone(name)] = e // the name may be a part of a larger buffer
	s.bytes += e.size(name)
	for len(s.entries) > 1 && (len(s.entries) > maxNames/shardCount || s.bytes > maxCacheBytes/shardCount) {
		s.evict(e)
	}
}

// evict drops the least recently used entry but keep. A shard is small, so that looking at all
// costs less than keeping a list in order would at each use.
func (s *shard) evict(keep *entry) {
	var oldest string
	var found *entry
	for name, e := range s.entries {
		if e != keep && (found == nil || e.used.Load() < found.used.Load()) {
			oldest, found = name, e
		}
	}
	s.bytes -= found.size(oldest)
	delete(s.entries, oldest)
}

// cache is all shards.
type cache struct {
	seed   maphash.Seed
	shards [shardCount]shard
}

func newCache() *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].entries = map[string]*entry{}
		c.shards[i].flights = map[string]*flight{}
	}
	return c
}

func (c *cache) shard(name string) *shard {
	return &c.shards[maphash.String(c.seed, name)%shardCount]
}

func (c *cache) names() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		n += len(s.entries)
		s.mu.RUnlock()
	}
	return n
}
