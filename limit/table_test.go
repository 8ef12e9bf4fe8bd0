package limit_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

func TestMatchPrecedence(t *testing.T) {
	// From the most to the least specific for each target: when the first is taken
	// away, the next one must match.
	for _, c := range []struct {
		target string
		order  []string
	}{
		{"x.a.example.com:443", []string{
			"x.a.example.com:443", "x.a.example.com", "*.a.example.com:443", "*.example.com:443", "*.com:443",
			"*.a.example.com", "*.example.com", "*.com", "*",
		}},
		{"example.com:80", []string{"example.com:80", "example.com", "*.com:80", "*.com", "*"}},
		{"com:80", []string{"com:80", "com", "*"}},
		{"10.1.2.3:80", []string{"10.1.2.3:80", "10.1.2.3", "10.1.2.3/32", "10.1.2.0/24", "10.0.0.0/8", "0.0.0.0/0", "*"}},
		{"[2001:db8::1]:80", []string{"[2001:db8::1]:80", "2001:db8::1", "2001:db8::1/128", "2001:db8::/32", "::/0", "*"}},
	} {
		// None of these may ever match.
		noise := []string{
			"a.example.com", "*.x.a.example.com", "x.a.example.com:80", "*.a.example.com:8443", "*.ample.com", "*.example.org",
			"*.example.com:81", "10.1.2.4", "10.1.2.3:81", "10.2.0.0/16", "11.0.0.0/8", "2001:db9::/32", "[2001:db8::1]:81", "2001:db8::2",
			"*.example.com.com", "*.xcom", "com:443",
		}
		for i := 0; i <= len(c.order); i++ {
			var limits []limit.Limit
			for _, p := range append(noise, c.order[i:]...) {
				limits = append(limits, limittest.Rule(p, 1))
			}
			l, key := limit.NewTable(1, 1, limits).Match(limittest.Target(c.target))
			if i == len(c.order) {
				if l != nil || key != limit.HostConnections(limittest.Target(c.target).Host) {
					t.Errorf("%s matches %v as %v where nothing should", c.target, l, key)
				}
				continue
			}
			if l == nil || l.Pattern.String() != c.order[i] {
				t.Errorf("%s matches %+v, want %s", c.target, l, c.order[i])
			}
		}
	}
}

func TestMatchKeys(t *testing.T) {
	for _, c := range []struct {
		rule   limit.Limit
		target string
		want   string
	}{
		{limittest.Rule("a.b", 1), "a.b:443", "a.b"},
		{limittest.Rule("a.b:443", 1), "a.b:443", "a.b:443"},
		{limittest.Rule("*.b", 1), "a.b:443", "a.b"},
		{limittest.Rule("*.b:443", 1), "a.b:443", "a.b:443"},
		{limittest.Shared("*.b", 1), "a.b:443", "*.b"},
		{limittest.Shared("*.b:443", 1), "a.b:443", "*.b:443"},
		{limittest.Rule("*", 1), "a.b:443", "a.b"},
		{limittest.Shared("*", 1), "a.b:443", "*"},
		{limittest.Rule("10.0.0.0/8", 1), "10.0.0.1:80", "10.0.0.1"},
		{limittest.Shared("10.0.0.0/8", 1), "10.0.0.1:80", "10.0.0.0/8"},
		{limittest.Rule("2001:db8::1", 1), "[2001:db8::1]:80", "2001:db8::1"},
		{limittest.Rule("[2001:db8::1]:80", 1), "[2001:db8::1]:80", "[2001:db8::1]:80"},
		{limittest.Shared("::/0", 1), "[2001:db8::1]:80", "::/0"},
		{limittest.Rule("*", 1), "[::ffff:10.0.0.1]:80", "10.0.0.1"},
	} {
		table := limit.NewTable(1, 1, []limit.Limit{c.rule})
		l, key := table.Match(limittest.Target(c.target))
		if l == nil || key != limit.HostConnections(c.want) {
			t.Errorf("%s under %s: %v, %v, want %s", c.target, c.rule.Pattern, l, key, c.want)
		}
		if got := table.Governing(key); got != l {
			t.Errorf("%s is governed by %v, want %v", key, got, l)
		}
	}
}

func TestNoTargetMatchesAPortRuleWithoutItsPort(t *testing.T) {
	table := limit.NewTable(1, 1, []limit.Limit{limittest.Rule("a.b:443", 1), limittest.Rule("*.b:443", 2)})
	for _, s := range []string{"a.b:80", "c.b:80"} {
		if l, _ := table.Match(limittest.Target(s)); l != nil {
			t.Errorf("%s matches %s", s, l.Pattern)
		}
	}
	if l, _ := table.Match(limit.Target{Host: "a.b"}); l != nil {
		t.Errorf("no particular port matches %s", l.Pattern)
	}
}

func TestGoverningStaleShapes(t *testing.T) {
	table := limit.NewTable(1, 1, []limit.Limit{
		limittest.Rule("plain.org", 1), limittest.Rule("ported.org:443", 2), limittest.Shared("*.x.org", 3), limittest.Rule("*.y.org", 4), limittest.Rule("*.z.org:80", 5),
		limittest.Shared("10.0.0.0/8", 6), limittest.Rule("192.0.2.0/24", 7), limittest.Rule("[2001:db8::1]:80", 8), limittest.Rule("::/0", 9),
	})
	for name, want := range map[string]int64{
		"plain.org":         1,
		"plain.org:443":     0, // no rule with a port gives it
		"ported.org:443":    2,
		"ported.org":        0, // a key without a port ignores rules with ports
		"ported.org:80":     0,
		"*.x.org":           3,
		"a.x.org":           0, // counted under the shared rule
		"a.x.org:80":        0,
		"x.org":             0,
		"*.y.org":           0, // not shared
		"a.y.org":           4,
		"a.y.org:80":        0,
		"a.z.org:80":        5,
		"a.z.org:81":        0,
		"a.z.org":           0,
		"10.0.0.0/8":        6,
		"10.0.0.1":          0,
		"192.0.2.0/24":      0,
		"192.0.2.1":         7,
		"[2001:db8::1]:80":  8,
		"2001:db8::1":       9,
		"[2001:db8::1]":     0,
		"[2001:db8::1]:81":  0,
		"*":                 0,
		"*.org":             0,
		"":                  0,
		"a..b":              0,
		"PLAIN.org":         0, // not canonical
		"plain.org.":        0,
		"ported.org:0443":   0,
		"::ffff:192.0.2.1":  0,
		"2001:DB8::1":       0,
		"10.0.0.1/8":        0,
		"*.X.org":           0,
		"ported.org:443:80": 0,
		"plain.org:":        0,
	} {
		var got int64
		if l := table.Governing(limit.HostConnections(name)); l != nil {
			got = l.Connections
		}
		if got != want {
			t.Errorf("%q is governed by the rule with %d, want %d", name, got, want)
		}
	}
	for _, key := range []limit.Key{{Name: "plain.org"}, {Scope: 2, Resource: 1, Name: "plain.org"}, {Scope: 1, Resource: 9, Name: "plain.org"}} {
		if l := table.Governing(key); l != nil {
			t.Errorf("%#v is governed by %v", key, l)
		}
	}
}

func TestCountsNames(t *testing.T) {
	for _, c := range []struct {
		limits []limit.Limit
		want   bool
	}{
		{nil, false},
		{[]limit.Limit{limittest.Rule("10.1.2.3", 1), limittest.Rule("10.0.0.0/8", 1), limittest.Rule("[2001:db8::1]:80", 1)}, false},
		{[]limit.Limit{limittest.Rule("a.b", 1)}, true},
		{[]limit.Limit{limittest.Rule("a.b:443", 1)}, true},
		{[]limit.Limit{limittest.Rule("10.1.2.3", 1), limittest.Rule("*.b", 1)}, true},
		{[]limit.Limit{limittest.Rule("*", 1)}, true},
		{[]limit.Limit{limittest.Shared("*", 1)}, false},
	} {
		if got := limit.NewTable(1, 1, c.limits).CountsNames(); got != c.want {
			t.Errorf("%v: got %t", c.limits, got)
		}
	}
}

func TestTableLimitsAndGet(t *testing.T) {
	given := []limit.Limit{limittest.Rule("b", 1), limittest.Rule("*", 2), limittest.Rule("a:1", 3), limittest.Rule("a", 4), limittest.Rule("10.0.0.0/8", 5), limittest.Rule("*.b:2", 6)}
	table := limit.NewTable(7, 5, given)
	if table.Index != 7 || table.ShapeIndex != 5 {
		t.Errorf("index %d, shape %d", table.Index, table.ShapeIndex)
	}
	var names []string
	for _, l := range table.Limits() {
		names = append(names, l.Pattern.String())
	}
	if got := strings.Join(names, " "); got != "* *.b:2 10.0.0.0/8 a a:1 b" {
		t.Errorf("sorted: %s", got)
	}
	for i := range given {
		if l, ok := table.Get(given[i].Pattern); !ok || *l != given[i] {
			t.Errorf("%s: %v, %v", given[i].Pattern, l, ok)
		}
	}
	for _, p := range []limit.Pattern{{}, limittest.Pattern("a:2"), limittest.Pattern("c"), limittest.Pattern("*.b"), limittest.Pattern("10.0.0.0/9"), limittest.Pattern("::/0")} {
		if l, ok := table.Get(p); ok || l != nil {
			t.Errorf("%q: %v", p, l)
		}
	}
	given[0].Connections = 99
	if l, _ := table.Get(limittest.Pattern("b")); l.Connections != 1 {
		t.Error("the table shares its caller's slice")
	}
}

// What the properties below, and the model of the state, choose from.
func drawLimits(t *rapid.T) []limit.Limit {
	var limits []limit.Limit
	for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom(limittest.Patterns), 0, 10, rapid.ID[string]).Draw(t, "patterns") {
		l := limittest.Rule(p, rapid.Int64Range(-1, 3).Draw(t, "connections"))
		l.Shared = l.Pattern.Wildcard() && rapid.Bool().Draw(t, "shared")
		limits = append(limits, l)
	}
	return limits
}

func TestMatchAndGoverningAgreeWithTheModel(t *testing.T) {
	targets := limittest.Targets()
	rapid.Check(t, func(t *rapid.T) {
		limits := drawLimits(t)
		table := limit.NewTable(1, 1, limits)
		governed := map[string]*limit.Limit{}
		for _, target := range targets {
			want, wantKey := limittest.Match(limits, target)
			got, key := table.Match(target)
			if (got == nil) != (want == nil) || got != nil && *got != *want || key != limit.HostConnections(wantKey) {
				t.Fatalf("%v matches %+v as %v, want %+v as %q", target, got, key, want, wantKey)
			}
			if g := table.Governing(key); g != got {
				t.Fatalf("%v is counted as %v under %+v, which is governed by %+v", target, key, got, g)
			}
			if old, ok := governed[key.Name]; ok && old != got {
				t.Fatalf("%v is governed by %+v and by %+v", key, old, got)
			}
			governed[key.Name] = got
		}
		// What no target gives, nothing governs; a shared limit that narrower ones
		// cover may.
		for _, target := range targets {
			for _, name := range []string{target.Host, target.String()} {
				if governed[name] == nil && table.Governing(limit.HostConnections(name)) != nil {
					t.Fatalf("%q is governed, and no target gives it", name)
				}
			}
		}
		for _, p := range limittest.Patterns {
			l, ok := table.Get(limittest.Pattern(p))
			if got := table.Governing(limit.HostConnections(p)); limittest.Pattern(p).Wildcard() && (got != nil) != (ok && l.Shared) {
				t.Fatalf("%q is governed by %v", p, got)
			}
		}
	})
}

func TestMatchAllocatesNothing(t *testing.T) {
	table, targets := limittest.Many(100)
	for name, target := range targets {
		l, key := table.Match(target)
		if l == nil {
			t.Fatalf("%s matches nothing", name)
		}
		if n := testing.AllocsPerRun(100, func() { table.Match(target) }); n != 0 {
			t.Errorf("%s: matching allocates %v times", name, n)
		}
		if n := testing.AllocsPerRun(100, func() { table.Governing(key) }); n > 1 {
			t.Errorf("%s: finding what governs allocates %v times", name, n)
		}
	}
	with := limit.NewTable(1, 1, []limit.Limit{limittest.Rule("*.b:443", 1)})
	to := limittest.Target("a.b:443")
	if n := testing.AllocsPerRun(100, func() { with.Match(to) }); n > 1 {
		t.Errorf("a wildcard with a port: matching allocates %v times", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	table, targets := limittest.Many(100_000)
	for name, target := range targets {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table.Match(target)
			}
		})
	}
}

func BenchmarkNewTable(b *testing.B) {
	table, _ := limittest.Many(100_000)
	b.ReportAllocs()
	for b.Loop() {
		limit.NewTable(1, 1, table.Limits())
	}
}

// A key is direct where it counts every connection to its host, whatever the port: then the host's
// name alone finds it.
func TestDirect(t *testing.T) {
	table := limit.NewTable(1, 1, []limit.Limit{
		{Pattern: limittest.Pattern("plain.org"), Connections: 1},
		{Pattern: limittest.Pattern("port.org"), Connections: 1},
		{Pattern: limittest.Pattern("port.org:443"), Connections: 1},
		{Pattern: limittest.Pattern("*.wild.org"), Connections: 1},
		{Pattern: limittest.Pattern("*.shared.org"), Connections: 1, Shared: true},
		{Pattern: limittest.Pattern("*.ports.org:443"), Connections: 1},
		{Pattern: limittest.Pattern("10.0.0.0/8"), Connections: 1},
	})
	for name, want := range map[string]bool{
		"plain.org": true, "port.org": false, "port.org:443": false, "a.wild.org": true, "a.shared.org": false, "*.shared.org": false,
		"a.b.ports.org": false, "10.1.2.3": true, "2001:db8::1": true, "free.org": true, "PLAIN.org": false, "10.0.0.0/8": false,
	} {
		if got := table.Direct(limit.HostConnections(name)); got != want {
			t.Errorf("%s: direct %v, want %v", name, got, want)
		}
	}
}
