package server

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
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
