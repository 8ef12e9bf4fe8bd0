package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/weirproxy/weir/fsm"
)

// A write that is repeated because nobody knows what became of it must not take effect twice:
// between the two, others may have seen it, and written something else, which the second would
// undo. So the leader carries a repeated write out only if nobody has written since the node that
// took it first tried, or if what is there is what it asks for. Otherwise the outcome stays
// unknown.
//
// The node says how new the limits were that it knew then; that it may have been behind only makes
// it say unknown more often.

// headerRepeat marks, between nodes, a write that is repeated. Its value is an index of the table
// of limits.
const headerRepeat = "Weir-Repeat"

type repeatKey struct{}

// withRepeat marks the writes made with the context as repeated, by a node that knew the limits up
// to an index.
func withRepeat(ctx context.Context, known uint64) context.Context {
	return context.WithValue(ctx, repeatKey{}, known)
}

// repeatOf is withRepeat for a request that another node has sent.
func repeatOf(ctx context.Context, r *http.Request) context.Context {
	known, err := strconv.ParseUint(r.Header.Get(headerRepeat), 10, 64)
	if err != nil {
		return ctx
	}
	return withRepeat(ctx, known)
}

// repeated tells whether the write is, and up to which index the node knew the limits.
func repeated(ctx context.Context) (known uint64, ok bool) {
	known, ok = ctx.Value(repeatKey{}).(uint64)
	return known, ok
}

// repeatLimit is the condition under which a repeated write of one limit can't undo another's: t is
// what is committed. A pattern without a limit has no index that the log could compare: the first
// attempt may be about to be applied, and a delete after it.
func repeatLimit(t *fsm.Table, l *fsm.Limit, known uint64) (fsm.Precondition, error) {
	if now, ok := t.Get(l.Pattern); ok && (now.ModifyIndex <= known || sameLimit(now, l)) {
		return fsm.Precondition{MatchIndex: &now.ModifyIndex}, nil
	}
	return fsm.Precondition{}, ErrOutcomeUnknown
}

// repeatLimits is repeatLimit for all limits.
func repeatLimits(t *fsm.Table, ls []fsm.Limit, known uint64) (fsm.Precondition, error) {
	if t.Index <= known || len(difference(t, ls)) == 0 {
		return fsm.Precondition{MatchIndex: &t.Index}, nil
	}
	return fsm.Precondition{}, ErrOutcomeUnknown
}

// sameLimit reports whether writing l over now would change nothing.
func sameLimit(now, l *fsm.Limit) bool {
	return now.Connections == l.Connections && now.Queue == l.Queue && now.Shared == l.Shared && now.Source == l.Source
}
