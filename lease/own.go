package lease

import (
	"sync/atomic"

	"github.com/weirproxy/weir/limit"
)

// ownTotals are the totals of limits of scope connection, by resource. Their pools are each one
// connection's, and gone with it.
type ownTotals [limit.Download + 1]ownTotal

type ownTotal struct{ moved, wouldReject atomic.Uint64 }

// noteOwn counts bytes that pass under the flow's own limit; below 0 where they come back.
func (n *Node) noteOwn(f *Meter, bytes int) {
	if f.n > 0 && f.pools[0] == f.own {
		n.own[f.resource].moved.Add(uint64(bytes)) // wraps around: that is how it takes away
	}
}

// ownUses lists the use of limits of scope connection.
func (n *Node) ownUses() (uses []Use) {
	for _, r := range []limit.Resource{limit.Upload, limit.Download} {
		if u, ok := n.ownUse(limit.Key{Scope: limit.ScopeConnection, Resource: r}); ok {
			uses = append(uses, u)
		}
	}
	return uses
}

// ownUse is the use of one; ok is false where there is no such limit, and never was.
func (n *Node) ownUse(key limit.Key) (u Use, ok bool) {
	var l *limit.Limit
	if table := n.table.Load(); table != nil {
		l = table.Governing(key)
	}
	t := &n.own[key.Resource]
	u = Use{Key: key, Limit: l, Admitted: t.moved.Load(), WouldReject: t.wouldReject.Load()}
	return u, l.Caps(key.Resource) || u.Admitted > 0
}
