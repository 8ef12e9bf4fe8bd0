package limittest

import (
	"net/netip"
	"strings"

	"github.com/weirproxy/weir/limit"
)

// Scoped parses a pattern of a scope that the test knows to be right.
func Scoped(s limit.Scope, text string) limit.Pattern {
	p, err := s.ParsePattern(text)
	if err != nil {
		panic(err)
	}
	return p
}

// scopedPatterns overlap in every way, as [Patterns] of hosts do.
var scopedPatterns = map[limit.Scope][]string{
	limit.ScopeClient: {
		"*", "10.0.0.1", "10.0.0.2", "10.0.0.1/32", "10.0.0.0/31", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::1", "2001:db8::1/128", "2001:db8::/32", "::/0",
	},
	limit.ScopeUser:       {"*", "ann", "bob", "Bob", "a b", "ünal"},
	limit.ScopeKey:        {"*", "tenant/", "tenant/*", "tenant/a", "tenant/a*", "tenant/a/*", "t*", "GET /*", "ä*"},
	limit.ScopeTotal:      {""},
	limit.ScopeConnection: {""},
}

// AllPatterns are patterns of all scopes, [Patterns] included.
func AllPatterns() []limit.Pattern {
	var list []limit.Pattern
	for _, text := range Patterns {
		list = append(list, Pattern(text))
	}
	for _, scope := range limit.Scopes {
		for _, text := range scopedPatterns[scope] {
			list = append(list, Scoped(scope, text))
		}
	}
	return list
}

var (
	clientAddrs = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.9.9.9", "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db9::1", ""}
	userNames   = []string{"ann", "bob", "Bob", "BOB", "a b", "*", "carol", "ünal", ""}
	keyNames    = []string{"tenant/", "tenant/*", "tenant/a", "tenant/a/x", "tenant/ab", "tenant", "t", "*", "GET /x", "ähnlich", "other", "tenant/a*", "tenant/a/*", "t*", "GET /*", "ä*", ""}
)

// Subjects are matched by some of AllPatterns each, in every scope. The last ones are of nobody,
// and go nowhere.
func Subjects() []limit.Subject {
	targets := Targets()
	n := max(len(targets), len(clientAddrs), len(userNames), len(keyNames))
	list := make([]limit.Subject, 0, n+1)
	for i := range n {
		s := limit.Subject{
			Host: targets[i%len(targets)],
			User: userNames[i%len(userNames)],
			Key:  keyNames[i%len(keyNames)],
		}
		if text := clientAddrs[i%len(clientAddrs)]; text != "" {
			s.Client = limit.ClientOf(netip.MustParseAddr(text))
		}
		list = append(list, s)
	}
	return append(list, limit.Subject{})
}

// Find is the slow reference of [limit.Table.Find]: it scores every limit by the text of its
// pattern.
func Find(limits []limit.Limit, scope limit.Scope, s *limit.Subject) (*limit.Limit, string) {
	own := ""
	switch scope {
	case limit.ScopeHost:
		if s.Host.Host == "" {
			return nil, ""
		}
		return Match(ofScope(limits, scope), s.Host)
	case limit.ScopeClient:
		own = s.Client.Name
	case limit.ScopeUser:
		own = s.User
	case limit.ScopeKey:
		own = s.Key
	default: // one for everybody, whoever they are
		for i := range limits {
			if limits[i].Pattern.Scope() == scope {
				return &limits[i], ""
			}
		}
		return nil, ""
	}
	if own == "" {
		return nil, ""
	}
	var best *limit.Limit
	bestScore := 0
	for i := range limits {
		if limits[i].Pattern.Scope() != scope {
			continue
		}
		if score := scoreOf(scope, limits[i].Pattern.String(), own); score > bestScore {
			best, bestScore = &limits[i], score
		}
	}
	if best != nil && best.Shared {
		return best, best.Pattern.String()
	}
	return best, own
}

// scoreOf is how specific a pattern is to what it matches, and 0 where it doesn't.
func scoreOf(scope limit.Scope, pattern, own string) int {
	prefix, star := strings.CutSuffix(pattern, "*")
	switch {
	case pattern == "*":
		return 1
	case scope == limit.ScopeClient && strings.Contains(pattern, "/"):
		if p := netip.MustParsePrefix(pattern); p.Contains(netip.MustParseAddr(own)) {
			return 10 + p.Bits()
		}
		return 0
	case scope == limit.ScopeKey && star:
		if strings.HasPrefix(own, prefix) {
			return 10 + len(prefix)
		}
		return 0
	case pattern == own:
		return 10000
	}
	return 0
}

// ofScope are the limits of one scope.
func ofScope(limits []limit.Limit, scope limit.Scope) []limit.Limit {
	var list []limit.Limit
	for _, l := range limits {
		if l.Pattern.Scope() == scope {
			list = append(list, l)
		}
	}
	return list
}
