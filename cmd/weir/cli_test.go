package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeAPI answers with what is written down for a request, "METHOD /path?query", and notes what it
// was asked. The last of several answers is repeated.
type fakeAPI struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string][]string
	asked   []string
	bodies  []string
	headers []http.Header
}

func newFakeAPI(t *testing.T, answers map[string][]string) *fakeAPI {
	f := &fakeAPI{answers: answers}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	call := r.Method + " " + r.RequestURI
	f.asked, f.bodies, f.headers = append(f.asked, call), append(f.bodies, string(body)), append(f.headers, r.Header)
	answers := f.answers[call]
	if len(answers) == 0 {
		problem(w, 404, "x", "nothing at "+call)
		return
	}
	if len(answers) > 1 {
		f.answers[call] = answers[1:]
	}
	if answers[0] == "gone" {
		panic(http.ErrAbortHandler)
	}
	if status, detail, ok := strings.Cut(answers[0], "|"); ok {
		n, code := 0, "x"
		fmt.Sscan(status, &n, &code)
		problem(w, n, code, detail)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintln(w, answers[0])
}

func problem(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"status": status, "detail": detail, "code": code})
}

// testProcess is a process without a terminal, whose environment is env.
func testProcess(env ...string) *process {
	return &process{
		getenv: func(name string) string {
			for _, kv := range env {
				if k, v, _ := strings.Cut(kv, "="); k == name {
					return v
				}
			}
			return ""
		},
		environ: func() []string { return env },
		exec:    func(string, []string, []string) error { return fmt.Errorf("no exec here") },
		rows:    func() (int, bool) { return 0, false },
		tick:    time.Millisecond,
	}
}

// weir runs one command line against f.
func (f *fakeAPI) weir(p *process, args ...string) (code int, stdout, stderr string) {
	inner := p.getenv
	p.getenv = func(name string) string {
		if v := inner(name); v != "" || name != "WEIR_ADDR" {
			return v
		}
		return f.URL
	}
	var out, errs bytes.Buffer
	code = run(context.Background(), p, args, &out, &errs)
	return code, out.String(), errs.String()
}

const (
	statusJSON = `{"node":"a","cluster":"1f3a9c5c0b7d4e2f8a6b5c4d3e2f1a0b","version":"v1.2.3","role":"server","leader":"b","ready":true,` +
		`"session":{"id":7,"state":"live","expires_in":"8.1s"},"raft":{"state":"follower","term":2,"last_index":9,"commit_index":8,"applied_index":8},` +
		`"config_disagreements":["c"],"connections":3,"proxy_addr":"127.0.0.1:8080"}`
	limitJSON = `{"scope":"host","pattern":"api.example.com","connections":5,"requests":null,"bandwidth":null,"queue":{"timeout":"2s","size":100},"shared":false,"mode":"enforce","source":"api","modify_index":12}`
	capless   = `{"scope":"host","pattern":"*.open.org","connections":null,"requests":null,"bandwidth":null,"queue":null,"shared":true,"mode":"enforce","source":"config","modify_index":3}`
	useJSON   = `"limit":5,"granted":4,"in_use":3,"idle":1,"waiting":2,"admitted_total":1000,"rejected_total":1`
	hostJSON  = `{"host":"api.example.com",` + useJSON + `,"nodes":{"b":{` + useJSON + `},"a":{"limit":5,"granted":0,"in_use":0,"idle":0,"waiting":0,"admitted_total":0,"rejected_total":0}}}`
	freeJSON  = `{"host":"free.org","limit":null,"granted":0,"in_use":12,"idle":12,"waiting":0,"admitted_total":7,"rejected_total":0,"nodes":{}}`
)

func TestTables(t *testing.T) {
	for _, c := range []struct {
		name, call, answer string
		args               []string
		want               string
	}{
		{"status", "GET /v1/status", statusJSON, []string{"status"}, `
Node         a (server, v1.2.3)
Leader       b
Ready        yes
Session      live, 7, expires in 8.1s
Raft         follower in term 2; last entry 9, committed 8, applied 8
Cluster      1f3a9c5c0b7d4e2f8a6b5c4d3e2f1a0b
Proxy        127.0.0.1:8080
Connections  3
Config       lease.ttl or limits differ on c
`},
		{
			"status with several addresses, and clients that resolve names", "GET /v1/status",
			`{"node":"p","version":"v1","role":"proxy","session":{"state":"none","expires_in":"0s"},"raft":{"state":"none"},` +
				`"proxy_addr":"10.0.0.1:80","proxy_addrs":["10.0.0.1:80","[::1]:8080"],"proxy_protocols":["socks5"],` +
				`"resolving_clients":[{"client":"10.0.0.7"},{"client":"10.0.0.8"},{"client":"10.0.0.9"},{"client":"10.0.0.10"}]}`,
			[]string{"status"}, `
Node         p (proxy, v1)
Leader       nobody
Ready        no
Session      none
Raft         none: the node's role is proxy
Proxy        10.0.0.1:80, [::1]:8080 (socks5 only)
Connections  0
SOCKS5       10.0.0.7, 10.0.0.8, 10.0.0.9 and 1 more ask for addresses: limits on names don't hold for clients that resolve names themselves (write socks5h://)
`},
		{"whether it is ready", "GET /readyz", `{"status":"ok"}`, []string{"status", "--ready"}, "ready\n"},
		{
			"status of a proxy in trouble", "GET /v1/status",
			`{"node":"p","version":"v1","role":"proxy","session":{"state":"none","expires_in":"0s"},"raft":{"state":"none"},"draining":true,"disk_full":true}`,
			[]string{"status"}, `
Node         p (proxy, v1)
Leader       nobody
Ready        no
Session      none
Raft         none: the node's role is proxy
Connections  0
State        draining
Disk         full or read-only, as the log says: the node writes again when its data directory takes it
`,
		},
		{
			"status of a server with a stalled disk", "GET /v1/status",
			`{"node":"a","version":"v1","role":"proxy","ready":true,"session":{"state":"none","expires_in":"0s"},"raft":{"state":"none"},"disk_stalled":true}`,
			[]string{"status"}, `
Node         a (proxy, v1)
Leader       nobody
Ready        yes
Session      none
Raft         none: the node's role is proxy
Connections  0
Disk         stalled: a write takes too long; the node votes and leads again when it ends
`,
		},
		{"nodes", "GET /v1/nodes", `{"view":"a","nodes":[
			{"name":"a","role":"server","leader":true,"health":"alive","session":"live","draining":true,"reclaim_in":null,"version":"v1","addresses":{"rpc":"10.0.0.1:8082","gossip":"10.0.0.1:8083"}},
			{"name":"edge-1","role":"proxy","leader":false,"health":"dead","session":"expired","reclaim_in":"9.5s","version":"","addresses":{"rpc":"","gossip":""}}]}`,
			[]string{"nodes"}, `
NODE    ROLE    LEADER  HEALTH  DRAINING  SESSION  RECLAIM IN  VERSION  RPC            GOSSIP
a       server  leader  alive   draining  live              -  v1       10.0.0.1:8082  10.0.0.1:8083
edge-1  proxy   -       dead    -         expired        9.5s  -        -              -
`},
		{"hosts", "GET /v1/hosts", `{"hosts":[` + hostJSON + `,` + freeJSON + `],"next":"free.org","unreachable":[{"node":"c","error":"no answer in time"}]}`,
			[]string{"hosts"}, `
HOST             LIMIT  IN USE  IDLE  GRANTED  WAITING  ADMITTED  REFUSED
api.example.com      5       3     1        4        2      1000        1
free.org          none      12    12        0        0         7        0
There are more: continue with --after free.org
Not included: node c (no answer in time)
`},
		{"hosts with a choice", "GET /v1/hosts?limit=2&prefix=x&sort=in_use", `{"hosts":[]}`,
			[]string{"hosts", "--prefix", "x", "--sort", "in_use", "--limit", "2"}, `
HOST  LIMIT  IN USE  IDLE  GRANTED  WAITING  ADMITTED  REFUSED
`},
		{"hosts by what only a table is sorted by", "GET /v1/hosts?sort=upload", `{"hosts":[]}`, []string{"hosts", "--sort", "upload"}, `
HOST  LIMIT  IN USE  IDLE  GRANTED  WAITING  ADMITTED  REFUSED
`},
		{"one host", "GET /v1/hosts/api.example.com", hostJSON, []string{"hosts", "api.example.com"}, `
api.example.com (no limit)
NODE  LIMIT  IN USE  IDLE  GRANTED  WAITING  ADMITTED  REFUSED
a         5       0     0        0        0         0        0
b         5       3     1        4        2      1000        1
all       5       3     1        4        2      1000        1
`},
		{"limits list", "GET /v1/limits", `{"index":12,"limits":[` + capless + `,` + limitJSON + `]}`, []string{"limits", "list"}, `
SCOPE  PATTERN          CONNECTIONS  REQUESTS  BURST  UPLOAD  DOWNLOAD  BYTE BURST  QUEUE TIMEOUT  QUEUE SIZE  SHARED  MODE     SOURCE  INDEX
host   *.open.org              none         -      -       -         -           -              -           -  yes     enforce  config      3
host   api.example.com            5         -      -       -         -           -             2s         100  no      enforce  api        12
`},
		{"limits get", "GET /v1/limits/host/10.0.0.0%2F8", limitJSON, []string{"limits", "get", "10.0.0.0/8"}, `
SCOPE  PATTERN          CONNECTIONS  REQUESTS  BURST  UPLOAD  DOWNLOAD  BYTE BURST  QUEUE TIMEOUT  QUEUE SIZE  SHARED  MODE     SOURCE  INDEX
host   api.example.com            5         -      -       -         -           -             2s         100  no      enforce  api        12
`},
		{"limits delete", "DELETE /v1/limits/host/x.org", `{"index":13,"scope":"host","pattern":"x.org"}`, []string{"limits", "delete", "x.org"}, `
x.org: deleted (index 13)
`},
		{"limits delete, uncovering", "DELETE /v1/limits/host/%2A.open.org", `{"index":13,"scope":"host","pattern":"*.open.org","uncovered":` + capless + `}`,
			[]string{"limits", "delete", "*.open.org"}, `
*.open.org: the config's limit applies again: no cap, shared
`},
		{"raft peers", "GET /v1/raft/peers", `{"peers":[{"name":"a","id":"a.12ab","address":"10.0.0.1:8082","voter":true,"leader":true},{"name":"bb","id":"bb.34cd","address":"10.0.0.2:8082"}]}`,
			[]string{"raft", "peers"}, `
NAME  ADDRESS        VOTER  LEADER  ID
a     10.0.0.1:8082  yes    leader  a.12ab
bb    10.0.0.2:8082  no     -       bb.34cd
`},
		{"raft remove", "DELETE /v1/raft/peers/c", `{"removed":"c"}`, []string{"raft", "remove", "c"}, "\nc is removed\n"},
		{"raft transfer", "POST /v1/raft/transfer", `{"from":"a"}`, []string{"raft", "transfer"}, "\na has handed leadership to another server\n"},
		{"raft transfer to the leader", "POST /v1/raft/transfer", `{"from":"b","to":"b"}`, []string{"raft", "transfer", "b"}, "\nb leads already\n"},
		{"a host under a pattern", "GET /v1/hosts/x.org", `{"host":"x.org","pattern":"*.org",` + useJSON + `,"nodes":{}}`, []string{"hosts", "x.org"}, `
x.org (limit of *.org)
NODE  LIMIT  IN USE  IDLE  GRANTED  WAITING  ADMITTED  REFUSED
all       5       3     1        4        2      1000        1
`},
		{"raft transfer to", "POST /v1/raft/transfer", `{"from":"a","to":"b"}`, []string{"raft", "transfer", "b"}, "\na has handed leadership to b\n"},
		{"names of wide and of turning characters", "GET /v1/raft/peers", `{"peers":[{"name":"世界","address":"x:1"},{"name":"a\u202e","address":"y:1"}]}`, []string{"raft", "peers"}, `
NAME  ADDRESS  VOTER  LEADER  ID
世界  x:1      no     -
a?    y:1      no     -
`},
		{"a name that steers the terminal", "DELETE /v1/raft/peers/c", `{"removed":"c\u001b[2J"}`, []string{"raft", "remove", "c"}, "\nc?[2J is removed\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeAPI(t, map[string][]string{c.call: {c.answer}})
			code, stdout, stderr := f.weir(testProcess(), c.args...)
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), stdout); diff != "" || code != 0 || stderr != "" {
				t.Errorf("exit %d, stderr %q\n%s", code, stderr, diff)
			}
			code, stdout, _ = f.weir(testProcess(), append(c.args, "--json")...)
			if code != 0 || stdout != c.answer+"\n" {
				t.Errorf("--json: exit %d, %q", code, stdout)
			}
		})
	}
}

// An answer that tells the reader to make a call of the API names the command instead. The answers
// are those of api/server.
func TestErrorsNameCommands(t *testing.T) {
	for _, c := range []struct{ call, answer, args, want string }{
		{"GET /v1/limits/total", "404 not_found|no such limit for exactly total: GET /v1/limits lists those there are", "limits get --scope total", "no such limit for exactly total: weir limits list shows those there are"},
		{"DELETE /v1/limits/user/ann", "404 not_found|no such limit for exactly user ann: GET /v1/limits lists those there are", "limits delete ann --scope user", "no such limit for exactly user ann: weir limits list shows those there are"},
		{"GET /v1/usage/connection/x", "422 invalid|scope connection has no names: GET /v1/usage/connection has all of it", "usage connection x", "scope connection has no names: weir usage connection has all of it"},
		{"GET /v1/connections?node=x", `404 not_found|there is no node "x": GET /v1/nodes lists the nodes`, "connections --node x", `there is no node "x": weir nodes lists the nodes`},
	} {
		f := newFakeAPI(t, map[string][]string{c.call: {c.answer}})
		if _, _, stderr := f.weir(testProcess(), strings.Fields(c.args)...); !strings.HasPrefix(stderr, "Error: "+c.want+"\n") {
			t.Errorf("weir %s: %q, want %q; asked %q", c.args, stderr, c.want, f.asked)
		}
	}
}

func TestExitCodes(t *testing.T) {
	f := newFakeAPI(t, map[string][]string{"GET /v1/status": {statusJSON}, "GET /v1/limits/host/x.org": {"404|no such limit"}})
	for _, c := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"status", 0, ""},
		{"status --ready", 1, "Error: nothing at GET /readyz\n"},
		{"--help", 0, ""},
		{"limits set --help", 0, ""},
		{"version", 0, ""},
		{"completion bash", 0, ""},
		{"limits get x.org", 1, "Error: no such limit\n"},
		{"nodes", 1, "Error: nothing at GET /v1/nodes\n"},
		{"status --addr http://127.0.0.1:1", 1, "no node answers at http://127.0.0.1:1 "},
		{"", 2, "needs a command"},
		{"limits", 2, "needs a command"},
		{"help limits set", 0, ""},
		{"help stauts", 2, "no command"},
		{"help limits lst", 2, "no command"},
		{"stauts", 2, "did you mean status"},
		{"limits lst", 2, "list"},
		{"raft frobnicate", 2, "no command"},
		{"status extra", 2, "weir status takes no arguments, and not \"extra\": write weir status"},
		{"completion nosh", 2, "bash, zsh, fish and powershell"},
		{"completion", 2, "bash, zsh, fish and powershell"},
		{"status --nope", 2, "--nope"},
		{"--nope", 2, "--nope"},
		{"status --addr ftp://x", 2, "not an API address"},
		{"limits get", 2, "one pattern"},
		{"limits get a b", 2, "one pattern"},
		{"limits set x.org", 2, "--connections is missing"},
		{"limits set x.org --connections -1", 2, "from 0 on"},
		{"limits set x.org --connections five", 2, "from 0 on"},
		{"limits set x.org --connections 5 --queue-size 3 --no-queue", 2, "one or the other"},
		{"limits set x.org --connections 5 --queue-timeout soon --queue-size 3", 2, "soon"},
		{"limits apply", 2, "1 arg"},
		{"limits apply /no/such/file.hcl", 1, "/no/such/file.hcl"},
		{"hosts --sort size", 2, "rejected_total, would_reject_total, requests, upload, download, not"},
		{"hosts --limit -5", 2, "--limit"},
		{"hosts --watch --interval 1ms", 2, "--interval is from 100ms to 1h"},
		{"top --sort size", 2, "--sort is one of"},
		{"top --interval 2h", 2, "--interval is from 100ms to 1h"},
		{"top --json", 2, "weir nodes --json"},
		{"top --addr http://127.0.0.1:1", 1, "no node answers at http://127.0.0.1:1 "},
		{"raft remove", 2, "write weir raft remove NAME"},
		{"exec", 2, "missing: write weir exec [flags] -- CMD [ARG…]"},
		{"exec --proxy ftp://x -- true", 2, "not a proxy's URL"},
		{"exec -- /no/such/program", 1, "/no/such/program"},
		{"drain --timeout -1s", 2, "--timeout is above 0"},
		{"leave --timeout 0s", 2, "--timeout is above 0"},
	} {
		code, _, stderr := f.weir(testProcess(), strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.stderr) || code == 0 && stderr != "" {
			t.Errorf("weir %s: exit %d, %q", c.args, code, stderr)
		}
		if code == 1 && !strings.Contains(c.args, "apply") && strings.Count(stderr, "Error: ") != 1 {
			t.Errorf("weir %s: not one message: %q", c.args, stderr)
		}
	}
	for _, args := range [][]string{
		{"limits", "get", ""}, {"usage", "client", ""}, {"connections", ""}, {"connections", "close", ""}, {"raft", "transfer", ""}, {"explain", "", "--user", "u"},
	} {
		if code, _, stderr := f.weir(testProcess(), args...); code != 2 || !strings.Contains(stderr, "an argument is empty") {
			t.Errorf("weir %q: exit %d, %q", args, code, stderr)
		}
	}
	code, _, stderr := f.weir(testProcess("WEIR_ADDR=127.0.0.1:1"), "status")
	if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "http://127.0.0.1:1") || !strings.Contains(stderr, "WEIR_ADDR") {
		t.Errorf("not connected: exit %d, %q", code, stderr)
	}
}

// What a node calls impossible in its arguments is wrong usage of a command, whichever command it
// is.
func TestArgumentsRefused(t *testing.T) {
	for _, c := range []struct{ call, args string }{
		{"GET /v1/limits/client/foo", "limits get foo --scope client"},
		{"GET /v1/limits/client/foo", "limits set foo --scope client --connections 5"},
		{"DELETE /v1/limits/client/foo", "limits delete foo --scope client"},
		{"GET /v1/explain?client=foo&host=x.org", "explain x.org --client foo"},
		{"GET /v1/usage/client/foo", "usage client foo"},
		{"GET /v1/usage/client?sort=foo", "usage client --sort foo"},
		{"GET /v1/hosts/foo", "hosts foo"},
		{"GET /v1/hosts?limit=99999", "hosts --limit 99999"},
		{"GET /v1/connections?client=foo", "connections --client foo"},
	} {
		for answer, want := range map[string]int{"422 invalid|foo is no client": 2, "400 malformed|sort is not foo": 2, "409 conflict|not now": 1, "503 no_leader|wait": 1} {
			f := newFakeAPI(t, map[string][]string{c.call: {answer}})
			code, _, stderr := f.weir(testProcess(), strings.Fields(c.args)...)
			if _, detail, _ := strings.Cut(answer, "|"); code != want || !strings.HasPrefix(stderr, "Error: "+detail+"\n") {
				t.Errorf("weir %s, answered %q: exit %d, %q, asked %q", c.args, answer, code, stderr, f.asked)
			}
		}
	}
}

func TestExec(t *testing.T) {
	prog, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := newFakeAPI(t, map[string][]string{"GET /v1/status": {statusJSON}})
	const host = "127.0.0.1" // the node's API among them
	for _, c := range []struct {
		name  string
		addr  string
		env   []string
		args  []string
		proxy string
		no    string
	}{
		{"asked", "127.0.0.1:8080", nil, nil, "http://127.0.0.1:8080", host},
		{"any address", "0.0.0.0:8080", nil, nil, "http://127.0.0.1:8080", host},
		{"any address, v6", "[::]:8080", nil, nil, "http://127.0.0.1:8080", host},
		{"environment", "", []string{"WEIR_PROXY=10.0.0.1:3128"}, nil, "http://10.0.0.1:3128", host},
		{"flag", "", []string{"WEIR_PROXY=10.0.0.1:3128"}, []string{"--proxy", "https://p.example"}, "https://p.example", host},
		{"TLS", "127.0.0.1:8080\",\"proxy_tls\":true,\"x\":\"", nil, nil, "https://127.0.0.1:8080", host},
		{"both protocols", "127.0.0.1:8080\",\"proxy_protocols\":[\"http\",\"socks5\"],\"x\":\"", nil, nil, "http://127.0.0.1:8080", host},
		{"SOCKS5 only", "127.0.0.1:8080\",\"proxy_protocols\":[\"socks5\"],\"x\":\"", []string{"WEIR_PROXY_USER=me:x"}, nil, "socks5h://me:x@127.0.0.1:8080", host},
		{"SOCKS5 by flag", "", nil, []string{"--proxy", "socks5h://p.example:1"}, "socks5h://p.example:1", host},
		{"user", "127.0.0.1:8080", []string{"WEIR_PROXY_USER=me:p@ss/word"}, nil, "http://me:p%40ss%2Fword@127.0.0.1:8080", host},
		{"user by flag", "127.0.0.1:8080", []string{"WEIR_PROXY_USER=you:x"}, []string{"--user", "me:secret"}, "http://me:secret@127.0.0.1:8080", host},
		{"user in the URL", "", []string{"WEIR_PROXY=https://me:secret@p.example:1"}, nil, "https://me:secret@p.example:1", host},
		{"replaces", "", []string{"WEIR_PROXY=p:1", "HTTP_PROXY=old", "https_proxy=old", "All_Proxy=old", "NO_PROXY=internal, .lan", "no_proxy=x,internal,127.0.0.1"}, nil, "http://p:1", "internal,.lan,x,127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.answers["GET /v1/status"] = []string{`{"node":"a","proxy_addr":"` + c.addr + `"}`}
			p := testProcess(append([]string{"KEEP=me"}, c.env...)...)
			var path string
			var argv, env []string
			p.exec = func(a string, b, c []string) error { path, argv, env = a, b, c; return nil }
			code, _, stderr := f.weir(p, append(append([]string{"exec"}, c.args...), "--", prog, "--json", "-x")...)
			if code != 0 || path != prog || !slices.Equal(argv, []string{prog, "--json", "-x"}) {
				t.Fatalf("exit %d %q: %s %q", code, stderr, path, argv)
			}
			want := []string{
				"ALL_PROXY=" + c.proxy, "HTTPS_PROXY=" + c.proxy, "HTTP_PROXY=" + c.proxy, "KEEP=me", "NO_PROXY=" + c.no,
				"all_proxy=" + c.proxy, "http_proxy=" + c.proxy, "https_proxy=" + c.proxy, "no_proxy=" + c.no,
			}
			if addr := slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return !strings.HasPrefix(kv, "WEIR_ADDR=") }); !slices.Equal(addr, []string{"WEIR_ADDR=" + f.URL}) {
				t.Errorf("the node's API is handed on as %q", addr)
			}
			env = slices.DeleteFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "WEIR_") })
			slices.Sort(env)
			if diff := cmp.Diff(want, env); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, args := range [][]string{{"--user", "secret"}, {"--user", ":secret"}, {"--proxy", "ftp://me:secret@p"}, {"--proxy", "socks5://me:secret@p"}} {
		code, _, stderr := f.weir(testProcess(), append(append([]string{"exec"}, args...), prog)...)
		if code != 2 || strings.Contains(stderr, "secret") {
			t.Errorf("%q: exit %d %q", args, code, stderr)
		}
	}
	f.answers["GET /v1/status"] = []string{`{"node":"a","proxy_addr":"127.0.0.1:8080","proxy_tls":true,"proxy_protocols":["socks5"]}`}
	if code, _, stderr := f.weir(testProcess(), "exec", prog); code != 1 || !strings.Contains(stderr, "inside TLS") {
		t.Errorf("exit %d %q", code, stderr)
	}
	f.answers["GET /v1/status"] = []string{`{"node":"a"}`}
	if code, _, stderr := f.weir(testProcess(), "exec", prog); code != 1 || !strings.Contains(stderr, "WEIR_PROXY") {
		t.Errorf("exit %d %q", code, stderr)
	}
}

func TestVersion(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), testProcess(), []string{"version", "--json"}, &out, &errs); code != 0 {
		t.Fatal(errs.String())
	}
	var b build
	if err := json.Unmarshal(out.Bytes(), &b); err != nil || b.Version == "" || b.Commit == "" || b.GoVersion != runtime.Version() {
		t.Errorf("%+v %v", b, err)
	}
	out.Reset()
	run(t.Context(), testProcess(), []string{"version"}, &out, &errs)
	if want := fmt.Sprintf("weir %s\ncommit %s\n%s\n", b.Version, b.Commit, b.GoVersion); out.String() != want {
		t.Errorf("%q", out.String())
	}
}

func TestCompletion(t *testing.T) {
	f := newFakeAPI(t, map[string][]string{
		"GET /v1/hosts?limit=100&prefix=a": {`{"hosts":[` + hostJSON + `]}`},
		"GET /v1/limits":                   {`{"limits":[` + capless + `]}`},
		"GET /v1/raft/peers":               {`{"peers":[{"name":"bb"}]}`},
		"GET /v1/nodes":                    {`{"nodes":[{"name":"proxy-7"}]}`},
	})
	for args, want := range map[string]string{
		"hosts a":           "api.example.com",
		"limits get ":       "*.open.org",
		"limits set ":       "*.open.org",
		"limits delete ":    "*.open.org",
		"raft remove ":      "bb",
		"raft transfer ":    "bb",
		"hosts --sort ":     "waiting",
		"limits get done ":  ":4", // nothing, and no files
		"limits ":           "apply",
		"top --sort ":       "granted",
		"hosts --addr ftp ": ":4",
		// Of --node, also behind the first argument.
		"connections --node ":         "proxy-7",
		"connections close 7 --node ": "proxy-7",
	} {
		_, stdout, _ := f.weir(testProcess(), append([]string{"__complete"}, strings.Split(args, " ")...)...)
		if !strings.Contains(stdout, want) {
			t.Errorf("%q: %q", args, stdout)
		}
	}
}

// Every command explains itself, with an example where it takes more than its name.
func TestHelp(t *testing.T) {
	root := newRootCommand(testProcess())
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" || cmd.Name() == "help" {
			continue
		}
		if cmd.Short == "" || cmd.Name() != "version" && cmd.Example == "" {
			t.Errorf("weir %s: short %q, example %q", cmd.Name(), cmd.Short, cmd.Example)
		}
	}
}
