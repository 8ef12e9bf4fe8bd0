package limit_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

func TestPatternsOfEachScope(t *testing.T) {
	long := strings.Repeat("ä", 255)
	for _, c := range []struct {
		scope limit.Scope
		want  string
		list  []string
		wild  bool
		name  string
	}{
		{limit.ScopeHost, "a.example:443", []string{"A.example.:0443"}, false, "a.example:443"},
		{limit.ScopeClient, "*", []string{"*"}, true, "client *"},
		{limit.ScopeClient, "10.0.0.1", []string{"10.0.0.1", "::ffff:10.0.0.1", "[::ffff:a00:1]"}, false, "client 10.0.0.1"},
		{limit.ScopeClient, "2001:db8::1", []string{"2001:DB8:0::1", "[2001:db8::1]"}, false, "client 2001:db8::1"},
		{limit.ScopeClient, "10.0.0.0/8", []string{"10.1.2.3/8", "::ffff:10.0.0.0/104"}, true, "client 10.0.0.0/8"},
		{limit.ScopeClient, "10.0.0.1/32", []string{"10.0.0.1/32"}, true, "client 10.0.0.1/32"},
		{limit.ScopeUser, "*", []string{"*"}, true, "user *"},
		{limit.ScopeUser, "Ann B", []string{"Ann B"}, false, "user Ann B"},
		{limit.ScopeUser, long, []string{long}, false, "user " + long},
		{limit.ScopeUser, "a/b", []string{"a/b"}, false, "user a/b"},
		{limit.ScopeKey, "*", []string{"*"}, true, "key *"},
		{limit.ScopeKey, "tenant/a:b", []string{"tenant/a:b"}, false, "key tenant/a:b"},
		{limit.ScopeKey, "tenant/*", []string{"tenant/*"}, true, "key tenant/*"},
		{limit.ScopeTotal, "", []string{""}, false, "total"},
		{limit.ScopeConnection, "", []string{""}, false, "connection"},
	} {
		for _, text := range c.list {
			p, err := c.scope.ParsePattern(text)
			if err != nil || p.String() != c.want || p.Scope() != c.scope || !p.IsValid() || p.Wildcard() != c.wild || p.Name() != c.name {
				t.Errorf("%v %q: %q, %v (scope %v, wildcard %v, name %q)", c.scope, text, p, err, p.Scope(), p.Wildcard(), p.Name())
				continue
			}
			if again, err := c.scope.ParsePattern(p.String()); err != nil || again != p {
				t.Errorf("%v %q is read as %#v, %v", c.scope, p, again, err)
			}
			if p.Why() == "" {
				t.Errorf("%s has no reason to win", p.Name())
			}
		}
	}
}

func TestPatternsOfEachScopeRefused(t *testing.T) {
	for _, c := range []struct {
		scope      limit.Scope
		text, want string
	}{
		{limit.ScopeClient, "", "is no client: write an address, a CIDR such as 10.0.0.0/8, or *"},
		{limit.ScopeClient, "a.example", "is no client"}, {limit.ScopeClient, "10.0.0.1:80", "is no client"}, {limit.ScopeClient, "10.1", "is no client"},
		{limit.ScopeClient, "0x0a.0.0.1", "is no client"}, {limit.ScopeClient, "fe80::1%eth0", "is no client"}, {limit.ScopeClient, "[::1", "is no client"},
		{limit.ScopeClient, "::1]", "is no client"}, {limit.ScopeClient, "*.example", "is no client"}, {limit.ScopeClient, "10.0.0.*", "is no client"},
		{limit.ScopeClient, "10/8", "not a CIDR"}, {limit.ScopeClient, "10.0.0.0/33", "not a CIDR"}, {limit.ScopeClient, "::ffff:10.0.0.0/90", "write the IPv4 network"},
		{limit.ScopeUser, "", "is empty: write a name, or * for each"}, {limit.ScopeUser, "a:b", "has a colon"}, {limit.ScopeUser, "a*", "has a star in a name: write a user's name or *"},
		{limit.ScopeUser, "**", "has a star in a name"}, {limit.ScopeUser, "a\n", "can't be printed"}, {limit.ScopeUser, "a\x7f", "can't be printed"},
		{limit.ScopeUser, "a\u0085", "can't be printed"}, {limit.ScopeUser, "a\u2028", "can't be printed"}, {limit.ScopeUser, "a\xff", "can't be printed"},
		{limit.ScopeUser, "a\ufffd", "can't be printed"}, {limit.ScopeUser, strings.Repeat("ä", 256), "has 256 characters: write 1 to 255"},
		{limit.ScopeKey, "", "is empty"}, {limit.ScopeKey, "*a", "has a star in a name: write a name, prefix* or *"}, {limit.ScopeKey, "a**", "has a star in a name"},
		{limit.ScopeKey, "a*b*", "has a star in a name"}, {limit.ScopeKey, "a\t*", "can't be printed"}, {limit.ScopeKey, strings.Repeat("a", 255) + "*", "has 256 characters"},
		{limit.ScopeTotal, "*", "stands in scope total, which has no patterns: leave it out"}, {limit.ScopeConnection, "10.0.0.1", "stands in scope connection"},
		{0, "a", "is of scope 0"}, {7, "a", "is of scope 7, which is unknown here"},
	} {
		p, err := c.scope.ParsePattern(c.text)
		if p.IsValid() || !errors.Is(err, limit.ErrPattern) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %q: %q, %v, want %q", c.scope, c.text, p, err, c.want)
		}
	}
	for name, ok := range map[string]bool{"tenant/a": true, "*": true, "": false, "a\x00": false} {
		if err := limit.CheckName(name); (err == nil) != ok || err != nil && !errors.Is(err, limit.ErrName) {
			t.Errorf("the name %q: %v", name, err)
		}
	}
}

func TestWordsOfScopesAndResources(t *testing.T) {
	for _, s := range limit.Scopes {
		if again, err := limit.ParseScope(s.String()); err != nil || again != s || !s.Known() {
			t.Errorf("%v is read as %v, %v", s, again, err)
		}
		if bare := s == limit.ScopeTotal || s == limit.ScopeConnection; s.Bare() != bare {
			t.Errorf("%v is bare: %v", s, s.Bare())
		}
	}
	for _, word := range []string{"", "unknown", "Host", "hosts"} {
		if s, err := limit.ParseScope(word); !errors.Is(err, limit.ErrInvalid) || !strings.Contains(err.Error(), "write host, client, user, total, key or connection") {
			t.Errorf("%q is read as %v, %v", word, s, err)
		}
	}
	if limit.Scope(0).Known() || limit.Scope(7).Known() || limit.Scope(7).String() != "unknown" || limit.Resource(0).Known() || limit.Resource(5).Known() || limit.Resource(5).String() != "unknown" {
		t.Error("more is known than there is")
	}
	for key, want := range map[limit.Key]string{
		limit.HostConnections("a"):                                                  "a",
		{Scope: limit.ScopeHost, Resource: limit.Requests, Name: "a"}:               "host a requests",
		{Scope: limit.ScopeTotal, Resource: limit.Upload}:                           "total upload",
		{Scope: limit.ScopeClient, Resource: limit.Connections, Name: "10.0.0.1"}:   "client 10.0.0.1 connections",
		{Scope: limit.ScopeKey, Resource: limit.Download, Name: "GET /a"}:           "key GET /a download",
		{Scope: limit.ScopeUser, Resource: limit.Resource(9), Name: "ann"}:          "user ann unknown",
		{Scope: limit.Scope(9), Resource: limit.Connections, Name: "10.0.0.1:8080"}: "unknown 10.0.0.1:8080 connections",
	} {
		if got := key.String(); got != want {
			t.Errorf("%#v is %q, want %q", key, got, want)
		}
	}
}

func TestCanonicalKeys(t *testing.T) {
	for scope, names := range map[limit.Scope][2][]string{
		limit.ScopeHost: {
			{"a.example", "a.example:443", "*.example", "*.example:80", "*", "10.0.0.1", "10.0.0.0/8", "[::1]:80", "::1"},
			{"", "A.example", "a.example.", "*:80", "10.0.0.1/8", "[::1]", "a:b:c", "a*"},
		},
		limit.ScopeClient: {
			{"*", "10.0.0.1", "10.0.0.0/8", "2001:db8::1"},
			{"", "a.example", "::ffff:10.0.0.1", "2001:DB8::1", "10.0.0.1/8", "[::1]", "10.0.0.1:80", "fe80::1%eth0"},
		},
		limit.ScopeUser:       {{"*", "ann", "Ann B", "a*", "a:b"}, {"", "a\n", strings.Repeat("a", 256), "\xff"}},
		limit.ScopeKey:        {{"*", "tenant/*", "tenant/a", "a*b"}, {"", "a\n", strings.Repeat("a", 256), "\xff"}},
		limit.ScopeTotal:      {{""}, {"*", "x"}},
		limit.ScopeConnection: {nil, {"", "*"}},
		0:                     {nil, {"", "*", "a"}},
		7:                     {nil, {"", "*", "a"}},
	} {
		for i, list := range names {
			for _, name := range list {
				for _, r := range limit.Resources {
					if key := (limit.Key{Scope: scope, Resource: r, Name: name}); key.Canonical() != (i == 0) {
						t.Errorf("%#v is canonical: %v", key, key.Canonical())
					}
				}
				for _, r := range []limit.Resource{0, 5} {
					if key := (limit.Key{Scope: scope, Resource: r, Name: name}); key.Canonical() {
						t.Errorf("%#v is canonical", key)
					}
				}
			}
		}
	}
}

// scoped is a limit of a scope with a number by which the test knows it again.
func scoped(s limit.Scope, pattern string, n int64, shared bool) limit.Limit {
	return limit.Limit{Pattern: limittest.Scoped(s, pattern), Connections: n, Shared: shared, Source: limit.SourceAPI, ModifyIndex: 1}
}

func TestGoverningInEachScope(t *testing.T) {
	table := limit.NewTable(1, 1, []limit.Limit{
		scoped(limit.ScopeClient, "10.0.0.1", 1, false), scoped(limit.ScopeClient, "10.0.0.0/24", 2, true), scoped(limit.ScopeClient, "10.0.0.0/8", 3, false),
		scoped(limit.ScopeUser, "ann", 4, false), scoped(limit.ScopeUser, "*", 5, true),
		scoped(limit.ScopeKey, "tenant/*", 6, true), scoped(limit.ScopeKey, "tenant/a/*", 7, false), scoped(limit.ScopeKey, "tenant/b", 8, false), scoped(limit.ScopeKey, "*", 9, false),
		scoped(limit.ScopeTotal, "", 10, false), scoped(limit.ScopeConnection, "", 11, false),
	})
	for _, c := range []struct {
		scope limit.Scope
		name  string
		want  int64 // 0: nothing governs it
	}{
		{limit.ScopeClient, "10.0.0.1", 1}, {limit.ScopeClient, "10.0.0.0/24", 2}, {limit.ScopeClient, "10.0.0.2", 0}, {limit.ScopeClient, "10.1.0.1", 3},
		{limit.ScopeClient, "10.0.0.0/8", 0}, {limit.ScopeClient, "*", 0}, {limit.ScopeClient, "192.0.2.1", 0}, {limit.ScopeClient, "::ffff:10.0.0.1", 0},
		{limit.ScopeClient, "10.0.0.1/24", 0}, {limit.ScopeClient, "", 0}, {limit.ScopeClient, "10.1.0.1%x", 0}, {limit.ScopeClient, "a.example", 0},
		{limit.ScopeUser, "ann", 4}, {limit.ScopeUser, "*", 5}, {limit.ScopeUser, "bob", 0}, {limit.ScopeUser, "", 0},
		{limit.ScopeKey, "tenant/*", 6}, {limit.ScopeKey, "tenant/x", 0}, {limit.ScopeKey, "tenant/a/x", 7}, {limit.ScopeKey, "tenant/a/*", 7}, // a name that is spelled so
		{limit.ScopeKey, "tenant/b", 8}, {limit.ScopeKey, "other", 9}, {limit.ScopeKey, "*", 9}, {limit.ScopeKey, "other*", 9}, {limit.ScopeKey, "", 0},
		{limit.ScopeKey, "other\n", 0}, {limit.ScopeKey, strings.Repeat("x", 256), 0}, {limit.ScopeKey, "x\xff", 0},
		{limit.ScopeTotal, "", 10}, {limit.ScopeTotal, "*", 0}, {limit.ScopeTotal, "x", 0},
		{limit.ScopeConnection, "", 11}, {limit.ScopeConnection, "x", 0}, {limit.ScopeHost, "10.0.0.1", 0}, {limit.ScopeHost, "ann", 0}, {0, "ann", 0}, {9, "ann", 0},
	} {
		for _, r := range limit.Resources {
			var got int64
			if l := table.Governing(limit.Key{Scope: c.scope, Resource: r, Name: c.name}); l != nil {
				got = l.Connections
			}
			if got != c.want {
				t.Errorf("%v %q: governed by the limit with %d, want %d", c.scope, c.name, got, c.want)
			}
		}
		if l := table.Governing(limit.Key{Scope: c.scope, Resource: 9, Name: c.name}); l != nil {
			t.Errorf("an unknown resource of %v %q is governed by %v", c.scope, c.name, l)
		}
	}
	for _, l := range table.Limits() {
		if got, ok := table.Get(l.Pattern); !ok || *got != l {
			t.Errorf("%s: %v, %v", l.Name(), got, ok)
		}
	}
	for _, p := range []limit.Pattern{
		limittest.Scoped(limit.ScopeClient, "10.0.0.2"), limittest.Scoped(limit.ScopeClient, "*"), limittest.Scoped(limit.ScopeClient, "10.0.0.0/9"),
		limittest.Scoped(limit.ScopeUser, "bob"), limittest.Scoped(limit.ScopeKey, "tenant/x*"), limittest.Scoped(limit.ScopeKey, "tenant/"), limittest.Pattern("*"),
	} {
		if l, ok := table.Get(p); ok {
			t.Errorf("%s: %v", p.Name(), l)
		}
	}
}

func drawScopedLimits(t *rapid.T) []limit.Limit {
	var limits []limit.Limit
	for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom(limittest.AllPatterns()), 0, 16, rapid.ID[limit.Pattern]).Draw(t, "patterns") {
		l := limit.Limit{Pattern: p, Connections: int64(len(limits)), Source: limit.SourceAPI, ModifyIndex: 1}
		l.Shared = p.Wildcard() && rapid.Bool().Draw(t, "shared")
		limits = append(limits, l)
	}
	return limits
}

// Of 10,000 tables, each finds what the slow reference finds, in every scope; what counts it is
// governed by the same limit, and is canonical; and nothing else governs a key that nobody has.
func TestFindAgreesWithTheReference(t *testing.T) {
	subjects := limittest.Subjects()
	rapid.Check(t, func(t *rapid.T) {
		for range 100 {
			limits := drawScopedLimits(t)
			table := limit.NewTable(1, 1, limits)
			for i := range subjects {
				for _, scope := range limit.Scopes {
					checkFound(t, table, limits, scope, &subjects[i])
				}
			}
		}
	})
}

func checkFound(t *rapid.T, table *limit.Table, limits []limit.Limit, scope limit.Scope, s *limit.Subject) {
	want, wantName := limittest.Find(limits, scope, s)
	got, name := table.Find(scope, s)
	if (got == nil) != (want == nil) || got != nil && *got != *want || name != wantName {
		t.Fatalf("%+v is in scope %v under %+v as %q, want %+v as %q", s, scope, got, name, want, wantName)
	}
	if got == nil || scope == limit.ScopeConnection {
		return
	}
	key := limit.Key{Scope: scope, Resource: limit.Requests, Name: name}
	if g := table.Governing(key); g != got || !key.Canonical() {
		t.Fatalf("%v is counted under %+v, and governed by %+v (canonical: %v)", key, got, g, key.Canonical())
	}
}

// A table knows which scopes cap which resource.
func TestCapsOfATable(t *testing.T) {
	rate := limit.Rate{Thousandths: 1, Per: time.Hour, Burst: 1}
	table := limit.NewTable(1, 1, []limit.Limit{
		{Pattern: limittest.Pattern("a"), Connections: limit.Unlimited, Requests: rate},
		{Pattern: limittest.Scoped(limit.ScopeUser, "ann"), Connections: 0},
		{Pattern: limittest.Scoped(limit.ScopeUser, "*"), Connections: limit.Unlimited, Bandwidth: limit.Bandwidth{Upload: 1}},
		{Pattern: limittest.Scoped(limit.ScopeConnection, ""), Connections: limit.Unlimited, Bandwidth: limit.Bandwidth{Download: 1}},
	})
	got := ""
	for _, s := range limit.Scopes {
		for _, r := range limit.Resources {
			if table.Caps(s, r) {
				got += fmt.Sprintf("%v %v; ", s, r)
			}
		}
	}
	if got != "host requests; user connections; user upload; connection download; " {
		t.Error(got)
	}
}

func TestSameShapeAndValue(t *testing.T) {
	rate, faster := limit.Rate{Thousandths: 1, Per: time.Hour, Burst: 1}, limit.Rate{Thousandths: 2, Per: time.Second, Burst: 5}
	base := limit.Limit{Pattern: limittest.Pattern("*.a"), Connections: 5, Requests: rate, Bandwidth: limit.Bandwidth{Upload: 1}}
	for name, c := range map[string]struct {
		change       func(l *limit.Limit)
		shape, value bool
	}{
		"nothing":         {func(*limit.Limit) {}, true, true},
		"where, and when": {func(l *limit.Limit) { l.Source, l.ModifyIndex, l.Evict = 2, 9, true }, true, true},
		"connections":     {func(l *limit.Limit) { l.Connections = 0 }, true, false},
		"no connections":  {func(l *limit.Limit) { l.Connections = limit.Unlimited }, false, false},
		"rate":            {func(l *limit.Limit) { l.Requests = faster }, true, false},
		"no rate":         {func(l *limit.Limit) { l.Requests = limit.Rate{} }, false, false},
		"upload":          {func(l *limit.Limit) { l.Bandwidth.Upload, l.Bandwidth.Burst = 5, 5000 }, true, false},
		"download":        {func(l *limit.Limit) { l.Bandwidth.Download = 5 }, false, false},
		"shared":          {func(l *limit.Limit) { l.Shared = true }, false, false},
		"report":          {func(l *limit.Limit) { l.Report = true }, false, false},
		"queue":           {func(l *limit.Limit) { l.Queue = limit.Queue{Timeout: 1, Size: 1} }, true, false},
	} {
		other := base
		c.change(&other)
		if base.SameShape(&other) != c.shape || base.SameValue(&other) != c.value {
			t.Errorf("%s: the same shape %v, value %v", name, base.SameShape(&other), base.SameValue(&other))
		}
	}
	moved := base
	moved.Pattern = limittest.Scoped(limit.ScopeClient, "*")
	if base.SameShape(&moved) {
		t.Error("two scopes have one shape")
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	var limits []limit.Limit
	for _, p := range limittest.AllPatterns() {
		if p.String() != "*.x.org:443" && p.String() != "*.org:80" { // whose keys have to be spelled
			limits = append(limits, limit.Limit{Pattern: p, Connections: 1})
		}
	}
	table := limit.NewTable(1, 1, limits)
	subjects := limittest.Subjects()
	for _, scope := range limit.Scopes {
		if n := testing.AllocsPerRun(10, func() {
			for i := range subjects {
				table.Find(scope, &subjects[i])
			}
		}); n != 0 {
			t.Errorf("scope %v: finding the limits of %d subjects allocates %v times", scope, len(subjects), n)
		}
	}
}

// Under client "*", one of 100,000 addresses is found as fast as the only one, and beside 100,000
// limits of their own.
func BenchmarkFindClient(b *testing.B) {
	const n = 100_000
	clients := make([]limit.Client, n)
	own := []limit.Limit{scoped(limit.ScopeClient, "*", 1, false)}
	for i := range clients {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		clients[i] = limit.ClientOf(a)
		own = append(own, scoped(limit.ScopeClient, clients[i].Name, 2, false))
	}
	for name, table := range map[string]*limit.Table{"any": limit.NewTable(1, 1, own[:1]), "own": limit.NewTable(1, 1, own)} {
		for of, m := range map[string]int{"one": 1, "100000": n} {
			b.Run(name+"/"+of, func(b *testing.B) {
				b.ReportAllocs()
				s := limit.Subject{}
				for i := 0; b.Loop(); i++ {
					s.Client = clients[i*7919%m]
					table.Find(limit.ScopeClient, &s)
				}
			})
		}
	}
}
