package lease

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/weirproxy/weir/limit"
)

// What a program asks for by name is counted like all else: slots, tokens and bytes of the key,
// over all nodes. What is proxied has no key, and is under none of these limits.
func TestKeysAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scopeLimit(t, limit.ScopeKey, "tenant/*", 2)
		l.Requests = limit.Rate{Thousandths: 1, Per: 3600e9, Burst: 2}
		l.Bandwidth = limit.Bandwidth{Download: 4096, Burst: 8192}
		cl := startCluster(t, l)
		nodes := startThree(t, cl)
		permit := func(node, key string) (*Request, error) {
			r := new(Request)
			return r, nodes[node].Begin(t.Context(), r, &limit.Subject{Key: key}, newHolder())
		}
		overLimit := func(what string, err error, r limit.Resource) {
			t.Helper()
			var refused *LimitError
			if want := (limit.Key{Scope: limit.ScopeKey, Resource: r, Name: "tenant/a"}); !errors.As(err, &refused) || refused.Key != want {
				t.Errorf("%s: %v, want refused by %v", what, err, want)
			}
		}
		first, err := permit("a", "tenant/a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := permit("b", "tenant/a"); err != nil {
			t.Fatal(err)
		}
		_, err = permit("c", "tenant/a")
		overLimit("a third permit of 2", err, limit.Connections)
		for _, key := range []string{"tenant/b", "other", ""} {
			if _, err := permit("c", key); err != nil {
				t.Errorf("a permit of %q: %v", key, err)
			}
		}
		first.End()
		if _, err := permit("c", "tenant/a"); err != nil {
			t.Errorf("after one has ended: %v", err)
		}

		for _, node := range []string{"a", "b"} {
			if err := nodes[node].Take(t.Context(), &limit.Subject{Key: "tenant/a"}, 0); err != nil {
				t.Fatal(err)
			}
		}
		overLimit("a third token of 2", nodes["c"].Take(t.Context(), &limit.Subject{Key: "tenant/a"}, 0), limit.Requests)
		if err := nodes["c"].Take(t.Context(), &limit.Subject{Host: to(t, "up")}, 0); err != nil {
			t.Errorf("a request without a key: %v", err)
		}

		var keyed, plain Meter
		nodes["a"].Init(&keyed, &limit.Subject{Key: "tenant/a"}, limit.Download, make(wakeup, 1))
		nodes["a"].Init(&plain, &limit.Subject{Host: to(t, "up")}, limit.Download, make(wakeup, 1))
		defer keyed.End()
		if n := keyed.Take(1 << 20); n > 8192 {
			t.Errorf("%d bytes of a burst of 8192 at once", n)
		}
		if n := plain.Take(1 << 20); n != 1<<20 {
			t.Errorf("%d of %d bytes without a key", n, 1<<20)
		}
	})
}
