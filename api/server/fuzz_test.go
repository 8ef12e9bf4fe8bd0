package server

import (
	"bytes"
	"encoding/json"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// membersOf takes a JSON object apart, and reports whether it is one, whole, with no key twice, of
// those allowed.
func membersOf(raw []byte, allowed ...string) (map[string]json.RawMessage, bool) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		key, ok := t.(string)
		if err != nil || !ok || members[key] != nil || !slices.Contains(allowed, key) {
			return nil, false
		}
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return nil, false
		}
		members[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, false
	}
	for key, value := range members {
		if string(value) == "null" {
			delete(members, key) // null is absent
		}
	}
	_, err := dec.Token()
	return members, err == io.EOF
}

var wholeNumber = regexp.MustCompile(`^-?[0-9]+$`)

// numberOf reads a whole number from low to high, as written.
func numberOf(raw json.RawMessage, low, high int64) (int64, bool) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return n, wholeNumber.Match(raw) && err == nil && low <= n && n <= high
}

func textOf(raw json.RawMessage) (s string, ok bool) {
	return s, json.Unmarshal(raw, &s) == nil && raw[0] == '"'
}

// wantedLimit is the limit that a body means by the documentation alone. The pattern is the path's,
// or "".
func wantedLimit(raw []byte, path string) (l limit.Limit, ok bool) {
	m, ok := membersOf(raw, "pattern", "connections", "queue", "shared", "source", "modify_index", "index")
	if !ok {
		return l, false
	}
	name, given := path, m["pattern"] != nil
	if given {
		if name, ok = textOf(m["pattern"]); !ok {
			return l, false
		}
	}
	p, err := limit.ParsePattern(name)
	if err != nil || given && path != "" && p.String() != path {
		return l, false
	}
	l = limit.Limit{Pattern: p, Connections: limit.Unlimited}
	if raw := m["connections"]; raw != nil {
		if l.Connections, ok = numberOf(raw, 0, 1_000_000); !ok {
			return l, false
		}
	}
	switch shared := string(m["shared"]); {
	case shared == "true":
		l.Shared = true
	case shared != "" && shared != "false":
		return l, false
	}
	if raw := m["queue"]; raw != nil {
		if l.Queue, ok = wantedQueue(raw); !ok || l.Connections == limit.Unlimited {
			return l, false
		}
	}
	return l, !l.Shared || p.Wildcard()
}

func wantedQueue(raw []byte) (q limit.Queue, ok bool) {
	m, ok := membersOf(raw, "timeout", "size")
	if !ok || m["timeout"] == nil || m["size"] == nil {
		return q, false
	}
	text, ok := textOf(m["timeout"])
	d, err := time.ParseDuration(text)
	size, fits := numberOf(m["size"], 1, 1_000_000)
	return limit.Queue{Timeout: d, Size: int(size)}, ok && err == nil && d > 0 && d <= time.Hour && fits
}

// wantedLimits is the list that a body means, by pattern.
func wantedLimits(raw []byte) (map[limit.Pattern]limit.Limit, bool) {
	m, ok := membersOf(raw, "index", "limits")
	var list []json.RawMessage
	if !ok || m["limits"] == nil || json.Unmarshal(m["limits"], &list) != nil {
		return nil, false
	}
	wanted := map[limit.Pattern]limit.Limit{}
	for _, raw := range list {
		l, ok := wantedLimit(raw, "")
		if _, twice := wanted[l.Pattern]; !ok || twice {
			return nil, false
		}
		wanted[l.Pattern] = l
	}
	return wanted, true
}

func sameRule(a, b limit.Limit) bool {
	return a.Pattern == b.Pattern && a.Connections == b.Connections && a.Queue == b.Queue && a.Shared == b.Shared
}

// FuzzLimitBodies: a body is accepted exactly where the documentation gives it a meaning, and then
// the cluster has that limit, which reads back and is accepted again, as no change. What is refused
// is told as a problem and changes nothing.
func FuzzLimitBodies(f *testing.F) {
	for _, s := range []string{
		five, `{}`, `null`, `[]`, `{"connections":5}{}`, `{"connections":-0}`, `{"connections":-1}`, `{"connections":5.0}`, `{"connections":1000001}`, `{"connections":5,"connections":6}`,
		`{"connections":5,"\u0063onnections":6}`, `{"Connections":5}`, `{"connections":"5"}`, `{"connections":null,"queue":null,"shared":null,"pattern":null}`,
		`{"connections":1,"queue":{"timeout":"1h","size":1}}`, `{"connections":1,"queue":{"timeout":"1h0m0.1s","size":1}}`, `{"queue":{"timeout":"1s","size":1}}`,
		`{"connections":1,"queue":{"timeout":1,"size":1}}`, `{"connections":1,"queue":{"size":1}}`, `{"connections":1,"queue":{"timeout":"1s","size":1,"x":0}}`,
		`{"pattern":"X.org.","shared":false,"source":{"a":1,"a":2},"modify_index":-1}`, `{"pattern":"y.org"}`, `{"shared":true}`, `{"pattern":"\ud800"}`,
		`{"limits":[]}`, `{"limits":null}`, `{"limits":{}}`, `{"limits":[null]}`, `{"limits":[{}]}`, `{"limits":[],"limits":[]}`, `{"limits":[],"more":1}`,
		`{"limits":[{"pattern":"*.x.org","connections":null,"shared":true}],"index":3}`, `{"limits":[{"pattern":"a"},{"pattern":"A."}]}`,
		`{"limits":[{"pattern":"10.0.0.0/8","connections":0},{"pattern":"[::1]:80","connections":1000000},{"pattern":"*","connections":1,"shared":true}]}`,
	} {
		f.Add([]byte(s))
	}
	path, err := limit.ParsePattern("x.org")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b := newBench(t, Config{}, "a")
		a := b.nodes["a"]
		one, ok := wantedLimit(body, path.String())
		w := a.do(try{method: "PUT", path: pathLimit + "x.org", body: string(body)})
		switch {
		case ok:
			get[api.LimitWritten](t, w)
			if l, there := b.tableNow().Get(path); !there || !sameRule(*l, one) {
				t.Fatalf("%q: the limit is %+v, want %+v", body, l, one)
			}
		case w.Code != 400 && w.Code != 422 || len(b.tableNow().Limits()) > 0:
			t.Fatalf("%q: %d %s, and %v", body, w.Code, w.Body, b.tableNow().Limits())
		default:
			refused(t, w, w.Code, "")
		}
		before := b.tableNow().Index
		all, ok := wantedLimits(body)
		w = a.do(try{method: "PUT", path: api.PathLimits, body: string(body)})
		switch {
		case ok:
			get[api.LimitsReplaced](t, w)
			now := b.tableNow().Limits()
			for _, l := range now {
				if !sameRule(l, all[l.Pattern]) {
					t.Fatalf("%q: a limit is %+v, want %+v", body, l, all[l.Pattern])
				}
			}
			if len(now) != len(all) {
				t.Fatalf("%q: the limits are %+v, want %+v", body, now, all)
			}
		case w.Code != 400 && w.Code != 422 || b.tableNow().Index != before:
			t.Fatalf("%q: %d %s", body, w.Code, w.Body)
		}
		answer := a.do(try{method: "GET", path: api.PathLimits}).Body.String()
		if again := get[api.LimitsReplaced](t, a.do(try{method: "PUT", path: api.PathLimits, body: answer})); len(again.Changes) != 0 {
			t.Fatalf("%q: what was read is no change: %+v", body, again)
		}
	})
}

// FuzzPatternsInPaths: a pattern in a path is percent-decoded once, and is the limit's in every
// call.
func FuzzPatternsInPaths(f *testing.F) {
	for _, s := range []string{"x.org", "X.ORG.:080", "10.0.0.0/8", "[::1]:443", "::1", "*", "*.x.org", "..", ".", "a%2Fb", "a/../b", "/", "a//b", "\x00", "a?b", "a#b", "bücher.example", "a;b", "%", "a+b", "10.0.0.0/8/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := newBench(t, Config{}, "a")
		a := b.nodes["a"]
		p, err := limit.ParsePattern(s)
		path := pathLimit + url.PathEscape(s)
		w := a.do(try{method: "PUT", path: path, body: `{"connections":1}`})
		switch {
		case s == "":
			refused(t, w, 404, "")
			return
		case err != nil:
			refused(t, w, 422, "")
			refused(t, a.do(try{method: "GET", path: path}), 422, "")
			return
		}
		if got := get[api.LimitWritten](t, w); got.Pattern != p.String() {
			t.Fatalf("%q: %q, want %q", s, got.Pattern, p)
		}
		if got := get[api.Limit](t, a.do(try{method: "GET", path: pathLimit + url.PathEscape(p.String())})); got.Pattern != p.String() {
			t.Fatalf("%q reads back as %q, want %q", s, got.Pattern, p)
		}
		get[api.LimitDeleted](t, a.do(try{method: "DELETE", path: path}))
		if left := b.tableNow().Limits(); len(left) != 0 {
			t.Fatalf("%q was deleted, and %v is left", s, left)
		}
	})
}

// FuzzConditions: a write with If-Match is done exactly where the limit's own ETag is in the list.
func FuzzConditions(f *testing.F) {
	for _, s := range []string{`"2"`, `"1", "2"`, `W/"2"`, `"02"`, `2`, `*`, `"2",*`, `"2`, `"18446744073709551615"`, `"99999999999999999999"`, `""`, ``, ` "2" `, `"2""2"`, `"3","2"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, tags string) {
		if regexp.MustCompile(`[^\t -~]`).MatchString(tags) {
			return // not a header's value
		}
		b := newBench(t, Config{}, "a")
		a := b.nodes["a"]
		current := get[api.LimitWritten](t, a.do(put("x.org", `{"connections":1}`)))
		w := a.do(try{method: "PUT", path: pathLimit + "x.org", body: `{"connections":2}`, header: map[string]string{"If-Match": tags}})
		l := b.tableNow().Limits()[0]
		list := regexp.MustCompile(`[\t ]*,[\t ]*`).Split(string(bytes.Trim([]byte(tags), "\t ")), -1)
		match := tags == "" || slices.Contains(list, api.ETag(current.ModifyIndex)) || slices.Equal(list, []string{"*"})
		switch {
		case w.Code == 200 && len(list) > 1 && slices.Contains(list, "*"):
			t.Fatalf("%q is no list (RFC 9110, section 13.1.1): %d %s", tags, w.Code, w.Body)
		case w.Code == 200 && !match, (w.Code == 200) != (l.Connections == 2), w.Code != 200 && w.Code != 400 && w.Code != 412:
			t.Fatalf("%q: %d %s, and %+v", tags, w.Code, w.Body, l)
		case w.Code == 412 && match, w.Code == 400 && (slices.Equal(list, []string{api.ETag(current.ModifyIndex)}) || tags == "*"):
			t.Fatalf("%q, though %s is the ETag: %d %s", tags, api.ETag(current.ModifyIndex), w.Code, w.Body)
		}
	})
}
