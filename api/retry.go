package api

import (
	"context"
	"crypto/rand"
	"net/http"
	"strconv"
	"sync"

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

// A write that is repeated may overtake its own first attempt: the leader's process
// stands still with it unread, its sender gives up and tries again, and when the leader goes on it
// reads both. The first has no condition, so it must not be carried out after the second. So both
// carry one name, by which the leader knows them: a first attempt that comes late is dropped, and a
// second one waits until the first, if that is under way, has ended.
//
// One leader's memory is enough. The entries of another one, of a former term, the log does not
// take any more.

const (
	// headerWrite names a write between nodes: the same for all attempts at it.
	headerWrite = "Weir-Write"
	// maxAttempts bounds the writes that are remembered, and maxWriteName their names, in bytes.
	maxAttempts  = 4 << 10
	maxWriteName = 64
)

type writeKey struct{}

// withWrite gives the writes made with the context a name of their own.
func withWrite(ctx context.Context) context.Context {
	return context.WithValue(ctx, writeKey{}, rand.Text())
}

// writeName is the name that withWrite gave, or "".
func writeName(ctx context.Context) string {
	name, _ := ctx.Value(writeKey{}).(string)
	return name
}

// attempts remembers the newest writes that other nodes have sent.
type attempts struct {
	mu     sync.Mutex
	byName map[string]*attempt
	names  []string // the oldest first
}

// attempt is what is known of a write.
type attempt struct {
	repeated bool
	ended    chan struct{} // closed when the attempt that is under way has ended
}

// begin waits until an attempt at the write may be made; end must be called after it. It returns
// ErrOutcomeUnknown for one that comes after its own repetition.
func (a *attempts) begin(ctx context.Context, r *http.Request) (end func(), err error) {
	name := r.Header.Get(headerWrite)
	if name == "" || len(name) > maxWriteName {
		return func() {}, nil
	}
	_, repeats := repeated(ctx)
	for {
		before, mine := a.enter(name, repeats)
		switch {
		case mine != nil:
			return func() { close(mine) }, nil
		case before == nil:
			return nil, ErrOutcomeUnknown
		}
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ErrOutcomeUnknown
		}
	}
}

// enter returns what ends this attempt, or what the end of another is awaited by, or neither: it
// comes too late.
func (a *attempts) enter(name string, repeats bool) (before <-chan struct{}, mine chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.byName[name]
	if w == nil {
		w = a.remember(name)
	}
	switch {
	case !repeats && w.repeated:
		return nil, nil
	case w.ended != nil && !closed(w.ended):
		return w.ended, nil
	}
	w.repeated = w.repeated || repeats
	w.ended = make(chan struct{})
	return nil, w.ended
}

// remember makes room for a write, at the cost of the oldest.
func (a *attempts) remember(name string) *attempt {
	if a.byName == nil {
		a.byName = make(map[string]*attempt)
	}
	if len(a.names) >= maxAttempts {
		delete(a.byName, a.names[0])
		a.names = append(a.names[:0], a.names[1:]...)
	}
	w := &attempt{}
	a.byName[name], a.names = w, append(a.names, name)
	return w
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
