package config

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weirproxy/weir/limit"
)

// acceptedConfigs hold what the other seeds do not: values in every spelling.
var acceptedConfigs = []string{
	"name = \"${env.NAME}\"\nrole = \"proxy\"\ncluster {\n  join = [\"Seed.example\", \"[2001:DB8::1]:80\"]\n  advertise_rpc = \"10.0.0.1\"\n  gossip_key = \"AAAAAAAAAAAAAAAAAAAAAA==\"\n}\n",
	"role = \"proxy\"\nproxy {\n  listen = \":80\"\n  allow_clients = [\"${env.NET}\", \"::ffff:10.1.2.3\", \"::ffff:10.0.0.0/100\", \"fd00::1\"]\n  tunnel_idle_timeout = \"1h30m\"\n}\n",
	"data_dir = \"a$${b}%%{c}\\u00e9\\\"\\n\"\nlimits {\n  host \"A.example.\" {}\n  host \"*.b\" {\n    connections = 1e3\n    shared = true\n  }\n}\n",
	"role = \"proxy\"\napi {\n  listen = \"[::]:0\"\n  token_file = \"testdata/files/token\"\n  hosts = [\"Weir.Example.\"]\n}\nlimits {\n  host \"x\" {\n    connections = 0\n    queue {\n      timeout = \"1h\"\n      size = 1000000\n    }\n  }\n}\n",
	"role = \"proxy\"\nlimits {\n  client \"::ffff:10.1.2.3\" {\n    mode = \"report\"\n    requests {\n      rate = \"0.5/m\"\n      burst = 3\n    }\n  }\n  user \"a b$${\" {}\n" +
		"  key \"${env.A}/*\" {\n    shared = true\n    bandwidth {\n      upload = \"1.5KiB\"\n      burst = \"4KiB\"\n    }\n  }\n  total {}\n  connection {}\n}\n",
	"data_dir = <<E\nx\nE\nlease {\n  ttl = \"1.5s\"\n  on_expiry = \"keep\"\n}\nproxy {\n  listen = \"localhost:81\"\n  users_file = \"testdata/files/users\"\n}\n",
}

// refusedConfigs are wrong in one way each, which no attribute alone shows.
var refusedConfigs = []string{
	"",
	"role = \"proxy\"\nproxy {\n  listen = \":80\"\n}\n",
	"role = \"proxy\"\napi {\n  listen = \":80\"\n}\n",
	"role = \"proxy\"\nrole = \"proxy\"\n",
	"role = \"proxy\"\nlog {\n  level = \"info\"\n}\nlog {\n  level = \"warn\"\n}\n",
	"role = \"proxy\"\ncluster {\n  join = [\"0.0.0.0:80\"]\n}\n",
	"role = \"proxy\"\nlimits {\n  host \"a.b\" {}\n  host \"A.B.\" {}\n}\n",
	"role = \"proxy\"\nlimits {\n  host \"a\" {\n    shared = true\n  }\n}\n",
	"role = \"proxy\"\nlimits {\n  host \"a\" {\n    queue {\n      timeout = \"1s\"\n      size = 1\n    }\n  }\n}\n",
	"role = \"proxy\"\nlimits {\n  total \"a\" {}\n}\n",
	"role = \"proxy\"\nlimits {\n  user \"*\" {\n    requests {\n      rate = 5\n    }\n  }\n}\n",
	"role = \"proxy\"\nlimits {\n  connection {\n    connections = 5\n  }\n}\n",
	"role = \"proxy\"\napi {\n  token_file = \"testdata/files/token\"\n  read_token_file = \"testdata/files/same-token\"\n}\n",
}

// FuzzLoad feeds any bytes to Load and LoadLimits: neither panics; each answers a value or
// problems, never both; every problem has a message, and a position inside the file; nothing
// written out can steer a terminal. What is loaded is within the bounds that the documentation
// gives, and, written out as HCL and loaded again, the same.
func FuzzLoad(f *testing.F) {
	seeds, _ := filepath.Glob("testdata/bad/*.hcl")
	for _, name := range append(seeds, "testdata/full.hcl", "../examples/single.hcl") {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	dir := f.TempDir()
	for i, src := range slices.Concat(acceptedConfigs, refusedConfigs) {
		name := filepath.Join(dir, "seed.hcl")
		if err := os.WriteFile(name, []byte(src), 0o600); err != nil {
			f.Fatal(err)
		}
		if c, diags := Load([]string{name}, testOptions()); (c != nil) != (i < len(acceptedConfigs)) {
			f.Fatalf("%s\nis accepted: %v; %v", src, c != nil, diags)
		}
		f.Add([]byte(src))
	}
	f.Fuzz(func(t *testing.T, src []byte) { checkLoad(t, dir, src) })
}

// FuzzAttribute is FuzzLoad for one attribute's value, in a config that is right but for it.
func FuzzAttribute(f *testing.F) {
	fields := Reference()
	for i, field := range fields {
		f.Add(uint8(i), field.Default)
	}
	for i := range fields {
		for _, v := range []string{
			`"${env.NET}"`, `"::ffff:1.2.3.4/97"`, `["::1", "10.0.0.0/8", "fe80::1%1"]`, `["0.0.0.0:80", "a"]`, `"a.${env.A}:0x50"`, `":80"`, `"[::FFFF:1.2.3.4]:080"`, `"LocalHost:0"`,
			"1e6", "-1", "1000001", "600", "0.5", "0", "null", "true", "((5))", `"1h0.5m"`, `"9000h"`, `"9999999h"`, `"1ns"`, `"0s"`, `"-1s"`, `""`, "<<E\nx\nE", `"\u00e9$${%%{"`, `["a", 1]`, "[]",
		} {
			f.Add(uint8(i), v)
		}
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, n uint8, value string) {
		checkLoad(t, dir, []byte(oneAttribute(fields[int(n)%len(fields)].Path, value)))
	})
}

// oneAttribute is a config in which what is needed beside the attribute is set.
func oneAttribute(path, value string) string {
	var b strings.Builder
	for _, needed := range [][2]string{{"role", `role = "proxy"`}, {"name", `name = "a"`}, {"proxy.allow_clients", "proxy {\n  allow_clients = [\"10.0.0.0/8\"]\n}"}} {
		if needed[0] != path {
			fmt.Fprintln(&b, needed[1])
		}
	}
	blocks := strings.Split(path, ".")
	name := blocks[len(blocks)-1]
	for _, block := range blocks[:len(blocks)-1] {
		switch block {
		case "host":
			block = `host "*.a"`
		case "client", "user", "key":
			block += ` "*"`
		case "tls":
			for _, file := range []string{"cert_file", "key_file", "ca_file"} {
				if file != name && (file != "ca_file" || blocks[0] == "cluster") {
					block += fmt.Sprintf(" {\n %s = \"testdata/files/node.pem\"\n }\n tls", file)
				}
			}
		case "queue":
			other := map[string]string{"timeout": "size = 5", "size": `timeout = "2s"`}[name]
			block = "connections = 1\n queue {\n" + other + "\n"
			fmt.Fprint(&b, block)
			continue
		case "requests", "bandwidth":
			fmt.Fprint(&b, block+" {\n")
			if name == "burst" {
				fmt.Fprintln(&b, map[string]string{"requests": `rate = "5/s"`, "bandwidth": `upload = "1MB"`}[block])
			}
			continue
		}
		fmt.Fprintf(&b, "%s {\n", block)
	}
	fmt.Fprintf(&b, "%s = %s\n%s", name, value, strings.Repeat("}\n", len(blocks)-1))
	return b.String()
}

func checkLoad(t *testing.T, dir string, src []byte) {
	name := filepath.Join(dir, "fuzz.hcl")
	if err := os.WriteFile(name, src, 0o600); err != nil {
		t.Fatal(err)
	}
	c, diags := Load([]string{name}, testOptions())
	if (c == nil) == (len(diags) == 0) {
		t.Fatalf("config %v with %d problems", c, len(diags))
	}
	if c != nil {
		checkLoaded(t, c)
		checkWritten(t, dir, c)
	}
	checkDiagnostics(t, diags, src)
	limits, diags := LoadLimits(name, testOptions())
	if limits != nil && len(diags) > 0 {
		t.Fatalf("limits with problems: %v", diags)
	}
	if c != nil && len(diags) == 0 && !slices.Equal(limits, c.Limits) {
		t.Fatalf("alone the limits are %v, in the config %v", limits, c.Limits)
	}
	checkDiagnostics(t, diags, src)
}

// checkLoaded checks what a node relies on in any config that it is given.
func checkLoaded(t *testing.T, c *Config) {
	t.Helper()
	within := func(d, low, high time.Duration) bool { return low <= d && d <= high }
	address := func(s string, lowest int) bool {
		host, port, err := net.SplitHostPort(s)
		n, digits := strconv.Atoi(port)
		return err == nil && digits == nil && lowest <= n && n <= 65535 && host == strings.ToLower(host)
	}
	p, l := c.Proxy, c.Lease
	local, proper := true, len(p.Listen) > 0
	for _, listen := range p.Listen {
		local, proper = local && loopback(listen), proper && address(listen, 0)
	}
	for what, ok := range map[string]bool{
		"name":      regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`).MatchString(c.Name),
		"data_dir":  c.Role == RoleProxy || c.DataDir != "",
		"role":      c.Role == RoleServer || c.Role == RoleProxy,
		"log":       slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, c.Log.Level) && (c.Log.Format == "text" || c.Log.Format == "json"),
		"lease":     within(l.TTL, time.Second, 5*time.Minute) && slices.Contains([]OnExpiry{OnExpiryClose, OnExpiryDrain, OnExpiryKeep}, l.OnExpiry),
		"status":    400 <= p.RejectStatus && p.RejectStatus <= 599,
		"timeouts":  min(p.DialTimeout, p.HeaderTimeout, p.HalfCloseTimeout) > 0 && min(p.TunnelIdleTimeout, p.ResponseTimeout, p.DrainTimeout, p.DNSTTLMax) >= 0,
		"waits":     max(p.DialTimeout, p.HeaderTimeout, p.HalfCloseTimeout, p.DrainTimeout, p.DNSTTLMax) <= 24*time.Hour && max(p.TunnelIdleTimeout, p.ResponseTimeout) <= 365*24*time.Hour,
		"exposed":   local || c.Origins["proxy.allow_clients"] != Position{} || p.UsersFile != "",
		"clients":   len(p.AllowClients) > 0,
		"API token": loopback(c.API.Listen) || c.API.Token != "",
		"tokens":    c.API.Token == "" || c.API.Token != c.API.ReadToken,
		"listeners": proper && address(c.API.Listen, 0) && address(c.Cluster.RPC, 0) && address(c.Cluster.Gossip, 0),
		"join":      !slices.ContainsFunc(c.Cluster.Join, func(s string) bool { return !address(s, 1) }),
		"key":       slices.Contains([]int{0, 16, 24, 32}, len(c.Cluster.GossipKey)),
		"protocols": len(p.Protocols) > 0 && len(p.Protocols) <= 2,
		"expect":    c.Cluster.BootstrapExpect > 0 || len(c.Cluster.Join) > 0,
	} {
		if !ok {
			t.Fatalf("accepted, though %s is out of bounds: %+v", what, c)
		}
	}
	for _, list := range [][]netip.Prefix{p.AllowClients, p.DenyDestinations, p.AllowDestinations} {
		for _, n := range list {
			if !n.IsValid() || n != n.Masked() || n.Addr().Is4In6() && n.Bits() >= 96 || n.Addr().Zone() != "" {
				t.Fatalf("accepted the network %v", n)
			}
		}
	}
	for i, l := range c.Limits {
		if err := l.Validate(); err != nil || l.Source != limit.SourceConfig || i > 0 && c.Limits[i-1].Pattern.Compare(l.Pattern) >= 0 {
			t.Fatalf("accepted the limit %+v: %v", l, err)
		}
	}
	if live, restart := Diff(c, c); len(live)+len(restart) > 0 {
		t.Fatalf("%+v differs from itself in %v %v", c, live, restart)
	}
}

// checkWritten writes the config out and loads it again.
func checkWritten(t *testing.T, dir string, c *Config) {
	t.Helper()
	text := writeHCL(c)
	name := filepath.Join(dir, "written.hcl")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	again, diags := Load([]string{name}, testOptions())
	if again == nil {
		t.Fatalf("%+v is written\n%s\nwhich is refused: %v", c, text, diags)
	}
	diff := cmp.Diff(c, again, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty(),
		samePattern, cmpopts.IgnoreFields(Config{}, "Origins"), cmpopts.IgnoreFields(Limit{}, "At"))
	if diff != "" {
		t.Fatalf("written\n%s\nand read again, it differs (-want +got):\n%s", text, diff)
	}
}

// writeHCL writes a config as the documentation has it: every attribute, in its own words.
func writeHCL(c *Config) string {
	var b strings.Builder
	set := func(name string, v any) { fmt.Fprintf(&b, "%s = %s\n", name, hclValue(v)) }
	open := func(name string) { fmt.Fprintf(&b, "%s {\n", name) }
	end := func() { b.WriteString("}\n") }
	tls := func(t TLS) {
		if !t.Enabled() {
			return
		}
		open("tls")
		if t.CAFile != "" {
			set("ca_file", t.CAFile)
		}
		set("cert_file", t.CertFile)
		set("key_file", t.KeyFile)
		end()
	}
	set("name", c.Name)
	set("data_dir", c.DataDir)
	set("role", string(c.Role))
	open("log")
	set("level", c.Log.Level)
	set("format", c.Log.Format)
	end()
	open("cluster")
	set("rpc", c.Cluster.RPC)
	set("gossip", c.Cluster.Gossip)
	set("advertise_rpc", c.Cluster.AdvertiseRPC)
	set("advertise_gossip", c.Cluster.AdvertiseGossip)
	set("join", c.Cluster.Join)
	if c.Cluster.BootstrapExpect > 0 {
		set("bootstrap_expect", c.Cluster.BootstrapExpect)
	}
	set("gossip_key", base64.StdEncoding.EncodeToString([]byte(c.Cluster.GossipKey)))
	tls(c.Cluster.TLS)
	end()
	open("lease")
	set("ttl", c.Lease.TTL)
	set("on_expiry", string(c.Lease.OnExpiry))
	end()
	open("proxy")
	set("listen", c.Proxy.Listen)
	set("protocols", c.Proxy.Protocols)
	set("socks5_names_only", c.Proxy.SOCKS5NamesOnly)
	set("reject_status", c.Proxy.RejectStatus)
	set("dial_timeout", c.Proxy.DialTimeout)
	set("dns_ttl_max", c.Proxy.DNSTTLMax)
	set("header_timeout", c.Proxy.HeaderTimeout)
	set("tunnel_idle_timeout", c.Proxy.TunnelIdleTimeout)
	set("half_close_timeout", c.Proxy.HalfCloseTimeout)
	set("response_timeout", c.Proxy.ResponseTimeout)
	set("drain_timeout", c.Proxy.DrainTimeout)
	set("allow_clients", c.Proxy.AllowClients)
	set("users_file", c.Proxy.UsersFile)
	set("proxy_protocol_from", c.Proxy.ProxyProtocolFrom)
	set("share_kept_connections", c.Proxy.ShareKeptConnections)
	set("allow_cluster_destinations", c.Proxy.AllowClusterDestinations)
	set("deny_destinations", c.Proxy.DenyDestinations)
	set("allow_destinations", c.Proxy.AllowDestinations)
	set("access_log", c.Proxy.AccessLog)
	tls(c.Proxy.TLS)
	end()
	open("api")
	set("listen", c.API.Listen)
	set("hosts", c.API.Hosts)
	set("token_file", c.API.TokenFile)
	set("read_token_file", c.API.ReadTokenFile)
	set("metrics_hosts", c.API.MetricsHosts)
	tls(c.API.TLS)
	end()
	b.WriteString(FormatLimits(c.ClusterLimits()))
	return b.String()
}

// hclValue writes a value as HCL's specification has it.
func hclValue(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case time.Duration:
		return hclValue(v.String())
	case []string:
		texts := make([]string, len(v))
		for i, s := range v {
			texts[i] = hclValue(s)
		}
		return "[" + strings.Join(texts, ", ") + "]"
	case []Protocol:
		texts := make([]string, len(v))
		for i, p := range v {
			texts[i] = string(p)
		}
		return hclValue(texts)
	case []netip.Prefix:
		texts := make([]string, len(v))
		for i, p := range v {
			texts[i] = p.String()
		}
		return hclValue(texts)
	}
	return fmt.Sprint(v)
}

func checkDiagnostics(t *testing.T, diags Diagnostics, src []byte) {
	t.Helper()
	for _, d := range diags {
		if d.Message == "" || d.At.Line < 1 || d.At.Column < 1 || d.At.Line > strings.Count(string(src), "\n")+1 {
			t.Errorf("%q at %v", d.Message, d.At)
		}
	}
	var b strings.Builder
	if err := WriteDiagnostics(&b, diags); err != nil {
		t.Fatal(err)
	}
	if i := strings.IndexFunc(b.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("an unprintable character at %d of %q", i, b.String())
	}
}
