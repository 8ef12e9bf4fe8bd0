package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"go.uber.org/goleak"

	"github.com/weirproxy/weir/limit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testOptions have a fixed environment.
func testOptions() Options {
	env := map[string]string{"NAME": "n1", "EMPTY": "", "NET": "10.0.0.0/8", "A": "a"}
	return Options{
		LookupEnv: func(name string) (string, bool) {
			v, ok := env[name]
			return v, ok
		},
	}
}

var samePattern = cmp.Comparer(func(a, b limit.Pattern) bool { return a == b })

// rule is a config's limit that caps nothing yet.
func rule(scope limit.Scope, pattern string) Limit {
	p, err := scope.ParsePattern(pattern)
	if err != nil {
		panic(err)
	}
	return newDraft(p, Position{}).Limit
}

// fullLimits are those of testdata/full.hcl.
func fullLimits() []Limit {
	var all []Limit
	add := func(scope limit.Scope, pattern string, change func(l *Limit)) {
		l := rule(scope, pattern)
		change(&l)
		all = append(all, l)
	}
	add(limit.ScopeHost, "*", func(l *Limit) { l.Connections = 25 })
	add(limit.ScopeHost, "*.example.org", func(l *Limit) { l.Connections, l.Shared = 100, true })
	add(limit.ScopeHost, "api.example.com", func(l *Limit) { l.Connections, l.Queue = 5, limit.Queue{Timeout: 2 * time.Second, Size: 100} })
	add(limit.ScopeHost, "slow.example.net", func(l *Limit) {
		l.Connections = 5
		l.Requests = limit.Rate{Thousandths: 10_000, Per: time.Second, Burst: 20}
		l.Bandwidth = limit.Bandwidth{Upload: 1e6, Download: 10e6, Burst: 2e6}
		l.Queue = limit.Queue{Timeout: 5 * time.Second, Size: 100}
	})
	add(limit.ScopeClient, "*", func(l *Limit) { l.Connections = 200 })
	add(limit.ScopeClient, "10.1.0.0/16", func(l *Limit) { l.Connections, l.Shared = 2000, true })
	add(limit.ScopeUser, "nightly", func(l *Limit) {
		l.Connections = 50
		l.Requests = limit.Rate{Thousandths: 600_000, Per: time.Minute, Burst: 10}
	})
	add(limit.ScopeTotal, "", func(l *Limit) { l.Connections = 20000 })
	add(limit.ScopeKey, "tenant/*", func(l *Limit) { l.Connections, l.Report = 3, true })
	add(limit.ScopeConnection, "", func(l *Limit) { l.Bandwidth.Download = 5e6 })
	return all
}

// write makes a directory of files, given as name, content, name, content.
func write(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load loads one file's content and fails the test on any problem.
func load(t *testing.T, content string) *Config {
	t.Helper()
	cfg, diags := Load([]string{write(t, "a.hcl", content)}, testOptions())
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// refused loads one file's content and answers what is said about it.
func refused(t *testing.T, content string) string {
	t.Helper()
	_, diags := Load([]string{write(t, "a.hcl", content)}, testOptions())
	if len(diags) == 0 {
		t.Fatalf("accepted:\n%s", content)
	}
	return diags.Err().Error()
}

// TestFull loads the documented example, whose values are the documented defaults, and expects
// exactly them.
func TestFull(t *testing.T) {
	got, diags := Load([]string{"testdata/full.hcl"}, testOptions())
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	pem := TLS{CertFile: "testdata/files/node.pem", KeyFile: "testdata/files/node-key.pem"}
	want := Default(false)
	want.Name, want.DataDir = "a", "data/a"
	want.Cluster.Join = []string{"127.0.0.1:8083", "127.0.0.1:8183", "127.0.0.1:8283"}
	want.Cluster.BootstrapExpect = 3
	want.Cluster.TLS = TLS{CAFile: "testdata/files/ca.pem", CertFile: pem.CertFile, KeyFile: pem.KeyFile}
	want.Proxy.TLS, want.API.TLS = pem, pem
	want.Limits = fullLimits()
	ignore := cmp.Options{samePattern, cmpopts.IgnoreFields(Limit{}, "At"), cmpopts.IgnoreFields(Config{}, "Origins"), cmp.Comparer(samePrefix)}
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	file, err := os.ReadFile("testdata/full.hcl")
	if err != nil {
		t.Fatal(err)
	}
	const text = `  host "api.example.com" {`
	line := 1 + slices.Index(strings.Split(string(file), "\n"), text)
	if at := got.Limits[2].At; at.String() != fmt.Sprintf("testdata/full.hcl:%d,8", line) || at.Text != text {
		t.Errorf("the limit is at %v: %q; want line %d", at, at.Text, line)
	}
}

func samePrefix(a, b netip.Prefix) bool { return a == b }

// TestDefaultValues writes the documented defaults out once more, apart from the code that has
// them.
func TestDefaultValues(t *testing.T) {
	c := load(t, `data_dir = "d"`)
	got := map[string]string{}
	for _, f := range configFields() {
		got[f.Path] = f.text(c)
	}
	host, _ := os.Hostname()
	want := map[string]string{
		"name": strconv.Quote(host), "data_dir": `"d"`, "role": `"server"`,
		"log.level": `"info"`, "log.format": `"text"`,
		"cluster.rpc": `"127.0.0.1:8082"`, "cluster.gossip": `"127.0.0.1:8083"`,
		"cluster.advertise_rpc": `""`, "cluster.advertise_gossip": `""`,
		"cluster.join": `[]`, "cluster.bootstrap_expect": `1`, "cluster.gossip_key": `"(hidden)"`,
		"cluster.gossip_accept_keys": `[]`, "cluster.plaintext": `"refuse"`,
		"cluster.tls.ca_file": `""`, "cluster.tls.cert_file": `""`, "cluster.tls.key_file": `""`,
		"lease.ttl": `"10s"`, "lease.on_expiry": `"close"`,
		"proxy.listen": `"127.0.0.1:8080"`, "proxy.protocols": `["http", "socks5"]`, "proxy.socks5_names_only": "false", "proxy.reject_status": `503`,
		"proxy.dial_timeout": `"10s"`, "proxy.dns_ttl_max": `"1m"`, "proxy.header_timeout": `"10s"`, "proxy.tunnel_idle_timeout": `"0s"`,
		"proxy.half_close_timeout": `"10s"`, "proxy.response_timeout": `"15m"`, "proxy.drain_timeout": `"30s"`,
		"proxy.allow_clients": `["127.0.0.0/8", "::1/128"]`, "proxy.users_file": `""`,
		"proxy.access_log": `"log"`, "proxy.proxy_protocol_from": `[]`, "proxy.share_kept_connections": `true`, "proxy.allow_cluster_destinations": `false`,
		"proxy.deny_destinations": `["169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "fd20:ce::254/128"]`, "proxy.allow_destinations": `[]`,
		"proxy.tls.cert_file": `""`, "proxy.tls.key_file": `""`,
		"api.listen": `"127.0.0.1:8081"`, "api.hosts": `[]`, "api.token_file": `""`, "api.read_token_file": `""`,
		"api.metrics_hosts": `100`,
		"api.tls.cert_file": `""`, "api.tls.key_file": `""`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if c.Limits != nil {
		t.Errorf("limits by default: %v", c.Limits)
	}
}

// asOfHosts is the attribute of a host block that does the same as one of another scope's; ""
// outside limits.
func asOfHosts(path string) string {
	scoped, ok := strings.CutPrefix(path, "limits.")
	if !ok {
		return ""
	}
	_, name, _ := strings.Cut(scoped, ".")
	return "limits.host." + name
}

// TestEachScopeTakesItsAttributes writes each attribute of limits alone, in each scope that has it.
func TestEachScopeTakesItsAttributes(t *testing.T) {
	values := map[string]string{
		"connections": "7", "shared": "true", "mode": `"report"`, "requests.rate": `"7/m"`, "requests.burst": "7", "queue.timeout": `"7s"`, "queue.size": "7",
		"bandwidth.upload": `"7MB"`, "bandwidth.download": `"7MB"`, "bandwidth.burst": `"7MB"`,
	}
	taken := map[string]int{}
	for _, f := range limitFields() {
		name := strings.TrimPrefix(asOfHosts(f.Path), "limits.host.")
		c := load(t, oneAttribute(f.Path, values[name]))
		if len(c.Limits) != 1 || "limits."+c.Limits[0].Pattern.Scope().String()+"."+name != f.Path {
			t.Fatalf("%s: %+v", f.Path, c.Limits)
		}
		l := c.Limits[0]
		got := map[string]any{
			"connections": l.Connections, "shared": l.Shared, "mode": l.Report, "requests.rate": l.Requests, "requests.burst": l.Requests.Burst,
			"queue.timeout": l.Queue.Timeout, "queue.size": l.Queue.Size,
			"bandwidth.upload": l.Bandwidth.Upload, "bandwidth.download": l.Bandwidth.Download, "bandwidth.burst": l.Bandwidth.Burst,
		}[name]
		want := map[string]any{
			"connections": int64(7), "shared": true, "mode": true, "requests.rate": limit.Rate{Thousandths: 7000, Per: time.Minute, Burst: 1}, "requests.burst": int64(7),
			"queue.timeout": 7 * time.Second, "queue.size": 7,
			"bandwidth.upload": int64(7e6), "bandwidth.download": int64(7e6), "bandwidth.burst": int64(7e6),
		}[name]
		if got != want {
			t.Errorf("%s is %v, want %v", f.Path, got, want)
		}
		taken[name]++
	}
	for name := range values {
		want := map[string]int{"shared": 4, "mode": 6, "bandwidth.upload": 6, "bandwidth.download": 6, "bandwidth.burst": 6}[name]
		if got := taken[name]; got != max(want, 5) && got != want {
			t.Errorf("%d scopes take %s, want %d", got, name, max(want, 5))
		}
	}
}

// TestReference checks that the full example has every field of the reference, and that each is
// described.
func TestReference(t *testing.T) {
	l := newLoader(testOptions())
	l.readAll([]string{"testdata/full.hcl"})
	l.parse()
	written := map[string]bool{}
	var walk func(path string, body *hclsyntax.Body)
	walk = func(path string, body *hclsyntax.Body) {
		for name := range body.Attributes {
			written[join(path, name)] = true
		}
		for _, b := range body.Blocks {
			walk(join(path, b.Type), b.Body)
		}
	}
	walk("", l.bodies[0])
	known := map[string]bool{}
	for _, f := range Reference() {
		if !written[f.Path] && !written[asOfHosts(f.Path)] { // the scopes share most attributes
			t.Errorf("testdata/full.hcl lacks %s", f.Path)
		}
		known[f.Path] = true
		if f.Type == "" || f.Default == "" || !strings.HasSuffix(f.Doc, ".") {
			t.Errorf("not described: %+v", f)
		}
	}
	for path := range written {
		if !known[path] {
			t.Errorf("the reference lacks %s", path)
		}
	}
}

func TestValues(t *testing.T) {
	c := load(t, `
name     = "n-1.example_x"
role     = "proxy"
cluster {
  rpc              = "0.0.0.0:9002"
  gossip           = "[::]:9003"
  advertise_rpc    = "node.example.com"
  advertise_gossip = "2001:db8:0::1"
  join             = ["10.0.0.2", "Other.example.com", "::1", "[fd00::1]:7000", "10.0.0.3:07001"]
  gossip_key       = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
}
proxy {
  listen             = ":9000"
  allow_clients      = ["10.1.2.3/8", "192.0.2.7", "::ffff:198.51.100.0/120", "fd00::1"]
  tunnel_idle_timeout = "1h30m"
  deny_destinations  = []
}
api {
  listen          = "localhost:9001"
  hosts           = ["Weir.Example.com."]
  token_file      = "testdata/files/token"
  read_token_file = "testdata/files/read-token"
}
limits {
  host "blocked.example.com" {
    connections = 0
  }
  host "free.example.com" {}
  host "10.0.0.0/8" {
    shared = true
  }
}
`)
	got := []any{c.Name, c.DataDir, c.Role, c.Cluster.AdvertiseRPC, c.Cluster.AdvertiseGossip, c.Cluster.BootstrapExpect,
		strings.Join(c.Cluster.Join, " "), len(c.Cluster.GossipKey), strings.Join(c.Proxy.Listen, " "), fmt.Sprint(c.Proxy.AllowClients),
		c.Proxy.TunnelIdleTimeout, len(c.Proxy.DenyDestinations), c.API.Listen, c.API.Hosts[0], string(c.API.Token), string(c.API.ReadToken)}
	want := []any{"n-1.example_x", "", RoleProxy, "node.example.com:9002", "[2001:db8::1]:9003", 0,
		"10.0.0.2:8083 other.example.com:8083 [::1]:8083 [fd00::1]:7000 10.0.0.3:7001", 32, ":9000",
		"[10.0.0.0/8 192.0.2.7/32 198.51.100.0/24 fd00::1/128]", 90 * time.Minute, 0, "localhost:9001", "weir.example.com",
		"dGhlIGZ1bGwgdG9rZW4gb2YgdGhlIHRlc3Rz", "dGhlIHJlYWRlcidzIHRva2Vu"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	shared := rule(limit.ScopeHost, "10.0.0.0/8")
	shared.Shared = true
	blocked := rule(limit.ScopeHost, "blocked.example.com")
	blocked.Connections = 0
	limits := []Limit{shared, blocked, rule(limit.ScopeHost, "free.example.com")}
	if diff := cmp.Diff(limits, c.Limits, samePattern, cmpopts.IgnoreFields(Limit{}, "At")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestExposure(t *testing.T) {
	const head = "data_dir = \"d\"\n"
	for listen, open := range map[string]bool{
		"127.0.0.1:1": false, "127.9.9.9:1": false, "[::1]:1": false, "localhost:1": false, "[::ffff:127.0.0.1]:1": false,
		":1": true, "0.0.0.0:1": true, "[::]:1": true, "192.0.2.1:1": true, "[fd00::1]:1": true, "[fe80::1%eth0]:1": true,
		"localhost.example.com:1": true,
	} {
		for _, test := range []struct{ block, remedy string }{
			{"proxy", `allow_clients = ["10.0.0.0/8"]`}, {"proxy", `users_file = "testdata/files/users"`}, {"api", `token_file = "testdata/files/token"`},
		} {
			bare := fmt.Sprintf("%s%s {\n listen = %q\n", head, test.block, listen)
			if !open {
				load(t, bare+"}")
			} else if said := refused(t, bare+"}"); !strings.Contains(said, ":3,2: "+test.block+".listen is ") {
				t.Errorf("%s on %s: %s", test.block, listen, said)
			}
			load(t, bare+test.remedy+"\n}")
		}
	}
	c := load(t, head+"proxy {\n listen = \":1\"\n users_file = \"testdata/files/users\"\n}")
	if got := fmt.Sprint(c.Proxy.AllowClients); got != "[0.0.0.0/0 ::/0]" {
		t.Errorf("with users_file alone, clients may come from %s", got)
	}
}

func TestSamePort(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:1", "127.0.0.1:1", true}, {"127.0.0.1:1", "127.0.0.1:2", false}, {"127.0.0.1:1", "127.0.0.2:1", false},
		{":1", "127.0.0.1:1", true}, {"[::1]:1", "[::]:1", true}, {"0.0.0.0:1", "[::1]:1", true}, {"0.0.0.0:1", "10.0.0.1:1", true},
		{"0.0.0.0:1", "localhost:1", true}, {"0.0.0.0:1", "[::]:1", true}, {"127.0.0.1:0", "127.0.0.1:0", false},
		{"localhost:1", "127.0.0.1:1", true}, {"localhost.:1", "localhost:1", true}, {"localhost:1", "[::1]:1", false}, {"localhost:1", "[::]:1", true},
		{"localhost:1", "127.0.0.2:1", false}, {"[::1]:1", "127.0.0.1:1", false}, {"a.test:1", "a.test.:1", true}, {"a.test:1", "b.test:1", false},
	} {
		if got := collide(test.a, test.b); got != test.want || collide(test.b, test.a) != got {
			t.Errorf("%s and %s: %v", test.a, test.b, got)
		}
	}
}

// TestListen: one address is written without brackets, and several are checked each for itself.
func TestListen(t *testing.T) {
	for src, want := range map[string]string{
		``:                            `"127.0.0.1:8080"`,
		`listen = "127.0.0.1:9000"`:   `"127.0.0.1:9000"`,
		`listen = ["127.0.0.1:9000"]`: `"127.0.0.1:9000"`,
		`listen = ["[::1]:08080", "127.0.0.1:0"]`:                            `["[::1]:8080", "127.0.0.1:0"]`,
		`listen = ["127.0.0.1:0", "127.0.0.1:0"]`:                            `["127.0.0.1:0", "127.0.0.1:0"]`,
		"listen = [\":80\", \":81\"]\nusers_file = \"testdata/files/users\"": `[":80", ":81"]`,
	} {
		c := load(t, "data_dir = \"d\"\nproxy {\n"+src+"\n}")
		for _, s := range Settings(c) {
			if s.Path == "proxy.listen" && s.Value != want {
				t.Errorf("%s is shown as %s, want %s", src, s.Value, want)
			}
		}
	}
	before, after := load(t, "data_dir = \"d\""), load(t, "data_dir = \"d\"\nproxy {\nlisten = [\"127.0.0.1:8080\", \"[::1]:8080\"]\nprotocols = [\"http\"]\nsocks5_names_only = true\n}")
	live, restart := Diff(before, after)
	if diff := cmp.Diff([][]string{{"proxy.protocols", "proxy.socks5_names_only"}, {"proxy.listen"}}, [][]string{live, restart}); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestSecretsAreHidden(t *testing.T) {
	c := load(t, "data_dir = \"d\"\ncluster {\n gossip_key = \"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0\"\n}\napi {\n token_file = \"testdata/files/token\"\n}")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		printed := fmt.Sprintf(verb, *c)
		if strings.Contains(printed, "secretsecret") || strings.Contains(printed, "dGhlIGZ1bGw") || strings.Contains(printed, "c2VjcmV0") {
			t.Errorf("%s prints a secret: %s", verb, printed)
		}
	}
}

func TestWriteDiagnosticsBounded(t *testing.T) {
	var b strings.Builder
	if err := WriteDiagnostics(&b, make([]Diagnostic, maxPrinted+7)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(b.String(), "\n"); got != maxPrinted+1 || !strings.HasSuffix(b.String(), "… and 7 more\n") {
		t.Errorf("%d lines, ending in %q", got, b.String()[len(b.String())-20:])
	}
}

func TestLongLinesAreCut(t *testing.T) {
	_, diags := Load([]string{write(t, "a.hcl", "x = \""+strings.Repeat("é", 5000)+"\"")}, testOptions())
	if n := utf8.RuneCountInString(diags[0].At.Text); n != maxLineText || !strings.HasSuffix(diags[0].At.Text, "é…") {
		t.Errorf("%d runes: %q", n, diags[0].At.Text)
	}
}

// TestEditDistance compares with the definition, written as a recursion.
func TestEditDistance(t *testing.T) {
	var naive func(a, b string) int
	naive = func(a, b string) int {
		if a == "" || b == "" {
			return len(a) + len(b)
		}
		d := min(naive(a[1:], b)+1, naive(a, b[1:])+1)
		if a[0] == b[0] {
			d = min(d, naive(a[1:], b[1:]))
		} else {
			d = min(d, naive(a[1:], b[1:])+1)
		}
		if len(a) > 1 && len(b) > 1 && a[0] == b[1] && a[1] == b[0] {
			d = min(d, naive(a[2:], b[2:])+1)
		}
		return d
	}
	words := []string{"", "a", "ab", "ba", "abc", "acb", "listen", "lisetn", "lst", "queue", "qeue"}
	for _, a := range words {
		for _, b := range words {
			if got, want := editDistance(a, b), naive(a, b); got != want {
				t.Errorf("%q to %q: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestReadUsers(t *testing.T) {
	users, problems := ReadUsers("testdata/files/users")
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	want := []User{
		{"ada", "$2y$05$lHBWsGL2k6W1Hd3cdFMYmelwGPLva07JTgErALf1AGlVOu984qJ.m"},
		{"grace", "$2y$04$/HvUdSbYf9zI5W0UPuq3v.G4J2d5pWm3.qbYNDvSHsLwm71qMHzhS"},
	}
	if diff := cmp.Diff(want, users); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if c := load(t, "data_dir = \"d\"\nproxy {\n users_file = \"testdata/files/users\"\n}"); !slices.Equal(c.Proxy.Users, want) {
		t.Errorf("the config has %v", c.Proxy.Users)
	}
	long := strings.Repeat("n", maxUserName)
	hash := ":" + string(want[0].Hash)
	for text, n := range map[string]int{
		"ada" + hash: 1, "a" + hash + "\r\n\r\nb" + hash + "\r\n": 2, " a b" + hash: 1, long + hash: 1, "żółw" + hash: 1,
		long + "n" + hash: 0, "a\x01" + hash: 0, "a\xff" + hash: 0, "a\u2028" + hash: 0, "a\ufffd" + hash: 0, "#" + hash: 0, "": 0, "a" + hash + "\na" + hash: 0, "a" + hash + " ": 0,
	} {
		users, problems := parseUsers("f", []byte(text))
		if len(users) != n || (n == 0) != (len(problems) > 0) {
			t.Errorf("%q: %d users, %v; want %d", text, len(users), problems, n)
		}
	}
	if users, problems := ReadUsers("testdata/files/none"); users != nil || len(problems) != 1 || problems[0].At.File != "testdata/files/none" {
		t.Errorf("a file that is not there: %v, %v", users, problems)
	}
}
