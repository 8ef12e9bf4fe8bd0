package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/weirproxy/weir/api"
)

func TestTokens(t *testing.T) {
	const rw, ro = "Bearer secret", "Bearer looking"
	for _, c := range []struct {
		cfg                Config
		auth, method, path string
		status             int
	}{
		{Config{}, "", "PUT", api.PathLimits, 200},
		{Config{}, "Bearer whatever", "GET", api.PathLimits, 200},
		{Config{Token: "secret", ReadToken: "looking"}, "", "GET", api.PathLimits, 401},
		{Config{Token: "secret", ReadToken: "looking"}, "", "GET", "/nowhere", 401},
		{Config{Token: "secret", ReadToken: "looking"}, "Bearer ", "GET", api.PathLimits, 401},
		{Config{Token: "secret", ReadToken: "looking"}, "secret", "GET", api.PathLimits, 401},
		{Config{Token: "secret", ReadToken: "looking"}, "Basic secret", "GET", api.PathLimits, 401},
		{Config{Token: "secret", ReadToken: "looking"}, "Bearer secre", "GET", api.PathLimits, 401},
		{Config{Token: "secret", ReadToken: "looking"}, "Bearer secrets", "GET", api.PathLimits, 401},
		{Config{Token: "secret", ReadToken: "looking"}, rw, "GET", api.PathLimits, 200},
		{Config{Token: "secret", ReadToken: "looking"}, "bearer secret", "PUT", api.PathLimits, 200},
		{Config{Token: "secret", ReadToken: "looking"}, ro, "GET", api.PathLimits, 200},
		{Config{Token: "secret", ReadToken: "looking"}, ro, "HEAD", api.PathLimits, 200},
		{Config{Token: "secret", ReadToken: "looking"}, ro, "PUT", api.PathLimits, 403},
		{Config{Token: "secret", ReadToken: "looking"}, ro, "POST", "/v1/drain", 403},
		{Config{Token: "secret", ReadToken: "looking"}, ro, "DELETE", pathLimit + "x.org", 403},
		{Config{Token: "secret"}, "Bearer looking", "GET", api.PathLimits, 401},
		{Config{ReadToken: "looking"}, "", "PUT", api.PathLimits, 401},
		{Config{ReadToken: "looking"}, ro, "PUT", api.PathLimits, 403},
		{Config{Token: "secret"}, "", "GET", "/healthz", 200},
		{Config{Token: "secret"}, "", "GET", "/readyz", 200},
		{Config{Token: "secret"}, "", "GET", "/v1/status", 401},
	} {
		a := newBench(t, c.cfg, "a").nodes["a"]
		w := a.do(try{method: c.method, path: c.path, body: `{"limits":[]}`, header: map[string]string{"Authorization": c.auth}})
		if w.Code != c.status {
			t.Errorf("%+v: %d %s", c, w.Code, w.Body)
		}
		if c.status == 401 && !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%+v: no challenge", c)
		}
		if c.status == 401 && strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%+v: tells a token: %s", c, w.Body)
		}
	}
}

func TestHost(t *testing.T) {
	a := newBench(t, Config{Hosts: []string{"weir.Example.com"}}, "Node-A").nodes["Node-A"]
	for _, host := range []string{
		"localhost", "LOCALHOST:8081", "localhost.", "node-a", "node-a:8081", "weir.example.com", "weir.example.com.:443",
		"127.0.0.1", "127.0.0.1:8081", "10.1.2.3:1", "[::1]", "[::1]:8081", "[fe80::1%25eth0]:8081", "[fe80::1%eth0]",
	} {
		if w := a.do(try{method: "GET", path: "/v1/status", host: host}); w.Code != 200 {
			t.Errorf("%q is refused: %s", host, w.Body)
		}
	}
	for _, host := range []string{
		"evil.example", "evil.example:8081", "localhost.evil.example", "evil.localhost", "127.0.0.1.evil.example", "0x7f.1",
		"2130706433", "weir.example.com.evil", "localhost:80:80", "localhost:evil", "[localhost]:80x", "node-a@evil", ":8081", "127.0.0.1:x",
	} {
		refused(t, a.do(try{method: "GET", path: "/v1/status", host: host}), 403, "api.hosts")
		if w := a.do(try{method: "GET", path: "/healthz", host: host}); w.Code != 200 {
			t.Errorf("/healthz is refused to the Host %q: %s", host, w.Body)
		}
	}
}

func TestMediaType(t *testing.T) {
	for ct, ok := range map[string]bool{
		"application/json":                  true,
		"Application/JSON; charset=utf-8":   true,
		"application/json;":                 true,
		"":                                  false,
		"text/plain":                        false,
		"text/plain; x=application/json":    false,
		"application/x-www-form-urlencoded": false,
		"multipart/form-data; boundary=x":   false,
		"application/json, text/plain":      false,
		"application/jsonp":                 false,
	} {
		a := newBench(t, Config{}, "a").nodes["a"]
		header := map[string]string{"Content-Type": ct}
		for _, k := range []try{
			{method: "PUT", path: pathLimit + "x.org", body: five, header: header},
			{method: "POST", path: "/v1/drain", header: header},
		} {
			if w := a.do(k); !ok {
				refused(t, w, 415, "application/json")
			} else if w.Code > 299 {
				t.Errorf("%q: %d %s", ct, w.Code, w.Body)
			}
		}
	}
}

func TestRoutes(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	for _, path := range []string{
		"/v1", "/v1/", "/v1/status/", "//v1/status", "/v1/../v1/status", "/v1/%73tatus/x", "/v1/limits/", "/v1/hosts/",
		"/v1/limits/host", "/metrics/", "/v1/events/", "/v1/watch", "/ui/nothing", "/ui/../ui.go", "/v1/raft/peers/",
	} {
		refused(t, a.do(try{method: "GET", path: path}), 404, "nothing at")
	}
	for _, c := range []struct{ method, path, allow string }{
		{"DELETE", "/v1/status", "GET, HEAD"},
		{"POST", pathLimit + "x.org", "DELETE, GET, HEAD, PUT"},
		{"GET", "/v1/drain", "DELETE, POST"},
		{"OPTIONS", api.PathLimits, "GET, HEAD, PUT"},
		{"PATCH", api.PathLimits, "GET, HEAD, PUT"},
		{"POST", api.PathHealthz, "GET, HEAD, OPTIONS"},
		{"DELETE", api.PathReadyz, "GET, HEAD, OPTIONS"},
	} {
		w := a.do(try{method: c.method, path: c.path})
		refused(t, w, 405, c.method)
		if got := w.Header().Get("Allow"); got != c.allow {
			t.Errorf("%s %s allows %q", c.method, c.path, got)
		}
	}
}

func TestNoPermissionForOtherOrigins(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	for _, method := range []string{"OPTIONS", "GET"} {
		w := a.do(try{method: method, path: api.PathLimits, header: map[string]string{
			"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT",
		}})
		for name := range w.Header() {
			if strings.HasPrefix(name, "Access-Control") {
				t.Errorf("%s answers %s", method, name)
			}
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", w.Header())
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	n := newBench(t, Config{}, "a", "b").nodes["b"]
	n.panics = true
	p := refused(t, n.do(put("x.org", five)), 500, "its log says why")
	if strings.Contains(p.Detail, "invariant") {
		t.Error("the panic's text got out")
	}
}

func TestUnknownErrorsStayInside(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	a.propose = fmt.Errorf("open /secret/path: no such file")
	p := refused(t, a.do(put("x.org", five)), 500, "its log says why")
	if strings.Contains(p.Detail, "secret") {
		t.Error(p.Detail)
	}
}

// TestServe runs the real server: requests as they come over the wire, and the end. What net/http
// refuses by itself: conn_test.go.
func TestServe(t *testing.T) {
	b := newBench(t, Config{}, "a", "b")
	b.nodes["b"].stuck = true
	s := b.nodes["b"].server
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := api.NewClient(l.Addr().String(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdle()
	if err := c.Healthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for raw, status := range map[string]string{
		"GET /v1/status HTTP/1.0\r\n\r\n":                                                      "403",
		"GET http://evil.example/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n":                "403",
		"PUT /v1/limits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n":              "415",
		"GET /v1/limits/host/10.0.0.0%2f8 HTTP/1.1\r\nHost: localhost\r\n\r\n":                 "404",
		"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n":              "200",
		"POST /v1/drain HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\r\n":         "403",
		"POST /v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n": "202",
	} {
		if got := rawStatus(t, l.Addr().String(), raw); got != status {
			t.Errorf("%.60q: %s, want %s", raw, got, status)
		}
	}
	// A write that waits is cut off when the time for the shutdown is over.
	failed := make(chan error, 1)
	go func() {
		_, err := c.PutLimit(context.Background(), api.Limit{Pattern: "x.org"})
		failed <- err
	}()
	for b.tableNow().Limits() == nil || len(b.tableNow().Limits()) == 0 {
		if err := c.Healthy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(ctx); err == nil {
		t.Error("Shutdown did not tell that it cut a request off")
	}
	if err := <-failed; err == nil {
		t.Error("the write succeeded")
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func rawStatus(t *testing.T, addr, raw string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go io.WriteString(conn, raw)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%.60q: %v", raw, err)
	}
	defer res.Body.Close()
	return res.Status[:3]
}
