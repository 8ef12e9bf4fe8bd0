package server

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

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
	b := newBench(t, Config{}, "a", "b", "c")
	a := b.nodes["a"]
	a.st.Session.State = "live"
	patterns, subjects := limittest.AllPatterns(), limittest.Subjects()
	admitted, byToken, noToken := 0, 0, 0
	for i := range 10_000 {
		var limits []limit.Limit
		for _, at := range rng.Perm(len(patterns))[:rng.IntN(16)] {
			limits = append(limits, randomLimit(rng, patterns[at]))
		}
		pick := func() *limit.Subject { return &subjects[rng.IntN(len(subjects))] }
		s := limit.Subject{Host: pick().Host, Client: pick().Client, User: pick().User, Key: pick().Key}
		if rng.IntN(2) == 0 {
			s.Key = ""
		}
		if s == (limit.Subject{}) {
			continue
		}
		said := newReference(rng, limits, &s)
		for name, n := range b.nodes {
			n.set(func() {
				n.table, n.uses, n.unassigned = limit.NewTable(uint64(i+1), uint64(i+1), limits), said.uses[name], said.unassigned
			})
		}
		q := url.Values{}
		for name, text := range map[string]string{"host": hostText(s.Host), "client": s.Client.Name, "user": s.User, "key": s.Key} {
			if text != "" {
				q.Set(name, text)
			}
		}
		w := a.serve(a.server.Handler(), try{method: "GET", path: "/v1/explain?" + q.Encode()})
		if w.Code != 200 {
			t.Fatalf("%v: %d %s", q, w.Code, w.Body)
		}
		e := get[api.Explanation](t, w)
		got, all := []explainedLimit{}, true
		for _, g := range e.Limits {
			got = append(got, explainedLimit{g.Scope, g.Pattern, g.Key, g.Admitted})
			all = all && g.Admitted
		}
		if diff := cmp.Diff(said.want, got, cmp.AllowUnexported(explainedLimit{})); diff != "" || e.Admitted != all || len(e.Unreachable) > 0 {
			t.Fatalf("%v, admitted %v (-want +got)\n%s\nby %+v\nof %+v", q, e.Admitted, diff, limits, said)
		}
		if len(said.want) > 0 && all {
			admitted++
		}
		byToken, noToken = byToken+said.fetched, noToken+said.usedUp
	}
	if admitted < 1000 || admitted > 9000 || byToken < 1000 || noToken < 1000 {
		t.Errorf("%d of 10,000 would be let in, %d tokens be fetched, and %d not: it asks too little", admitted, byToken, noToken)
	}
}

// randomLimit caps connections, requests or both, and only bandwidth where nothing else can be.
func randomLimit(rng *rand.Rand, p limit.Pattern) limit.Limit {
	l := limit.Limit{Pattern: p, Connections: limit.Unlimited, Source: limit.SourceAPI, ModifyIndex: 1, Report: rng.IntN(5) == 0}
	if p.Scope() == limit.ScopeConnection {
		l.Bandwidth.Upload = 1 << 20
		return l
	}
	l.Shared = p.Wildcard() && rng.IntN(2) == 0
	which := rng.IntN(3)
	if which != 0 {
		l.Connections = rng.Int64N(6)
	}
	if which != 1 {
		l.Requests = limit.Rate{Thousandths: 10_000, Per: time.Second, Burst: 10}
	}
	return l
}

func hostText(h limit.Target) string {
	if h.Host == "" {
		return ""
	}
	return h.String()
}

// reference is what is to be said, and uses of each node that make it so.
type reference struct {
	want       []explainedLimit
	uses       map[string][]NodeUse
	unassigned map[limit.Key]float64
	// fetched and usedUp count the rates of which the node has no token, by whether it can fetch one.
	fetched, usedUp int
}

func newReference(rng *rand.Rand, limits []limit.Limit, s *limit.Subject) *reference {
	ref := &reference{want: []explainedLimit{}, uses: map[string][]NodeUse{}, unassigned: map[limit.Key]float64{}}
	for _, scope := range explained {
		l, name := limittest.Find(limits, scope, s)
		if l == nil || scope.Bare() && s.Host.Host == "" && s.Client.Name == "" && s.Key != "" { // a permit passes no proxy
			continue
		}
		key := limit.Key{Scope: scope, Resource: limit.Connections, Name: name}
		slot, token := ref.drawSlots(rng, key, l), true
		if l.Requests != (limit.Rate{}) {
			token = ref.drawTokens(rng, key)
		}
		ref.want = append(ref.want, explainedLimit{fmt.Sprint(scope), l.Pattern.String(), name, l.Report || slot && token})
	}
	return ref
}

// drawSlots draws the nodes' connections under a key, and reports whether one more would be let in.
func (ref *reference) drawSlots(rng *rand.Rand, key limit.Key, l *limit.Limit) bool {
	busy, waiting := int64(0), int64(0)
	for _, node := range []string{"a", "b", "c"} {
		u := NodeUse{Key: key, InUse: rng.Int64N(3), Waiting: rng.Int64N(20) / 19}
		if key.Scope == limit.ScopeHost {
			u.Idle = rng.Int64N(u.InUse + 1)
		}
		busy, waiting = busy+u.InUse-u.Idle, waiting+u.Waiting // idle ones are closed for whoever waits
		ref.uses[node] = append(ref.uses[node], u)
	}
	return l.Connections == limit.Unlimited || busy < l.Connections && waiting == 0
}

// drawTokens gives the nodes' uses under a key, the last ones, parts of tokens, counted in tenths,
// and reports whether node a has a whole one or can fetch it: from units that no node holds, and
// from nodes that let no request begin lately.
func (ref *reference) drawTokens(rng *rand.Rand, key limit.Key) bool {
	level := func() int { return max(0, rng.IntN(20)-8) }
	waiting, own, ownWaiting, reach := int64(0), 0, int64(0), 0
	for _, node := range []string{"a", "b", "c"} {
		tenths, draws := level(), rng.IntN(2) == 0
		r := NodeRate{Granted: 1, Available: float64(tenths) / 10, Waiting: rng.Int64N(20) / 19}
		if draws {
			r.Now = 0.5
		}
		waiting += r.Waiting
		switch {
		case node == "a":
			own, ownWaiting, reach = tenths, r.Waiting, reach+tenths
		case !draws:
			reach += tenths
		}
		uses := ref.uses[node]
		uses[len(uses)-1].Rates = map[limit.Resource]NodeRate{limit.Requests: r}
	}
	free := level()
	key.Resource = limit.Requests
	ref.unassigned[key] = float64(free) / 10
	reach += free
	switch {
	case own >= 10 && ownWaiting == 0:
		return true
	case waiting > 0:
		return false
	case reach >= 10:
		ref.fetched++
		return true
	}
	ref.usedUp++
	return false
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

// Who is over a limit with a queue would wait, and for nothing else that is in the way.
func TestExplainWaits(t *testing.T) {
	b := newBench(t, Config{}, "a")
	keeps := newBench(t, Config{KeepsUnits: true}, "a").nodes["a"]
	key := limit.Key{Scope: limit.ScopeHost, Resource: limit.Connections, Name: "up.example"}
	pattern, err := limit.ParsePattern("up.example")
	if err != nil {
		t.Fatal(err)
	}
	rate, err := limit.ParseRate("10/s", 10)
	if err != nil {
		t.Fatal(err)
	}
	queue := limit.Queue{Timeout: time.Second, Size: 3}
	slots := limit.Limit{Pattern: pattern, Connections: 2, Queue: queue, Source: limit.SourceAPI, ModifyIndex: 1}
	blocked, tokens, bytes, none := slots, slots, slots, slots
	blocked.Connections = 0
	tokens.Connections, tokens.Requests = limit.Unlimited, rate
	bytes.Bandwidth.Upload = 1 << 20
	none.Queue = limit.Queue{}
	full := NodeUse{Key: key, Granted: 2, InUse: 2}
	for name, c := range map[string]struct {
		node     *benchNode
		limit    limit.Limit
		use      NodeUse
		state    string
		admitted bool
		waits    bool
	}{
		"let in":                         {b.nodes["a"], slots, NodeUse{Key: key}, "live", true, false},
		"all slots in use":               {b.nodes["a"], slots, full, "live", false, true},
		"others wait":                    {b.nodes["a"], slots, NodeUse{Key: key, Waiting: 1}, "live", false, true},
		"no token":                       {b.nodes["a"], tokens, NodeUse{Key: key}, "live", false, true},
		"no queue":                       {b.nodes["a"], none, full, "live", false, false},
		"blocked":                        {b.nodes["a"], blocked, NodeUse{Key: key}, "live", false, false},
		"no session":                     {b.nodes["a"], slots, NodeUse{Key: key}, "none", false, false},
		"fenced":                         {b.nodes["a"], slots, full, "fenced", false, false},
		"fenced, with no slot left":      {keeps, slots, full, "fenced", false, true},
		"fenced, with no token left":     {keeps, tokens, NodeUse{Key: key}, "fenced", false, true},
		"fenced, with no bandwidth left": {keeps, bytes, NodeUse{Key: key, Granted: 2}, "fenced", false, false},
	} {
		c.node.set(func() {
			c.node.table, c.node.uses, c.node.st.Session.State = limit.NewTable(1, 1, []limit.Limit{c.limit}), []NodeUse{c.use}, c.state
		})
		e := get[api.Explanation](t, c.node.serve(c.node.server.Handler(), try{method: "GET", path: "/v1/explain?host=up.example"}))
		if len(e.Limits) != 1 || e.Limits[0].Admitted != c.admitted || e.Limits[0].Waits != c.waits {
			t.Errorf("%s: %+v; want it let in: %v, and to wait: %v", name, e.Limits, c.admitted, c.waits)
		}
	}
}
