package weir

import (
	"github.com/weirproxy/weir/api/server"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// Uses implements [server.UseSource].
func (v view) Uses(scope limit.Scope) []server.NodeUse {
	return nodeUses(v.manager.Uses(), scope)
}

// Use implements [server.UseSource].
func (v view) Use(key limit.Key) (server.NodeUse, bool) {
	var known []lease.Use
	for _, r := range limit.Resources {
		key.Resource = r
		if u, ok := v.manager.Use(key); ok {
			known = append(known, u)
		}
	}
	uses := nodeUses(known, key.Scope)
	if len(uses) == 0 {
		return server.NodeUse{}, false
	}
	return uses[0], true
}

// Unassigned implements [server.UseSource].
func (v view) Unassigned(key limit.Key) (n float64, known bool) {
	if v.store == nil {
		return 0, false
	}
	v.store.Read(func(st *fsm.State) { n = float64(st.FreeLevel(key)) })
	if key.Resource == limit.Requests {
		n /= float64(limit.TokenGrains)
	}
	return n, true
}

// GrantedTo implements [server.UseSource].
func (v view) GrantedTo(key limit.Key, node string) int64 {
	if v.store == nil {
		return 0
	}
	units := int64(0)
	v.store.Read(func(st *fsm.State) {
		for _, g := range st.Grants(key) {
			if session, ok := st.Session(g.Session); ok && session.Node == node {
				units += g.Slots
			}
		}
	})
	return units
}

// nodeUses puts together what the lease knows of the resources of each name. all may be in any
// order.
func nodeUses(all []lease.Use, scope limit.Scope) []server.NodeUse {
	var out []server.NodeUse
	at := map[string]int{} // by name, the index in out
	for _, u := range all {
		if u.Key.Scope != scope {
			continue
		}
		i, known := at[u.Key.Name]
		if !known {
			i = len(out)
			at[u.Key.Name] = i
			out = append(out, server.NodeUse{Key: limit.Key{Scope: scope, Resource: limit.Connections, Name: u.Key.Name}})
		}
		addUse(&out[i], u)
	}
	return out
}

// addUse adds one resource. A rate is granted in shares of the limit's.
func addUse(n *server.NodeUse, u lease.Use) {
	if !u.Key.Resource.IsRate() {
		n.Granted, n.InUse, n.Idle, n.Waiting = u.Granted, u.InUse, u.Idle, u.Waiting
		n.Admitted, n.Rejected, n.WouldReject = u.Admitted, u.Rejected, u.WouldReject
		return
	}
	perSecond := u.Limit.PerSecond(u.Key.Resource)
	if u.Key.Resource == limit.Requests {
		perSecond /= float64(limit.TokenGrains)
	}
	if n.Rates == nil {
		n.Rates = map[limit.Resource]server.NodeRate{}
	}
	n.Rates[u.Key.Resource] = server.NodeRate{
		Granted: perSecond * float64(u.Granted) / float64(limit.Shares), Now: u.Now, Available: max(0, u.Level), Waiting: u.Waiting,
		Admitted: u.Admitted, Rejected: u.Rejected, WouldReject: u.WouldReject,
	}
}
