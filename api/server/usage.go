package server

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// usageOf is a Host of any scope, as /v1/usage shows it.
func usageOf(h api.Host, scope limit.Scope) api.Usage {
	return api.Usage{Scope: scope.String(), Name: h.Host, Use: h.Use, Nodes: h.Nodes, Pattern: h.Pattern, Unreachable: h.Unreachable}
}

// hostOf is the same the other way, of an answer from another node.
func hostOf(u api.Usage) api.Host {
	return api.Host{Host: u.Name, Use: u.Use, Nodes: u.Nodes, Pattern: u.Pattern, Unreachable: u.Unreachable}
}

// usages answers GET /v1/usage/{scope}.
func (s *Server) usages(r *http.Request, peer bool) (answer, error) {
	scope, err := countedScope(r)
	if err != nil {
		return answer{}, err
	}
	hosts, next, missing, err := s.uses(r, scope, peer)
	body := api.Usages{Usage: make([]api.Usage, 0, len(hosts)), Next: next, Unreachable: missing}
	for _, h := range hosts {
		body.Usage = append(body.Usage, usageOf(h, scope))
	}
	return answer{body: body}, err
}

// usage answers GET /v1/usage/{scope}/{name}[?local=true].
func (s *Server) usage(r *http.Request, peer bool) (answer, error) {
	scope, err := countedScope(r)
	if err != nil {
		return answer{}, err
	}
	if scope.Bare() {
		return answer{}, invalid("scope %s has no names: GET %s/%s has all of it", scope, api.PathUsage, scope)
	}
	h, err := s.use(r, scope, r.PathValue("name"), peer)
	return answer{body: usageOf(h, scope)}, err
}

// countedScope is the path's scope, one that counts.
func countedScope(r *http.Request) (limit.Scope, error) {
	word := r.PathValue("scope")
	scope, err := limit.ParseScope(word)
	if err != nil {
		err = invalid("%s is no scope: write host, client, user, total, key or connection", shorten(word))
	}
	return scope, err
}

// uses answers a list of what counts in a scope, a page of it. A question from a peer is not passed
// on.
func (s *Server) uses(r *http.Request, scope limit.Scope, peer bool) (page []api.Host, next string, missing []api.Unreachable, err error) {
	l, err := parseListing(r, scope)
	if err != nil {
		return nil, "", nil, err
	}
	all := s.localUses(scope)
	if !l.local && !peer {
		all, missing = s.clusterUses(r.Context(), l, all)
	}
	page, next = l.page(all)
	if page == nil {
		page = []api.Host{}
	}
	return page, next, missing, nil
}

// use answers what counts under one name. One without any use is shown with the limit that would
// apply.
func (s *Server) use(r *http.Request, scope limit.Scope, name string, peer bool) (api.Host, error) {
	q, err := query(r, "local")
	if err != nil {
		return api.Host{}, err
	}
	local, err := queryBool(q, "local")
	if err != nil {
		return api.Host{}, err
	}
	t := s.deps.View.Table()
	var u NodeUse
	if key := (limit.Key{Scope: scope, Resource: limit.Connections, Name: name}); peer && key.Canonical() {
		u, _ = s.deps.Uses.Use(key) // a node asks by the name of its key, whatever limits this one knows
		u.Key = key
	} else if u, err = s.nodeUse(t, scope, name); err != nil {
		return api.Host{}, err
	}
	h := s.entry(t, u)
	if !local && !peer {
		h = s.clusterUse(r.Context(), scope, h)
	}
	return h, nil
}

// nodeUse returns this node's use under a name: that of a subject, or the pattern of a shared limit
// (or of one that was shared, and is still in use). Without any use it is zero.
func (s *Server) nodeUse(t *limit.Table, scope limit.Scope, name string) (NodeUse, error) {
	subject, err := subjectOf(scope, name)
	if err != nil {
		return s.patternUse(t, scope, name, err)
	}
	if p, perr := scope.ParsePattern(name); perr == nil && p.Wildcard() { // a name that is spelled as a pattern
		if u, perr := s.patternUse(t, scope, name, err); perr == nil {
			return u, nil
		}
	}
	_, counted := t.Find(scope, &subject)
	key := limit.Key{Scope: scope, Resource: limit.Connections, Name: counted}
	u, _ := s.deps.Uses.Use(key)
	u.Key = key
	return u, nil
}

// subjectOf reads a name of a scope.
func subjectOf(scope limit.Scope, name string) (s limit.Subject, err error) {
	switch scope {
	case limit.ScopeHost:
		s.Host, err = limit.ParseOptionalPort(name)
	case limit.ScopeClient:
		var a netip.Addr
		if a, err = netip.ParseAddr(unbracketed(name)); err != nil {
			return s, invalid("%q is not a client: write an address such as 10.0.0.7", shorten(name))
		}
		s.Client = limit.ClientOf(a)
	case limit.ScopeUser:
		s.User, err = name, checkName(name)
	case limit.ScopeKey:
		s.Key, err = name, checkName(name)
	}
	return s, err
}

// unbracketed takes the brackets off an IPv6 address, which a limit's pattern may have as well.
func unbracketed(address string) string {
	if inner, found := strings.CutPrefix(address, "["); found && strings.Contains(inner, ":") {
		if inner, found = strings.CutSuffix(inner, "]"); found {
			return inner
		}
	}
	return address
}

func checkName(name string) error {
	if err := limit.CheckName(name); err != nil {
		return invalid("%s", err)
	}
	return nil
}

func (s *Server) patternUse(t *limit.Table, scope limit.Scope, name string, notSubject error) (NodeUse, error) {
	if notSubject == nil {
		notSubject = limit.ErrPattern
	}
	p, err := scope.ParsePattern(name)
	if err != nil {
		return NodeUse{}, notSubject
	}
	key := limit.Key{Scope: scope, Resource: limit.Connections, Name: p.String()}
	u, used := s.deps.Uses.Use(key)
	if l, ok := t.Get(p); !used && !(ok && l.Shared) {
		return NodeUse{}, notSubject
	}
	u.Key = key
	return u, nil
}

// localUses returns this node's use of everything in a scope.
func (s *Server) localUses(scope limit.Scope) []api.Host {
	t := s.deps.View.Table()
	uses := s.deps.Uses.Uses(scope)
	hosts := make([]api.Host, 0, len(uses))
	for _, u := range uses {
		hosts = append(hosts, s.entry(t, u))
	}
	if bare := (limit.Key{Scope: scope, Resource: limit.Connections}); scope.Bare() && len(hosts) == 0 && t.Governing(bare) != nil {
		hosts = append(hosts, s.entry(t, NodeUse{Key: bare})) // the only one there can be
	}
	return hosts
}

func (s *Server) localHosts() []api.Host { return s.localUses(limit.ScopeHost) }

func (s *Server) entry(t *limit.Table, u NodeUse) api.Host {
	h := api.Host{Host: u.Key.Name}
	l := t.Governing(u.Key)
	if l != nil {
		h.Pattern = l.Pattern.String()
	}
	h.Use = s.useOf(u, l)
	h.Nodes = map[string]api.Use{s.cfg.Node: h.Use}
	return h
}
