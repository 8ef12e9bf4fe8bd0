package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestErrorsAreProblems provokes each error that the contract lists on real nodes: all are problems
// with a sentence to act on.
func TestErrorsAreProblems(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{prepare: func(n *node) {
		n.token = filepath.Join(filepath.Dir(n.config), "token")
		if err := os.WriteFile(n.token, []byte("open-sesame\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}})
	n := c.nodes[0]
	const limit = "/v1/limits/host/x.example"
	problem(t, n, 401, "GET", "/v1/status", "", nil)
	problem(t, n, 401, "GET", "/v1/status", "", map[string]string{"Authorization": "Bearer wrong"})
	authorized := func(more ...string) map[string]string {
		h := map[string]string{"Authorization": "Bearer open-sesame"}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return h
	}
	n.http.must(t, http.StatusOK, "PUT", limit, connections(1), authorized())
	for _, k := range []struct {
		want               int
		method, path, body string
		header             map[string]string
	}{
		{400, "PUT", limit, `{"connections":`, authorized()},
		{400, "PUT", limit, `{"conections":1}`, authorized()},
		{400, "GET", "/v1/hosts?sort=size", "", authorized()},
		{400, "GET", "/v1/connections?limit=0", "", authorized()},
		{404, "GET", "/v1/nothing", "", authorized()},
		{404, "GET", "/v1/limits/host/y.example", "", authorized()},
		{404, "DELETE", "/v1/connections/none", "", authorized()},
		{404, "DELETE", "/v1/raft/peers/nobody", "", authorized()},
		{405, "DELETE", "/v1/limits", "", authorized()},
		{412, "PUT", limit, connections(2), authorized("If-Match", `"1"`)},
		{412, "PUT", limit, connections(2), authorized("If-None-Match", "*")},
		{413, "PUT", limit, strings.Repeat(" ", 1<<20) + connections(2), authorized()},
		{413, "PUT", "/v1/limits", strings.Repeat(" ", 15<<20) + `{"limits":[]}`, authorized()},
		{415, "PUT", limit, connections(2), authorized("Content-Type", "text/plain")},
		{415, "POST", "/v1/drain", "", authorized("Content-Type", "application/x-www-form-urlencoded")},
		{422, "PUT", limit, connections(-1), authorized()},
		{422, "PUT", "/v1/limits/host/a..b", connections(1), authorized()},
	} {
		problem(t, n, k.want, k.method, k.path, k.body, k.header)
	}
	raw(t, n, "no HTTP at all\r\n\r\n", "HTTP/1.1 400 Bad Request")

	// Without one more server the rest would be no majority; without two there is no leader.
	c.nodes[1].kill(t)
	eventually(t, 20*time.Second, "the node's death is known", func() error {
		a, err := n.http.call("GET", "/v1/nodes", "", authorized())
		if err == nil && !strings.Contains(string(a.body), `"health":"dead"`) {
			err = fmt.Errorf("%s", a.body)
		}
		return err
	})
	problem(t, n, 409, "DELETE", "/v1/raft/peers/"+c.nodes[2].name, "", authorized())
	c.nodes[2].kill(t)
	eventually(t, 20*time.Second, "no leader", func() error {
		a, err := n.http.call("PUT", limit, connections(3), authorized())
		if err == nil && a.status != http.StatusServiceUnavailable {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
	problem(t, n, 503, "PUT", limit, connections(3), authorized())
	problem(t, n, 503, "GET", "/readyz", "", nil)
}

// raw sends what is no request, and reads the answer to its end.
func raw(t *testing.T, n *node, text, want string) {
	t.Helper()
	conn, err := net.Dial("tcp", n.api)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(got), want) || !strings.Contains(string(got), "application/problem+json") {
		t.Errorf("%q is answered with %q, %v", text, got, err)
	}
}

// problem makes a call that must fail, and looks at how.
func problem(t *testing.T, n *node, want int, method, path, body string, header map[string]string) {
	t.Helper()
	a := n.http.must(t, want, method, path, body, header)
	var p struct {
		Type, Title, Detail, Code string
		Status                    int
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, a.body)
	}
	if a.header.Get("Content-Type") != "application/problem+json" || p.Status != want || p.Type != "about:blank" ||
		p.Title != http.StatusText(want) || p.Code == "" || len(p.Detail) < 10 {
		t.Errorf("%s %s: %s %+v", method, path, a.header.Get("Content-Type"), p)
	}
	for header, status := range map[string]int{"Retry-After": 503, "Allow": 405, "Www-Authenticate": 401} {
		if got := a.header.Get(header); (got != "") != (want == status) {
			t.Errorf("%s %s answers %d with %s: %q", method, path, want, header, got)
		}
	}
}
