package lease

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/weirproxy/weir/limit"
)

// byName are pools by name. Finding one takes no lock. Only the core adds and removes them.
type byName struct {
	all sync.Map // name → *pool
	// found has some that the fast path found, each in a place by its name: an admission under four
	// limits spends a third of its time in a sync.Map.
	found [foundPools]atomic.Pointer[pool]
}

// foundPools is how many names of one scope and resource are found at once, at best.
const foundPools = 128

var nameSeed = maphash.MakeSeed()

func (s *byName) place(name string) *atomic.Pointer[pool] {
	return &s.found[maphash.String(nameSeed, name)%foundPools]
}

// load is for the core, and for who must not get a pool that is forgotten; nil where there is none.
func (s *byName) load(name string) *pool {
	if p, ok := s.all.Load(name); ok {
		return p.(*pool)
	}
	return nil
}

// find is load for the fast path. The pool may be forgotten at any moment, also before: whoever
// locks it sees that.
func (s *byName) find(name string) *pool {
	place := s.place(name)
	if p := place.Load(); p != nil && p.key.Name == name {
		return p
	}
	p := s.load(name)
	if p != nil && place.CompareAndSwap(nil, p) && s.load(name) != p {
		place.CompareAndSwap(p, nil) // the core has removed it meanwhile, and its place perhaps before
	}
	return p
}

func (s *byName) add(p *pool) { s.all.Store(p.key.Name, p) }

func (s *byName) remove(p *pool) {
	s.all.Delete(p.key.Name)
	s.place(p.key.Name).CompareAndSwap(p, nil)
}

// pools are a node's pools, for each scope and resource; the book has the order. A name alone is
// looked up faster than a key.
type pools [limit.ScopeConnection + 1][limit.Download + 1]byName

func (p *pools) of(key limit.Key) *byName { return &p[key.Scope][key.Resource] }
