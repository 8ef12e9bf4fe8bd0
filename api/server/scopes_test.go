package server

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// oneOfEach has a limit of each scope: where it is, what is written, and its name.
var oneOfEach = []struct{ path, body, name string }{
	{"/v1/limits/host/R.org.", fullLimit, "r.org"},
	{"/v1/limits/client/10.0.0.0%2F8", `{"connections":2,"requests":{"rate":"0.5/h"},"shared":true}`, "client 10.0.0.0/8"},
	{"/v1/limits/client/::FFFF:10.0.0.7", `{"bandwidth":{"upload":"1.5KiB","download":null}}`, "client 10.0.0.7"},
	{"/v1/limits/user/nightly", `{"scope":"user","connections":50,"requests":{"rate":"600/m","burst":1},"mode":""}`, "user nightly"},
	{"/v1/limits/key/tenant%2F*", `{"pattern":"tenant/*","connections":3,"mode":"report"}`, "key tenant/*"},
	{"/v1/limits/total", `{"connections":20000,"requests":{"rate":"10/s"},"queue":{"timeout":"1s","size":3}}`, "total"},
	{"/v1/limits/connection", `{"bandwidth":{"download":"5MB","burst":"4KiB"}}`, "connection"},
}

// TestLimitsOfEveryScope: what is written is shown, alone and in the list; what the list shows is
// accepted back and changes nothing; ETags hold in every scope; and a delete leaves nothing.
func TestLimitsOfEveryScope(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	a := b.nodes["b"] // which sends writes on
	tags := map[string]string{}
	for _, one := range oneOfEach {
		w := a.do(try{method: "PUT", path: one.path, body: one.body})
		put := get[api.LimitWritten](t, w)
		if put.Limit.Name() != one.name {
			t.Errorf("%s is %q", one.path, put.Limit.Name())
		}
		w = a.do(try{method: "GET", path: one.path})
		if diff := cmp.Diff(put.Limit, get[api.Limit](t, w)); diff != "" {
			t.Errorf("%s: %s", one.path, diff)
		}
		tags[one.path] = w.Header().Get("Etag")
		refused(t, a.do(try{method: "PUT", path: one.path, body: `{}`, header: map[string]string{"If-Match": `"1"`}}), 412, "")
		refused(t, a.do(try{method: "PUT", path: one.path, body: `{}`, header: map[string]string{"If-None-Match": "*"}}), 412, "")
	}
	w := a.do(try{method: "GET", path: api.PathLimits})
	all := get[api.Limits](t, w)
	var names []string
	for _, l := range all.Limits {
		names = append(names, l.Name())
	}
	if got, want := strings.Join(names, ", "), "r.org, client 10.0.0.0/8, client 10.0.0.7, user nightly, total, key tenant/*, connection"; got != want {
		t.Errorf("listed: %s", got)
	}
	again := get[api.LimitsReplaced](t, a.do(try{method: "PUT", path: api.PathLimits + "?dry_run=true", body: w.Body.String()}))
	if len(again.Changes) != 0 {
		t.Errorf("what GET answered would change %+v", again.Changes)
	}
	for _, one := range oneOfEach {
		done := get[api.LimitDeleted](t, a.do(try{method: "DELETE", path: one.path, header: map[string]string{"If-Match": tags[one.path]}}))
		if done.Name() != one.name || done.Uncovered != nil {
			t.Errorf("%s: deleted %+v", one.path, done)
		}
		refused(t, a.do(try{method: "GET", path: one.path}), 404, one.name)
	}
}

// TestDifferenceOfScopes: the same pattern in two scopes is two limits, and changes are by scope
// and pattern, in that order.
func TestDifferenceOfScopes(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	get[api.LimitsReplaced](t, a.do(try{method: "PUT", path: api.PathLimits, body: `{"limits":[{"scope":"user","pattern":"*","connections":1},{"pattern":"*","connections":1},{"scope":"total","connections":9}]}`}))
	diff := get[api.LimitsReplaced](t, a.do(try{
		method: "PUT", path: api.PathLimits + "?dry_run=true",
		body: `{"limits":[{"scope":"key","pattern":"*","connections":1},{"scope":"user","pattern":"*","connections":1,"mode":"report"},{"pattern":"*","connections":1}]}`,
	}))
	var got []string
	for _, c := range diff.Changes {
		got = append(got, fmt.Sprintf("%s %s: %s → %s", c.Action, c.Name(), c.Before.Words(), c.After.Words()))
	}
	want := []string{
		"change user *: 1 connection → 1 connection, report only", "remove total: 9 connections → none", "add key *: none → 1 connection",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	refused(t, a.do(try{method: "PUT", path: api.PathLimits, body: `{"limits":[{"scope":"total"},{"scope":"total","pattern":""}]}`}), 422, "both for total")
}

// TestLimitsThatCannotBe: each is refused with words that a person can act on, and changes nothing.
func TestLimitsThatCannotBe(t *testing.T) {
	b := newBench(t, Config{}, "a")
	a := b.nodes["a"]
	before := b.index
	for _, c := range []struct {
		path, body string
		status     int
		says       string
	}{
		{"host/x.org", `{"requests":{"rate":"0/s"}}`, 422, "it is 0: write a number above 0"},
		{"host/x.org", `{"requests":{"rate":"-5/s"}}`, 422, "it is negative"},
		{"host/x.org", `{"requests":{"rate":"10"}}`, 422, "has no unit: write requests a second"},
		{"host/x.org", `{"requests":{"rate":"10/d"}}`, 422, "write /s, /m or /h"},
		{"host/x.org", `{"requests":{"rate":"99999999999/s"}}`, 422, "too large to count"},
		{"host/x.org", `{"requests":{"rate":10}}`, 422, `requests.rate must be a string such as`},
		{"host/x.org", `{"requests":"10/s"}`, 422, "requests must be an object"},
		{"host/x.org", `{"requests":{}}`, 422, "requests.rate is missing"},
		{"host/x.org", `{"requests":{"rate":"10/s","burst":0}}`, 422, "requests.burst is 0: write at least 1"},
		{"host/x.org", `{"requests":{"rate":"10/s","burst":1000000000}}`, 422, "requests.burst is 1000000000: write at most 10000000"},
		{"host/x.org", `{"requests":{"rate":"10/s","brust":1}}`, 400, "requests.brust: no such field; there are rate, burst"},
		{"host/x.org", `{"bandwidth":{"upload":"10mb"}}`, 422, "has no unit that is known"},
		{"host/x.org", `{"bandwidth":{"upload":"0MB"}}`, 422, "it is 0"},
		{"host/x.org", `{"bandwidth":{"upload":"9999GB"}}`, 422, "too large to count"},
		{"host/x.org", `{"bandwidth":{"upload":"1MB","burst":"4095B"}}`, 422, "write at least 4KiB"},
		{"host/x.org", `{"bandwidth":{"burst":"1MB"}}`, 422, "bandwidth needs upload, download or both"},
		{"host/x.org", `{"mode":"log"}`, 422, `mode must be "enforce" or "report"`},
		{"host/x.org", `{"bandwidth":{"upload":"1MB"},"queue":{"timeout":"1s","size":1}}`, 422, "a queue needs a cap to wait for"},
		{"client/example.com", `{}`, 422, "is no client"},
		{"client/10.0.0.7", `{"shared":true}`, 422, "shared has no meaning on a single client"},
		{"user/night*", `{}`, 422, "star in a name"},
		{"key/a*b", `{}`, 422, "star in a name"},
		{"key/" + url.PathEscape(strings.Repeat("x", 256)), `{}`, 422, "256 characters"},
		{"total/all", `{}`, 422, "which has no patterns"},
		{"total", `{"pattern":"x"}`, 422, "which has no patterns"},
		{"connection", `{"connections":5}`, 422, "limits the bandwidth of each connection alone"},
		{"connection", `{"bandwidth":{"upload":"1MB"},"queue":{"timeout":"1s","size":1}}`, 422, "limits the bandwidth of each connection alone"},
		{"tenant/x", `{}`, 422, "is no scope: write host, client"},
		{"host/x.org", `{"scope":"client"}`, 422, "the body is of scope client, but the path of host"},
		{"user/a", `{"pattern":"b"}`, 422, "the body is for user b, but the path for user a"},
	} {
		refused(t, a.do(try{method: "PUT", path: api.PathLimits + "/" + c.path, body: c.body}), c.status, c.says)
	}
	refused(t, a.do(try{method: "PUT", path: api.PathLimits, body: `{"limits":[{"pattern":"x.org"},{"scope":"user","pattern":"a","requests":{"rate":"0/s"}}]}`}), 422, "limits[1].requests.rate")
	refused(t, a.do(try{method: "PUT", path: api.PathLimits, body: `{"limits":[{"scope":"user"}]}`}), 422, "limits[0].pattern is missing")
	if b.index != before {
		t.Errorf("something was written: index %d, was %d", b.index, before)
	}
}

// count is the use of a name of any scope.
func count(scope limit.Scope, name string, n int64) NodeUse {
	return NodeUse{Key: limit.Key{Scope: scope, Resource: limit.Connections, Name: name}, InUse: n, Granted: n, WouldReject: uint64(n)}
}

// TestUsageOfScopes: hosts and the other scopes are listed, paged and summed up over the nodes
// alike, and never mixed up where a client and a host have one name.
func TestUsageOfScopes(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	a := b.nodes["a"]
	for path, body := range map[string]string{
		"client/*": `{"connections":5,"requests":{"rate":"10/s"},"bandwidth":{"download":"1MB"}}`, "client/10.0.0.0%2F8": `{"connections":9,"shared":true}`,
		"total": `{"requests":{"rate":"60/m","burst":7}}`, "key/tenant%2F*": `{"connections":3,"shared":true}`,
	} {
		get[api.LimitWritten](t, a.do(try{method: "PUT", path: api.PathLimits + "/" + path, body: body}))
	}
	b.see()
	rated := count(limit.ScopeClient, "192.0.2.1", 2)
	rated.Rates = map[limit.Resource]NodeRate{limit.Requests: {Granted: 4, Now: 2.5, Available: 3, Waiting: 1, Admitted: 9, Rejected: 1, WouldReject: 3}, limit.Download: {Now: 7, Admitted: 70, WouldReject: 5}}
	rated.Rejected = 10
	requests := rated.Key
	requests.Resource = limit.Requests
	a.unassigned = map[limit.Key]float64{requests: 5}
	b.nodes["b"].unassigned = map[limit.Key]float64{requests: 4.5} // it has not caught up
	a.uses = []NodeUse{rated, count(limit.ScopeHost, "192.0.2.1", 100), count(limit.ScopeClient, "10.0.0.0/8", 4), count(limit.ScopeTotal, "", 6), count(limit.ScopeUser, "Ada", 1)}
	b.nodes["b"].uses = []NodeUse{rated, count(limit.ScopeClient, "192.0.2.9", 1), count(limit.ScopeTotal, "", 1), count(limit.ScopeKey, "tenant/*", 3), count(limit.ScopeUser, "ada", 2)}

	list := get[api.Usages](t, a.do(try{method: "GET", path: "/v1/usage/client?sort=requests"}))
	first := list.Usage[0]
	if len(list.Usage) != 3 || first.Name != "192.0.2.1" || first.InUse != 4 || first.Pattern != "*" || first.Scope != "client" || len(first.Nodes) != 2 {
		t.Errorf("%+v", list)
	}
	// The totals beside the resources are of all of them, in the sum, of each node, and in the order.
	if u := first.Nodes["b"]; first.Rejected != 22 || u.Rejected != 11 || first.WouldReject != 20 || u.WouldReject != 10 {
		t.Errorf("refused %d, %d of them by b; would refuse %d, b %d", first.Rejected, u.Rejected, first.WouldReject, u.WouldReject)
	}
	sorted := get[api.Usages](t, a.do(try{method: "GET", path: "/v1/usage/client?sort=rejected_total&limit=1"}))
	if sorted.Usage[0].Name != "192.0.2.1" || sorted.Next != "22/192.0.2.1" {
		t.Errorf("the client that was refused most does not come first, or by another number: %+v", sorted)
	}
	free := 5.0
	if diff := cmp.Diff(&api.RateUse{Rate: 10, Burst: 10, Granted: 8, Now: 5, Available: 6, Waiting: 2, Admitted: 18, Rejected: 2, WouldReject: 6, Unassigned: &free, Level: 6}, first.Requests); diff != "" {
		t.Error(diff)
	}
	if got := first.Bandwidth; got == nil || got.Upload != nil || got.Download.Now != 14 || got.Download.Rate != 1e6 || first.Nodes["a"].Bandwidth.Download.Now != 7 {
		t.Errorf("%+v", got)
	}
	for _, c := range []struct {
		path  string
		inUse int64
		limit any
	}{
		{"client/192.0.2.1", 4, int64(5)}, {"client/::ffff:192.0.2.1", 4, int64(5)}, {"host/192.0.2.1", 100, nil}, {"client/10.1.1.1", 4, int64(9)}, {"client/10.0.0.0%2F8", 4, int64(9)},
		{"client/203.0.113.1", 0, int64(5)}, {"key/tenant%2F42", 3, int64(3)}, {"key/tenant%2F*", 3, int64(3)}, {"key/other", 0, nil}, {"user/Ada", 1, nil}, {"user/ada", 2, nil},
	} {
		u := get[api.Usage](t, a.do(try{method: "GET", path: "/v1/usage/" + c.path}))
		var most any
		if u.Limit != nil {
			most = *u.Limit
		}
		if u.InUse != c.inUse || most != c.limit || len(u.Nodes) != 2 {
			t.Errorf("%s: %+v, limit %v", c.path, u, most)
		}
	}
	total := get[api.Usages](t, a.do(try{method: "GET", path: "/v1/usage/total"}))
	if len(total.Usage) != 1 || total.Usage[0].InUse != 7 || total.Usage[0].Requests.Rate != 1 || total.Usage[0].Requests.Burst != 7 {
		t.Errorf("%+v", total)
	}
	page := get[api.Usages](t, a.do(try{method: "GET", path: "/v1/usage/user?limit=1"}))
	if len(page.Usage) != 1 || page.Usage[0].Name != "Ada" || page.Next != "Ada" { // names of users keep their case
		t.Errorf("%+v", page)
	}
	page = get[api.Usages](t, a.do(try{method: "GET", path: "/v1/usage/user?limit=1&after=Ada"}))
	if len(page.Usage) != 1 || page.Usage[0].Name != "ada" || page.Next != "" {
		t.Errorf("%+v", page)
	}
	refused(t, a.do(try{method: "GET", path: "/v1/usage/hosts"}), 422, "hosts is no scope: write host, client, user, total, key or connection")
	for path, status := range map[string]int{
		"connection/x": 422, "client/x.org": 422, "client/10.0.0.0%2F9": 422, "user/" + url.PathEscape("\x01"): 422, "total/x": 422, "client?sort=host": 400, "host?sort=host": 400,
	} {
		refused(t, a.do(try{method: "GET", path: "/v1/usage/" + path}), status, "")
	}
}

// TestExplain: in each scope the most specific limit, in the order in which they are asked, why,
// and what is in the way.
func TestExplain(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	a := b.nodes["a"]
	a.st.Session = api.SessionStatus{State: "live"}
	for path, body := range map[string]string{
		"host/*": `{"connections":25}`, "host/*.x.org": `{"connections":5,"shared":true}`, "host/api.x.org:443": `{"connections":2,"queue":{"timeout":"1s","size":1}}`,
		"client/*": `{"connections":5}`, "client/10.0.0.0%2F8": `{"requests":{"rate":"10/s"}}`, "user/*": `{"connections":3,"mode":"report"}`, "user/blocked": `{"connections":0}`,
		"total": `{"connections":100}`, "connection": `{"bandwidth":{"upload":"1MB"}}`, "key/tenant%2F*": `{"connections":1}`, "key/*": `{"connections":9}`,
	} {
		get[api.LimitWritten](t, a.do(try{method: "PUT", path: api.PathLimits + "/" + path, body: body}))
	}
	b.see()
	a.unassigned = map[limit.Key]float64{{Scope: limit.ScopeClient, Resource: limit.Requests, Name: "10.1.1.1"}: 10} // never leased: full
	kept := func(name string, n, idle int64) NodeUse {
		u := count(limit.ScopeHost, name, n)
		u.Idle = idle
		return u
	}
	a.uses = []NodeUse{kept("kept.org", 25, 1), kept("busy.org", 26, 1), count(limit.ScopeHost, "api.x.org:443", 1), count(limit.ScopeUser, "ada", 9), count(limit.ScopeKey, "tenant/1", 1)}
	b.nodes["b"].uses = []NodeUse{count(limit.ScopeHost, "api.x.org:443", 1)}
	for _, c := range []struct {
		query, limits string
		admitted      bool
	}{
		{"host=API.x.org:443&client=10.1.1.1&user=ada", "total, client 10.0.0.0/8 as 10.1.1.1, user * as ada, host api.x.org:443 as api.x.org:443 (2 of 2 connections in use), connection", false},
		{"host=api.x.org:80&client=192.0.2.1", "total, client * as 192.0.2.1, host *.x.org as *.x.org, connection", true},
		{"client=%5B2001:db8::1%5D", "total, client * as 2001:db8::1, connection", true},
		{"host=api.x.org", "total, host *.x.org as *.x.org, connection", true}, // without a port, none that names one
		{"host=y.org&user=blocked", "total, user blocked as blocked (blocked: its limit is 0 connections), host * as y.org, connection", false},
		{"host=kept.org", "total, host * as kept.org, connection", true}, // what is only kept is closed for it
		{"host=busy.org", "total, host * as busy.org (26 of 25 connections in use, 1 of them idle), connection", false},
		{"key=tenant%2F1", "key tenant/* as tenant/1 (1 of 1 connection in use)", false},
		{"key=tenant%2F2", "key tenant/* as tenant/2", true},
		{"key=other&user=ada", "user * as ada, key * as other", true},
	} {
		e := get[api.Explanation](t, a.do(try{method: "GET", path: api.PathExplain + "?" + c.query}))
		var got []string
		for _, g := range e.Limits {
			text := g.Scope
			if g.Pattern != "" {
				text += " " + g.Pattern + " as " + g.Key
			}
			if g.Reason != "" {
				text += " (" + g.Reason + ")"
			}
			if g.Why == "" || g.Use == nil || len(e.Unreachable) > 0 {
				t.Errorf("%s: %+v, without %v", c.query, g, e.Unreachable)
			}
			got = append(got, text)
		}
		if diff := cmp.Diff(c.limits, strings.Join(got, ", ")); diff != "" || e.Admitted != c.admitted {
			t.Errorf("%s: admitted %v %s", c.query, e.Admitted, diff)
		}
	}
	a.st.Session = api.SessionStatus{State: "fenced"}
	if e := get[api.Explanation](t, a.do(try{method: "GET", path: api.PathExplain + "?host=y.org"})); e.Admitted || !strings.Contains(e.Limits[0].Reason, "no live session") {
		t.Errorf("without a session: %+v", e)
	}
	a.st.Session, a.st.Draining = api.SessionStatus{State: "live"}, true
	if e := get[api.Explanation](t, a.do(try{method: "GET", path: api.PathExplain + "?host=y.org"})); e.Admitted || !strings.Contains(e.Reason, "draining") || !e.Limits[0].Admitted {
		t.Errorf("a draining node: %+v", e)
	}
	if e := get[api.Explanation](t, a.do(try{method: "GET", path: api.PathExplain + "?key=tenant%2F2"})); e.Admitted || !strings.Contains(e.Reason, "draining") {
		t.Errorf("a permit of a draining node: %+v", e)
	}
	for query, status := range map[string]int{"": 400, "?host=": 400, "?host=a..b": 422, "?client=x": 422, "?user=%01": 422, "?key=%01": 422, "?hots=x": 400} {
		refused(t, a.do(try{method: "GET", path: api.PathExplain + query}), status, "")
	}
}

// TestExplainRates: a request is let in where the node has a token, or where the log and the nodes
// that draw nothing have one for it.
func TestExplainRates(t *testing.T) {
	for name, c := range map[string]struct {
		own, other NodeRate
		free       float64 // in units that no node holds
		proxy      bool    // the node that is asked has no log
		reason     string  // "": let in
	}{
		"a token in hand":                 {own: NodeRate{Granted: 4, Available: 1, Now: 4}},
		"a token but for what is rounded": {own: NodeRate{Granted: 4, Available: 1 - 0.5/float64(limit.TokenGrains)}},
		"no token anywhere":               {own: NodeRate{Granted: 4, Available: 0.9}, reason: "the rate of 10/s is used up"},
		"nothing granted, a full log":     {free: 20},
		"nothing granted, an empty log":   {free: 0.5, reason: "the rate of 10/s is used up"},
		"a part here, a part in the log":  {own: NodeRate{Granted: 4, Available: 0.4}, free: 0.6},
		"parts of two nodes":              {own: NodeRate{Granted: 4, Available: 0.6}, other: NodeRate{Granted: 4, Available: 0.4}},
		"too small parts of two nodes":    {own: NodeRate{Granted: 4, Available: 0.5}, other: NodeRate{Granted: 4, Available: 0.4}, reason: "the rate of 10/s is used up"},
		"another's log":                   {free: 20, proxy: true},
		"another's empty log":             {proxy: true, reason: "the rate of 10/s is used up"},
		"an idle node's":                  {other: NodeRate{Granted: 4, Available: 2}},
		"a busy node's":                   {other: NodeRate{Granted: 4, Available: 2, Now: 4}, reason: "the rate of 10/s is used up"},
		"one waits here":                  {own: NodeRate{Granted: 4, Available: 1, Waiting: 1}, reason: "1 waiting for the rate before it"},
		"one waits elsewhere":             {other: NodeRate{Granted: 4, Waiting: 1}, free: 3, reason: "1 waiting for the rate before it"},
		"one waits elsewhere, not here":   {own: NodeRate{Granted: 4, Available: 1}, other: NodeRate{Granted: 4, Waiting: 1}},
	} {
		for _, scope := range []string{"host/x.org", "total"} {
			b := newBench(t, Config{}, "a", "b")
			a := b.nodes["a"]
			a.st.Session, a.proxy = api.SessionStatus{State: "live"}, c.proxy
			get[api.LimitWritten](t, a.do(try{method: "PUT", path: api.PathLimits + "/" + scope, body: `{"requests":{"rate":"10/s","burst":20}}`}))
			b.see()
			key := limit.HostConnections("x.org")
			if scope == "total" {
				key = limit.Key{Scope: limit.ScopeTotal, Resource: limit.Connections}
			}
			for node, rate := range map[string]NodeRate{"a": c.own, "b": c.other} {
				n, of := b.nodes[node], key
				of.Resource = limit.Requests
				n.unassigned = map[limit.Key]float64{of: c.free}
				if rate != (NodeRate{}) {
					n.uses = []NodeUse{{Key: key, Rates: map[limit.Resource]NodeRate{limit.Requests: rate}}}
				}
			}
			e := get[api.Explanation](t, a.do(try{method: "GET", path: api.PathExplain + "?host=x.org"}))
			if len(e.Limits) != 1 || e.Limits[0].Reason != c.reason || e.Admitted != (c.reason == "") {
				t.Errorf("%s, %s: %+v", name, scope, e)
			}
			want := int64(c.own.Available + c.other.Available)
			if u := e.Limits[0].Use.Requests; u.Available != want {
				t.Errorf("%s, %s: %d are available, want %d", name, scope, u.Available, want)
			}
		}
	}
}

// The slots of a node that does not answer are taken until they are reclaimed: nobody gets them, so
// explain must not count them as free.
func TestExplainCountsTheSlotsOfSilentNodes(t *testing.T) {
	b := newBench(t, Config{}, "a", "b", "c")
	a, key := b.nodes["a"], limit.HostConnections("x.org")
	a.st.Session.State = "live"
	get[api.LimitWritten](t, a.do(try{method: "PUT", path: api.PathLimits + "/host/x.org", body: `{"connections":3}`}))
	b.see()
	a.uses = []NodeUse{{Key: key, Granted: 1, InUse: 1}}
	a.grants = map[string]map[limit.Key]int64{"a": {key: 1}, "b": {key: 2}, "c": {limit.HostConnections("y.org"): 9}}
	explain := func() api.Governing {
		e := get[api.Explanation](t, a.do(try{method: "GET", path: api.PathExplain + "?host=x.org"}))
		if e.Admitted != e.Limits[0].Admitted {
			t.Errorf("%+v", e)
		}
		return e.Limits[0]
	}
	if g := explain(); !g.Admitted { // b answers that it uses none of its slots
		t.Errorf("all nodes answer: %+v", g)
	}
	b.nodes["b"].set(func() { b.nodes["b"].down = true })
	if g := explain(); g.Admitted || g.Reason != "1 of 3 connections in use, and 2 granted to nodes that don't answer" {
		t.Errorf("b is silent: %+v", g)
	}
	delete(a.grants, "b")
	if g := explain(); !g.Admitted {
		t.Errorf("b's slots are reclaimed: %+v", g)
	}
}

// A follower that has not yet seen a grant in its log goes by the leader's: else a rate that was
// just used up would be explained as free on every other node.
func TestWhatNoNodeHoldsIsByTheLeadersLog(t *testing.T) {
	b := newBench(t, Config{}, "a", "b") // a leads
	follower := b.nodes["b"]
	follower.st.Session.State = "live"
	get[api.LimitWritten](t, follower.do(try{method: "PUT", path: api.PathLimits + "/host/x.org", body: `{"requests":{"rate":"6/m"},"bandwidth":{"download":"1MB"}}`}))
	b.see()
	rates := func(free float64) map[limit.Key]float64 {
		return map[limit.Key]float64{{Scope: limit.ScopeHost, Resource: limit.Requests, Name: "x.org"}: free, {Scope: limit.ScopeHost, Resource: limit.Download, Name: "x.org"}: 1e6 * free}
	}
	follower.unassigned, b.nodes["a"].unassigned = rates(1), rates(0)
	b.nodes["a"].uses = []NodeUse{{Key: limit.HostConnections("x.org"), Rates: map[limit.Resource]NodeRate{limit.Requests: {Granted: 0.1, Available: 0.01, Now: 1}}}}

	e := get[api.Explanation](t, follower.do(try{method: "GET", path: api.PathExplain + "?host=x.org"}))
	if e.Admitted || e.Limits[0].Reason != "the rate of 6/m is used up" {
		t.Errorf("a token that was granted counts as free: %+v", e)
	}
	for _, u := range []api.Use{
		get[api.Host](t, follower.do(try{method: "GET", path: api.PathHosts + "/x.org"})).Use,
		get[api.Hosts](t, follower.do(try{method: "GET", path: api.PathHosts})).Hosts[0].Use,
		get[api.Usages](t, follower.do(try{method: "GET", path: api.PathUsage + "/host"})).Usage[0].Use,
	} {
		if *u.Requests.Unassigned != 0 || *u.Bandwidth.Download.Unassigned != 0 {
			t.Errorf("%v requests and %v bytes are in no node's hands, want none", *u.Requests.Unassigned, *u.Bandwidth.Download.Unassigned)
		}
	}
}

// FuzzLimitOfScope: what is accepted is shown as it is counted, and accepted back as the same.
func FuzzLimitOfScope(f *testing.F) {
	for i, one := range oneOfEach {
		_, pattern, _ := strings.Cut(one.name, " ")
		f.Add(uint8(i), pattern, one.body)
	}
	f.Fuzz(func(t *testing.T, n uint8, pattern, body string) {
		p, err := limit.Scopes[int(n)%len(limit.Scopes)].ParsePattern(pattern)
		if err != nil {
			return
		}
		o, err := parseBody([]byte(body))
		if err != nil {
			return
		}
		l, err := parseLimit(o, &p)
		if err != nil {
			return
		}
		shown, err := json.Marshal(api.LimitOf(&l))
		if err != nil {
			t.Fatal(err)
		}
		o, err = parseBody(shown)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseLimit(o, nil); err != nil || !again.SameValue(&l) || again.Pattern != l.Pattern {
			t.Fatalf("%s is read as %+v, %v, want %+v", shown, again, err, l)
		}
	})
}
