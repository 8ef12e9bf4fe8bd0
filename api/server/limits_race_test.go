package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

// crowded is a log in which others write right before and right after this node's own write.
type crowded struct {
	Log
	before, after func()
}

func (l crowded) Propose(ctx context.Context, c fsm.Command) (uint64, fsm.Result, error) {
	if l.before != nil {
		l.before()
	}
	index, res, err := l.Log.Propose(ctx, c)
	if l.after != nil {
		l.after()
	}
	return index, res, err
}

// crowd makes others write around each write of a leader.
func (n *benchNode) crowd(before, after func()) {
	n.server.deps.Log = crowded{Log: n, before: before, after: after}
}

// TestTagOfAWriteThatChangedNothing: where somebody else writes right after it, the answer's tag is
// not theirs. A next write with it would overwrite a value that its client never saw.
func TestTagOfAWriteThatChangedNothing(t *testing.T) {
	const one, all = `{"connections":1}`, `{"limits":[{"pattern":"x.org","connections":1}]}`
	for _, through := range []string{"a", "b"} { // the leader, and a node that forwards to it
		for _, c := range []struct {
			path, body string
			after      string
			status     int // of the next write, with the tag
		}{
			{pathLimit + "x.org", one, "", 200},
			{pathLimit + "x.org", one, "put", 412},
			{pathLimit + "x.org", one, "remove", 412},
			{pathLimit + "x.org", one, "both", 412},
			{api.PathLimits, all, "", 200},
			{api.PathLimits, all, "put", 412},
			{api.PathLimits, all, "remove", 412},
			{api.PathLimits, all, "both", 412},
		} {
			t.Run(fmt.Sprint(through, c), func(t *testing.T) {
				b := newBench(t, Config{}, "a", "b")
				b.put("x.org", 1)
				leader := b.nodes["a"]
				leader.crowd(nil, func() {
					if c.after == "remove" || c.after == "both" {
						b.remove("x.org")
					}
					if c.after == "put" || c.after == "both" {
						b.put("x.org", 2)
					}
				})
				k := try{method: http.MethodPut, path: c.path, body: c.body}
				w := b.nodes[through].do(k)
				if get[map[string]any](t, w); w.Code != http.StatusOK {
					t.Fatalf("%d %s", w.Code, w.Body)
				}
				leader.crowd(nil, nil)
				k.header = map[string]string{"If-Match": w.Header().Get("Etag")}
				if again := b.nodes[through].do(k); again.Code != c.status {
					t.Errorf("with the tag %s: %d %s", w.Header().Get("Etag"), again.Code, again.Body)
				}
			})
		}
	}
}

// TestChangesOfOthersAreTheirs: a write's events, and the answer to it, hold no change that others
// made right before or after it.
func TestChangesOfOthersAreTheirs(t *testing.T) {
	conf := func(hosts map[string]int64) []limit.Limit {
		var ls []limit.Limit
		for host, n := range hosts {
			ls = append(ls, limit.Limit{Pattern: mustPattern(t, host), Connections: n, Source: limit.SourceConfig})
		}
		return ls
	}
	t.Run("config", func(t *testing.T) {
		b := newBench(t, Config{}, "a")
		a := b.nodes["a"]
		b.apply(&fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: conf(map[string]int64{"gone.org": 1, "covered.org": 1, "same.org": 1})})
		b.put("covered.org", 9)
		b.put("deleted.org", 9)
		a.crowd(func() { b.put("before.org", 2) }, func() {
			b.put("after.org", 2)
			b.put("covered.org", 8)
			b.put("conf.org", 7)
			b.remove("deleted.org")
		})
		if _, err := a.server.ReplaceConfigLimits(t.Context(), conf(map[string]int64{"conf.org": 3, "covered.org": 3, "same.org": 1})); err != nil {
			t.Fatal(err)
		}
		want := []string{"limit on conf.org set: 3 connections", "limit on gone.org deleted (was: 1 connection)"}
		if got := texts(a.server.events); !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	})
	t.Run("api", func(t *testing.T) {
		b := newBench(t, Config{}, "a")
		a := b.nodes["a"]
		a.crowd(func() { b.put("x.org", 2) }, nil)
		done := get[api.LimitsReplaced](t, a.do(try{method: http.MethodPut, path: api.PathLimits, body: `{"limits":[{"pattern":"x.org","connections":2}]}`}))
		if got := texts(a.server.events); len(got) > 0 || len(done.Changes) > 0 {
			t.Errorf("%q, answered %+v", got, done.Changes)
		}
	})
	t.Run("snapshot", func(t *testing.T) {
		b := newBench(t, Config{}, "a")
		a := b.nodes["a"]
		b.put("x.org", 2)
		saved := b.snapshot()
		b.remove("x.org")
		a.crowd(func() { b.put("x.org", 2) }, nil)
		w := a.restore(saved)
		done := get[api.SnapshotRestored](t, w)
		if got := texts(a.server.events); w.Code != http.StatusOK || len(got) > 0 || done.Added > 0 {
			t.Errorf("%q, answered %d %+v", got, w.Code, done)
		}
	})
}
