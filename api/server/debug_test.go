package server

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weirproxy/weir/api"
)

const secret = "Bearer secret"

func TestDebugTellsOfAnyNode(t *testing.T) {
	b := newBench(t, Config{Token: "secret"}, "a", "b")
	a := b.nodes["a"]
	ask := func(path string) *httptest.ResponseRecorder {
		return a.do(try{method: "GET", path: path, header: map[string]string{"Authorization": secret}})
	}
	for _, node := range []string{"", "a", "b"} {
		q, name := "?node="+node, node
		if node == "" {
			q, name = "", "a"
		}
		if got := get[api.NodeConfig](t, ask(api.PathConfig+q)); got.Node != name || len(got.Settings) != 2 || got.Settings[0].Value != `"`+name+`"` {
			t.Errorf("config of %q: %+v", node, got)
		}
		if got := get[api.System](t, ask(api.PathSystem+q)); got.Node != name {
			t.Errorf("system of %q: %+v", node, got)
		}
		if got := get[api.Status](t, ask("/v1/status"+q)); got.Node != name {
			t.Errorf("status of %q: %+v", node, got)
		}
		logs := get[api.Logs](t, ask(api.PathLogs+"?lines=2"+strings.Replace(q, "?", "&", 1)))
		if logs.Node != name || strings.Join(logs.Lines, "; ") != "the second; the third" {
			t.Errorf("logs of %q: %+v", node, logs)
		}
		if w := ask(pathProfiles + "goroutine" + q); w.Code != 200 || !bytes.HasPrefix(w.Body.Bytes(), []byte{0x1f, 0x8b}) {
			t.Errorf("goroutines of %q: %d %s", node, w.Code, w.Body)
		}
	}
	refused(t, ask(api.PathSystem+"?node=nobody"), 404, "no node")
	refused(t, ask(api.PathSystem+"?node=a&node=b"), 400, "more than once")
	refused(t, ask(api.PathSystem+"?x=1"), 400, `"x"`)
	refused(t, ask(api.PathSystem+"?x=1&node=b"), 400, `"x"`)
	for _, node := range []string{"a", "b"} {
		refused(t, ask(api.PathLogs+"?lines=1;node=a&node="+node), 400, "not encoded correctly")
		refused(t, ask(api.PathLogs+"?lines=%zz&node="+node), 400, "not encoded correctly")
	}
	refused(t, ask(api.PathLogs+"?lines=1001"), 400, "1 to 1000")
	b.nodes["b"].down = true
	refused(t, ask(api.PathSystem+"?node=b"), 503, "does not answer")
}

// TestDebugIsForWhoMayDoEverything: with a token set, that one; without any, a process on this
// machine that is no browser.
func TestDebugIsForWhoMayDoEverything(t *testing.T) {
	for name, test := range map[string]struct {
		cfg    Config
		from   string
		header map[string]string
		status int
	}{
		"the token":                      {Config{Token: "secret"}, "192.0.2.1:9", map[string]string{"Authorization": secret}, 200},
		"the read token":                 {Config{Token: "secret", ReadToken: "r"}, "127.0.0.1:9", map[string]string{"Authorization": "Bearer r"}, 403},
		"nothing where a token is set":   {Config{Token: "secret"}, "127.0.0.1:9", nil, 401},
		"the read token where no other":  {Config{ReadToken: "r"}, "127.0.0.1:9", map[string]string{"Authorization": "Bearer r"}, 403},
		"no token, from this machine":    {Config{}, "127.0.0.1:9", nil, 200},
		"no token, from this machine, 6": {Config{}, "[::1]:9", nil, 200},
		"no token, from elsewhere":       {Config{}, "192.0.2.1:9", nil, 403},
		"no token, from a page":          {Config{}, "127.0.0.1:9", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
	} {
		a := newBench(t, test.cfg, "a").nodes["a"]
		for _, path := range []string{api.PathConfig, api.PathLogs, api.PathSystem, pathProfiles + "goroutine"} {
			r := try{method: "GET", path: path, header: test.header}.request()
			r.RemoteAddr = test.from
			w := httptest.NewRecorder()
			a.server.Handler().ServeHTTP(w, r)
			if w.Code != test.status {
				t.Errorf("%s: %s answers %d %s", name, path, w.Code, w.Body)
			}
		}
	}
}

func TestClientFetch(t *testing.T) {
	b := newBench(t, Config{Token: "secret"}, "a", "b")
	s := httptest.NewServer(b.nodes["a"].server.Handler())
	defer s.Close()
	c, err := api.NewClient(s.URL, "secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdle()
	var got bytes.Buffer
	if err := c.Fetch(t.Context(), api.PathLogs+"?lines=1&node=b", &got); err != nil || got.String() != `{"node":"b","lines":["the third"]}`+"\n" {
		t.Errorf("%v: %s", err, &got)
	}
	if logs, err := c.Logs(t.Context(), "b", 1); err != nil || logs.Node != "b" || len(logs.Lines) != 1 {
		t.Errorf("%+v, %v", logs, err)
	}
	if cfg, err := c.Config(t.Context(), ""); err != nil || cfg.Node != "a" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if sys, err := c.System(t.Context(), "b"); err != nil || sys.Node != "b" {
		t.Errorf("%+v, %v", sys, err)
	}
	var p *api.Problem
	if err := c.Fetch(t.Context(), "/v1/nothing", &got); !errors.As(err, &p) || p.Status != http.StatusNotFound {
		t.Errorf("nothing there: %v", err)
	}
}
