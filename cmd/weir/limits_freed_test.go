package main

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// TestLimitsDeleteNamesFreedHosts: the hosts that have lost their cap are named, the busiest first,
// and no host that a wider limit caps.
func TestLimitsDeleteNamesFreedHosts(t *testing.T) {
	const (
		five    = `"connections":5`
		rate    = `"requests":{"rate":"10/s","burst":10}`
		up      = `"bandwidth":{"upload":"1MB"}`
		down    = `"bandwidth":{"download":"1MB"}`
		both    = `"bandwidth":{"upload":"1MB","download":"1MB"}`
		shared  = `"shared":true`
		reports = `"mode":"report"`
		toHosts = "*: deleted (index 13)\nHosts without a limit of their own have no cap now.\n"
	)
	of := func(pattern string, has ...string) string {
		return fmt.Sprintf(`{"scope":"host","pattern":%q,%s}`, pattern, strings.Join(append(has, `"modify_index":1`), ","))
	}
	all := func(limits ...string) string { return `{"index":12,"limits":[` + strings.Join(limits, ",") + `]}` }
	names := func(names ...string) string {
		var hosts []string
		for _, n := range names {
			hosts = append(hosts, fmt.Sprintf(`{"host":%q,"limit":null,"in_use":1,"nodes":{}}`, n))
		}
		return `{"hosts":[` + strings.Join(hosts, ",") + `]}`
	}
	var many []string
	for i := range 12 {
		many = append(many, fmt.Sprintf("h%d.org", i))
	}
	for _, c := range []struct {
		name, pattern, uncovers string
		limits, hosts           string
		want                    string
	}{
		{"all of them", "*", "", all(of("*", five), of("own.org", five)), names("b.org", "own.org", "a.org"), toHosts + "No longer capped: b.org, a.org\n"},
		{"too many to name", "*", "", all(of("*", five)), names(many...),
			toHosts + "No longer capped: h0.org, h1.org, h2.org, h3.org, h4.org, h5.org, h6.org, h7.org, h8.org, h9.org, and 2 more\n"},
		{"none is in use", "*", "", all(of("*", five), of("own.org", five)), names("own.org"), toHosts},
		{"a shared count", "*", "", all(of("*", five, shared)), names("*"), toHosts},
		{"the config's has no cap", "*", of("*"), all(of("*", five)), names("a.org"), "*: the config's limit applies again: no cap\nNo longer capped: a.org\n"},
		{"one", "a.org", "", all(of("a.org", five)), names("b.org", "a.org"), "a.org: deleted (index 13)\nNo longer capped: a.org\n"},
		{"the config's has one", "a.org", of("a.org", five), all(of("a.org", five)), names("a.org"), "a.org: the config's limit applies again: 5 connections\n"},
		{"a wider limit", "a.org", "", all(of("a.org", five), of("*", five)), names("a.org"), "a.org: deleted (index 13)\n"},
		{"a wider limit without a cap", "a.org", "", all(of("a.org", five), of("*")), names("a.org"), "a.org: deleted (index 13)\nNo longer capped: a.org\n"},
		{"a wider limit that reports", "a.org", "", all(of("a.org", five), of("*", five, reports)), names("a.org"), "a.org: deleted (index 13)\nNo longer capped: a.org\n"},
		{"one that reports", "a.org", "", all(of("a.org", five, reports)), names("a.org"), "a.org: deleted (index 13)\n"},
		{"a port, under a wider limit", "127.0.0.1:19200", "", all(of("127.0.0.1:19200", five), of("*", five)), names("127.0.0.1:19200"), "127.0.0.1:19200: deleted (index 13)\n"},
		{"a port, under its host", "a.org:443", "", all(of("a.org:443", five), of("a.org", five)), names("a.org:443", "a.org"), "a.org:443: deleted (index 13)\n"},
		{"a port", "a.org:443", "", all(of("a.org:443", five), of("a.org:80", five)), names("a.org:443", "a.org:80"), "a.org:443: deleted (index 13)\nNo longer capped: a.org:443\n"},
		{"ports of a suffix", "*.x.org:443", "", all(of("*.x.org:443", five), of("*.org", five)), names("a.x.org:443"), "*.x.org:443: deleted (index 13)\n"},
		{"IPv6", "[::1]:443", "", all(of("[::1]:443", five)), names("[::1]:443"), "[::1]:443: deleted (index 13)\nNo longer capped: [::1]:443\n"},
		{"a shared suffix", "*.x.org", "", all(of("*.x.org", five, shared)), names("*.x.org"), "*.x.org: deleted (index 13)\nNo longer capped: *.x.org\n"},
		{"a shared suffix, under a wider limit", "*.x.org:443", "", all(of("*.x.org:443", five, shared), of("*", five)), names("*.x.org:443"), "*.x.org:443: deleted (index 13)\n"},
		{"a shared network", "10.0.0.0/8", "", all(of("10.0.0.0/8", five, shared)), names("10.0.0.0/8"), "10.0.0.0/8: deleted (index 13)\nNo longer capped: 10.0.0.0/8\n"},
		{"a shared network, under a wider one", "10.1.0.0/16", "", all(of("10.1.0.0/16", five, shared), of("10.0.0.0/8", five)), names("10.1.0.0/16"), "10.1.0.0/16: deleted (index 13)\n"},
		{"a rate", "a.org", "", all(of("a.org", rate)), names("a.org"), "a.org: deleted (index 13)\nNo longer capped: a.org\n"},
		{"bandwidth", "a.org", "", all(of("a.org", up)), names("a.org"), "a.org: deleted (index 13)\nNo longer capped: a.org\n"},
		{"a rate, with connections capped", "a.org", "", all(of("a.org", rate, five), of("*", five)), names("a.org"), "a.org: deleted (index 13)\nNo longer capped in requests: a.org\n"},
		{"connections, with a rate", "a.org", "", all(of("a.org", rate, five), of("*", rate)), names("a.org"), "a.org: deleted (index 13)\nNo longer capped in connections: a.org\n"},
		{"bandwidth of one side", "a.org", "", all(of("a.org", both), of("*", down)), names("a.org"), "a.org: deleted (index 13)\nNo longer capped in upload: a.org\n"},
		{"both, with a rate", "a.org", "", all(of("a.org", both), of("*", rate)), names("a.org"),
			"a.org: deleted (index 13)\nNo longer capped in upload: a.org\nNo longer capped in download: a.org\n"},
		{"a limit of another scope", "a.org", "", all(of("a.org", five), `{"scope":"user","pattern":"*","connections":5}`), names("a.org"), "a.org: deleted (index 13)\nNo longer capped: a.org\n"},
		{"limits that can't be listed", "a.org", "", "500|broken", names("a.org"), "a.org: deleted (index 13)\n"},
		{"hosts that can't be listed", "a.org", "", all(of("a.org", five)), "gone", "a.org: deleted (index 13)\n"},
	} {
		deleted := fmt.Sprintf(`{"index":13,"scope":"host","pattern":%q}`, c.pattern)
		if c.uncovers != "" {
			deleted = fmt.Sprintf(`{"index":13,"scope":"host","pattern":%q,"uncovered":%s}`, c.pattern, c.uncovers)
		}
		f := newFakeAPI(t, map[string][]string{
			"GET /v1/limits": {c.limits}, "GET /v1/hosts?sort=in_use": {c.hosts}, "DELETE /v1/limits/host/" + url.PathEscape(c.pattern): {deleted},
		})
		if code, stdout, stderr := f.weir(testProcess(), "limits", "delete", c.pattern); code != 0 || stdout != c.want {
			t.Errorf("%s: exit %d %q %q, want %q", c.name, code, stdout, stderr, c.want)
		}
	}
}
