package connlimit

import (
	"sync"
	"sync/atomic"
)

// hot is a client that several cores ask for at once, such as a proxy that all connections come
// through. It is counted in all shards, each core using a shard of its own: its limit is a quota,
// of which shards hold spare units as they do of the total.
type hot struct {
	key   clientKey
	limit Limit
	quota quota
	// taking is held while units are taken from the quota's word. It is a leaf: the lock of a shard
	// is held, and no other is taken.
	taking sync.Mutex
	parts  []hotPart // of each shard, under its lock
}

type hotPart struct {
	spare, open int64
	_           [48]byte
}

const (
	// maxHot bounds the clients that are hot. One stays so until the configuration changes.
	maxHot = 8
	// hotAfter is how often the lock must have been waited for on behalf of one client, more than
	// for all others together.
	hotAfter = 64
)

// crowd finds the client for which a lock is waited for most (Boyer and Moore's majority vote).
type crowd struct {
	key   clientKey
	votes int
}

// note counts a wait, and reports whether the client is to become hot.
func (c *crowd) note(key clientKey) bool {
	switch {
	case c.key == key:
		c.votes++
	case c.votes > 0:
		c.votes--
	default:
		c.key, c.votes = key, 1
	}
	if c.votes < hotAfter {
		return false
	}
	c.votes = 0
	return true
}

// promote makes a client hot. All that is open is counted anew, once.
func (b *book) promote(r *rules, v verdict) {
	b.changing.Lock()
	defer b.changing.Unlock()
	if b.rules.Load() != r || len(r.hot) >= maxHot {
		return // another was faster
	}
	next := *r
	next.hot = []*hot{{key: v.key, limit: v.perClient}}
	for _, h := range r.hot {
		next.hot = append(next.hot, &hot{key: h.key, limit: h.limit})
	}
	b.setRules(&next)
}

// change puts r in force. No client is hot at first.
func (b *book) change(r *rules) {
	b.changing.Lock()
	defer b.changing.Unlock()
	b.setRules(r)
}

// affinity gives each core a shard of its own, as long as the pool remembers.
type affinity struct {
	pool sync.Pool
	next atomic.Uint32
}

func (a *affinity) shard(shards []shard) *shard {
	sh, _ := a.pool.Get().(*shard)
	if sh == nil {
		sh = &shards[a.next.Add(1)%uint32(len(shards))]
	}
	a.pool.Put(sh)
	return sh
}

// offer finds a unit for the shard, whose lock is held. It takes nothing yet: the unit may be used
// only if all other limits agree. Then accept takes it; otherwise decline leaves it.
func (h *hot) offer(sh *shard) outcome {
	part := &h.parts[sh.index]
	if part.spare > 0 || !h.limit.capped {
		return taken
	}
	h.taking.Lock()
	for {
		word := h.quota.word.Load()
		free, mode := word>>modeBits, word&modeMask
		switch {
		case mode == modeSpread && free >= h.quota.batch:
			if !h.quota.word.CompareAndSwap(word, word-h.quota.batch*one) {
				continue
			}
			part.spare = h.quota.batch
			h.taking.Unlock()
			return taken
		case mode != modeSpread && free > 0:
			return taken // and nobody else takes it: taking stays locked
		}
		h.taking.Unlock()
		if mode == modeCentral {
			return refused
		}
		return mustGather
	}
}

func (h *hot) accept(sh *shard) {
	part := &h.parts[sh.index]
	part.open++
	switch {
	case part.spare > 0:
		part.spare--
	case h.limit.capped:
		h.quota.word.Add(-one)
		h.taking.Unlock()
	}
}

func (h *hot) decline(sh *shard) {
	if h.parts[sh.index].spare == 0 && h.limit.capped {
		h.taking.Unlock()
	}
}

func (h *hot) leave(sh *shard) {
	part := &h.parts[sh.index]
	part.open--
	h.quota.give(&part.spare)
}

// open returns how many the client has open. Needs the locks of all shards.
func (h *hot) open() (n int) {
	for i := range h.parts {
		n += int(h.parts[i].open)
	}
	return n
}

// count is open, with one lock after the other.
func (h *hot) count(shards []shard) (n int) {
	for i := range shards {
		shards[i].mu.Lock()
		n += int(h.parts[i].open)
		shards[i].mu.Unlock()
	}
	return n
}

// reset makes r count from nothing.
func (r *rules) reset(shards int) {
	for _, levels := range [][]level{r.v4, r.v6} {
		for _, l := range levels {
			for _, n := range l.networks {
				n.state.Store(0)
			}
		}
	}
	for _, h := range r.hot {
		h.parts = make([]hotPart, shards)
	}
}
