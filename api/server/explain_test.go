package server

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

// explainedLimit is what an explanation says of one limit.
type explainedLimit struct {
	scope, pattern, key string
	admitted            bool
}

// Of 10,000 random tables, subjects and uses, explain says what the slow reference says: which
// limit governs in each scope, under which name it counts, and whether it would let the subject in.
func TestExplainAgreesWithTheReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 13))
	n := newBench(t, Config{}, "a").nodes["a"]
	n.st.Session.State = "live"
	patterns, subjects := limittest.AllPatterns(), limittest.Subjects()
	admitted := 0
	for i := range 10_000 {
		var limits []limit.Limit
		for _, at := range rng.Perm(len(patterns))[:rng.IntN(16)] {
			l := limit.Limit{Pattern: patterns[at], Connections: limit.Unlimited, Source: limit.SourceAPI, ModifyIndex: 1, Report: rng.IntN(5) == 0}
			if l.Pattern.Scope() == limit.ScopeConnection {
				l.Bandwidth.Upload = 1 << 20
			} else {
				l.Connections, l.Shared = rng.Int64N(6), l.Pattern.Wildcard() && rng.IntN(2) == 0
			}
			limits = append(limits, l)
		}
		pick := func() *limit.Subject { return &subjects[rng.IntN(len(subjects))] }
		s := limit.Subject{Host: pick().Host, Client: pick().Client, User: pick().User, Key: pick().Key}
		if rng.IntN(2) == 0 {
			s.Key = ""
		}
		if s == (limit.Subject{}) {
			continue
		}
		want, uses := reference(rng, limits, &s)
		n.set(func() { n.table, n.uses = limit.NewTable(uint64(i+1), uint64(i+1), limits), uses })
		q := url.Values{}
		for name, text := range map[string]string{"host": hostText(s.Host), "client": s.Client.Name, "user": s.User, "key": s.Key} {
			if text != "" {
				q.Set(name, text)
			}
		}
		w := n.serve(n.server.Handler(), try{method: "GET", path: "/v1/explain?" + q.Encode()})
		if w.Code != 200 {
			t.Fatalf("%v: %d %s", q, w.Code, w.Body)
		}
		e := get[api.Explanation](t, w)
		got, all := []explainedLimit{}, true
		for _, g := range e.Limits {
			got = append(got, explainedLimit{g.Scope, g.Pattern, g.Key, g.Admitted})
			all = all && g.Admitted
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(explainedLimit{})); diff != "" || e.Admitted != all {
			t.Fatalf("%v, admitted %v (-want +got)\n%s\nby %+v", q, e.Admitted, diff, limits)
		}
		if len(want) > 0 && all {
			admitted++
		}
	}
	if admitted < 1000 || admitted > 9000 {
		t.Errorf("%d of 10,000 would be let in: it asks too little", admitted)
	}
}

func hostText(h limit.Target) string {
	if h.Host == "" {
		return ""
	}
	return h.String()
}

// reference is what is to be said, and uses that make it so.
func reference(rng *rand.Rand, limits []limit.Limit, s *limit.Subject) (want []explainedLimit, uses []NodeUse) {
	want = []explainedLimit{}
	for _, scope := range explained {
		l, name := limittest.Find(limits, scope, s)
		if l == nil || scope.Bare() && s.Host.Host == "" && s.Client.Name == "" && s.Key != "" { // a permit passes no proxy
			continue
		}
		u := NodeUse{Key: limit.Key{Scope: scope, Resource: limit.Connections, Name: name}, InUse: rng.Int64N(6), Waiting: rng.Int64N(8) / 7}
		if scope == limit.ScopeHost {
			u.Idle = rng.Int64N(u.InUse + 1)
		}
		uses = append(uses, u)
		busy := u.InUse - u.Idle // idle ones are closed for whoever waits
		free := l.Report || l.Connections == limit.Unlimited || busy < l.Connections && u.Waiting == 0
		want = append(want, explainedLimit{fmt.Sprint(scope), l.Pattern.String(), name, free})
	}
	return want, uses
}

// No user's name has a colon, so none is explained.
func TestExplainRefusesAColon(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	for _, q := range []string{"user=x:y", "host=x.org&user=x%3Ay", "user=:"} {
		refused(t, a.do(try{method: "GET", path: "/v1/explain?" + q}), 422, "has a colon, which no user's name has")
	}
	get[api.Explanation](t, a.do(try{method: "GET", path: "/v1/explain?user=x&key=x:y"}))
}

// A node without a session refuses what no byte could be moved for: explain says so. Bandwidth of
// each connection alone needs no lease, and that of a key is what programs take.
func TestExplainBandwidthWithoutASession(t *testing.T) {
	n := newBench(t, Config{}, "a").nodes["a"]
	for _, scope := range explained {
		text := map[limit.Scope]string{limit.ScopeHost: "up.example", limit.ScopeClient: "*", limit.ScopeUser: "*", limit.ScopeKey: "*"}[scope]
		pattern, err := scope.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		l := limit.Limit{Pattern: pattern, Connections: limit.Unlimited, Bandwidth: limit.Bandwidth{Download: 1 << 20}, Source: limit.SourceAPI, ModifyIndex: 1}
		leased := scope != limit.ScopeConnection && scope != limit.ScopeKey
		for _, report := range []bool{false, true} {
			for _, state := range []string{"live", "fenced", "none"} {
				l.Report = report
				n.set(func() { n.table, n.st.Session.State = limit.NewTable(1, 1, []limit.Limit{l}), state })
				q := "host=up.example&client=10.0.0.1&user=u&key=k"
				e := get[api.Explanation](t, n.serve(n.server.Handler(), try{method: "GET", path: "/v1/explain?" + q}))
				want := !leased || report || state == "live"
				if len(e.Limits) != 1 || e.Limits[0].Admitted != want || e.Admitted != want || (e.Limits[0].Reason == "") != want {
					t.Errorf("scope %s, report %v, session %s: %+v; want it let in: %v", scope, report, state, e, want)
				}
			}
		}
	}
}

// A node that goes on without a session with what it holds is judged by that alone.
func TestExplainUnitsKept(t *testing.T) {
	n := newBench(t, Config{KeepsUnits: true}, "a").nodes["a"]
	key := limit.Key{Scope: limit.ScopeHost, Resource: limit.Connections, Name: "up.example"}
	pattern, err := limit.ParsePattern("up.example")
	if err != nil {
		t.Fatal(err)
	}
	rate, err := limit.ParseRate("10/s", 10)
	if err != nil {
		t.Fatal(err)
	}
	slots := limit.Limit{Pattern: pattern, Connections: 5, Source: limit.SourceAPI, ModifyIndex: 1}
	tokens := limit.Limit{Pattern: pattern, Connections: limit.Unlimited, Requests: rate, Source: limit.SourceAPI, ModifyIndex: 1}
	bytes := limit.Limit{Pattern: pattern, Connections: limit.Unlimited, Bandwidth: limit.Bandwidth{Upload: 1 << 20, Download: 1 << 20}, Source: limit.SourceAPI, ModifyIndex: 1}
	held := func(r ...limit.Resource) NodeUse {
		u := NodeUse{Key: key, Rates: map[limit.Resource]NodeRate{}}
		for _, r := range r {
			u.Rates[r] = NodeRate{Granted: 1, Available: 1}
		}
		return u
	}
	for name, c := range map[string]struct {
		limit  limit.Limit
		use    NodeUse
		state  string
		reason string // "": it is let in
	}{
		"a slot in hand":        {slots, NodeUse{Key: key, Granted: 2, InUse: 1}, "fenced", ""},
		"all slots in use":      {slots, NodeUse{Key: key, Granted: 2, InUse: 2}, "fenced", "holds no free slot"},
		"no slot":               {slots, NodeUse{Key: key}, "fenced", "holds no free slot"},
		"somebody waits":        {slots, NodeUse{Key: key, Granted: 2, InUse: 1, Waiting: 1}, "fenced", "holds no free slot"},
		"never in a session":    {slots, NodeUse{Key: key, Granted: 2}, "none", "has no live session with the cluster"},
		"in session":            {slots, NodeUse{Key: key}, "live", ""},
		"a token in hand":       {tokens, held(limit.Requests), "fenced", ""},
		"no token":              {tokens, held(), "fenced", "holds no token"},
		"bandwidth":             {bytes, held(limit.Upload, limit.Download), "fenced", ""},
		"no bandwidth":          {bytes, held(), "fenced", "holds no part of the bandwidth"},
		"bandwidth of one side": {bytes, held(limit.Upload), "fenced", "holds no part of the bandwidth"},
	} {
		n.set(func() {
			n.table, n.uses, n.st.Session.State = limit.NewTable(1, 1, []limit.Limit{c.limit}), []NodeUse{c.use}, c.state
		})
		e := get[api.Explanation](t, n.serve(n.server.Handler(), try{method: "GET", path: "/v1/explain?host=up.example"}))
		if len(e.Limits) != 1 || e.Admitted != (c.reason == "") || !strings.HasSuffix(e.Limits[0].Reason, c.reason) || e.Admitted == (e.Limits[0].Reason != "") {
			t.Errorf("%s: %+v; want the reason %q", name, e, c.reason)
		}
	}
}
