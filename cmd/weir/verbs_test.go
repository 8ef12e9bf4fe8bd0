package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestReload(t *testing.T) {
	for _, c := range []struct{ answer, want string }{
		{`{"applied":[],"need_restart":[]}`, "Reloaded: nothing has changed that a reload applies.\n"},
		{`{"applied":["log.level","limits"],"need_restart":[]}`, "Applied: log.level, limits\n"},
		{`{"applied":["log.level"],"need_restart":["proxy.listen"]}`, "Applied: log.level\nNeed a restart: proxy.listen\n"},
	} {
		f := newFakeAPI(t, map[string][]string{"POST /v1/reload": {c.answer}})
		if code, stdout, stderr := f.weir(testProcess(), "reload"); code != 0 || stdout != c.want {
			t.Errorf("exit %d %q %q", code, stdout, stderr)
		}
		if code, stdout, _ := f.weir(testProcess(), "reload", "--json"); code != 0 || stdout != c.answer+"\n" {
			t.Errorf("--json: exit %d %q", code, stdout)
		}
	}
	f := newFakeAPI(t, map[string][]string{"POST /v1/reload": {"422 invalid_config|a.hcl:3,1: unknown attribute"}})
	if code, _, stderr := f.weir(testProcess(), "reload"); code != 1 || !strings.Contains(stderr, "a.hcl:3,1") {
		t.Errorf("a broken config: exit %d %q", code, stderr)
	}
}

func TestConnections(t *testing.T) {
	const list = `{"connections":[{"id":"7","node":"a","client":"10.0.0.9:4000","user":"nightly","host":"x.org","port":443,"protocol":"connect","since":"2026-01-02T03:04:05Z","age":"3.5s","bytes_out":10,"bytes_in":2000,"limited":true},` +
		`{"id":"9","node":"b","client":"","host":"fd00::1","port":80,"protocol":"idle","since":"2026-01-02T03:04:05Z","age":"1s","bytes_out":0,"bytes_in":0,"limited":false}],` +
		`"next":"1/a/9","unreachable":[{"node":"c","error":"no answer in time"}]}`
	const table = "ID  NODE  PROTOCOL  CLIENT         USER     UPSTREAM      AGE  BYTES OUT  BYTES IN\n" +
		"7   a     connect   10.0.0.9:4000  nightly  x.org:443    3.5s         10      2000\n" +
		"9   b     idle      -              -        [fd00::1]:80   1s          0         0\n" +
		"There are more: continue with --after 1/a/9\nNot included: node c (no answer in time)\n"
	for _, c := range []struct {
		args []string
		call string
	}{
		{nil, "GET /v1/connections"}, // this node's, as connections close ID means
		{[]string{"--node", "*"}, "GET /v1/connections?node=%2A"},
		{[]string{"x.org"}, "GET /v1/connections?host=x.org"},
		{[]string{"x.org:443", "--client", "10.0.0.0/8", "--user", "nightly"}, "GET /v1/connections?client=10.0.0.0%2F8&host=x.org%3A443&user=nightly"},
		{[]string{"x.org", "--node", "b", "--limit", "2", "--after", "1/a/9"}, "GET /v1/connections?after=1%2Fa%2F9&host=x.org&limit=2&node=b"},
	} {
		f := newFakeAPI(t, map[string][]string{c.call: {list}})
		code, stdout, stderr := f.weir(testProcess(), append([]string{"connections"}, c.args...)...)
		if code != 0 || strings.Join(strings.Fields(stdout), " ") != strings.Join(strings.Fields(table), " ") {
			t.Errorf("%q: exit %d %q\n%s", c.args, code, stderr, stdout)
		}
	}
	f := newFakeAPI(t, map[string][]string{"DELETE /v1/connections/7?node=b": {`{"closed":"7"}`}, "DELETE /v1/connections/7": {"404|no connection 7"}})
	if code, stdout, _ := f.weir(testProcess(), "connections", "close", "7", "--node", "b"); code != 0 || stdout != "7 is being closed\n" {
		t.Errorf("close: exit %d %q", code, stdout)
	}
	if code, _, stderr := f.weir(testProcess(), "connections", "close", "7"); code != 1 || !strings.Contains(stderr, "no connection 7") {
		t.Errorf("close one that is not there: exit %d %q", code, stderr)
	}
	for _, args := range [][]string{{"connections", "close"}, {"connections", "--limit", "-1"}, {"connections", "a", "b"}} {
		if code, _, _ := f.weir(testProcess(), args...); code != 2 {
			t.Errorf("%q: exit %d, want 2", args, code)
		}
	}
}

// TestNoConnections: where nothing is listed, the command says so, and whether the name is known.
func TestNoConnections(t *testing.T) {
	use := func(scope, name, pattern string, admitted int) string {
		return fmt.Sprintf(`{"scope":%q,"name":%q,"pattern":%q,"admitted_total":%d,"nodes":{}}`, scope, name, pattern, admitted)
	}
	usage := map[string][]string{
		"GET /v1/usage/host/x.org":       {use("host", "x.org", "*", 7)},
		"GET /v1/usage/host/xx.org":      {use("host", "xx.org", "*", 0)},
		"GET /v1/usage/host/limited.org": {use("host", "limited.org", "limited.org", 0)},
		"GET /v1/usage/client/10.0.0.7":  {use("client", "10.0.0.7", "", 0)},
		"GET /v1/usage/user/nightly":     {use("user", "nightly", "*", 0)},
	}
	const everywhere = "Those of all nodes: --node '*'\n"
	for _, c := range []struct{ args, call, want string }{
		{"", "", "No open connections on this node.\n" + everywhere},
		{"--node *", "node=%2A", "No open connections on any node.\n"},
		{"x.org --node b", "host=x.org&node=b", "No open connections to x.org on node b.\n"},
		{"x.org", "host=x.org", "No open connections to x.org on this node.\n" + everywhere},
		{"xx.org", "host=xx.org", "No open connections to xx.org on this node.\n" + everywhere + "Nothing else is known of host xx.org: no connection to it has been asked for lately.\n"},
		{"limited.org", "host=limited.org", "No open connections to limited.org on this node.\n" + everywhere},
		{"--client 10.0.0.7 --user nightly", "client=10.0.0.7&user=nightly", "No open connections of client 10.0.0.7 of user nightly on this node.\n" + everywhere +
			"Nothing else is known of client 10.0.0.7: no limit counts it.\nNothing else is known of user nightly: it has asked for nothing lately.\n"},
		{"--client 10.0.0.0/8", "client=10.0.0.0%2F8", "No open connections of client 10.0.0.0/8 on this node.\n" + everywhere},
		{"--after 1/a/9", "after=1%2Fa%2F9", "No more connections.\n"},
	} {
		call := strings.TrimSuffix("GET /v1/connections?"+c.call, "?")
		answers := maps.Clone(usage)
		answers[call] = []string{`{"connections":[]}`}
		f := newFakeAPI(t, answers)
		code, stdout, stderr := f.weir(testProcess(), append([]string{"connections"}, strings.Fields(c.args)...)...)
		if code != 0 || stdout != c.want {
			t.Errorf("%q: exit %d %q %q", c.args, code, stdout, stderr)
		}
		f = newFakeAPI(t, map[string][]string{call: {`{"connections":[]}`}})
		if code, stdout, _ := f.weir(testProcess(), append([]string{"connections", "--json"}, strings.Fields(c.args)...)...); code != 0 || strings.TrimSpace(stdout) != `{"connections":[]}` || len(f.asked) != 1 {
			t.Errorf("%q --json: exit %d %q", c.args, code, stdout)
		}
	}
}

// TestEvents: a lost stream goes on behind the last event printed; Ctrl-C, here the context, ends
// it without an error.
func TestEvents(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	var cancel context.CancelFunc
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.RawQuery+" "+r.Header.Get("Last-Event-ID"))
		w.Header().Set("Content-Type", "text/event-stream")
		if len(asked) > 2 {
			cancel()
			return
		}
		fmt.Fprintf(w, "event: status\ndata: %s\n\n", statusJSON)
		fmt.Fprintf(w, "id: %d\nevent: limit\ndata: {\"time\":\"2026-01-02T03:04:05Z\",\"type\":\"limit\",\"text\":\"change\\u001b %d\"}\n\n", len(asked), len(asked))
	}))
	defer s.Close()
	for _, asJSON := range []bool{false, true} {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		mu.Lock()
		asked, cancel = nil, stop
		mu.Unlock()
		args := []string{"events", "--types", "limit,fence", "--addr", s.URL}
		if asJSON {
			args = append(args, "--json")
		}
		var out, errs bytes.Buffer
		code := run(ctx, testProcess(), args, &out, &errs)
		mu.Lock()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if code != 0 || len(lines) != 2 || !strings.Contains(errs.String(), "connecting again") {
			mu.Unlock()
			t.Fatalf("exit %d %q %q", code, out.String(), errs.String())
		}
		if strings.Contains(out.String(), "\x1b") || strings.HasPrefix(lines[1], "{") != asJSON || !strings.Contains(lines[1], "change") {
			t.Errorf("json %v: %q", asJSON, lines)
		}
		if want := []string{"types=limit%2Cfence ", "types=limit%2Cfence 1", "types=limit%2Cfence 2"}; strings.Join(asked, "|") != strings.Join(want, "|") {
			t.Errorf("asked %q, want %q", asked, want)
		}
		mu.Unlock()
	}
	f := newFakeAPI(t, map[string][]string{"GET /v1/events?types=leader%2Cmember%2Climit%2Creclaim%2Cfence%2Cdrain": {"401|send the token"}})
	if code, _, stderr := f.weir(testProcess(), "events"); code != 1 || !strings.Contains(stderr, "send the token") {
		t.Errorf("without a token: exit %d %q", code, stderr)
	}
	if code, _, stderr := f.weir(testProcess(), "events", "--types", "limits"); code != 2 || !strings.Contains(stderr, "leader, member") {
		t.Errorf("a wrong type: exit %d %q", code, stderr)
	}
	f.Close()
	p := testProcess()
	p.tick = time.Hour // it must not connect again
	if code, _, stderr := f.weir(p, "events"); code != 1 || !strings.Contains(stderr, "no node answers") {
		t.Errorf("no node: exit %d %q", code, stderr)
	}
}

// TestRestoreAsks: on a terminal a restore shows what it would change and asks; nothing is sent
// unless the answer is yes.
func TestRestoreAsks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.snap")
	if err := os.WriteFile(path, savedSnapshot(t), 0o600); err != nil {
		t.Fatal(err)
	}
	const gone = `{"index":9,"limits":[{"pattern":"gone.org","connections":4,"queue":null,"shared":false,"source":"api","modify_index":3}]}`
	for _, c := range []struct {
		name     string
		args     []string
		terminal bool
		answer   string
		code     int
		asked    bool
		restored bool
	}{
		{"a script", nil, false, "", 0, false, true},
		{"yes", nil, true, "yes\n", 0, true, true},
		{"y", nil, true, "Y\n", 0, true, true},
		{"no", nil, true, "n\n", 1, true, false},
		{"Enter", nil, true, "\n", 1, true, false},
		{"the end of the input", nil, true, "", 1, true, false},
		{"something else", nil, true, "yesterday\n", 1, true, false},
		{"--yes", []string{"--yes"}, true, "", 0, false, true},
		{"--dry-run", []string{"--dry-run"}, false, "", 0, false, false},
		{"--dry-run on a terminal", []string{"--dry-run", "--yes"}, true, "", 0, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeAPI(t, map[string][]string{
				"GET /v1/limits":   {gone},
				"PUT /v1/snapshot": {`{"index":21,"limits":2,"added":1,"changed":0,"removed":1}`},
			})
			p := testProcess()
			p.asks = func() bool { return c.terminal }
			p.stdin = strings.NewReader(c.answer)
			code, stdout, stderr := f.weir(p, append([]string{"snapshot", "restore", path}, c.args...)...)
			calls := strings.Join(f.asked, " ")
			if code != c.code || strings.Contains(calls, "PUT") != c.restored || strings.Contains(stderr, "[y/N]") != c.asked {
				t.Errorf("exit %d, calls %q\n%s%s", code, calls, stdout, stderr)
			}
			if shown := strings.Contains(stdout+stderr, "-  gone.org"); shown != (c.asked || len(c.args) > 0 && c.args[0] == "--dry-run") {
				t.Errorf("the difference is shown: %v\n%s%s", shown, stdout, stderr)
			}
		})
	}
}
