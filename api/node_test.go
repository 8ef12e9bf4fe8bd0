package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStatus(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	a.st.Session = SessionStatus{ID: 7, State: "live", ExpiresIn: Duration(8123456789)}
	a.st.Raft = RaftStatus{State: "leader", Term: 2, LastIndex: 9, CommitIndex: 8, AppliedIndex: 7}
	w := a.do(try{method: "GET", path: "/v1/status"})
	want := `{"node":"a","version":"v1","role":"server","leader":"a","ready":true,` +
		`"session":{"id":7,"state":"live","expires_in":"8.123s"},` +
		`"raft":{"state":"leader","term":2,"last_index":9,"commit_index":8,"applied_index":7},` +
		`"config_disagreements":[],"draining":false,"leaving":false,"connections":0,"proxy_addr":"","api_addr":"","disk_full":false,"disk_stalled":false}` + "\n"
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Error(diff)
	}
	refused(t, a.do(try{method: "GET", path: "/v1/status?x"}), 400, "")
}

func TestHealth(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	get[Health](t, a.do(try{method: "GET", path: "/healthz"}))
	get[Health](t, a.do(try{method: "GET", path: "/readyz"}))
	a.notReady = "no session with the cluster"
	get[Health](t, a.do(try{method: "GET", path: "/healthz"}))
	refused(t, a.do(try{method: "GET", path: "/readyz"}), 503, "no session")
}

func TestConnections(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	now := time.Now()
	a.list = []Connection{
		{ID: "2", Host: "x.org", Port: 443, Kind: "connect", Client: "10.0.0.1:5", Since: now, BytesIn: 3, BytesOut: 4, Limited: true},
		{ID: "1/ü", Host: "y.org", Since: now.Add(-time.Minute)},
	}
	all := get[ConnectionList](t, a.do(try{method: "GET", path: "/v1/connections"}))
	if len(all.Connections) != 2 || all.Connections[0].ID != "1/ü" || time.Duration(all.Connections[0].Age) < time.Minute {
		t.Errorf("%+v", all)
	}
	some := get[ConnectionList](t, a.do(try{method: "GET", path: "/v1/connections?host=X.org."}))
	if len(some.Connections) != 1 || some.Connections[0].ID != "2" || some.Connections[0].BytesIn != 3 {
		t.Errorf("%+v", some)
	}
	none := a.do(try{method: "GET", path: "/v1/connections?host=z.org"})
	if got := strings.TrimSpace(none.Body.String()); got != `{"connections":[]}` {
		t.Error(got)
	}
	refused(t, a.do(try{method: "GET", path: "/v1/connections?host=a..b"}), 422, "host")
	refused(t, a.do(try{method: "GET", path: "/v1/connections?hosts=x"}), 400, "hosts")
	get[ConnectionClosed](t, a.do(try{method: "DELETE", path: "/v1/connections/1%2F%C3%BC"}))
	refused(t, a.do(try{method: "DELETE", path: "/v1/connections/9"}), 404, `"9"`)
	if want := []string{"1/ü", "9"}; !slices.Equal(a.closed, want) {
		t.Errorf("%q", a.closed)
	}
}

func TestLifecycle(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	a.st.Connections = 3
	w := a.do(try{method: "POST", path: "/v1/drain"})
	if got := get[Started](t, w); w.Code != 202 || got != (Started{Node: "a", Draining: true, Connections: 3}) {
		t.Errorf("%d %+v", w.Code, got)
	}
	if got := get[Started](t, a.do(try{method: "POST", path: "/v1/leave"})); !got.Leaving {
		t.Errorf("%+v", got)
	}
	if want := []string{"drain", "leave"}; !slices.Equal(a.began, want) {
		t.Errorf("%q", a.began)
	}
	w = a.do(try{method: "POST", path: "/v1/reload"})
	if got := strings.TrimSpace(w.Body.String()); got != `{"applied":["log.level"],"need_restart":[]}` {
		t.Error(got)
	}
	a.reload = fmt.Errorf("%w: a.hcl:1,2: no such block", ErrInvalidConfig)
	refused(t, a.do(try{method: "POST", path: "/v1/reload"}), 422, "a.hcl:1,2")
}
