package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weirproxy/weir/limit"
)

func TestDigest(t *testing.T) {
	const a = "host \"a\" {\n connections = 5\n}\n"
	const b = "host \"b\" {\n connections = 7\n shared = false\n queue {\n timeout = \"2s\"\n size = 3\n }\n}\n"
	digest := func(head, limits string) string {
		c := load(t, "data_dir = \"d\"\n"+head+"\nlimits {\n"+limits+"}")
		return Digest(c.Lease.TTL, c.ClusterLimits())
	}
	base := digest("", a+b)
	if len(base) != 16 || strings.Trim(base, "0123456789abcdef") != "" {
		t.Errorf("%q is not 16 hex digits", base)
	}
	for name, same := range map[string]string{
		"order":          digest("", b+a),
		"spelling":       digest("", strings.Replace(a, `"a"`, `"A."`, 1)+strings.Replace(b, "2s", "2000ms", 1)),
		"default ttl":    digest("lease {\n ttl = \"10s\"\n}", a+b),
		"another node":   digest("name = \"other\"\nrole = \"proxy\"", a+b),
		"other settings": digest("proxy {\n reject_status = 429\n}", a+b),
	} {
		if same != base {
			t.Errorf("%s changes the digest", name)
		}
	}
	seen := map[string]string{base: "the base"}
	for name, other := range map[string]string{
		"ttl":         digest("lease {\n ttl = \"11s\"\n}", a+b),
		"a limit":     digest("", b),
		"connections": digest("", strings.Replace(a, "5", "6", 1)+b),
		"no cap":      digest("", "host \"a\" {}\n"+b),
		"queue":       digest("", a+strings.Replace(b, "2s", "3s", 1)),
		"size":        digest("", a+strings.Replace(b, "size = 3", "size = 4", 1)),
		"pattern":     digest("", strings.Replace(a, `"a"`, `"*.a"`, 1)+b),
		"rate":        digest("", strings.Replace(a, "5", "5\n requests {\n rate = \"5/s\"\n }", 1)+b),
		"per":         digest("", strings.Replace(a, "5", "5\n requests {\n rate = \"5/m\"\n burst = 5\n }", 1)+b),
		"burst":       digest("", strings.Replace(a, "5", "5\n requests {\n rate = \"5/s\"\n burst = 6\n }", 1)+b),
		"upload":      digest("", strings.Replace(a, "5", "5\n bandwidth {\n upload = \"5MB\"\n }", 1)+b),
		"download":    digest("", strings.Replace(a, "5", "5\n bandwidth {\n download = \"5MB\"\n }", 1)+b),
		"bytes":       digest("", strings.Replace(a, "5", "5\n bandwidth {\n upload = \"5MB\"\n burst = \"5MB\"\n }", 1)+b),
		"mode":        digest("", strings.Replace(a, "5", "5\n mode = \"report\"", 1)+b),
		"scope":       digest("", strings.Replace(a, "host", "user", 1)+b),
		"another":     digest("", strings.Replace(a, "host", "key", 1)+b),
		"shared":      digest("", strings.Replace(strings.Replace(a, `"a"`, `"*.a"`, 1), "5\n", "5\n shared = true\n", 1)+b),
	} {
		if twin, ok := seen[other]; ok {
			t.Errorf("%s has the digest of %s", name, twin)
		}
		seen[other] = name
	}
}

// TestDigestHasEachField: no field of what a limit allows is left out of the digest, whatever is
// added to limits. Where a limit is from, and when it was written, does not count.
func TestDigestHasEachField(t *testing.T) {
	without := []string{"Evict", "Source", "ModifyIndex", "Pattern"}
	plain := rule(limit.ScopeHost, "a").Limit
	base := Digest(time.Second, []limit.Limit{plain})
	var change func(v reflect.Value, path string, done func(path string))
	change = func(v reflect.Value, path string, done func(string)) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				if name := v.Type().Field(i).Name; !slices.Contains(without, name) {
					change(v.Field(i), path+"."+name, done)
				}
			}
			return
		case reflect.Bool:
			v.SetBool(true)
		default:
			v.SetInt(7)
		}
		done(path)
		v.SetZero()
	}
	l := plain
	change(reflect.ValueOf(&l).Elem(), "", func(path string) {
		if Digest(time.Second, []limit.Limit{l}) == base {
			t.Errorf("the digest does not depend on %s", path)
		}
	})
}

// TestDigestOfEarlierVersions: nodes of versions that knew connections to hosts alone come to the
// same.
func TestDigestOfEarlierVersions(t *testing.T) {
	c := load(t, "data_dir = \"d\"\nlimits {\n host \"*.a\" {\n connections = 5\n shared = true\n queue {\n timeout = \"2s\"\n size = 3\n }\n }\n host \"b\" {}\n}")
	h := sha256.Sum256([]byte("v1 ttl 10000000000\n\"*.a\" 5 2000000000 3 true\n\"b\" -1 0 0 false\n"))
	if got := Digest(c.Lease.TTL, c.ClusterLimits()); got != hex.EncodeToString(h[:8]) {
		t.Errorf("the digest is %s", got)
	}
}

// TestDiffNamesEachField changes each field of the table alone, and expects it to be named, on the
// side that its documentation says.
func TestDiffNamesEachField(t *testing.T) {
	changed := load(t, `
name     = "changed"
data_dir = "changed"
role     = "proxy"
log {
  level  = "debug"
  format = "json"
}
cluster {
  rpc              = "127.0.0.1:9"
  gossip           = "127.0.0.1:10"
  advertise_rpc    = "c:1"
  advertise_gossip = "c:1"
  join             = ["c"]
  bootstrap_expect = 7
  gossip_key       = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
  gossip_accept_keys = ["c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"]
  plaintext          = "accept"
  tls {
    ca_file   = "testdata/files/ca.pem"
    cert_file = "testdata/files/node.pem"
    key_file  = "testdata/files/node-key.pem"
  }
}
lease {
  ttl       = "11s"
  on_expiry = "keep"
}
proxy {
  listen              = ["127.0.0.1:11", "127.0.0.1:13"]
  protocols           = ["socks5"]
  socks5_names_only   = true
  reject_status       = 429
  dial_timeout        = "1s"
  dns_ttl_max         = "1s"
  header_timeout      = "1s"
  tunnel_idle_timeout = "1s"
  half_close_timeout  = "1s"
  response_timeout    = "1s"
  drain_timeout       = "1s"
  allow_clients       = ["10.0.0.0/8"]
  users_file          = "testdata/files/users"
  proxy_protocol_from = ["10.0.0.5"]

  share_kept_connections     = false
  allow_cluster_destinations = true
  deny_destinations   = ["10.0.0.0/8"]
  allow_destinations  = ["10.0.0.0/8"]
  access_log          = "off"
  tls {
    cert_file = "testdata/files/node.pem"
    key_file  = "testdata/files/node-key.pem"
  }
}
api {
  listen          = "127.0.0.1:12"
  hosts           = ["c"]
  token_file      = "testdata/files/token"
  read_token_file = "testdata/files/read-token"
  metrics_hosts   = 7
  tls {
    cert_file = "testdata/files/node.pem"
    key_file  = "testdata/files/node-key.pem"
  }
}
limits {
  host "a" {}
}
`)
	live, restart := Diff(load(t, "data_dir = \"d\"\ncluster {\n gossip_key = \"AAAAAAAAAAAAAAAAAAAAAA==\"\n}"), changed)
	var wantLive, wantRestart []string
	for _, f := range configFields() {
		if f.Reload {
			wantLive = append(wantLive, f.Path)
		} else {
			wantRestart = append(wantRestart, f.Path)
		}
	}
	if diff := cmp.Diff(append(wantLive, "limits"), live); diff != "" {
		t.Errorf("live (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(wantRestart, restart); diff != "" {
		t.Errorf("restart (-want +got)\n%s", diff)
	}
}

func TestDiff(t *testing.T) {
	const base = "data_dir = \"d\"\nlimits {\n host \"a\" {\n connections = 5\n }\n host \"b\" {}\n}\n"
	for _, test := range []struct{ name, content, live, restart string }{
		{"nothing", base, "[]", "[]"},
		{"the order and place of limits", "\n\ndata_dir = \"d\"\nlimits {\n host \"B\" {}\n host \"a\" {\n connections = 5\n }\n}", "[]", "[]"},
		{"a default written out", base + "proxy {\n listen = \"127.0.0.1:8080\"\n deny_destinations = [\"169.254.0.0/16\", \"fe80::/10\", \"fd00:ec2::/32\", \"fd20:ce::254/128\"]\n}", "[]", "[]"},
		{"a limit", strings.Replace(base, "5", "6", 1), "[limits]", "[]"},
		{"both kinds", base + "proxy {\n listen = \"127.0.0.1:1\"\n reject_status = 429\n}\nlog {\n level = \"warn\"\n}", "[log.level proxy.reject_status]", "[proxy.listen]"},
		{"encryption of gossip", base + "cluster {\n gossip_key = \"AAAAAAAAAAAAAAAAAAAAAA==\"\n}", "[]", "[cluster.gossip_key]"},
	} {
		live, restart := Diff(load(t, base), load(t, test.content))
		if fmt.Sprint(live) != test.live || fmt.Sprint(restart) != test.restart {
			t.Errorf("%s: live %v, restart %v", test.name, live, restart)
		}
	}
}

// TestDiffOfTokens: the name of the file is the same, its content is not.
func TestDiffOfTokens(t *testing.T) {
	before, after := Default(false), Default(false)
	before.API.Token, after.API.Token = "a", "b"
	before.API.ReadToken, after.API.ReadToken = "c", "d"
	live, restart := Diff(before, after)
	if got := fmt.Sprint(live, restart); got != "[api.token_file api.read_token_file] []" {
		t.Error(got)
	}
	// What is listened on stays until the restart, and so does its token.
	before.API.Listen, after.API.Token, after.API.ReadToken = "10.0.0.1:8081", "", ""
	live, restart = Diff(before, after)
	if got := fmt.Sprint(live, restart); got != "[] [api.listen api.token_file api.read_token_file]" {
		t.Error(got)
	}
}

func TestLoadLimits(t *testing.T) {
	all := rule(limit.ScopeHost, "*")
	all.Connections = 3
	want := []Limit{all, rule(limit.ScopeHost, "a")}
	for name, content := range map[string]string{
		"limits alone": "limits {\n host \"A\" {}\n host \"*\" {\n connections = 3\n }\n}",
		"a node's config, for another machine": "name = \"${env.NOT_HERE}\"\napi {\n listen = \":1\"\n token_file = \"/none\"\n}\n" +
			"limits {\n host \"A\" {}\n}\nlimits {\n host \"*\" {\n connections = 3\n }\n}",
	} {
		got, diags := LoadLimits(write(t, "a.hcl", content), testOptions())
		if err := diags.Err(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, samePattern, cmpopts.IgnoreFields(Limit{}, "At")); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	got, diags := LoadLimits(write(t, "a.hcl", "limits {}"), testOptions())
	if len(got) != 0 || diags.Err() != nil {
		t.Errorf("an empty block: %v, %v", got, diags)
	}
}

func TestLoadLimitsRefuses(t *testing.T) {
	for content, want := range map[string]string{
		"":                                   ":1,1: there is no limits block",
		"name = \"a\"":                       ":1,1: there is no limits block",
		"limts {\n host \"a\" {}\n}":         ":1,1: unknown block \"limts\". Did you mean \"limits\"?",
		"limits = {}":                        ":1,1: \"limits\" is a block, not an attribute",
		"limits {\n host \"a b\" {}\n}":      ":2,7: not a pattern: not a host: \"a b\"",
		"host \"a\" {}":                      ":1,1: unknown block \"host\". It belongs in limits { … }",
		"limits {\n host \"a\" {\n":          "unclosed configuration block",
		"nam = 5\nlimits {\n host \"a\" {}}": ":1,1: unknown attribute \"nam\"",
	} {
		limits, diags := LoadLimits(write(t, "a.hcl", content), testOptions())
		if got := strings.Join(lines(diags), "\n"); limits != nil || !strings.Contains(got, want) {
			t.Errorf("%q: %v, %s", content, limits, got)
		}
	}
	if _, diags := LoadLimits("testdata/none.hcl", testOptions()); len(diags) != 1 {
		t.Errorf("a missing file: %v", diags)
	}
}
