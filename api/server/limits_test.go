package server

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/limit"
)

const five = `{"connections":5,"queue":{"timeout":"2s","size":100},"shared":false}`

func put(pattern, body string) try {
	return try{method: "PUT", path: pathLimit + url.PathEscape(pattern), body: body}
}

func TestLimitLifeCycle(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]

	w := a.do(put("API.Example.com.", five))
	got := get[api.LimitWritten](t, w)
	conns := int64(5)
	want := api.LimitWritten{Index: got.Index, Limit: api.Limit{
		Scope: "host", Pattern: "api.example.com", Connections: &conns, Queue: &api.Queue{Timeout: 2e9, Size: 100}, Mode: api.ModeEnforce, Source: "api", ModifyIndex: got.Index,
	}}
	if diff := cmp.Diff(want, got); diff != "" || got.Index == 0 {
		t.Fatal(diff)
	}
	tag := w.Header().Get("Etag")
	if tag != fmt.Sprintf(`"%d"`, got.Index) || w.Header().Get(api.HeaderIndex) != fmt.Sprint(got.Index) || w.Header().Get(headerTable) != "" {
		t.Fatalf("headers %v", w.Header())
	}

	w = a.do(try{method: "GET", path: pathLimit + "api.example.com"})
	if diff := cmp.Diff(want.Limit, get[api.Limit](t, w)); diff != "" || w.Header().Get("Etag") != tag {
		t.Fatal(diff, w.Header())
	}
	if w := a.do(try{method: "GET", path: pathLimit + "api.example.com", header: map[string]string{"If-None-Match": "W/" + tag}}); w.Code != 304 || w.Body.Len() != 0 {
		t.Fatalf("unchanged: %d %s", w.Code, w.Body)
	}
	if w := a.do(try{method: "HEAD", path: pathLimit + "api.example.com"}); w.Code != 200 {
		t.Fatalf("HEAD: %d", w.Code)
	}

	again := get[api.LimitWritten](t, a.do(put("api.example.com", five)))
	if again.ModifyIndex != got.Index {
		t.Errorf("an identical write moved modify_index from %d to %d", got.Index, again.ModifyIndex)
	}

	deleted := get[api.LimitDeleted](t, a.do(try{method: "DELETE", path: pathLimit + "api.example.com"}))
	if deleted.Index <= got.Index || deleted.Uncovered != nil || deleted.Pattern != "api.example.com" {
		t.Errorf("%+v", deleted)
	}
	refused(t, a.do(try{method: "DELETE", path: pathLimit + "api.example.com"}), 404, "no such limit for exactly api.example.com: GET /v1/limits lists those there are")
	refused(t, a.do(try{method: "GET", path: pathLimit + "api.example.com"}), 404, "no such limit")
}

func TestDeleteUncoversConfig(t *testing.T) {
	b := newBench(t, Config{}, "a")
	p, _ := limit.ParsePattern("x.org")
	b.apply(&fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{{Pattern: p, Connections: 7, Source: limit.SourceConfig}}})
	a := b.nodes["a"]
	get[api.LimitWritten](t, a.do(put("x.org", `{"connections":1}`)))
	d := get[api.LimitDeleted](t, a.do(try{method: "DELETE", path: pathLimit + "x.org"}))
	if d.Uncovered == nil || *d.Uncovered.Connections != 7 || d.Uncovered.Source != "config" {
		t.Errorf("%+v", d)
	}
}

func TestPatternsInPaths(t *testing.T) {
	for raw, want := range map[string]string{
		"10.0.0.0%2F8":           "10.0.0.0/8",
		"10.0.0.0/8":             "10.0.0.0/8",
		"*":                      "*",
		"%2A":                    "*",
		"*.Example.org":          "*.example.org",
		"*.example.org:443":      "*.example.org:443",
		"[::1]:443":              "[::1]:443",
		"%5B::1%5D%3A443":        "[::1]:443",
		"2001:DB8::1":            "2001:db8::1",
		"2001:db8::%2F32":        "2001:db8::/32",
		"b%C3%BCcher.example":    "xn--bcher-kva.example",
		"0x7f.1":                 "127.0.0.1",
		"xn--bcher-kva.example.": "xn--bcher-kva.example",
	} {
		a := newBench(t, Config{}, "a").nodes["a"]
		w := a.do(try{method: "PUT", path: pathLimit + raw, body: `{"connections":1}`})
		if got := get[api.LimitWritten](t, w).Pattern; got != want {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
		if got := get[api.Limit](t, a.do(try{method: "GET", path: pathLimit + url.PathEscape(want)})).Pattern; got != want {
			t.Errorf("%s reads back as %s", want, got)
		}
	}
}

func TestLimitRefusals(t *testing.T) {
	for _, c := range []struct {
		k      try
		status int
		detail string
	}{
		{put("x.org", ``), 400, "empty"},
		{put("x.org", `{`), 400, "ends too early"},
		{put("x.org", `{"connections":5}{}`), 400, "follows"},
		{put("x.org", `{"connections":5} x`), 400, "follows"},
		{put("x.org", `[5]`), 400, "not a JSON object"},
		{put("x.org", `null`), 400, "not a JSON object"},
		{put("x.org", `{"connections":5,"conections":6}`), 400, "conections: no such field"},
		{put("x.org", `{"Connections":5}`), 400, "Connections: no such field"},
		{put("x.org", `{"connections":5,"connections":50}`), 400, "connections stands twice"},
		{put("x.org", `{"queue":{"size":1,"timeout":"1s","size":2}}`), 400, "queue.size stands twice"},
		{put("x.org", `{"queue":{"size":1,"timeout":"1s","depth":2}}`), 400, "queue.depth: no such field"},
		{put("x.org", `{"connections":"5"}`), 422, "connections must be a whole number"},
		{put("x.org", `{"connections":5.5}`), 422, "connections must be a whole number"},
		{put("x.org", `{"connections":1e3}`), 422, "connections must be a whole number from 0 to 1000000, written in digits alone, or null for no cap, not 1e3"},
		{put("x.org", `{"requests":{"rate":"10/s","burst":1e9}}`), 422, "requests.burst must be a whole number from 1 to 10000000, written in digits alone, not 1e9"},
		{put("x.org", `{"connections":5,"queue":{"timeout":"1s","size":1e3}}`), 422, "queue.size must be a whole number from 1 to 1000000, written in digits alone, not 1e3"},
		{put("x.org", `{"connections":99999999999999999999}`), 422, "connections must be a whole number"},
		{put("x.org", `{"connections":-1}`), 422, "0 or more"},
		{put("x.org", `{"connections":1000000000000}`), 422, "x.org"},
		{put("x.org", `{"connections":1,"queue":5}`), 422, "queue must be an object"},
		{put("x.org", `{"connections":1,"queue":{}}`), 422, "timeout and a size"},
		{put("x.org", `{"connections":1,"queue":{"timeout":"2s"}}`), 422, "timeout and a size"},
		{put("x.org", `{"connections":1,"queue":{"timeout":2,"size":1}}`), 422, "queue.timeout must be a duration"},
		{put("x.org", `{"connections":1,"queue":{"timeout":"2","size":1}}`), 422, "queue.timeout must be a duration"},
		{put("x.org", `{"connections":1,"queue":{"timeout":"-2s","size":1}}`), 422, "above 0"},
		{put("x.org", `{"connections":1,"queue":{"timeout":"999us","size":1}}`), 422, `queue.timeout: "999us" is out of range: write a duration from 1ms to 1h`},
		{put("x.org", `{"connections":1,"queue":{"timeout":"61m","size":1}}`), 422, `queue.timeout: "61m" is out of range: write a duration from 1ms to 1h`},
		{put("x.org", `{"connections":1,"shared":true}`), 422, "x.org"},
		{put("x.org", `{"connections":1,"shared":"yes"}`), 422, "shared must be true or false"},
		{put("x.org", `{"pattern":"y.org","connections":1}`), 422, "the path for x.org"},
		{put("x y", `{"connections":1}`), 422, ""},
		{put("*:443", `{"connections":1}`), 422, ""},
		{put("10.0.0.0%2F8", `{"connections":1}`), 422, ""}, // encoded twice, decoded once
		{try{method: "PUT", path: pathLimit, body: five}, 404, "nothing at"},
		{try{method: "PUT", path: pathLimit + "x.org?evict=maybe", body: five}, 400, "true or false"},
		{try{method: "PUT", path: pathLimit + "x.org?evicted=true", body: five}, 400, `"evicted"`},
		{try{method: "PUT", path: pathLimit + "x.org?evict=true&evict=false", body: five}, 400, "more than once"},
		{try{method: "PUT", path: pathLimit + "x.org?%zz", body: five}, 400, "query"},
		{try{method: "PUT", path: api.PathLimits, body: `{}`}, 422, "limits is missing"},
		{try{method: "PUT", path: api.PathLimits, body: `{"limits":null}`}, 422, "limits is missing"},
		{try{method: "PUT", path: api.PathLimits, body: `{"limits":{}}`}, 422, "must be a list"},
		{try{method: "PUT", path: api.PathLimits, body: `{"limits":[5]}`}, 422, "limits[0] must be an object"},
		{try{method: "PUT", path: api.PathLimits, body: `{"limits":[{}]}`}, 422, "limits[0].pattern is missing"},
		{try{method: "PUT", path: api.PathLimits, body: `{"limits":[{"pattern":"a..b"}]}`}, 422, "limits[0].pattern"},
		{try{method: "PUT", path: api.PathLimits, body: `{"limits":[{"pattern":"x.org"},{"pattern":"X.ORG."}]}`}, 422, "limits[0] and limits[1] are both for x.org"},
		{try{method: "PUT", path: api.PathLimits, body: `{"limits":[],"extra":1}`}, 400, "extra: no such field"},
		{try{method: "PUT", path: api.PathLimits + "?dryrun=true", body: `{"limits":[]}`}, 400, "dry_run"},
		{try{method: "PUT", path: api.PathLimits, body: strings.Repeat(" ", maxLimitsBody+1)}, 413, "(15 MiB), the most that PUT /v1/limits takes"},
		{put("x.org", strings.Repeat(" ", maxBody+1)), 413, "(1 MiB)"},
		{try{method: "GET", path: api.PathLimits + "?x=1"}, 400, "takes no query parameters"},
	} {
		t.Run(c.k.path+" "+c.k.body[:min(30, len(c.k.body))], func(t *testing.T) {
			b := newBench(t, Config{}, "a")
			before := b.index
			refused(t, b.nodes["a"].do(c.k), c.status, c.detail)
			if b.index != before {
				t.Error("it was written all the same")
			}
		})
	}
}

// All limits at once may be up to 15 MiB, whichever node takes them.
func TestReplaceManyLimits(t *testing.T) {
	const many = 1000 // as long as 100,000 are, with the spaces
	var body strings.Builder
	body.WriteString(`{"limits":[`)
	for i := range many {
		if i > 0 {
			body.WriteString("," + strings.Repeat(" ", 10_000))
		}
		fmt.Fprintf(&body, `{"pattern":"host-%d.api.example.com","connections":5,"queue":{"timeout":"2s","size":100}}`, i)
	}
	body.WriteString("]}")
	if body.Len() < 8*maxBody || body.Len() > maxLimitsBody {
		t.Fatalf("the body has %d bytes", body.Len())
	}
	b := newBench(t, Config{}, "a", "b")
	w := b.nodes["b"].do(try{method: "PUT", path: api.PathLimits, body: body.String()})
	if got := get[api.LimitsReplaced](t, w); w.Code != 200 || len(got.Changes) != many {
		t.Errorf("%d, %d changes", w.Code, len(got.Changes))
	}
}

func TestConditions(t *testing.T) {
	const match, none = "If-Match", "If-None-Match"
	for _, c := range []struct {
		method, pattern string
		header, value   string
		status          int
	}{
		{"PUT", "x.org", match, "TAG", 200},
		{"PUT", "x.org", match, `"9999"`, 412},
		{"PUT", "x.org", match, `"9999", TAG`, 200},
		{"PUT", "x.org", match, "W/TAG", 412},
		{"PUT", "x.org", match, `"theirs"`, 412},
		{"PUT", "x.org", match, `"01"`, 412},
		{"PUT", "x.org", match, "*", 200},
		{"PUT", "new.org", match, "*", 412},
		{"PUT", "new.org", match, "TAG", 412},
		{"PUT", "new.org", match, `"theirs"`, 412},
		{"PUT", "new.org", none, "*", 200},
		{"PUT", "x.org", none, "*", 412},
		{"PUT", "x.org", none, "TAG", 400},
		{"PUT", "x.org", match, "5", 400},
		{"PUT", "x.org", match, `*, "5"`, 400},
		{"DELETE", "x.org", match, "TAG", 200},
		{"DELETE", "x.org", match, `"9999"`, 412},
		{"DELETE", "new.org", match, "*", 412},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			b := newBench(t, Config{}, "a", "b")
			first := b.nodes["a"].do(put("x.org", five))
			value := strings.ReplaceAll(c.value, "TAG", first.Header().Get("Etag"))
			k := try{method: c.method, path: pathLimit + c.pattern, header: map[string]string{c.header: value}}
			if c.method == "PUT" {
				k.body = `{"connections":1}`
			}
			before := b.tableNow().Index
			w := b.nodes["b"].do(k) // a follower: conditions are passed on
			if c.status == 200 {
				get[map[string]any](t, w)
			} else {
				refused(t, w, c.status, "")
				if strings.Contains(w.Body.String(), "1844674407") {
					t.Errorf("an index that nobody has written is told: %s", w.Body)
				}
			}
			if changed := b.tableNow().Index != before; changed != (c.status == 200) {
				t.Errorf("changed: %v", changed)
			}
		})
	}
	a := newBench(t, Config{}, "a").nodes["a"]
	refused(t, a.do(try{method: "PUT", path: pathLimit + "x.org", body: five, header: map[string]string{match: "*", none: "*"}}), 400, "not both")
}

func TestReplaceLimits(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	a := b.nodes["a"]
	p, _ := limit.ParsePattern("conf.org")
	b.apply(&fsm.ReplaceLimits{Source: limit.SourceConfig, Limits: []limit.Limit{{Pattern: p, Connections: 7, Source: limit.SourceConfig}}})
	get[api.LimitWritten](t, a.do(put("x.org", five)))
	get[api.LimitWritten](t, a.do(put("open.org", `{}`)))
	get[api.LimitWritten](t, a.do(put("*.y.org", `{"connections":3,"shared":true}`)))

	w := a.do(try{method: "GET", path: api.PathLimits})
	all := get[api.Limits](t, w)
	if len(all.Limits) != 4 || w.Header().Get("Etag") != api.ETag(all.Index) {
		t.Fatalf("%s", w.Body)
	}
	// What GET answers, PUT accepts, and it changes nothing.
	same := get[api.LimitsReplaced](t, a.do(try{method: "PUT", path: api.PathLimits, body: w.Body.String()}))
	if len(same.Changes) != 0 || b.tableNow().Index != all.Index {
		t.Errorf("writing back what was read changed %+v", same.Changes)
	}

	body := `{"limits":[{"pattern":"x.org","connections":6},{"pattern":"conf.org","connections":7},{"pattern":"n.org","connections":0}]}`
	w = b.nodes["b"].do(try{method: "PUT", path: api.PathLimits + "?dry_run=true", body: body})
	dry := get[api.LimitsReplaced](t, w)
	var lines []string
	for _, c := range dry.Changes {
		lines = append(lines, c.Action+" "+c.Pattern)
	}
	if got := strings.Join(lines, ", "); got != "remove *.y.org, add n.org, remove open.org, change x.org" {
		t.Errorf("difference: %s", got)
	}
	if !dry.DryRun || dry.Index != all.Index || b.tableNow().Index != all.Index || w.Header().Get("Etag") != api.ETag(all.Index) {
		t.Errorf("a dry run wrote, or is not marked: %+v", dry)
	}

	cond := map[string]string{"If-Match": api.ETag(dry.Index - 1)}
	refused(t, a.do(try{method: "PUT", path: api.PathLimits, body: body, header: cond}), 412, "the index is")
	refused(t, a.do(try{method: "PUT", path: api.PathLimits + "?dry_run=1", body: body, header: cond}), 412, "the index is")
	refused(t, a.do(try{method: "PUT", path: api.PathLimits, body: body, header: map[string]string{"If-None-Match": "*"}}), 412, "the list of limits is always there")
	cond["If-Match"] = api.ETag(dry.Index)
	done := get[api.LimitsReplaced](t, a.do(try{method: "PUT", path: api.PathLimits, body: body, header: cond}))
	if diff := cmp.Diff(dry.Changes, done.Changes); diff != "" || done.DryRun {
		t.Error(diff)
	}
	left := get[api.Limits](t, a.do(try{method: "GET", path: api.PathLimits}))
	if len(left.Limits) != 3 || left.Limits[0].Source != "config" || left.Limits[2].Queue != nil {
		t.Errorf("%+v", left)
	}
	get[api.LimitsReplaced](t, a.do(try{method: "PUT", path: api.PathLimits, body: `{"limits":[]}`}))
	if n := len(b.tableNow().Limits()); n != 0 {
		t.Errorf("%d limits left", n)
	}
}

func TestEvictReachesTheLog(t *testing.T) {
	b := newBench(t, Config{}, "a")
	for path, body := range map[string]string{pathLimit + "x.org": `{"connections":1}`, api.PathLimits: `{"limits":[{"pattern":"x.org","connections":1}]}`} {
		for _, evict := range []bool{true, false} {
			b.nodes["a"].do(put("x.org", `{"connections":9}`))
			get[map[string]any](t, b.nodes["a"].do(try{method: "PUT", path: fmt.Sprintf("%s?evict=%v", path, evict), body: body}))
			p, _ := limit.ParsePattern("x.org")
			if l, ok := b.tableNow().Get(p); !ok || l.Evict != evict || l.Connections != 1 {
				t.Errorf("%s: %+v", path, l)
			}
		}
	}
}

// A limit that not all servers understand yet is refused with what the leader says of them.
func TestLimitThatNotAllServersUnderstand(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	before := b.index
	b.nodes["a"].propose = fmt.Errorf("%w: it needs log version 3, and c knows 2: upgrade them", ErrMixedVersions)
	refused(t, b.nodes["b"].do(put("x.org", `{"connections":5}`)), 409, "c knows 2: upgrade")
	if b.index != before {
		t.Errorf("something was written: index %d, was %d", b.index, before)
	}
}

// fullLimit has every field of a limit's body.
const fullLimit = `{"scope":"host","pattern":"r.org","connections":5,"requests":{"rate":"10/s","burst":20},"bandwidth":{"upload":"1MB","download":"10MB","burst":"2MB"},` +
	`"queue":{"timeout":"2s","size":100},"shared":false,"mode":"report"}`
