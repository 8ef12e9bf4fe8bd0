package server

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/weirproxy/weir/api"
)

func TestStatus(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	a.st.Cluster = "1f3a"
	a.st.Session = api.SessionStatus{ID: 7, State: "live", ExpiresIn: api.Duration(8123456789)}
	a.st.Raft = api.RaftStatus{State: "leader", Term: 2, LastIndex: 9, CommitIndex: 8, AppliedIndex: 7}
	w := a.do(try{method: "GET", path: "/v1/status"})
	want := `{"node":"a","cluster":"1f3a","version":"v1","role":"server","leader":"a","ready":true,` +
		`"session":{"id":7,"state":"live","expires_in":"8.123s"},` +
		`"raft":{"state":"leader","term":2,"last_index":9,"commit_index":8,"applied_index":7},` +
		`"config_disagreements":[],"draining":false,"leaving":false,"left":false,"connections":0,"proxy_addr":"","proxy_addrs":[],"proxy_protocols":[],"api_addr":"","resolving_clients":[],"disk_full":false,"disk_stalled":false}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Error(diff)
	}
	refused(t, a.do(try{method: "GET", path: "/v1/status?x"}), 400, "")
}

func TestHealth(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	get[api.Health](t, a.do(try{method: "GET", path: "/healthz"}))
	get[api.Health](t, a.do(try{method: "GET", path: "/readyz"}))
	a.notReady = "no session with the cluster"
	get[api.Health](t, a.do(try{method: "GET", path: "/healthz"}))
	refused(t, a.do(try{method: "GET", path: "/readyz"}), 503, "no session")
}

func TestConnections(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	now := time.Now()
	a.list = []api.Connection{
		{ID: "2", Host: "x.org", Port: 443, Protocol: "connect", Client: "10.0.0.1:5", Since: now, BytesIn: 3, BytesOut: 4, Limited: true},
		{ID: "1/ü", Host: "y.org", Since: now.Add(-time.Minute)},
	}
	all := get[api.ConnectionList](t, a.do(try{method: "GET", path: "/v1/connections"}))
	if len(all.Connections) != 2 || all.Connections[0].ID != "1/ü" || time.Duration(all.Connections[0].Age) < time.Minute {
		t.Errorf("%+v", all)
	}
	for _, c := range get[struct{ Connections []map[string]any }](t, a.do(try{method: "GET", path: "/v1/connections"})).Connections {
		if user, ok := c["user"]; !ok || user != "" {
			t.Errorf("the user of a connection without one: %v", c)
		}
	}
	some := get[api.ConnectionList](t, a.do(try{method: "GET", path: "/v1/connections?host=X.org."}))
	if len(some.Connections) != 1 || some.Connections[0].ID != "2" || some.Connections[0].BytesIn != 3 {
		t.Errorf("%+v", some)
	}
	none := a.do(try{method: "GET", path: "/v1/connections?host=z.org"})
	if got := strings.TrimSpace(none.Body.String()); got != `{"connections":[]}` {
		t.Error(got)
	}
	refused(t, a.do(try{method: "GET", path: "/v1/connections?host=a..b"}), 422, "host")
	refused(t, a.do(try{method: "GET", path: "/v1/connections?hosts=x"}), 400, "hosts")
	for _, path := range []string{"/v1/connections?host=a:65536", "/v1/hosts/a:65536", "/v1/usage/host/a:65536", "/v1/explain?host=a:65536"} {
		refused(t, a.do(try{method: "GET", path: path}), 422, "above 65535")
	}
	get[api.ConnectionClosed](t, a.do(try{method: "DELETE", path: "/v1/connections/1%2F%C3%BC"}))
	refused(t, a.do(try{method: "DELETE", path: "/v1/connections/9"}), 404, `"9"`)
	if want := []string{"1/ü", "9"}; !slices.Equal(a.closed, want) {
		t.Errorf("%q", a.closed)
	}
}

// TestConnectionsThatMatch: only what meets every filter is listed, on whatever node it is.
func TestConnectionsThatMatch(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	a := b.nodes["a"]
	a.list = []api.Connection{
		{ID: "1", Host: "x.org", Port: 443, Client: "10.0.0.1:5", User: "ada"},
		{ID: "2", Host: "x.org", Port: 80, Client: "10.0.0.2:5", User: "bob"},
		{ID: "3", Host: "x.org", Port: 80, Protocol: "idle"},
		{ID: "4", Host: "y.org", Port: 443, Client: "[fd00::1]:5", User: "ada"},
	}
	b.nodes["b"].list = []api.Connection{{ID: "5", Host: "x.org", Port: 443, Client: "[::ffff:10.0.0.1]:6", User: "ada"}}
	for query, want := range map[string]string{
		"host=x.org": "1 2 3 5", "host=x.org:443": "1 5", "client=10.0.0.1": "1 5", "client=::ffff:10.0.0.1": "1 5", "client=10.0.0.0/8": "1 2 5", "client=10.0.0.3/30": "1 2 5",
		"client=fd00::/8": "4", "client=[fd00::1]": "4", "client=::ffff:10.0.0.0/104": "1 2 5", "user=ada": "1 4 5", "user=Ada": "", "client=10.0.0.1&user=bob": "", "host=x.org&client=10.0.0.2&user=bob": "2", "client=0.0.0.0/0": "1 2 5",
	} {
		var got []string
		for _, c := range get[api.ConnectionList](t, a.do(try{method: "GET", path: api.PathConnections + "?node=*&" + query})).Connections {
			got = append(got, c.ID)
		}
		if slices.Sort(got); strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	for query, status := range map[string]int{"client=x.org": 422, "client=": 422, "client=[10.0.0.1]": 422, "client=[fd00::1": 422, "client=10.0.0.0/33": 422, "user=": 422, "user=%01": 422, "host=": 422} {
		refused(t, a.do(try{method: "GET", path: api.PathConnections + "?" + query}), status, "")
	}
}

// TestConnectionPages: pages of any size, of one node or of all, are together what one answer
// without a limit is, in its order.
func TestConnectionPages(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBench(t, Config{}, "a", "b", "c")
		start := time.Now()
		var want []string
		for _, name := range []string{"a", "b", "c"} {
			for i := range rapid.IntRange(0, 9).Draw(rt, name) {
				id := fmt.Sprintf("%d/%d", rapid.IntRange(0, 1).Draw(rt, "prefix"), i)
				since := start.Add(time.Duration(rapid.IntRange(0, 3).Draw(rt, "since"))) // many at the same time
				b.nodes[name].list = append(b.nodes[name].list, api.Connection{ID: id, Host: "x.org", Port: 1, Since: since})
				want = append(want, fmt.Sprintf("%d %s %s", since.UnixNano(), name, id))
			}
		}
		slices.Sort(want) // the numbers have the same length
		limit := rapid.IntRange(1, 12).Draw(rt, "limit")
		var got []string
		for after := ""; ; {
			path := fmt.Sprintf("%s?node=*&limit=%d&after=%s", api.PathConnections, limit, url.QueryEscape(after))
			var list api.ConnectionList
			if err := json.Unmarshal(b.nodes["b"].serve(b.nodes["b"].server.Handler(), try{method: "GET", path: path}).Body.Bytes(), &list); err != nil {
				rt.Fatal(err)
			}
			for _, c := range list.Connections {
				got = append(got, fmt.Sprintf("%d %s %s", c.Since.UnixNano(), c.Node, c.ID))
			}
			if len(list.Connections) > limit || list.Next != "" && len(list.Connections) < limit {
				rt.Fatalf("a page of %d, at most %d, and then %q", len(list.Connections), limit, list.Next)
			}
			if after = list.Next; after == "" {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func TestConnectionPageBounds(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	for i := range connectionsMost + 5 {
		a.list = append(a.list, api.Connection{ID: fmt.Sprint(i), Host: "x.org", Port: 1, Since: time.Unix(0, int64(i+1))})
	}
	first := get[api.ConnectionList](t, a.serve(a.server.Handler(), try{method: "GET", path: api.PathConnections}))
	if len(first.Connections) != connectionsMost || first.Next == "" {
		t.Errorf("without a limit %d are answered, and then %q", len(first.Connections), first.Next)
	}
	rest := get[api.ConnectionList](t, a.do(try{method: "GET", path: api.PathConnections + "?after=" + url.QueryEscape(first.Next)}))
	if len(rest.Connections) != 5 || rest.Next != "" || rest.Connections[0].ID != fmt.Sprint(connectionsMost) {
		t.Errorf("the rest: %+v", rest)
	}
	for _, query := range []string{"limit=0", "limit=10001", "limit=x", "limit=1&limit=2", "after=x", "after=1/a", "after=x/a/1"} {
		refused(t, a.do(try{method: "GET", path: api.PathConnections + "?" + query}), 400, "")
	}
}

// A field that a call does not know is refused, not swallowed: who sends it expects something of
// it.
func TestCallsWithoutFieldsRefuseThem(t *testing.T) {
	for _, k := range []try{
		{method: "POST", path: "/v1/drain"}, {method: "DELETE", path: "/v1/drain"}, {method: "POST", path: "/v1/leave"},
		{method: "POST", path: "/v1/reload"}, {method: "DELETE", path: api.PathConnections + "/1"},
		{method: "DELETE", path: pathLimit + "x.org"}, {method: "DELETE", path: "/v1/raft/peers/b"},
	} {
		b := newBench(t, Config{}, "a")
		b.put("x.org", 1)
		a := b.nodes["a"]
		a.list = []api.Connection{{ID: "1", Host: "x.org"}}
		k.body = `{"evict":true}`
		refused(t, a.do(k), 400, "evict: no such field")
		k.body = `evict`
		refused(t, a.do(k), 400, "not JSON")
		if len(a.began)+len(a.closed) > 0 {
			t.Errorf("%s %s has begun %q, closed %q", k.method, k.path, a.began, a.closed)
		}
		k.body = `{}`
		if w := a.do(k); w.Code > 299 {
			t.Errorf("%s %s with an empty object: %d %s", k.method, k.path, w.Code, w.Body)
		}
	}
}

func TestLifecycle(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	a.st.Connections = 3
	w := a.do(try{method: "POST", path: "/v1/drain"})
	if got := get[api.Started](t, w); w.Code != 202 || got != (api.Started{Node: "a", Draining: true, Connections: 3}) {
		t.Errorf("%d %+v", w.Code, got)
	}
	w = a.do(try{method: "DELETE", path: "/v1/drain"})
	if got := get[api.Started](t, w); w.Code != 200 || got != (api.Started{Node: "a", Connections: 3}) {
		t.Errorf("draining ended: %d %+v", w.Code, got)
	}
	if got := get[api.Started](t, a.do(try{method: "POST", path: "/v1/leave"})); !got.Leaving {
		t.Errorf("%+v", got)
	}
	refused(t, a.do(try{method: "DELETE", path: "/v1/drain"}), 409, "leaving")
	if want := []string{"drain", "undrain", "leave"}; !slices.Equal(a.began, want) {
		t.Errorf("%q", a.began)
	}
	w = a.do(try{method: "POST", path: "/v1/reload"})
	if got := strings.TrimSpace(w.Body.String()); got != `{"applied":["log.level"],"need_restart":[]}` {
		t.Error(got)
	}
	a.reload = fmt.Errorf("%w: a.hcl:1,2: no such block", ErrInvalidConfig)
	refused(t, a.do(try{method: "POST", path: "/v1/reload"}), 422, "a.hcl:1,2")
}
