package server

import (
	"fmt"
	"math/rand/v2"
	"net/url"
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
		uses = append(uses, u)
		free := l.Report || l.Connections == limit.Unlimited || u.InUse < l.Connections && u.Waiting == 0
		want = append(want, explainedLimit{fmt.Sprint(scope), l.Pattern.String(), name, free})
	}
	return want, uses
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
