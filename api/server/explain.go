package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// explained are the scopes in the order in which a connection asks them.
var explained = []limit.Scope{limit.ScopeTotal, limit.ScopeClient, limit.ScopeUser, limit.ScopeHost, limit.ScopeKey, limit.ScopeConnection}

// explain answers GET /v1/explain.
func (s *Server) explain(r *http.Request) (answer, error) {
	body, subject, err := parseSubject(r)
	if err != nil {
		return answer{}, err
	}
	t := s.deps.View.Table()
	// A permit for a key alone passes no proxy: what is counted of all requests does not concern it.
	proxied := body.Host != "" || body.Client != "" || body.Key == ""
	body.Limits = []api.Governing{}
	for _, scope := range explained {
		l, name := t.Find(scope, &subject)
		if l == nil || scope.Bare() && !proxied {
			continue
		}
		w := api.LimitOf(l)
		body.Limits = append(body.Limits, api.Governing{
			Scope: w.Scope, Pattern: w.Pattern, Key: name, Why: l.Pattern.Why(), Mode: w.Mode, Source: w.Source,
			Connections: w.Connections, Requests: w.Requests, Bandwidth: w.Bandwidth, Queue: w.Queue,
		})
	}
	counts, unreachable := s.useNow(r, t, body.Limits)
	body.Unreachable = unreachable
	st := s.deps.Status.Status()
	body.Admitted = true
	for i := range body.Limits {
		g := &body.Limits[i]
		counts[i].judge(g, s.backing(st.Session.State))
		body.Admitted = body.Admitted && g.Admitted
	}
	if st.Draining {
		body.Admitted, body.Reason = false, "this node is draining: it takes no new work"
	}
	return answer{body: body}, nil
}

// backing is what a node's admissions to limited hosts rest on.
type backing uint8

const (
	nothing     backing = iota // it admits nothing
	heldUnits                  // what it held when its session ended: [Config.KeepsUnits]
	liveSession                // the cluster
)

// backing says what a session in a state, as SessionStatus has it, stands for on this node.
func (s *Server) backing(session string) backing {
	switch {
	case session == "live":
		return liveSession
	case session == "fenced" && s.cfg.KeepsUnits:
		return heldUnits
	}
	return nothing
}

// parseSubject reads the query.
func parseSubject(r *http.Request) (e api.Explanation, s limit.Subject, err error) {
	q, err := query(r, "host", "client", "user", "key")
	if err != nil {
		return e, s, err
	}
	for _, part := range []struct {
		name  string
		scope limit.Scope
	}{{"host", limit.ScopeHost}, {"client", limit.ScopeClient}, {"user", limit.ScopeUser}, {"key", limit.ScopeKey}} {
		text := q.Get(part.name)
		if text == "" {
			continue
		}
		one, err := subjectOf(part.scope, text)
		if err != nil {
			return e, s, err
		}
		switch part.scope {
		case limit.ScopeHost:
			s.Host, e.Host = one.Host, one.Host.String()
		case limit.ScopeClient:
			s.Client, e.Client = one.Client, one.Client.Name
		case limit.ScopeUser:
			if strings.Contains(one.User, ":") {
				return e, s, invalid("user %q has a colon, which no user's name has (RFC 7617, section 2)", shorten(one.User))
			}
			s.User, e.User = one.User, one.User
		case limit.ScopeKey:
			s.Key, e.Key = one.Key, one.Key
		}
	}
	if s == (limit.Subject{}) {
		return e, s, malformed("say what to explain: host, client, user or key, as in ?host=api.example.com:443&client=10.0.0.7")
	}
	return e, s, nil
}

// counted is what a limit's use is judged by.
type counted struct {
	node string   // that would have to let the subject in
	own  NodeUse  // of that node
	all  api.Host // of all nodes
	// silent is the slots of nodes that did not answer. They are taken until they are reclaimed.
	silent int64
}

// useNow fills in the use of each limit's key, of all nodes. It also returns those that did not
// answer.
func (s *Server) useNow(r *http.Request, t *limit.Table, limits []api.Governing) ([]counted, []api.Unreachable) {
	var wg sync.WaitGroup
	counts, missing := make([]counted, len(limits)), make([][]api.Unreachable, len(limits))
	for i := range limits {
		g, c := &limits[i], &counts[i]
		scope, err := limit.ParseScope(g.Scope)
		if err != nil {
			continue
		}
		wg.Go(func() {
			key := limit.Key{Scope: scope, Resource: limit.Connections, Name: g.Key}
			c.node = s.cfg.Node
			c.own, _ = s.deps.Uses.Use(key)
			c.own.Key = key
			c.all = s.clusterUse(r.Context(), scope, s.entry(t, c.own))
			g.Use, missing[i] = &c.all.Use, c.all.Unreachable
			for _, u := range c.all.Unreachable {
				c.silent += s.deps.Uses.GrantedTo(key, u.Node)
			}
		})
	}
	wg.Wait()
	all := slices.Concat(missing...)
	slices.SortFunc(all, func(a, b api.Unreachable) int { return strings.Compare(a.Node, b.Node) })
	return counts, slices.CompactFunc(all, func(a, b api.Unreachable) bool { return a.Node == b.Node })
}

// judge says whether the limit would let the subject in now, by the use of its key on all nodes.
// Slots that lie unused on another node are fetched before anybody is refused, and connections that
// are only kept for reuse are closed, so the sums decide.
func (c *counted) judge(g *api.Governing, on backing) {
	g.Admitted = true
	if g.Mode == api.ModeReport {
		return
	}
	refuse := func(format string, args ...any) { g.Admitted, g.Reason = false, fmt.Sprintf(format, args...) }
	// Only who is over the limit may wait. For what else is in the way there is no queue.
	over := func(format string, args ...any) {
		refuse(format, args...)
		g.Waits = g.Queue != nil
	}
	switch {
	case g.Connections != nil && *g.Connections == 0:
		refuse("blocked: its limit is 0 connections")
	case g.Use == nil || g.Connections == nil && g.Requests == nil && !paces(g):
	case on == nothing:
		refuse("this node has no live session with the cluster")
	case on == heldUnits:
		const text = "this node has no live session with the cluster, and holds no %s"
		if c.lacksBandwidth(g) {
			refuse(text, "part of the bandwidth")
		} else if lacks := c.lacks(g); lacks != "" {
			over(text, lacks)
		}
	case g.Connections != nil && g.Use.Waiting > 0:
		over("%d waiting before it", g.Use.Waiting)
	case g.Connections != nil && g.Use.InUse-g.Use.Idle+c.silent >= *g.Connections:
		more := ""
		if g.Use.Idle > 0 {
			more = fmt.Sprintf(", %d of them idle", g.Use.Idle)
		}
		if c.silent > 0 {
			more += fmt.Sprintf(", and %d granted to nodes that don't answer", c.silent)
		}
		over("%d of %s in use%s", g.Use.InUse, plural(int(*g.Connections), "connection"), more)
	case g.Requests == nil || c.hasToken():
	case g.Use.Requests != nil && g.Use.Requests.Waiting > 0:
		over("%d waiting for the rate before it", g.Use.Requests.Waiting)
	case !c.canFetchToken():
		over("the rate of %s is used up", g.Requests.Rate)
	}
}

// paces reports whether a limit counts the bytes of what the node proxies, and needs a lease for it.
// It refuses nobody who could move bytes at some time.
func paces(g *api.Governing) bool {
	return g.Bandwidth != nil && g.Scope != limit.ScopeConnection.String() && g.Scope != limit.ScopeKey.String()
}

// lacks is what a node without a session, that goes on with what it holds, would need for one more
// and has none of; "": nothing.
func (c *counted) lacks(g *api.Governing) string {
	switch {
	case g.Connections != nil && (c.own.InUse-c.own.Idle >= c.own.Granted || c.own.Waiting > 0):
		return "free slot"
	case g.Requests != nil && !c.hasToken():
		return "token"
	}
	return ""
}

// lacksBandwidth reports whether such a node could move no byte one way.
func (c *counted) lacksBandwidth(g *api.Governing) bool {
	rate := func(r limit.Resource) bool { return c.own.Rates[r].Granted > 0 }
	return paces(g) && (g.Bandwidth.Upload != "" && !rate(limit.Upload) || g.Bandwidth.Download != "" && !rate(limit.Download))
}

// wholeToken is what counts as one: the lease lets this much be missing, for what dividing a bucket
// rounds away.
const wholeToken = 1 - 1/float64(limit.TokenGrains)

// hasToken reports whether the node has a token in hand that nobody waits for.
func (c *counted) hasToken() bool {
	r := c.own.Rates[limit.Requests]
	return r.Waiting == 0 && r.Available >= wholeToken
}

// canFetchToken reports whether the node has a token together with what is fetched before anybody
// is refused: what lies in units that no node holds, and what other nodes have that draw nothing.
// A node that draws from its units keeps them.
func (c *counted) canFetchToken() bool {
	sum := c.own.Rates[limit.Requests].Available
	if r := c.all.Requests; r != nil && r.Unassigned != nil {
		sum += *r.Unassigned
	}
	for name, u := range c.all.Nodes {
		if r := u.Requests; name != c.node && r != nil && r.Now == 0 {
			sum += levelOf(r)
		}
	}
	return sum >= wholeToken
}
