package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	validation "github.com/pb33f/libopenapi-validator/errors"

	"github.com/weirproxy/weir/api"
	"github.com/weirproxy/weir/limit"
)

// contract checks requests and answers against openapi.json. Building it is costly, so the tests
// share one.
var contract = sync.OnceValues(func() (validator.Validator, error) {
	doc, err := libopenapi.NewDocument(openAPI)
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(doc, config.WithStrictMode(), config.WithFormatAssertions(), config.WithoutSecurityValidation(),
		// Strict mode takes no account of schemas without named properties; what is there is
		// validated all the same.
		config.WithStrictIgnorePaths("$.body.hosts[*].nodes.*", "$.body.usage[*].nodes.*", "$.body.nodes.*", "$.body.source.*"),
		config.WithStrictIgnoredHeadersExtra("X-Content-Type-Options", "Access-Control-Request-Method", "Weir-Forwarded", "Weir-Client"))
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return v, nil
})

func contractOf(t testing.TB) validator.Validator {
	t.Helper()
	v, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestOpenAPIIsValid(t *testing.T) {
	if ok, errs := contractOf(t).ValidateDocument(); !ok {
		t.Error(reasons(errs))
	}
}

func reasons(errs []*validation.ValidationError) string {
	var b strings.Builder
	for _, e := range errs {
		fmt.Fprintf(&b, "%s: %s\n", e.Message, e.Reason)
		for _, s := range e.SchemaValidationErrors {
			fmt.Fprintf(&b, "  %s: %s\n", s.FieldPath, s.Reason)
		}
	}
	return b.String()
}

// checkAnswer reports how an answer differs from what openapi.json says; also, where the answer is
// a success, the request.
func checkAnswer(t testing.TB, s *Server, k try, w *httptest.ResponseRecorder) {
	t.Helper()
	r := k.request()
	v := contractOf(t)
	path, ok := described(s, r)
	if !ok {
		return // nothing is there, which the router's own tests look at
	}
	if path == api.PathOpenAPI && w.Code == http.StatusOK {
		if !bytes.Equal(w.Body.Bytes(), openAPI) {
			t.Errorf("%s answers something else", path)
		}
		return // it is validated as what it is
	}
	// What a parameter in the path may be is not the description's to say: a pattern holds slashes.
	plain := httptest.NewRequest(k.method, path, strings.NewReader(k.body))
	plain.URL.RawQuery = r.URL.RawQuery
	plain.Header = r.Header.Clone()
	res := w.Result()
	res.Body = io.NopCloser(bytes.NewReader(w.Body.Bytes()))
	if ok, errs := v.ValidateHttpResponse(plain, res); !ok {
		t.Errorf("%s %s answers %d, not as openapi.json says: %s%s", k.method, k.path, w.Code, reasons(errs), w.Body)
	}
	if w.Code >= 300 {
		return
	}
	plain.Body = io.NopCloser(strings.NewReader(k.body))
	if ok, errs := v.ValidateHttpRequest(plain); !ok {
		t.Errorf("%s %s is accepted, and not as openapi.json says: %s%s", k.method, k.path, reasons(errs), k.body)
	}
}

// described is the path of a request's route, with a stand-in for its parameter; false where no
// route takes the method.
func described(s *Server, r *http.Request) (path string, ok bool) {
	if r.Method == http.MethodHead || isTool(r.URL.Path) {
		return "", false
	}
	path = r.URL.EscapedPath()
	for _, rt := range s.public {
		params, is := rt.match(path)
		if _, takes := rt.methods[r.Method]; !is || !takes {
			continue
		}
		path = rt.path
		for name, value := range params {
			if name != "scope" { // which is described
				value = "x"
			}
			path = strings.Replace(path, "{"+name+"}", value, 1)
		}
		return path, true
	}
	return "", false
}

// spec is openapi.json as far as these tests read it by themselves.
type spec struct {
	Info struct {
		Title, Description string
	}
	Tags       []struct{ Name, Description string }
	Paths      map[string]map[string]*operation
	Components struct {
		Schemas    map[string]*schema
		Parameters map[string]*parameter
	}
}

type operation struct {
	OperationID string
	Tags        []string
	Summary     string
	Description string
	Parameters  []*parameter
	RequestBody *struct {
		Required bool
		Content  map[string]struct{ Schema *schema }
	}
	Responses map[string]*response
}

type response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     map[string]struct{ Schema *schema }
}

type parameter struct {
	Ref         string `json:"$ref"`
	Name, In    string
	Required    bool
	Description string
	Schema      *schema
}

type schema struct {
	Ref                  string          `json:"$ref"`
	Type                 json.RawMessage // a name, or a list of them
	Description          string
	Properties           map[string]*schema
	Required             []string
	Items                *schema
	AdditionalProperties json.RawMessage
	OneOf                []*schema
	Enum                 []any
	Const                any
	Default              any
	Minimum, Maximum     *float64
	Format               string
}

func readSpec(t *testing.T) spec {
	t.Helper()
	var s spec
	if err := json.Unmarshal(openAPI, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// isTool reports whether a path is for browsers and Go's tools, whose answers are theirs and not
// the contract's.
func isTool(path string) bool {
	return path == "/" || path == "/ui" || strings.HasPrefix(path, "/ui/") || strings.HasPrefix(path, "/debug/")
}

// TestOpenAPIHasEveryRoute: what is served is described, and what is described is served.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	var served, told []string
	for _, rt := range newBench(t, Config{}, "a").nodes["a"].server.public {
		for method := range rt.methods {
			if isTool(rt.path) {
				continue
			}
			served = append(served, method+" "+rt.path)
		}
	}
	ids := map[string]bool{}
	for path, operations := range readSpec(t).Paths {
		for method, op := range operations {
			told = append(told, strings.ToUpper(method)+" "+path)
			if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" || len(op.Tags) != 1 {
				t.Errorf("%s %s needs an id of its own, a summary and a tag", method, path)
			}
			ids[op.OperationID] = true
			if op.Responses["default"] == nil {
				t.Errorf("%s %s does not say how it fails", method, path)
			}
		}
	}
	slices.Sort(served)
	slices.Sort(told)
	if diff := cmp.Diff(served, told); diff != "" {
		t.Errorf("routes (-) and openapi.json (+): %s", diff)
	}
}

// TestOpenAPIScopesWithNames: where a path has a pattern or a name, its scope is one that has any.
func TestOpenAPIScopesWithNames(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct {
				Name, In string
				Schema   struct{ Enum []string }
			}
		}
	}
	if err := json.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, s := range limit.Scopes {
		if !s.Bare() {
			want = append(want, s.String())
		}
	}
	slices.Sort(want)
	found := 0
	for path, operations := range doc.Paths {
		if !strings.Contains(path, "{scope}/") {
			continue
		}
		for method, operation := range operations {
			for _, p := range operation.Parameters {
				if p.In != "path" || p.Name != "scope" {
					continue
				}
				found++
				if got := slices.Sorted(slices.Values(p.Schema.Enum)); !slices.Equal(got, want) {
					t.Errorf("%s %s takes the scopes %v, want %v", method, path, got, want)
				}
			}
		}
	}
	if found != 4 {
		t.Errorf("%d operations with a scope and a name, want 4", found)
	}
}

// TestOpenAPIAnswers gets a success out of every operation that openapi.json describes; do compares
// the answers with it.
func TestOpenAPIAnswers(t *testing.T) {
	b := newBench(t, Config{MetricsHosts: 2, Token: "secret"}, "a", "b")
	a := b.nodes["a"]
	soon := api.Duration(3 * time.Second)
	a.st.Session = api.SessionStatus{ID: 7, State: "live", ExpiresIn: api.Duration(8123456789)}
	a.st.Raft = api.RaftStatus{State: "leader", Term: 2, LastIndex: 9, CommitIndex: 9, AppliedIndex: 9}
	a.members = []api.Node{
		{Name: "a", Role: "server", Leader: true, Health: "alive", Session: "live", Version: "v1", Addresses: api.Addresses{RPC: "127.0.0.1:1", Gossip: "127.0.0.1:2"}},
		{Name: "c", Role: "proxy", Health: "dead", Session: "fenced", ReclaimIn: &soon},
	}
	a.uses = metricsBench(t, Config{}).uses
	a.list = []api.Connection{{ID: "1", Client: "127.0.0.1:9", User: "ada", Host: "x.org", Port: 443, Protocol: "connect", Since: time.Now(), BytesIn: 1, BytesOut: 2, Limited: true}}
	seen := map[string]bool{}
	for _, k := range []try{
		{method: "GET", path: "/v1/status"},
		{method: "GET", path: "/v1/nodes"},
		{method: "PUT", path: "/v1/limits/host/x.org?evict=true", body: `{"connections":5,"queue":{"timeout":"2s","size":100},"shared":false}`},
		{method: "PUT", path: "/v1/limits/host/10.0.0.0%2F8", body: `{}`},
		{method: "PUT", path: "/v1/limits/host/r.org", body: fullLimit},
		{method: "GET", path: "/v1/limits/host/r.org"},
		{method: "GET", path: "/v1/explain?host=r.org:443&client=10.0.0.7&user=ada&key=tenant/42"},
		{method: "GET", path: "/v1/usage/host/r.org"},
		{method: "GET", path: "/v1/usage/host?sort=in_use&limit=1&prefix="},
		{method: "GET", path: "/v1/limits/host/x.org"},
		{method: "GET", path: "/v1/limits"},
		{method: "PUT", path: "/v1/limits?dry_run=true", body: `{"limits":[{"pattern":"y.org","connections":null}]}`},
		{method: "PUT", path: "/v1/limits", body: `{"index":3,"limits":[{"pattern":"x.org","connections":1},{"pattern":"*.y.org","shared":true,"connections":0}]}`},
		{method: "DELETE", path: "/v1/limits/host/x.org"},
		{method: "GET", path: "/v1/hosts?sort=in_use&limit=1&prefix="},
		{method: "GET", path: "/v1/hosts/x.org"},
		{method: "GET", path: "/v1/connections?host=x.org&key=x.org&node=*&limit=1&after=1/a/1"},
		{method: "DELETE", path: "/v1/connections/1"},
		{method: "POST", path: "/v1/drain"},
		{method: "DELETE", path: "/v1/drain"},
		{method: "POST", path: "/v1/leave"},
		{method: "POST", path: "/v1/reload"},
		{method: "GET", path: "/v1/raft/peers"},
		{method: "DELETE", path: "/v1/raft/peers/b"},
		{method: "POST", path: "/v1/raft/transfer", body: `{"to":"b"}`},
		{method: "POST", path: "/v1/raft/transfer"},
		{method: "GET", path: "/v1/status?node=b"},
		{method: "GET", path: "/metrics?node=b"},
		{method: "GET", path: api.PathConfig + "?node=b"},
		{method: "GET", path: api.PathLogs + "?lines=2"},
		{method: "GET", path: api.PathSystem},
		{method: "GET", path: api.PathSnapshot},
		{method: "PUT", path: api.PathSnapshot, body: b.snapshot(), header: map[string]string{"Content-Type": api.MediaSnapshot}},
		{method: "GET", path: "/v1/openapi.json"},
		{method: "GET", path: "/metrics"},
		{method: "GET", path: "/healthz"},
		{method: "GET", path: "/readyz"},
		{method: "HEAD", path: "/v1/events"}, // which ends; the stream's own tests read it
	} {
		k.header = maps.Clone(k.header)
		if k.header == nil {
			k.header = map[string]string{}
		}
		k.header["Authorization"] = secret
		if w := a.do(k); w.Code > 299 {
			t.Errorf("%s %s: %d %s", k.method, k.path, w.Code, w.Body)
		}
		k.method = strings.Replace(k.method, "HEAD", "GET", 1)
		path, _ := described(a.server, httptest.NewRequest(k.method, k.path, nil))
		seen[k.method+" "+path] = true
	}
	for path, operations := range readSpec(t).Paths {
		path = strings.Replace(path, "{scope}", "host", 1)
		fixed, _, param := strings.Cut(path, "{")
		if param {
			path = fixed + "x"
		}
		if path == api.PathLimits+"/total" || path == api.PathLimits+"/connection" {
			continue // as in the scopes with patterns, which the tests of limits look at
		}
		for method := range operations {
			if !seen[strings.ToUpper(method)+" "+path] {
				t.Errorf("%s %s has not been called", method, path)
			}
		}
	}
}

// TestOpenAPICheckNotices breaks answers and looks whether checkAnswer would have noticed.
func TestOpenAPICheckNotices(t *testing.T) {
	v := contractOf(t)
	for _, test := range []struct {
		status int
		body   string
		ok     bool
	}{
		{200, `{"status":"ok"}`, true},
		{200, `{"status":"fine"}`, false},
		{200, `{}`, false},
		{200, `{"status":"ok","more":1}`, false},
		{503, `{"type":"about:blank","title":"t","status":503,"detail":"d","code":"not_ready"}`, true},
		{503, `{"title":"t","status":503,"detail":"d","code":"not_ready"}`, false},
		{503, `{"type":"about:blank","title":"t","status":"503","detail":"d","code":"not_ready"}`, false},
	} {
		res := &http.Response{StatusCode: test.status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(test.body))}
		if test.status > 299 {
			res.Header.Set("Content-Type", "application/problem+json")
		}
		if ok, errs := v.ValidateHttpResponse(httptest.NewRequest("GET", "/readyz", nil), res); ok != test.ok {
			t.Errorf("%d %s: %v %s", test.status, test.body, ok, reasons(errs))
		}
	}
	for name, ok := range map[string]bool{"Retry-After": true, "Location": false} {
		res := &http.Response{StatusCode: 503, Header: http.Header{"Content-Type": {"application/problem+json"}, name: {"1"}},
			Body: io.NopCloser(strings.NewReader(`{"type":"about:blank","title":"t","status":503,"detail":"d","code":"not_ready"}`))}
		if got, errs := v.ValidateHttpResponse(httptest.NewRequest("GET", "/readyz", nil), res); got != ok {
			t.Errorf("an answer with the header %s is as described: %t, want %t: %s", name, got, ok, reasons(errs))
		}
	}
}
