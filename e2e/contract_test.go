package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
)

// TestAnswersAreAsDescribed holds what real nodes answer against the description that they serve: a
// server and a proxy, with use, limits, a dead node and a refused request behind them, then
// drained, and then without a leader. Success and error alike.
func TestAnswersAreAsDescribed(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{ttl: 5 * time.Second, limits: "  host \"*\" {\n    connections = 25\n  }\n"})
	leader, others := c.leader(t)
	proxy := c.add(t, "p", "proxy")
	proxy.awaitReady(t, 20*time.Second)
	up := c.upstream(t)
	c.setLimit(t, up.name, queued(2, time.Second, 3))
	proxy.openMany(t, up.target, 2)
	leader.refuse(t, up.target, "connection_limit_reached")
	others[0].kill(t)
	contract := readContract(t, leader)

	for _, n := range []*node{leader, others[1], proxy} {
		contract.reads(t, n, up.name)
		contract.writes(t, n)
		contract.errors(t, n)
	}
	contract.answers(t, proxy, 202, "POST", "/v1/drain", "", nil)
	contract.reads(t, proxy, up.name)
	contract.answers(t, proxy, 503, "GET", "/readyz", "", nil)
	others[1].kill(t) // the leader is alone now
	eventually(t, 20*time.Second, "no leader", func() error {
		var s statusAnswer
		if err := leader.http.read("/v1/status", &s); err != nil || s.Leader != "" {
			return fmt.Errorf("%+v, %w", s, err)
		}
		return nil
	})
	for _, n := range []*node{leader, proxy} {
		contract.reads(t, n, up.name)
		contract.answers(t, n, 503, "PUT", "/v1/limits/host/late.example", connections(1), nil)
	}
}

// contract validates answers against the description that a node serves.
type contract struct{ validator.Validator }

func readContract(t *testing.T, n *node) contract {
	t.Helper()
	doc, err := libopenapi.NewDocument(n.http.must(t, 200, "GET", "/v1/openapi.json", "", nil).body)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(doc, config.WithStrictMode(), config.WithFormatAssertions(), config.WithoutSecurityValidation(),
		// Strict mode takes no account of schemas without named properties; what is there is
		// validated all the same.
		config.WithStrictIgnorePaths("$.body.hosts[*].nodes.*", "$.body.nodes.*", "$.body.source.*"),
		config.WithStrictIgnoredHeadersExtra("X-Content-Type-Options"))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return contract{v}
}

// reads makes the calls that change nothing. What a node can't tell now it says in an answer of its
// own.
func (c contract) reads(t *testing.T, n *node, host string) {
	t.Helper()
	for _, path := range []string{
		"/v1/status", "/v1/nodes", "/v1/limits", "/v1/limits/host/" + host, "/v1/hosts", "/v1/hosts?sort=in_use&limit=1", "/v1/hosts/" + host,
		"/v1/hosts/nobody.example", "/v1/connections", "/v1/connections?node=*&limit=1", "/v1/connections?node=p", "/metrics", "/healthz",
	} {
		c.answers(t, n, 200, "GET", path, "", nil)
	}
	c.answers(t, n, 0, "GET", "/readyz", "", nil)
	c.answers(t, n, 0, "GET", "/v1/raft/peers", "", nil)
}

// writes makes the calls that change limits, on a pattern of the node's own.
func (c contract) writes(t *testing.T, n *node) {
	t.Helper()
	one := "/v1/limits/host/" + n.name + ".example"
	c.answers(t, n, 200, "PUT", one, connections(1), nil)
	a := c.answers(t, n, 200, "PUT", one+"?evict=true", queued(0, time.Second, 1), nil)
	c.answers(t, n, 304, "GET", one, "", map[string]string{"If-None-Match": a.header.Get("Etag")})
	c.answers(t, n, 200, "DELETE", one, "", map[string]string{"If-Match": a.header.Get("Etag")})
	all := n.http.must(t, 200, "GET", "/v1/limits", "", nil)
	c.answers(t, n, 200, "PUT", "/v1/limits?dry_run=true", string(all.body), nil)
	c.answers(t, n, 200, "PUT", "/v1/limits", string(all.body), nil)
	c.answers(t, n, 200, "POST", "/v1/reload", "", nil)
}

// errors makes calls that fail.
func (c contract) errors(t *testing.T, n *node) {
	t.Helper()
	one := "/v1/limits/host/x.example"
	for _, k := range []struct {
		want               int
		method, path, body string
		header             map[string]string
	}{
		{400, "GET", "/v1/connections?node=a&node=b", "", nil},
		{404, "GET", one, "", nil},
		{404, "DELETE", one, "", nil},
		{404, "GET", "/v1/connections?node=nobody", "", nil},
		{404, "DELETE", "/v1/connections/none", "", nil},
		{404, "DELETE", "/v1/raft/peers/nobody", "", nil},
		{412, "PUT", one, connections(1), map[string]string{"If-Match": "*"}},
		{415, "POST", "/v1/raft/transfer", "", map[string]string{"Content-Type": "text/plain"}},
		{422, "PUT", one, connections(-1), nil},
	} {
		c.answers(t, n, k.want, k.method, k.path, k.body, k.header)
	}
}

// answers makes a call and validates the answer; 0 is any status.
func (c contract) answers(t *testing.T, n *node, want int, method, path, body string, header map[string]string) *answer {
	t.Helper()
	a, err := n.http.call(method, path, body, header)
	if err != nil {
		t.Fatalf("%s %s on %s: %v", method, path, n.name, err)
	}
	if want != 0 && a.status != want {
		t.Errorf("%s %s on %s answers %d: %s; want %d", method, path, n.name, a.status, a.body, want)
	}
	r, err := http.NewRequest(method, n.http.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	a.header.Del("Date")
	a.header.Del("Content-Length")
	res := &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)), Request: r}
	if ok, errs := c.ValidateHttpResponse(r, res); !ok {
		for _, e := range errs {
			t.Errorf("%s %s on %s answers %d %s, not as described: %s: %s", method, path, n.name, a.status, a.body, e.Message, e.Reason)
			for _, s := range e.SchemaValidationErrors {
				t.Errorf("  %s: %s", s.FieldPath, s.Reason)
			}
		}
	}
	return a
}
