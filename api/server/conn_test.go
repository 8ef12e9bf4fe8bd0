package server

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirproxy/weir/api"
)

// TestRefusalsOfTheLibrary: what net/http answers by itself is a problem too, as a whole request on
// a connection of its own and behind one that was answered well.
func TestRefusalsOfTheLibrary(t *testing.T) {
	a := newBench(t, Config{}, "a").nodes["a"]
	addr := a.listen(t)
	for _, c := range []struct {
		request      string
		status       int
		code, detail string
	}{
		{"GET /v1/status\r\n\r\n", 400, "malformed", "not an HTTP request"},
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed", "not an HTTP request"},
		{"GET /v1/status HTTP/1.1\r\n\r\n", 400, "malformed", "missing required Host header"},
		{"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400, "malformed", ""},
		{"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n", 400, "malformed", ""},
		{"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nA: b\x01\r\n\r\n", 400, "malformed", ""},
		{"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "malformed", ""},
		{"PUT /v1/limits HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400, "malformed", ""},
		{"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 100_000), 431, "head_too_large", "65536 bytes"},
		{"PUT /v1/limits HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not_implemented", "Transfer-Encoding"},
		{"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 505, "http_version", "HTTP/1.1"},
		{"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: the best\r\n\r\n", 417, "expectation", "100-continue"},
		// These are the router's.
		{"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, "no_such_path", ""},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403, "host_not_allowed", ""},
		{"BREW /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "method_not_allowed", ""},
	} {
		for _, before := range []string{"", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = io.WriteString(conn, before+c.request) // refused before its end, where it is long
			}()
			r := bufio.NewReader(conn)
			if before != "" {
				if got := readAnswer(t, r); got.StatusCode != 200 {
					t.Errorf("%.40q: the request before is answered with %s", c.request, got.Status)
				}
			}
			problemIs(t, readAnswer(t, r), c.status, c.code, c.detail)
			_ = conn.Close()
			<-sent
		}
	}
}

// TestProbes asks as load balancers do: by HTTP/1.0 without a Host, by HEAD, by OPTIONS, and for a
// host that is none of the node's. They get the node's state, never a refusal, and without a token.
func TestProbes(t *testing.T) {
	node := newBench(t, Config{Token: "secret"}, "a").nodes["a"]
	addr := node.listen(t)
	ask := func(method, path, rest string) *http.Response {
		t.Helper()
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, method+" "+path+rest); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res
	}
	ways := []string{
		" HTTP/1.0\r\n\r\n",
		" HTTP/1.0\r\nHost:\r\n\r\n",
		" HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
		" HTTP/1.1\r\nHost: 10.0.0.7\r\nConnection: close\r\n\r\n",
		" HTTP/1.1\r\nHost: backend.example:8081\r\nConnection: close\r\n\r\n",
		" HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nConnection: close\r\n\r\n",
		"?check=1 HTTP/1.0\r\nUser-Agent: ELB-HealthChecker/2.0\r\n\r\n",
	}
	for ready, want := range map[string]map[string]int{
		"":                {api.PathHealthz: 200, api.PathReadyz: 200},
		"no live session": {api.PathHealthz: 200, api.PathReadyz: 503},
	} {
		node.notReady = ready
		for path, status := range want {
			for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
				for _, way := range ways {
					if got := ask(method, path, way).StatusCode; got != status {
						t.Errorf("%s %s%q answers %d, want %d", method, path, way, got, status)
					}
				}
			}
		}
	}
	for _, path := range []string{"/v1/status", "/healthz/", "/v1/healthz", "/metrics", "/ui/"} {
		if got := ask("GET", path, ways[0]).StatusCode; got != 403 {
			t.Errorf("%s without a Host answers %d, want 403", path, got)
		}
	}
}

// readAnswer reads one response with its body.
func readAnswer(t *testing.T, r *bufio.Reader) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	res.Body = io.NopCloser(strings.NewReader(string(body)))
	return res
}

func problemIs(t *testing.T, res *http.Response, status int, code, detail string) {
	t.Helper()
	var p api.Problem
	if err := json.NewDecoder(res.Body).Decode(&p); err != nil {
		t.Fatalf("%s is no problem: %v", res.Status, err)
	}
	if res.StatusCode != status || p.Status != status || p.Code != code || !strings.Contains(p.Detail, detail) ||
		p.Title != http.StatusText(status) || res.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("want %d %s with %q, got %s, %s, %+v", status, code, detail, res.Status, res.Header.Get("Content-Type"), p)
	}
}

// TestSlowRequest: a request that has begun and does not come in time is told so; a connection on
// which nothing was asked is closed without a word, as one that was kept for the next request is.
func TestSlowRequest(t *testing.T) {
	for name, c := range map[string]struct {
		before, sent string
		told         bool
	}{
		"half a head":                {"", "GET /v1/status HTTP/1.1\r\nHost: loc", true},
		"nothing":                    {"", "", false},
		"nothing more":               {"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "", false},
		"half a head behind a whole": {"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newBench(t, Config{}, "a").nodes["a"]
				stop := a.serveOnPipes(t)
				defer stop()
				conn, err := a.transport.DialContext(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				r := bufio.NewReader(conn)
				if c.before != "" {
					go io.WriteString(conn, c.before)
					if got := readAnswer(t, r); got.StatusCode != 200 {
						t.Fatal(got.Status)
					}
				}
				go io.WriteString(conn, c.sent)
				began := time.Now()
				if !c.told {
					if b, err := r.ReadByte(); err != io.EOF {
						t.Fatalf("read %q, %v", b, err)
					}
					return
				}
				res := readAnswer(t, r)
				problemIs(t, res, 408, "request_timeout", "5s")
				if took := time.Since(began); took != headTimeout || !res.Close {
					t.Errorf("after %v, closing %t", took, res.Close)
				}
				if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
					t.Errorf("behind it: %q, %v", rest, err)
				}
			})
		})
	}
}
