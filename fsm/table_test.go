package fsm

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func target(s string) Target {
	t, err := ParseTarget(s, 0)
	if err != nil {
		panic(err)
	}
	return t
}

func rule(p string, connections int64) Limit {
	return Limit{Pattern: pattern(p), Connections: connections, Source: SourceAPI, ModifyIndex: 1}
}

func sharedRule(p string, connections int64) Limit {
	l := rule(p, connections)
	l.Shared = true
	return l
}

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
			var limits []Limit
			for _, p := range append(noise, c.order[i:]...) {
				limits = append(limits, rule(p, 1))
			}
			l, key := NewTable(1, 1, limits).Match(target(c.target))
			if i == len(c.order) {
				if l != nil || key != HostConnections(target(c.target).Host) {
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
		rule   Limit
		target string
		want   string
	}{
		{rule("a.b", 1), "a.b:443", "a.b"},
		{rule("a.b:443", 1), "a.b:443", "a.b:443"},
		{rule("*.b", 1), "a.b:443", "a.b"},
		{rule("*.b:443", 1), "a.b:443", "a.b:443"},
		{sharedRule("*.b", 1), "a.b:443", "*.b"},
		{sharedRule("*.b:443", 1), "a.b:443", "*.b:443"},
		{rule("*", 1), "a.b:443", "a.b"},
		{sharedRule("*", 1), "a.b:443", "*"},
		{rule("10.0.0.0/8", 1), "10.0.0.1:80", "10.0.0.1"},
		{sharedRule("10.0.0.0/8", 1), "10.0.0.1:80", "10.0.0.0/8"},
		{rule("2001:db8::1", 1), "[2001:db8::1]:80", "2001:db8::1"},
		{rule("[2001:db8::1]:80", 1), "[2001:db8::1]:80", "[2001:db8::1]:80"},
		{sharedRule("::/0", 1), "[2001:db8::1]:80", "::/0"},
		{rule("*", 1), "[::ffff:10.0.0.1]:80", "10.0.0.1"},
	} {
		table := NewTable(1, 1, []Limit{c.rule})
		l, key := table.Match(target(c.target))
		if l == nil || key != HostConnections(c.want) {
			t.Errorf("%s under %s: %v, %v, want %s", c.target, c.rule.Pattern, l, key, c.want)
		}
		if got := table.Governing(key); got != l {
			t.Errorf("%s is governed by %v, want %v", key, got, l)
		}
	}
}

func TestNoTargetMatchesAPortRuleWithoutItsPort(t *testing.T) {
	table := NewTable(1, 1, []Limit{rule("a.b:443", 1), rule("*.b:443", 2)})
	for _, s := range []string{"a.b:80", "c.b:80"} {
		if l, _ := table.Match(target(s)); l != nil {
			t.Errorf("%s matches %s", s, l.Pattern)
		}
	}
	if l, _ := table.Match(Target{Host: "a.b"}); l != nil {
		t.Errorf("no particular port matches %s", l.Pattern)
	}
}

func TestGoverningStaleShapes(t *testing.T) {
	table := NewTable(1, 1, []Limit{
		rule("plain.org", 1), rule("ported.org:443", 2), sharedRule("*.x.org", 3), rule("*.y.org", 4), rule("*.z.org:80", 5),
		sharedRule("10.0.0.0/8", 6), rule("192.0.2.0/24", 7), rule("[2001:db8::1]:80", 8), rule("::/0", 9),
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
		if l := table.Governing(HostConnections(name)); l != nil {
			got = l.Connections
		}
		if got != want {
			t.Errorf("%q is governed by the rule with %d, want %d", name, got, want)
		}
	}
	for _, key := range []Key{{Name: "plain.org"}, {Scope: 2, Resource: 1, Name: "plain.org"}, {Scope: 1, Resource: 2, Name: "plain.org"}} {
		if l := table.Governing(key); l != nil {
			t.Errorf("%#v is governed by %v", key, l)
		}
	}
}

func TestTableLimitsAndGet(t *testing.T) {
	given := []Limit{rule("b", 1), rule("*", 2), rule("a:1", 3), rule("a", 4), rule("10.0.0.0/8", 5), rule("*.b:2", 6)}
	table := NewTable(7, 5, given)
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
	for _, p := range []Pattern{{}, pattern("a:2"), pattern("c"), pattern("*.b"), pattern("10.0.0.0/9"), pattern("::/0")} {
		if l, ok := table.Get(p); ok || l != nil {
			t.Errorf("%q: %v", p, l)
		}
	}
	given[0].Connections = 99
	if l, _ := table.Get(pattern("b")); l.Connections != 1 {
		t.Error("the table shares its caller's slice")
	}
}

// What the properties below, and the model of the state, choose from.
var (
	somePatterns = []string{
		"*", "a.x.org", "a.x.org:443", "x.org", "x.org:80", "*.x.org", "*.x.org:443", "*.org", "*.org:80", "*.a.x.org",
		"10.0.0.1", "10.0.0.1:80", "10.0.0.0/8", "10.0.0.0/31", "10.0.0.1/32", "0.0.0.0/0", "::1", "[::1]:443", "::/0", "::/64",
	}
	someHosts = []string{"a.x.org", "b.x.org", "c.a.x.org", "x.org", "org", "other", "10.0.0.1", "10.0.0.2", "10.9.9.9", "::1", "2001:db8::1"}
	somePorts = []uint16{80, 443, 8080}
)

func someTargets() []Target {
	var list []Target
	for _, h := range someHosts {
		for _, port := range somePorts {
			t, err := ParseHost(h)
			if err != nil {
				panic(err)
			}
			t.Port = port
			list = append(list, t)
		}
	}
	return list
}

// naiveMatch scores every limit by the text of its pattern.
func naiveMatch(limits []Limit, t Target) (*Limit, string) {
	var best *Limit
	var bestScore int
	for i := range limits {
		text := limits[i].Pattern.String()
		score := 0
		port := fmt.Sprintf(":%d", t.Port)
		bare, hasPort := text, false
		if t.Host == text || strings.HasPrefix(text, "*.") || strings.HasPrefix(text, "[") || strings.Count(text, ":") == 1 {
			if cut, ok := strings.CutSuffix(text, port); ok && text != t.Host {
				bare, hasPort = strings.Trim(cut, "[]"), true
			}
		}
		switch {
		case text == "*":
			score = 1
		case strings.Contains(text, "/"):
			if p := netip.MustParsePrefix(text); t.Addr.IsValid() && p.Contains(t.Addr) {
				score = 10 + p.Bits()
			}
		case strings.HasPrefix(bare, "*.") && !t.Addr.IsValid():
			if strings.HasSuffix(t.Host, bare[1:]) {
				score = 1000 + len(bare)
				if hasPort {
					score += 1000
				}
			}
		case bare == t.Host:
			score = 10000
			if hasPort {
				score++
			}
		}
		if score > bestScore {
			best, bestScore = &limits[i], score
		}
	}
	switch {
	case best == nil:
		return nil, t.Host
	case best.Shared:
		return best, best.Pattern.String()
	case bestScore == 10001, bestScore >= 2000 && bestScore < 10000:
		return best, t.String()
	}
	return best, t.Host
}

func drawLimits(t *rapid.T) []Limit {
	var limits []Limit
	for _, p := range rapid.SliceOfNDistinct(rapid.SampledFrom(somePatterns), 0, 10, rapid.ID[string]).Draw(t, "patterns") {
		l := rule(p, rapid.Int64Range(-1, 3).Draw(t, "connections"))
		l.Shared = l.Pattern.Wildcard() && rapid.Bool().Draw(t, "shared")
		limits = append(limits, l)
	}
	return limits
}

func TestMatchAndGoverningAgreeWithTheModel(t *testing.T) {
	targets := someTargets()
	rapid.Check(t, func(t *rapid.T) {
		limits := drawLimits(t)
		table := NewTable(1, 1, limits)
		governed := map[string]*Limit{}
		for _, target := range targets {
			want, wantKey := naiveMatch(limits, target)
			got, key := table.Match(target)
			if (got == nil) != (want == nil) || got != nil && *got != *want || key != HostConnections(wantKey) {
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
				if governed[name] == nil && table.Governing(HostConnections(name)) != nil {
					t.Fatalf("%q is governed, and no target gives it", name)
				}
			}
		}
		for _, p := range somePatterns {
			l, ok := table.Get(pattern(p))
			if got := table.Governing(HostConnections(p)); pattern(p).Wildcard() && (got != nil) != (ok && l.Shared) {
				t.Fatalf("%q is governed by %v", p, got)
			}
		}
	})
}

// manyRules is a table of n limits of all kinds, and targets that match them.
func manyRules(n int) (*Table, map[string]Target) {
	limits := make([]Limit, 0, n)
	for i := range n {
		p := ""
		switch i % 5 {
		case 0, 1:
			p = fmt.Sprintf("host%d.example.com", i)
		case 2:
			p = fmt.Sprintf("host%d.example.com:443", i)
		case 3:
			p = fmt.Sprintf("*.zone%d.example.org", i)
		case 4:
			p = fmt.Sprintf("10.%d.%d.0/%d", i>>16&0xff, i>>8&0xff, 16+i%17)
		}
		limits = append(limits, rule(p, 10))
	}
	slim := limits[:0]
	seen := map[Pattern]bool{}
	for _, l := range limits {
		if !seen[l.Pattern] {
			seen[l.Pattern] = true
			slim = append(slim, l)
		}
	}
	return NewTable(1, 1, append(slim, rule("*", 25), sharedRule("*.shared.example:443", 3))), map[string]Target{
		"exact":    target("host5.example.com:443"),
		"port":     target("host7.example.com:443"),
		"wildcard": target("a.b.c.zone8.example.org:443"),
		"shared":   target("a.shared.example:443"),
		"cidr":     target("10.0.0.77:80"),
		"any":      target("nothing.of.the.sort.test:80"),
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	table, targets := manyRules(100)
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
	with := NewTable(1, 1, []Limit{rule("*.b:443", 1)})
	to := target("a.b:443")
	if n := testing.AllocsPerRun(100, func() { with.Match(to) }); n > 1 {
		t.Errorf("a wildcard with a port: matching allocates %v times", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	table, targets := manyRules(100_000)
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
	table, _ := manyRules(100_000)
	b.ReportAllocs()
	for b.Loop() {
		NewTable(1, 1, table.Limits())
	}
}

// A key is direct where it counts every connection to its host, whatever the port: then the host's
// name alone finds it.
func TestDirect(t *testing.T) {
	table := NewTable(1, 1, []Limit{
		{Pattern: pattern("plain.org"), Connections: 1},
		{Pattern: pattern("port.org"), Connections: 1},
		{Pattern: pattern("port.org:443"), Connections: 1},
		{Pattern: pattern("*.wild.org"), Connections: 1},
		{Pattern: pattern("*.shared.org"), Connections: 1, Shared: true},
		{Pattern: pattern("*.ports.org:443"), Connections: 1},
		{Pattern: pattern("10.0.0.0/8"), Connections: 1},
	})
	for name, want := range map[string]bool{
		"plain.org": true, "port.org": false, "port.org:443": false, "a.wild.org": true, "a.shared.org": false, "*.shared.org": false,
		"a.b.ports.org": false, "10.1.2.3": true, "2001:db8::1": true, "free.org": true, "PLAIN.org": false, "10.0.0.0/8": false,
	} {
		if got := table.Direct(HostConnections(name)); got != want {
			t.Errorf("%s: direct %v, want %v", name, got, want)
		}
	}
}
