package gost

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/limit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// convert returns a config's limits as a file would have them, and the warnings, a line each.
func convert(t *testing.T, src string) (hcl, warnings string) {
	t.Helper()
	limits, warned, err := Convert([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range limits {
		if err := l.Validate(); err != nil {
			t.Error(err)
		}
	}
	var b strings.Builder
	for _, w := range warned {
		fmt.Fprintf(&b, "%d: %s\n", w.Line, w.Text)
	}
	return config.FormatLimits(limits), b.String()
}

// TestLineForms is the table of docs/from-gost.md.
func TestLineForms(t *testing.T) {
	const src = `
services:
- name: service-0
  addr: ":8080"
  limiter: bytes
  rlimiter: &r rates
  climiter: conns
  handler: {type: auto}
limiters:
- name: bytes
  limits:
  - '$ 100MB 200MB'
  - '$$ 10MB'
  - '192.168.1.1  512KB 1MB'
  - '192.168.0.0/16	1MB  5MB'
rlimiters:
- name: *r
  limits: ['$ 100', '$$ 10', '192.168.1.1  50', '192.168.0.0/16 0.5']
climiters:
- name: conns
  limits:
  - $ 1000
  - $$ 100
  - 192.168.1.1  200
  - 192.168.0.0/16  50
`
	const want = `limits {
  client "*" {
    connections = 100
    requests {
      rate  = "10/s"
      burst = 11
    }
  }

  client "192.168.0.0/16" {
    connections = 50
    requests {
      rate = "0.5/s"
    }
    bandwidth {
      upload   = "1MiB"
      download = "5MiB"
    }
  }

  client "192.168.1.1" {
    connections = 200
    requests {
      rate  = "50/s"
      burst = 51
    }
    bandwidth {
      upload   = "512KiB"
      download = "1MiB"
    }
  }

  total {
    connections = 1000
    requests {
      rate  = "100/s"
      burst = 101
    }
    bandwidth {
      upload   = "100MiB"
      download = "200MiB"
    }
  }

  connection {
    bandwidth {
      upload = "10MiB"
    }
  }
}
`
	hcl, warnings := convert(t, src)
	if diff := cmp.Diff(want, hcl); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if warnings != "" {
		t.Error(warnings)
	}
}

// TestFilledIn: a client's own limit here replaces a wider one as a whole, so what GOST would have
// taken from wider lines is written into it.
func TestFilledIn(t *testing.T) {
	hcl, warnings := convert(t, `
limiters: [{name: b, limits: ["10.0.0.0/8 1MB 2MB", "10.1.2.3 0 1MB"]}]
climiters: [{name: c, limits: ["$$ 5", "10.1.2.4 7"]}]
`)
	const want = `limits {
  client "*" {
    connections = 5
  }

  client "10.0.0.0/8" {
    connections = 5
    bandwidth {
      upload   = "1MiB"
      download = "2MiB"
    }
  }

  client "10.1.2.3" {
    connections = 5
    bandwidth {
      upload   = "1MiB"
      download = "1MiB"
    }
  }

  client "10.1.2.4" {
    connections = 7
    bandwidth {
      upload   = "1MiB"
      download = "2MiB"
    }
  }
}
`
	if diff := cmp.Diff(want, hcl); diff != "" || warnings != "" {
		t.Errorf("(-want +got)\n%s%s", diff, warnings)
	}
}

// TestWarnings: each line that means something else here, or nothing to GOST, is named.
func TestWarnings(t *testing.T) {
	for _, c := range []struct{ name, src, hcl, warns string }{
		{"a value that does not parse", "climiters:\n- limits:\n  - $ 10x\n  - $$ 5\n", "client \"*\" {\nconnections = 5\n", "3: \"10x\" does not parse, which GOST takes for no limit"},
		{"a unit in lower case", "limiters:\n- limits:\n  - $ 10mb 1MB\n", "download = \"1MiB\"", "3: \"10mb\" does not parse"},
		{"a number without a unit", "limiters:\n- limits:\n  - $ 1000 1MB\n", "download", "3: \"1000\" does not parse"},
		{"a rate with a unit", "rlimiters:\n- limits:\n  - $ 10/s\n  - $$ 1\n", "client", "3: \"10/s\" does not parse"},
		{"a value of everything", "climiters:\n- limits:\n  - $$ 10x\n  - $ 5\n", "total", "as in 100); there will be no cap\n"},
		{"a value of an address", "climiters:\n- limits:\n  - 10.0.0.1 10x\n  - $$ 5\n", "limits { client \"*\" { connections = 5 } }", "as in 100); wider lines apply, if there are any\n"},
		{"a value of a network", "limiters:\n- limits:\n  - 10.0.0.0/8 1MB\n  - 10.1.0.0/16 10mb\n", "limits { client \"10.0.0.0/8\" { bandwidth { upload = \"1MiB\" } } }", "4: \"10mb\" does not parse, which GOST takes for no limit: write what you mean (bytes a second, as in 512KB or 10MB); wider lines apply"},
		{"too many requests of an address", "rlimiters:\n- limits:\n  - $$ 5\n  - 10.0.0.1 1e9\n", "limits { client \"*\" { requests { rate = \"5/s\" burst = 6 } } }", "4: 1e9 requests a second are more than the 10000000 that can be a limit here: wider lines apply"},
		{"no value", "climiters:\n- limits:\n  - $\n  - $$ 5\n", "client", "3: \"$\" has a scope and no value"},
		{"too much", "climiters:\n- limits:\n  - $ 5 6\n", "connections = 5", "3: \"6\" is passed over"},
		{"no address", "climiters:\n- limits:\n  - example.com 5\n  - $ 5\n", "total", "3: \"example.com\" is neither"},
		{"an address in capitals", "climiters:\n- limits:\n  - 2001:DB8::1 5\n  - 2001:db8::2 6\n", "limits { client \"2001:db8::2\" { connections = 6 } }", "3: GOST compares addresses as text and writes this one 2001:db8::1, so it never applies \"2001:DB8::1\": it is left out\n"},
		{"a mapped address", "limiters:\n- limits:\n  - 1.2.3.4 5MB\n  - ::ffff:1.2.3.4 6MB\n", "limits { client \"1.2.3.4\" { bandwidth { upload = \"5MiB\" } } }", "4: GOST compares addresses as text and writes this one 1.2.3.4, so it never applies \"::ffff:1.2.3.4\""},
		{"nested networks", "climiters:\n- limits:\n  - 10.0.0.0/8 5\n  - 10.1.0.0/16 6\n", "client \"10.1.0.0/16\" {\nconnections = 6", "4: GOST goes by the widest network, 10.0.0.0/8 of line 3"},
		{"the widest of three", "climiters:\n- limits:\n  - 10.0.0.0/8 5\n  - 10.0.0.0/12 6\n  - 10.1.0.0/16 7\n", "client \"10.1.0.0/16\" {\nconnections = 7", "5: GOST goes by the widest network, 10.0.0.0/8 of line 3"},
		{"a wider network without a value", "limiters:\n- limits:\n  - 10.0.0.0/8 0 1MB\n  - 10.1.0.0/16 5MB\n", "upload = \"5MiB\"", "4: GOST goes by the widest network, 10.0.0.0/8 of line 3, which covers this one and has no cap of upload; here the narrowest counts\n"},
		{"a wider network without a second value", "limiters:\n- limits:\n  - 10.1.0.0/16 0 5MB\n  - 10.0.0.0/8 1MB\n", "download = \"5MiB\"", "3: GOST goes by the widest network, 10.0.0.0/8 of line 4, which covers this one and has no cap of download; here"},
		{"a wider network without any", "limiters:\n- limits:\n  - 10.0.0.0/8 1mb 0\n  - 10.1.0.0/16 5MB\n", "limits { client \"10.1.0.0/16\" { bandwidth { upload = \"5MiB\" } } }", "4: GOST goes by the widest network, 10.0.0.0/8 of line 3, which covers this one and has no cap of upload"},
		{"too many connections", "climiters:\n- limits:\n  - $ 1000001\n  - $$ 5\n", "client", "3: 1000001 connections are more than"},
		{"too many bytes", "limiters:\n- limits:\n  - $ 2TB 1MB\n", "download", "3: 2TB a second is more than"},
		{"too many requests", "rlimiters:\n- limits:\n  - $ 1e9\n  - $$ inf\n  - 10.0.0.1 NaN\n  - 10.0.0.2 3\n", "10.0.0.2", "3: 1e9 requests a second are more than"},
		{"a rate that is not said exactly", "rlimiters:\n- limits:\n  - $ 0.0000012345\n", "rate = \"0.004/h\"", "3: 0.0000012345 requests a second are written as 0.004/h"},
		{"two limiters", "climiters:\n- name: a\n  limits: [$ 5]\n- name: b\n  limits: [$ 4]\n", "connections = 4", "4: GOST applies climiter \"a\" and climiter \"b\" to the services that name them"},
		{"the higher of two", "climiters:\n- name: a\n  limits: [$ 5]\n- name: b\n  limits: [$ 4]\n", "connections = 4", "3: line 5 says less for the same"},
		{"an unused limiter", "services: [{limiter: x, handler: {metadata: {climiter: b}}}]\nclimiters:\n- {name: a, limits: [$ 5]}\n- {name: b, limits: [$ 4]}\n", "connections = 4", "3: no service names climiter \"a\""},
		{"limits from elsewhere", "limiters:\n- name: a\n  limits: [$ 1MB]\n  redis:\n    addr: x\n", "upload", "5: the limits of limiter \"a\" that come from its redis"},
		{"a slow bandwidth", "limiters:\n- limits:\n  - $ 16KB\n", "upload = \"16KiB\"\nburst = \"16KiB\"", ""},
		{"two slow ones", "limiters:\n- limits:\n  - $ 16KB 32KB\n", "burst = \"32KiB\"", "3: GOST lets 16KiB through at once in the slower direction"},
		{"a slow one and a fast one", "limiters:\n- limits:\n  - $ 1MB 32KB\n", "upload = \"1MiB\"\ndownload = \"32KiB\"\n}", "3: GOST lets 32KiB through at once in the slower direction, here it is 64KiB"},
		{"a slow one before other limits", "limiters:\n- limits:\n  - $$ 16KB 32KB\nclimiters:\n- limits:\n  - $$ 5\n", "connections = 5", "3: GOST lets 16KiB through at once in the slower direction"},
		{"a very slow one", "limiters:\n- limits:\n  - $ 0 1KB\n", "burst = \"4KiB\"", "3: GOST lets 1KiB through at once"},
		{"no list", "limiters: 5\nclimiters:\n- limits: [$ 5]\n", "connections = 5", "1: limiters is no list"},
	} {
		hcl, warnings := convert(t, c.src)
		squeezed := strings.Join(strings.Fields(hcl), " ")
		if !strings.Contains(squeezed, strings.Join(strings.Fields(c.hcl), " ")) || !strings.Contains(warnings, c.warns) {
			t.Errorf("%s: %s\n%s", c.name, hcl, warnings)
		}
	}
	// Of a network whose line gets a number later, and of requests and connections, where GOST passes
	// over a line without a number, there is nothing to warn of.
	for _, src := range []string{
		"limiters: [{limits: [10.0.0.0/8 0 1MB, 10.0.0.0/8 0, 10.1.0.0/16 0, 172.16.0.0/12 5MB, 10.0.0.0/8 0 0]}]",
		"climiters: [{limits: [10.0.0.0/8 0, 10.1.0.0/16 5]}]\nrlimiters: [{limits: [10.0.0.0/8 0, 10.1.0.0/16 5]}]",
	} {
		if _, warnings := convert(t, src); warnings != "" {
			t.Errorf("%s: %s", src, warnings)
		}
	}
	// 0 and less are no limit in GOST, and no limit here: nothing to warn of.
	hcl, warnings := convert(t, "climiters:\n- limits:\n  - $ 0\n  - $$ -1\n  - 10.0.0.1 5\nlimiters:\n- limits: [$ -1MB 0, 10.0.0.1 1MB]\n")
	if strings.Contains(hcl, "total") || strings.Contains(hcl, "*") || warnings != "" {
		t.Errorf("%s\n%s", hcl, warnings)
	}
}

// TestLaterLines: a later line for the same replaces an earlier one. In GOST's requests and
// connections one that sets no limit is passed over, in its bandwidth it removes the earlier limit.
func TestLaterLines(t *testing.T) {
	for _, c := range []struct{ name, src, hcl, warns string }{
		{
			"connections that stay", `climiters: [{limits: ["$ 1000", "$$ 100", "10.0.0.7 5", "10.0.0.7 0", "$ 0", "$$ -1"]}]`,
			`client "*" { connections = 100 } client "10.0.0.7" { connections = 5 } total { connections = 1000 }`, "",
		},
		{"connections that are replaced", `climiters: [{limits: ["$ 1000", "$ 0", "$ 7"]}]`, "total { connections = 7 }", ""},
		{
			"requests that stay", "rlimiters:\n- limits:\n  - $ 10\n  - $ 10r\n", `total { requests { rate = "10/s" burst = 11 } }`,
			"4: \"10r\" does not parse, which GOST takes for no limit: write what you mean (requests a second, as in 10 or 0.5); line 3 applies\n",
		},
		{
			"too many connections", "climiters:\n- limits:\n  - $ 5\n  - $ 1000001\n  - $$ 7\n", `client "*" { connections = 7 }`,
			"4: 1000001 connections are more than the 1000000 that can be a limit here: there will be no cap\n",
		},
		{
			"too many requests", "rlimiters:\n- limits:\n  - $ 5\n  - $ 1e999\n  - $$ 7\n", `client "*" { requests { rate = "7/s" burst = 8 } }`,
			"4: 1e999 requests a second are more than the 10000000 that can be a limit here: there will be no cap\n",
		},
		{
			"bandwidth that goes", "limiters:\n- limits:\n  - $ 1MB 2MB\n  - $ 0 1mb\n  - $$ 5MB 5MB\n  - $$ 3MB\n", `connection { bandwidth { upload = "3MiB" } }`,
			"4: \"1mb\" does not parse, which GOST takes for no limit: write what you mean (bytes a second, as in 512KB or 10MB); there will be no cap\n",
		},
	} {
		hcl, warnings := convert(t, c.src)
		if got, want := strings.Join(strings.Fields(hcl), " "), "limits { "+c.hcl+" }"; got != want || warnings != c.warns {
			t.Errorf("%s: %s, want %s\n%s", c.name, got, want, warnings)
		}
	}
}

// TestYAML: merged keys, names in any case and a text in place of a list mean what they do to GOST.
func TestYAML(t *testing.T) {
	several := regexp.MustCompile(`(?m)^\d+: GOST applies climiter .*\n`)
	const conns = `client "*" { connections = 10 } total { connections = 5 }`
	for _, c := range []struct{ name, src, hcl, warns string }{
		{"merged", "d: &d {limits: [$ 5, $$ 10]}\nclimiters:\n- <<: *d\n  name: c\n", conns, ""},
		{"a list of merged", "d: &d {limits: [$ 5, $$ 10]}\ne: &e {name: x, limits: [$ 1]}\nclimiters:\n- <<: [{name: c}, *d, *e]\n", conns, ""},
		{"merged into what is merged", "d: &d {limits: [$ 5, $$ 10]}\ne: &e {<<: *d}\nclimiters:\n- <<: *e\n", conns, ""},
		{"of its own before merged", "d: &d {limits: [$ 1]}\nclimiters:\n- <<: *d\n  limits: [$ 5, $$ 10]\n", conns, ""},
		{"the root merged", "x: &x\n  climiters: [{limits: [$ 5, $$ 10]}]\n<<: *x\n", conns, ""},
		{
			"a service merged", "s: &s {climiter: a}\nservices: [{<<: *s, name: s}]\nclimiters: [{name: a, limits: [$ 5, $$ 10]}]\n",
			conns, "",
		},
		{
			"what a service overrides", "s: &s {climiter: b}\nservices: [{<<: *s, climiter: a}]\nclimiters:\n- {name: a, limits: [$ 5, $$ 10]}\n- {name: b, limits: [$ 1]}\n",
			conns, "5: no service names climiter \"b\", so GOST does not use it: it is left out\n",
		},
		{"no merge", "d: &d {limits: [$ 1]}\nclimiters:\n- \"<<\": *d\n  limits: [$ 5, $$ 10]\n", conns, ""},
		{"in capitals", "Services: [{CLimiter: A}]\nClimiters: [{Name: A, LIMITS: [$ 5, $$ 10]}]\n", conns, ""},
		{"a text", "climiters: [{limits: '$ 5,$$ 10'}]\n", conns, ""},
		{"no text", "climiters: [{limits: ''}, {limits: null}, {limits: ~}, {limits: [$ 5, $$ 10]}]\n", conns, ""},
		{"a text of lines", "climiters:\n- limits: [$ 5, $$ 10]\n- limits: |\n    $ 3\n    $$ 4\n", conns,
			"3: \"3\\n$$\" does not parse, which GOST takes for no limit: write what you mean (a whole number, as in 100); there will be no cap\n" +
				"3: \"4\" is passed over, as GOST does\n"},
		{"a number", "climiters: [{limits: [$ 5, $$ 10]}, {limits: 5}]\n", conns,
			"1: \"5\" has a scope and no value: GOST passes it over\n"},
		{"a mapping", "climiters:\n- limits: [$ 5, $$ 10]\n- name: m\n  limits: {$: 5}\n", conns,
			"4: the limits of climiter \"m\" are no list: nothing of them is taken\n"},
		{"no mapping", "climiters:\n- limits: [$ 5, $$ 10]\n- $ 1\n", conns, "3: an entry of climiters is no mapping: it is left out\n"},
	} {
		hcl, warnings := convert(t, c.src)
		warnings = several.ReplaceAllString(warnings, "")
		if got, want := strings.Join(strings.Fields(hcl), " "), "limits { "+c.hcl+" }"; got != want || warnings != c.warns {
			t.Errorf("%s: %s, want %s\n%s", c.name, got, want, warnings)
		}
	}
}

func TestRefused(t *testing.T) {
	for src, want := range map[string]string{
		"":                        "no mapping",
		"- a":                     "no mapping",
		"a: [":                    "not YAML",
		"services: []":            "no limiters",
		"a: &a [*a]\nservices: 5": "no limiters",
	} {
		if _, _, err := Convert([]byte(src)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", src, err)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"1B": 1, "1KB": 1024, "1KiB": 1024, "1.5MB": 3 << 19, "10GB": 10 << 30, "1TB": 1 << 40, "1MB512KB": 3 << 19, "0": 0, "0MB": 0, "-5MB": -1, "+1KB": 1024, ".5KB": 512,
	} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "1", "1kb", "1mb", "1K", "MB", "-", "+", "1MB1KiB", "1 MB", "1iB", "..MB", "1MBB", "x"} {
		if got, err := parseBytes(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// TestAgreesWithGOST draws configs without networks in networks, and compares what each address
// gets with what GOST gives it, kind by kind.
func TestAgreesWithGOST(t *testing.T) {
	scopes := []string{"$$", "10.0.0.0/8", "192.168.0.0/16", "10.1.2.3", "10.1.2.4", "172.16.0.1"}
	rapid.Check(t, func(t *rapid.T) {
		lines := func(name string, values int) map[string][2]int {
			m := map[string][2]int{}
			for _, s := range rapid.SliceOfDistinct(rapid.SampledFrom(scopes), rapid.ID[string]).Draw(t, name) {
				m[s] = [2]int{rapid.IntRange(0, 9).Draw(t, name), rapid.IntRange(0, 9).Draw(t, name) * (values - 1)}
			}
			return m
		}
		bytes, rates, conns := lines("bytes", 2), lines("rates", 1), lines("conns", 1)
		var b strings.Builder
		b.WriteString("limiters:\n- limits:\n  - $ 1MB\n")
		for s, v := range bytes {
			fmt.Fprintf(&b, "  - %s %dKB %dKB\n", s, 4*v[0], 4*v[1])
		}
		for name, m := range map[string]map[string][2]int{"rlimiters": rates, "climiters": conns} {
			fmt.Fprintf(&b, "%s:\n- limits:\n  - $ 1\n", name)
			for s, v := range m {
				fmt.Fprintf(&b, "  - %s %d\n", s, v[0])
			}
		}
		limits, warnings, err := Convert([]byte(b.String()))
		burst := func(w Warning) bool { return strings.Contains(w.Text, "both directions have one burst") }
		if err != nil || len(slices.DeleteFunc(warnings, burst)) > 0 {
			t.Fatalf("%v %v\n%s", err, warnings, b.String())
		}
		table := limit.NewTable(1, 1, limits)
		for _, address := range []string{"10.1.2.3", "10.1.2.4", "10.9.9.9", "192.168.1.1", "172.16.0.1", "8.8.8.8"} {
			a := netip.MustParseAddr(address)
			l, _ := table.Find(limit.ScopeClient, &limit.Subject{Client: limit.ClientOf(a)})
			var got [4]int
			if l != nil {
				got = [4]int{int(l.Bandwidth.Upload) >> 12, int(l.Bandwidth.Download) >> 12, int(l.Requests.PerSecond()), int(max(l.Connections, 0))}
			}
			want := [4]int{gives(bytes, a, 0, false), gives(bytes, a, 1, false), gives(rates, a, 0, true), gives(conns, a, 0, true)}
			if got != want {
				t.Fatalf("%s gets %v, and %v from GOST\n%s", address, got, want, b.String())
			}
		}
	})
}

// gives is what GOST has for an address: of its own, else of the network around it, else, where $$
// means an address, of that. 0 is no limit.
func gives(lines map[string][2]int, a netip.Addr, i int, eachAddress bool) int {
	if v := lines[a.String()][i]; v > 0 {
		return v
	}
	for s, v := range lines {
		if n, err := netip.ParsePrefix(s); err == nil && n.Contains(a) && v[i] > 0 {
			return v[i]
		}
	}
	if eachAddress {
		return lines["$$"][i]
	}
	return 0
}

// FuzzConvert: nothing panics, and what comes out is valid and can be read again.
func FuzzConvert(f *testing.F) {
	f.Add("limiters:\n- name: a\n  limits: [$ 1MB 2MB, $$ 1, 10.0.0.0/8 1KB]\nrlimiters: [{limits: ['$$ 0.3']}]\nclimiters: [{limits: ['::1 5']}]\nservices: [{limiter: a}]")
	f.Add("a: &a {b: *a}\nservices: *a\nlimiters: [*a]")
	f.Add("d: &d {<<: [*d, {Limits: '$ 5,$$ 6'}]}\nclimiters: [{<<: *d}]\nservices: [{<<: *d}]")
	f.Add("services: &s [" + strings.Repeat("*s, ", 40) + "*s]\nclimiters: [{limits: [$ 5]}]")
	f.Fuzz(func(t *testing.T, src string) {
		limits, _, err := Convert([]byte(src))
		if err != nil {
			return
		}
		for i := range limits {
			if err := limits[i].Validate(); err != nil {
				t.Fatalf("%v\n%s", err, src)
			}
		}
		_ = config.FormatLimits(limits)
	})
}

// TestDocument: the example of docs/from-gost.md is what comes out, and so is each row of its
// table.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile("../../../docs/from-gost.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(name, language string) string {
		_, rest, ok := strings.Cut(string(b), "<!-- "+name+" -->\n```"+language+"\n")
		text, _, closed := strings.Cut(rest, "```\n")
		if !ok || !closed {
			t.Fatalf("there is no block %s", name)
		}
		return text
	}
	hcl, warnings := convert(t, block("gost", "yaml"))
	if diff := cmp.Diff(block("weir", "hcl"), hcl); diff != "" || warnings != "" {
		t.Errorf("(-want +got)\n%s%s", diff, warnings)
	}
	rows := regexp.MustCompile("(?m)^\\| `(r|c|)limiters`: `(.*?)` \\| `(.*?)` \\|").FindAllStringSubmatch(string(b), -1)
	if len(rows) != 12 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		hcl, warnings := convert(t, fmt.Sprintf("%slimiters: [{limits: ['%s']}]", row[1], row[2]))
		hcl = regexp.MustCompile(`burst = \d+`).ReplaceAllString(hcl, "") // of requests: one more than what a second brings
		if got, want := strings.Join(strings.Fields(hcl), " "), "limits { "+row[3]+" }"; got != want || warnings != "" {
			t.Errorf("%s is %s, not %s\n%s", row[2], got, want, warnings)
		}
	}
}
