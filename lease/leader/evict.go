package leader

import (
	"time"

	"github.com/weirproxy/weir/limit"
)

// evictSlack is how much longer than a ttl a write with evict has its effect.
const evictSlack = 5 * time.Second

// evictions tells how long ago limits were written. The log keeps a limit's Evict for as long as
// the limit stays as it is, and what comes to be counted under it much later, by the end of another
// limit, was not what the write meant.
type evictions struct {
	seen []seenTable // those that are young enough, by index
	over uint64      // what limits asked for that were written up to this index is over
}

// seenTable is a table of limits, and when the leader saw it: another may have seen it before.
type seenTable struct {
	index uint64
	at    time.Duration
}

// evicts reports whether connections above a limit are to be closed. Until a ttl after the write,
// nodes with a session that is open may come and say what they have.
func (a *Allocator) evicts(now time.Duration, l *limit.Limit) bool {
	a.evictions.forget(now - a.ttl - evictSlack)
	return l.Evict && l.ModifyIndex > a.evictions.over
}

// see notes a table, and forgets those that are too old: where limits are written all the time,
// there may be none that evicts asks for.
func (e *evictions) see(index uint64, now, ttl time.Duration) {
	e.forget(now - ttl - evictSlack)
	e.seen = append(e.seen, seenTable{index, now})
}

// forget drops the tables that were seen before a moment.
func (e *evictions) forget(before time.Duration) {
	for len(e.seen) > 0 && e.seen[0].at < before {
		e.over, e.seen = e.seen[0].index, e.seen[1:]
	}
}
