package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

func TestWriteThroughAnyNodeIsVisibleThere(t *testing.T) {
	b := newBench(t, Config{Token: "secret"}, "a", "b", "c")
	auth := map[string]string{"Authorization": "Bearer secret"}
	for i, name := range []string{"a", "b", "c"} {
		k := put("10.0.0.0/8", five)
		k.header = auth
		if i == 2 { // also one that changes nothing
			b.nodes["a"].do(k)
		}
		get[api.LimitWritten](t, b.nodes[name].do(k))
		get[api.Limit](t, b.nodes[name].do(try{method: "GET", path: k.path, header: auth}))
	}
	asked := b.nodes["a"].asked
	if len(asked) != 2 {
		t.Fatalf("the leader was asked %d times", len(asked))
	}
	r := asked[0]
	if r.Header.Get(headerForwarded) != "b" || r.Header.Get("Authorization") != "" || r.URL.EscapedPath() != pathLimit+"10.0.0.0%2F8" {
		t.Errorf("forwarded as %s %v", r.URL, r.Header)
	}
	k := try{method: "DELETE", path: pathLimit + "10.0.0.0%2F8", header: auth}
	get[api.LimitDeleted](t, b.nodes["c"].do(k))
	refused(t, b.nodes["c"].do(try{method: "GET", path: k.path, header: auth}), 404, "")
}

func TestLeadersRefusalIsPassedOn(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	refused(t, b.nodes["b"].do(try{method: "DELETE", path: pathLimit + "x.org"}), 404, "no such limit")
	b.nodes["a"].set(func() { b.nodes["a"].propose = ErrDiskFull })
	p := refused(t, b.nodes["b"].do(put("x.org", five)), 507, "disk is full")
	if p.Code != "disk_full" {
		t.Error(p.Code)
	}
}

func TestForwardedOnceOnly(t *testing.T) {
	b := newBench(t, Config{}, "a", "b", "c")
	k := put("x.org", five)
	k.header = map[string]string{headerForwarded: "c"}
	w := b.nodes["b"].serve(b.nodes["b"].server.PeerHandler(), k)
	refused(t, w, 503, "not the leader")
	if w.Header().Get(headerNotLeader) == "" || len(b.nodes["a"].asked) != 0 {
		t.Error("a peer's request was sent on")
	}
	dry := try{method: "PUT", path: api.PathLimits + "?dry_run=true", body: `{"limits":[]}`}
	refused(t, b.nodes["b"].serve(b.nodes["b"].server.PeerHandler(), dry), 503, "not the leader")
	// From a client the mark means nothing.
	get[api.LimitWritten](t, b.nodes["b"].do(k))
}

func TestPeersSeeOnlyTheirPart(t *testing.T) {
	a := newBench(t, Config{Token: "secret"}, "a").nodes["a"]
	peer := func(k try) int { return a.serve(a.server.PeerHandler(), k).Code }
	if got := peer(try{method: "GET", path: api.PathLimits, host: "peer"}); got != 200 {
		t.Errorf("limits: %d", got)
	}
	for _, path := range []string{"/v1/drain", "/v1/leave", "/v1/reload"} {
		if got := peer(try{method: "POST", path: path}); got != 404 {
			t.Errorf("%s: %d", path, got)
		}
	}
	if got := peer(try{method: "PUT", path: api.PathLimits, body: `{"limits":[]}`, header: map[string]string{"Content-Type": "text/plain"}}); got != 415 {
		t.Errorf("media type: %d", got)
	}
	auth := map[string]string{"Authorization": "Bearer secret"}
	if got := a.do(try{method: "PUT", path: pathConfigLimits, body: `{"limits":[]}`, header: auth}).Code; got != 404 {
		t.Errorf("config limits from a client: %d", got)
	}
}

func TestNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{WriteTimeout: 4 * time.Second}, "a", "b")
		b.elect("")
		start := time.Now()
		refused(t, b.nodes["b"].do(put("x.org", five)), 503, "no leader")
		if took := time.Since(start); took != 4*time.Second {
			t.Errorf("took %v", took)
		}
		start = time.Now()
		refused(t, b.nodes["b"].do(put("x.org", `{"connections":-1}`)), 422, "")
		get[api.Limits](t, b.nodes["b"].do(try{method: "GET", path: api.PathLimits}))
		if took := time.Since(start); took != 0 {
			t.Errorf("nonsense and reads waited %v for a leader", took)
		}
	})
}

// Each case is a write during trouble, at node b; the leader is a, and after 1 s c.
func TestTrouble(t *testing.T) {
	type nodes = map[string]*benchNode
	cond := map[string]string{"If-Match": "*"}
	remove := try{method: "DELETE", path: pathLimit + "x.org"}
	for name, c := range map[string]struct {
		trouble func(nodes)
		k       try
		status  int
		applied int // how often
	}{
		"nobody leads, PUT":              {func(n nodes) { n["a"].b.elect("") }, put("x.org", five), 200, 1},
		"nobody leads, DELETE":           {func(n nodes) { n["a"].b.elect("") }, remove, 200, 1},
		"the leader is gone, PUT":        {func(n nodes) { n["a"].down = true }, put("x.org", five), 200, 1},
		"the leader is gone, DELETE":     {func(n nodes) { n["a"].down = true }, remove, 200, 1},
		"the leader was deposed, DELETE": {func(n nodes) { n["a"].deposed = true }, remove, 200, 1},
		"this node was deposed, DELETE":  {func(n nodes) { n["b"].deposed = true; n["b"].b.elect("c") }, remove, 503, 0},
		"lost on the way, PUT":           {func(n nodes) { n["a"].lose, n["a"].lostRoute = 1, true }, put("x.org", five), 200, 1},
		"lost on the way back, PUT":      {func(n nodes) { n["a"].lose = 1 }, put("x.org", five), 200, 2},
		"lost for ever, PUT":             {func(n nodes) { n["a"].lose, n["c"].lose = 1e6, 1e6 }, put("x.org", five), 504, -1},
		"lost, then nobody, PUT": {func(n nodes) {
			n["a"].lose, n["c"].down = 1, true
			n["a"].deposed = true
		}, put("x.org", five), 504, 0},
		"lost on the way, DELETE":               {func(n nodes) { n["a"].lose, n["a"].lostRoute = 1, true }, remove, 504, 0},
		"lost on the way back, DELETE":          {func(n nodes) { n["a"].lose = 1 }, remove, 504, 1},
		"lost on the way back, conditional PUT": {func(n nodes) { n["a"].lose = 1 }, try{method: "PUT", path: remove.path, body: five, header: cond}, 504, 1},
		"unknown at the leader, PUT":            {func(n nodes) { n["a"].propose = ErrOutcomeUnknown }, put("x.org", five), 504, 0},
		"commit outlasts the wait, PUT":         {func(n nodes) { n["a"].propose = context.DeadlineExceeded }, put("x.org", five), 504, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Config{WriteTimeout: 5 * time.Second}, "a", "b", "c")
				p, _ := limit.ParsePattern("x.org")
				b.apply(&fsm.PutLimit{Limit: limit.Limit{Pattern: p, Connections: 9, Source: limit.SourceAPI}})
				b.see()
				before := b.index
				c.trouble(b.nodes)
				go func() {
					time.Sleep(time.Second) // virtual: the election's length
					b.elect("c")
				}()
				w := b.nodes["b"].do(c.k)
				if c.status == 200 {
					get[map[string]any](t, w)
				} else {
					refused(t, w, c.status, "")
				}
				if applied := int(b.index - before); c.applied >= 0 && applied != c.applied {
					t.Errorf("applied %d times, not %d", applied, c.applied)
				}
				time.Sleep(time.Second)
			})
		})
	}
}

// A write is repeated after an unknown outcome only if that can't undo what others have written
// meanwhile.
func TestARepeatedWriteUndoesNothing(t *testing.T) {
	one := put("x.org", `{"connections":5}`)
	all := try{method: "PUT", path: api.PathLimits, body: `{"limits":[{"pattern":"x.org","connections":5}]}`}
	for name, c := range map[string]struct {
		k         try
		meanwhile func(*bench) // after the first attempt, whose answer is lost
		status    int
		want      int64 // connections in the end; -1: no limit
	}{
		"nothing":                       {one, func(*bench) {}, 200, 5},
		"another value":                 {one, func(b *bench) { b.put("x.org", 7) }, 504, 7},
		"the same value":                {one, func(b *bench) { b.put("x.org", 7); b.put("x.org", 5) }, 200, 5},
		"a delete":                      {one, func(b *bench) { b.remove("x.org") }, 504, -1},
		"another limit":                 {one, func(b *bench) { b.put("y.org", 7) }, 200, 5},
		"nothing, to all":               {all, func(*bench) {}, 200, 5},
		"another value, to all":         {all, func(b *bench) { b.put("x.org", 7) }, 504, 7},
		"another value, and then again": {all, func(b *bench) { b.put("x.org", 7); b.put("x.org", 5) }, 200, 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Config{WriteTimeout: 5 * time.Second}, "a", "b", "c")
				b.nodes["a"].lose = 1
				go func() {
					time.Sleep(retryFirst / 2) // virtual: between the attempts
					c.meanwhile(b)
				}()
				if w := b.nodes["b"].do(c.k); w.Code != c.status {
					t.Errorf("it answers %d: %s", w.Code, w.Body)
				}
				time.Sleep(time.Second)
				p, _ := limit.ParsePattern("x.org")
				got := int64(-1)
				if l, ok := b.tableNow().Get(p); ok {
					got = l.Connections
				}
				if got != c.want {
					t.Errorf("x.org has %d connections in the end; want %d", got, c.want)
				}
			})
		})
	}
}

// A leader whose connections hang takes nobody's whole time: a PUT is sent to the next one.
func TestFrozenLeader(t *testing.T) {
	for _, c := range []struct {
		k      try
		status int
	}{
		{put("x.org", five), 200},
		{try{method: "DELETE", path: pathLimit + "x.org"}, 504},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Config{}, "a", "b", "c")
			b.put("x.org", 9)
			b.see()
			b.nodes["a"].hang = true
			go func() {
				time.Sleep(time.Second)
				b.elect("c")
			}()
			if w := b.nodes["b"].do(c.k); w.Code != c.status {
				t.Errorf("%s: %d %s", c.k.method, w.Code, w.Body)
			}
		})
	}
}

// Over a real transport, what never got a connection was not sent, also when the time for dialling
// ran out.
func TestNeverSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		defer close(over)
		hang := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			<-over
			return nil, net.ErrClosed
		}}
		cut := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				_, _ = far.Read(make([]byte, 10))
				_ = far.Close()
			}()
			return near, nil
		}}
		for _, c := range []struct {
			rt      http.RoundTripper
			notSent bool
		}{{hang, true}, {cut, false}} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			r, _ := http.NewRequestWithContext(ctx, "DELETE", "http://leader/", nil)
			res, err := roundTrip(c.rt, r)
			if err == nil {
				_ = res.Body.Close()
			}
			if err == nil || errors.Is(err, errNotSent) != c.notSent {
				t.Errorf("%v, want not sent: %v", err, c.notSent)
			}
			cancel()
		}
	})
}

func TestNotVisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, "a", "b")
		b.nodes["b"].stuck = true
		p := refused(t, b.nodes["b"].do(put("x.org", five)), 504, "committed")
		if p.Code != "not_visible" || p.Index != b.index {
			t.Errorf("%+v", p)
		}
	})
}

func TestReplaceConfigLimits(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	star, _ := limit.ParsePattern("*")
	ls := []limit.Limit{{Pattern: star, Connections: 25, Queue: limit.Queue{Timeout: time.Second, Size: 3}}}
	for _, name := range []string{"b", "a"} {
		ls[0].Queue.Size++
		changed, err := b.nodes[name].server.ReplaceConfigLimits(t.Context(), ls)
		if err != nil || !changed {
			t.Fatal(changed, err)
		}
		got, ok := b.nodes[name].Table().Get(star)
		if !ok || got.Source != limit.SourceConfig || got.Queue != ls[0].Queue || got.Connections != 25 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	ls[0].Connections = 1 << 60
	if _, err := b.nodes["b"].server.ReplaceConfigLimits(t.Context(), ls); !errors.Is(err, limit.ErrInvalid) {
		t.Error(err)
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{}, "a")
		b.elect("")
		if _, err := b.nodes["a"].server.ReplaceConfigLimits(t.Context(), nil); !errors.Is(err, ErrNoLeader) {
			t.Error(err)
		}
	})
}

// TestSameConfigLimitsAreNotWritten: a reload that changes nothing leaves the log as it is, unless
// the leader can't be sure that it compares with the newest limits.
func TestSameConfigLimitsAreNotWritten(t *testing.T) {
	limits := func(connections int64, patterns ...string) (ls []limit.Limit) {
		for _, p := range patterns {
			ls = append(ls, limit.Limit{Pattern: mustPattern(t, p), Connections: connections})
		}
		return ls
	}
	b := newBench(t, Config{}, "a", "b")
	replace := func(node string, ls []limit.Limit) (changed bool, entries uint64) {
		t.Helper()
		before := b.index
		changed, err := b.nodes[node].server.ReplaceConfigLimits(t.Context(), ls)
		if err != nil {
			t.Fatal(err)
		}
		return changed, b.index - before
	}
	for _, step := range []struct {
		what    string
		node    string
		limits  []limit.Limit
		changed bool
		entries uint64
	}{
		{"none, and there are none", "a", nil, false, 0},
		{"the first", "b", limits(5, "x.org", "y.org"), true, 1},
		{"the same through a follower", "b", limits(5, "x.org", "y.org"), false, 0},
		{"the same through the leader", "a", limits(5, "x.org", "y.org"), false, 0},
		{"the same in another order", "a", limits(5, "y.org", "x.org"), false, 0},
		{"another value", "a", limits(6, "x.org", "y.org"), true, 1},
		{"one less", "a", limits(6, "x.org"), true, 1},
		{"another pattern", "b", limits(6, "z.org"), true, 1},
		{"no more", "b", nil, true, 1},
	} {
		if changed, entries := replace(step.node, step.limits); changed != step.changed || entries != step.entries {
			t.Errorf("%s: changed %v with %d entries, want %v with %d", step.what, changed, entries, step.changed, step.entries)
		}
	}
	replace("a", limits(5, "x.org"))
	b.nodes["a"].set(func() { b.nodes["a"].unsure = true })
	if changed, entries := replace("b", limits(5, "x.org")); changed || entries != 1 {
		t.Errorf("a leader that is not sure: changed %v with %d entries, want one entry that changes nothing", changed, entries)
	}
	b.put("x.org", 9) // covers the config's
	b.nodes["a"].set(func() { b.nodes["a"].unsure = false })
	if changed, entries := replace("b", limits(5, "x.org")); changed || entries != 0 {
		t.Errorf("a limit of the API's covers it: changed %v with %d entries", changed, entries)
	}
}

func TestNodesAreTheLeadersView(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	in := api.Duration(8200400 * time.Microsecond)
	b.nodes["a"].members = []api.Node{{Name: "b", Session: "live"}, {Name: "a", Leader: true, ReclaimIn: &in}}
	b.nodes["b"].members = []api.Node{{Name: "b"}}
	got := get[api.Nodes](t, b.nodes["b"].do(try{method: "GET", path: "/v1/nodes"}))
	if got.View != "a" || len(got.Nodes) != 2 || got.Nodes[0].Name != "a" || got.Nodes[0].ReclaimIn.String() != "8.2s" || got.Nodes[1].ReclaimIn != nil {
		t.Errorf("%+v", got)
	}
	b.nodes["a"].set(func() { b.nodes["a"].down = true })
	if got := get[api.Nodes](t, b.nodes["b"].do(try{method: "GET", path: "/v1/nodes"})); got.View != "b" || len(got.Nodes) != 1 {
		t.Errorf("without the leader: %+v", got)
	}
	b.elect("")
	get[api.Nodes](t, b.nodes["b"].do(try{method: "GET", path: "/v1/nodes"}))
	refused(t, b.nodes["b"].do(try{method: "GET", path: "/v1/nodes?x=1"}), 400, "")
}

func TestRaft(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	a, n := b.nodes["a"], b.nodes["b"]
	peers := get[api.RaftPeers](t, n.do(try{method: "GET", path: "/v1/raft/peers"}))
	if len(peers.Peers) != 2 || peers.Peers[0].Name != "a" || len(a.asked) != 0 {
		t.Errorf("%+v", peers)
	}
	n.proxy = true
	get[api.RaftPeers](t, n.do(try{method: "GET", path: "/v1/raft/peers"}))
	if len(a.asked) != 1 {
		t.Error("a proxy didn't ask the leader")
	}
	removed := n.do(try{method: "DELETE", path: "/v1/raft/peers/c"})
	if got := get[api.RaftPeerRemoved](t, removed); got.Index != 17 || got.Removed != "c" || removed.Header().Get(api.HeaderIndex) != "17" {
		t.Errorf("%+v, %v", got, removed.Header())
	}
	get[api.RaftTransferred](t, n.do(try{method: "POST", path: "/v1/raft/transfer"}))
	if got := get[api.RaftTransferred](t, n.do(try{method: "POST", path: "/v1/raft/transfer", body: `{"to":"b"}`})); got.From != "a" || got.To != "b" {
		t.Errorf("%+v", got)
	}
	if want := []string{"remove c", "transfer ", "transfer b"}; !slices.Equal(a.began, want) {
		t.Errorf("%q", a.began)
	}
	refused(t, n.do(try{method: "POST", path: "/v1/raft/transfer", body: `{"too":"b"}`}), 400, "too")
	refused(t, n.do(try{method: "POST", path: "/v1/raft/transfer", body: `{"to":5}`}), 422, "to")
	a.raftErr = ErrConflict
	refused(t, n.do(try{method: "DELETE", path: "/v1/raft/peers/c"}), 409, "")
	b.elect("")
	refused(t, n.do(try{method: "GET", path: "/v1/raft/peers"}), 503, "no leader")
}

func TestForwardedAnswerIsBounded(t *testing.T) {
	s := newBench(t, Config{}, "a").nodes["a"].server
	body := &endless{}
	rt := roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body}, nil
	})
	r, _ := http.NewRequest("GET", "/v1/nodes", nil)
	if _, err := s.forward(t.Context(), rt, r, nil); err == nil || !body.closed {
		t.Errorf("%v, closed: %v", err, body.closed)
	}
}

// endless is a body without an end.
type endless struct{ closed bool }

func (e *endless) Read(b []byte) (int, error) { return len(b), nil }

func (e *endless) Close() error { e.closed = true; return nil }
