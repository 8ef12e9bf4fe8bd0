package lease

import (
	"testing"

	"github.com/weirproxy/weir/limit"
)

// grant gives a node slots without a leader.
func (n *Node) grant(key limit.Key, slots int64) {
	p := n.pool(0, key)
	n.lock(p)
	defer p.mu.Unlock()
	n.hold(p)
	p.granted += slots
}

// inUse counts the connections that the session allows.
func (n *Node) inUse() (open int64) {
	for _, p := range n.all {
		n.lock(p)
		if p.limit.Capped() {
			open += p.open
		}
		p.mu.Unlock()
	}
	return open
}

// configLimit is a limit of the config's.
func configLimit(t testing.TB, pattern string, n int64, q limit.Queue) limit.Limit {
	t.Helper()
	p, err := limit.ParsePattern(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return limit.Limit{Pattern: p, Connections: n, Queue: q, Source: limit.SourceConfig}
}
