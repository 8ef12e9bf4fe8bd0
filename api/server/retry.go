package server

import (
	"context"
	"crypto/rand"
	"net/http"
	"strconv"
	"sync"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// A write that is repeated after an unknown outcome must not take effect twice: in between, others
// may have seen the first and written something else, which the second would undo. So the leader
// executes a repeated write only if nobody has written since the first attempt, or if the limits
// are already as the write wants them. Otherwise the outcome stays unknown.
//
// The node that took the write sends the index of the limits that it knew at the first attempt. If
// it was behind, the outcome is merely unknown more often.

// headerRepeat marks a repeated write, between nodes. Its value is an index of the table of limits.
const headerRepeat = "Weir-Repeat"

type repeatKey struct{}

// withRepeat marks the writes made with the context as repeated, by a node that knew the limits up
// to an index.
func withRepeat(ctx context.Context, known uint64) context.Context {
	return context.WithValue(ctx, repeatKey{}, known)
}

// repeatOf is withRepeat for a request from another node.
func repeatOf(ctx context.Context, r *http.Request) context.Context {
	known, err := strconv.ParseUint(r.Header.Get(headerRepeat), 10, 64)
	if err != nil {
		return ctx
	}
	return withRepeat(ctx, known)
}

// repeated reports whether the write is repeated, and up to which index the node knew the limits.
func repeated(ctx context.Context) (known uint64, ok bool) {
	known, ok = ctx.Value(repeatKey{}).(uint64)
	return known, ok
}

// repeatLimit returns the condition under which a repeated write of one limit undoes nobody's
// write; t is the committed table. A pattern without a limit has no index for the log to compare,
// so there the outcome stays unknown: the first attempt, and somebody's delete after it, may be
// about to be applied.
func repeatLimit(t *limit.Table, l *limit.Limit, known uint64) (fsm.Precondition, error) {
	if now, ok := t.Get(l.Pattern); ok && (now.ModifyIndex <= known || sameLimit(now, l)) {
		return fsm.Precondition{MatchIndex: &now.ModifyIndex}, nil
	}
	return fsm.Precondition{}, ErrOutcomeUnknown
}

// repeatLimits is repeatLimit for all limits.
func repeatLimits(t *limit.Table, ls []limit.Limit, known uint64) (fsm.Precondition, error) {
	if t.Index <= known || len(difference(t, ls)) == 0 {
		return fsm.Precondition{MatchIndex: &t.Index}, nil
	}
	return fsm.Precondition{}, ErrOutcomeUnknown
}

// sameLimit reports whether writing l over now would change nothing.
func sameLimit(now, l *limit.Limit) bool {
	return now.SameValue(l) && now.Source == l.Source
}

// A repeated write may overtake its own first attempt: if the leader freezes after receiving a
// write, the sender retries, and the leader later reads both in any order. The first attempt has no
// condition, so the leader must not execute it after the second. For that, both carry one name: a
// first attempt that comes late is dropped, and a second one waits for a first that is under way.
//
// The memory of one leader is enough, because the log refuses entries of a leader of a former term.

const (
	// headerWrite names a write between nodes. All attempts at it have the same name.
	headerWrite = "Weir-Write"
	// maxAttempts bounds the writes that are remembered, and maxWriteName their names, in bytes.
	maxAttempts  = 4 << 10
	maxWriteName = 64
)

type writeKey struct{}

// withWrite names the writes made with the context.
func withWrite(ctx context.Context) context.Context {
	return context.WithValue(ctx, writeKey{}, rand.Text())
}

// writeName returns the name of withWrite, or "".
func writeName(ctx context.Context) string {
	name, _ := ctx.Value(writeKey{}).(string)
	return name
}

// attempts remembers the newest writes from other nodes.
type attempts struct {
	mu     sync.Mutex
	byName map[string]*attempt
	names  []string // the oldest first
}

// attempt is the state of one write.
type attempt struct {
	repeated bool
	ended    chan struct{} // closed when the attempt under way has ended
}

// begin waits until an attempt at the write may run; the caller must then call end. It returns
// ErrOutcomeUnknown for an attempt that arrives after its own repetition.
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

// enter returns mine, which ends this attempt, or before, which another attempt closes at its end.
// If both are nil, this attempt comes too late.
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

// remember adds a write, and drops the oldest if there are too many.
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
