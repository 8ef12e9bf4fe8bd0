// Package limittest is for tests of what goes by limits: tables to draw from, and a slow reference
// that finds the limits of a connection by the text of their patterns.
package limittest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/weirproxy/weir/limit"
)

// Target parses a target that the test knows to be right.
func Target(s string) limit.Target {
	t, err := limit.ParseTarget(s, 0)
	if err != nil {
		panic(err)
	}
	return t
}

// Pattern parses a pattern that the test knows to be right.
func Pattern(s string) limit.Pattern {
	p, err := limit.ParsePattern(s)
	if err != nil {
		panic(err)
	}
	return p
}

// Rule is a limit of the API's on a host pattern.
func Rule(p string, connections int64) limit.Limit {
	return limit.Limit{Pattern: Pattern(p), Connections: connections, Source: limit.SourceAPI, ModifyIndex: 1}
}

// Shared is [Rule] where all that match share one count.
func Shared(p string, connections int64) limit.Limit {
	l := Rule(p, connections)
	l.Shared = true
	return l
}

var (
	// Patterns overlap in every way.
	Patterns = []string{
		"*", "a.x.org", "a.x.org:443", "x.org", "x.org:80", "*.x.org", "*.x.org:443", "*.org", "*.org:80", "*.a.x.org",
		"10.0.0.1", "10.0.0.1:80", "10.0.0.0/8", "10.0.0.0/31", "10.0.0.1/32", "0.0.0.0/0", "::1", "[::1]:443", "::/0", "::/64",
	}
	hosts = []string{"a.x.org", "b.x.org", "c.a.x.org", "x.org", "org", "other", "10.0.0.1", "10.0.0.2", "10.9.9.9", "::1", "2001:db8::1"}
	ports = []uint16{80, 443, 8080}
)

// Targets are matched by some of Patterns each.
func Targets() []limit.Target {
	var list []limit.Target
	for _, h := range hosts {
		for _, port := range ports {
			t, err := limit.ParseHost(h)
			if err != nil {
				panic(err)
			}
			t.Port = port
			list = append(list, t)
		}
	}
	return list
}

// Match is the slow reference of [limit.Table.Match]: it scores every limit by the text of its
// pattern.
func Match(limits []limit.Limit, t limit.Target) (*limit.Limit, string) {
	var best *limit.Limit
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

// Many is a table of n limits of all kinds, and targets that match them.
func Many(n int) (*limit.Table, map[string]limit.Target) {
	limits := make([]limit.Limit, 0, n)
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
		limits = append(limits, Rule(p, 10))
	}
	slim := limits[:0]
	seen := map[limit.Pattern]bool{}
	for _, l := range limits {
		if !seen[l.Pattern] {
			seen[l.Pattern] = true
			slim = append(slim, l)
		}
	}
	return limit.NewTable(1, 1, append(slim, Rule("*", 25), Shared("*.shared.example:443", 3))), map[string]limit.Target{
		"exact":    Target("host5.example.com:443"),
		"port":     Target("host7.example.com:443"),
		"wildcard": Target("a.b.c.zone8.example.org:443"),
		"shared":   Target("a.shared.example:443"),
		"cidr":     Target("10.0.0.77:80"),
		"any":      Target("nothing.of.the.sort.test:80"),
	}
}
