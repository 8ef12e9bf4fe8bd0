package server

import (
	"context"
	"net/http"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// The audit consists of the log lines at level info named "audit". They record each change with its
// author, its origin, the node that took it, and the former state. The leader logs changes of the
// cluster, since it carries them out; each node logs changes of its own.

// Headers that carry, between nodes, the original caller of a forwarded write.
const (
	headerClient = "Weir-Client" // the address
	headerAuth   = "Weir-Auth"   // as Author has it
)

// changesTold bounds the audit lines of one write. A last line counts the remaining changes.
const changesTold = 10_000

type authorKey struct{}

// withAuthor adds the author of a write to a context: the one that the forwarding node names, or
// the caller.
func (s *Server) withAuthor(ctx context.Context, r *http.Request, peer bool) context.Context {
	a := api.Author{Source: "api", Node: s.cfg.Node, Client: r.RemoteAddr, Auth: "none"}
	switch {
	case peer:
		a.Node, a.Client, a.Auth = r.Header.Get(headerForwarded), r.Header.Get(headerClient), r.Header.Get(headerAuth)
	case s.guard.mayWrite(r):
		a.Auth = "token"
	}
	return context.WithValue(ctx, authorKey{}, a)
}

// authorOf returns the author of a write. Without a caller it is this node's config.
func (s *Server) authorOf(ctx context.Context) api.Author {
	a, ok := ctx.Value(authorKey{}).(api.Author)
	if !ok {
		return api.Author{Source: "config", Node: s.cfg.Node}
	}
	return a
}

// passOn adds the author of a write to a request to another node.
func passOn(a api.Author, h http.Header) {
	for name, value := range map[string]string{headerClient: a.Client, headerAuth: a.Auth} {
		if value != "" {
			h.Set(name, value)
		}
	}
}

// note writes one audit line, with the action and its author.
func (s *Server) note(ctx context.Context, what string, args ...any) {
	by := s.authorOf(ctx)
	s.audit.Info(what, append(args, "client", by.Client, "auth", by.Auth, "through", by.Node)...)
}

// noteLimits records the changes of a write, its author and its origin, in the audit and in the
// events.
func (s *Server) noteLimits(ctx context.Context, source limit.Source, index uint64, changes []api.Change) {
	by := s.authorOf(ctx)
	by.Source = source.String()
	for i, c := range changes {
		if i == changesTold {
			s.note(ctx, "more limits changed by the same write", "limits", len(changes)-i, "source", by.Source, "index", index)
			break
		}
		s.note(ctx, "limit changed", "scope", c.Scope, "pattern", c.Pattern, "action", c.Action, "before", c.Before.Words(), "after", c.After.Words(),
			"source", by.Source, "index", index)
	}
	s.events.limits(by, index, changes)
}
