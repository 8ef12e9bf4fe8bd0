package main

import (
	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// Uses implements [api.UseSource].
func (a *agent) Uses(scope limit.Scope) []api.NodeUse {
	if scope != limit.ScopeHost {
		return nil // the lease counts connections to hosts alone
	}
	hosts := a.manager.Hosts()
	out := make([]api.NodeUse, len(hosts))
	for i, h := range hosts {
		out[i] = nodeUse(h)
	}
	return out
}

// Use implements [api.UseSource].
func (a *agent) Use(key limit.Key) (api.NodeUse, bool) {
	h, ok := a.manager.Host(key)
	return nodeUse(h), ok
}

// nodeUse is what the lease says of one key, in the API's form. It is the one place to extend when
// the lease reports rates and other scopes.
func nodeUse(h lease.HostUse) api.NodeUse {
	return api.NodeUse{Key: h.Key, Granted: h.Granted, InUse: h.InUse, Idle: h.Idle, Waiting: h.Waiting, Admitted: h.Admitted, Rejected: h.Rejected}
}
