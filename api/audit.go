package api

import (
	"context"
	"net/http"

	"github.com/weirproxy/weir/fsm"
)

// The audit is those lines of the log, at level info and named audit, that say who has changed
// something, from where, through which node, and how it was before. A change of the cluster is told
// by the leader, which carries it out; what concerns one node, by that.

// Headers that carry, between nodes, who the caller of a write is that is sent on.
const (
	headerClient = "Weir-Client" // the address
	headerAuth   = "Weir-Auth"   // as Author has it
)

// changesTold bounds the lines of one write; a last one counts the others.
const changesTold = 10_000

type authorKey struct{}

// withAuthor notes who makes a write: what the node that has sent it on says, or the caller.
func (s *Server) withAuthor(ctx context.Context, r *http.Request, peer bool) context.Context {
	a := Author{Source: "api", Node: s.cfg.Node, Client: r.RemoteAddr, Auth: "none"}
	switch {
	case peer:
		a.Node, a.Client, a.Auth = r.Header.Get(headerForwarded), r.Header.Get(headerClient), r.Header.Get(headerAuth)
	case s.guard.mayWrite(r):
		a.Auth = "token"
	}
	return context.WithValue(ctx, authorKey{}, a)
}

// authorOf is who makes the write; without a caller it is this node's config.
func (s *Server) authorOf(ctx context.Context) Author {
	a, ok := ctx.Value(authorKey{}).(Author)
	if !ok {
		return Author{Source: "config", Node: s.cfg.Node}
	}
	return a
}

// passOn puts the author of a write into a request to another node.
func (a Author) passOn(h http.Header) {
	for name, value := range map[string]string{headerClient: a.Client, headerAuth: a.Auth} {
		if value != "" {
			h.Set(name, value)
		}
	}
}

// note writes one line of the audit: what was done, and by whom.
func (s *Server) note(ctx context.Context, what string, args ...any) {
	by := s.authorOf(ctx)
	s.audit.Info(what, append(args, "client", by.Client, "auth", by.Auth, "through", by.Node)...)
}

// noteLimits tells the audit, and the events, what a write has changed, who made it, and from
// where.
func (s *Server) noteLimits(ctx context.Context, source fsm.Source, index uint64, changes []Change) {
	by := s.authorOf(ctx)
	by.Source = source.String()
	for i, c := range changes {
		if i == changesTold {
			s.note(ctx, "more limits changed by the same write", "limits", len(changes)-i, "source", by.Source, "index", index)
			break
		}
		s.note(ctx, "limit changed", "pattern", c.Pattern, "action", c.Action, "before", c.Before.words(), "after", c.After.words(),
			"source", by.Source, "index", index)
	}
	s.events.limits(by, index, changes)
}
