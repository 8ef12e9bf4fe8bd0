package limit

import (
	"errors"
	"strings"
	"testing"
)

func TestParsePattern(t *testing.T) {
	for want, list := range map[string][]string{
		"*":                          {"*"},
		"example.com":                {"example.com", "EXAMPLE.com.", "example。com"},
		"example.com:443":            {"example.com:443", "Example.com.:0443"},
		"*.example.com":              {"*.example.com", "*.EXAMPLE.com.", "*.example。com"},
		"*.example.com:80":           {"*.example.com:80", "*.Example.COM.:80"},
		"*.com":                      {"*.com", "*.COM"},
		"*.xn--bcher-kva.example":    {"*.bücher.example", "*.XN--bcher-kva.example"},
		"_srv.example":               {"_srv.example"},
		"192.0.2.1":                  {"192.0.2.1", "0xc0.0.02.1", "::ffff:192.0.2.1", "[::ffff:c000:201]", "3221225985"},
		"192.0.2.1:80":               {"192.0.2.1:80", "[::ffff:192.0.2.1]:80", "0xc0000201:80"},
		"2001:db8::1":                {"2001:db8::1", "[2001:db8::1]", "2001:DB8:0::1"},
		"[2001:db8::1]:443":          {"[2001:db8::1]:443", "[2001:0DB8::1]:443"},
		"10.0.0.0/8":                 {"10.0.0.0/8", "10.1.2.3/8", "::ffff:10.0.0.0/104", "[::ffff:a00:0]/104"},
		"0.0.0.0/0":                  {"0.0.0.0/0", "1.2.3.4/0", "::ffff:0:0/96"},
		"192.0.2.1/32":               {"192.0.2.1/32", "::ffff:192.0.2.1/128"},
		"2001:db8::/32":              {"2001:db8::/32", "2001:DB8:1::/32", "[2001:db8::]/32"},
		"::/0":                       {"::/0", "1::/0"},
		"*." + longName(253):         {"*." + longName(253)},
		longName(253) + ":65535":     {strings.ToUpper(longName(253)) + ":65535"},
		"*.a-b.0xg":                  {"*.a-b.0xg"},
		"xn--bcher-kva.example:8080": {"BÜCHER.example:8080"},
	} {
		for _, s := range list {
			p, err := ParsePattern(s)
			if err != nil || p.String() != want {
				t.Errorf("ParsePattern(%q) = %q, %v, want %q", s, p, err, want)
				continue
			}
			again, err := ParsePattern(p.String())
			if err != nil || again != p {
				t.Errorf("ParsePattern(%q) = %#v, %v, not %#v", p, again, err, p)
			}
			wild := strings.HasPrefix(want, "*") || strings.Contains(want, "/")
			if p.Wildcard() != wild {
				t.Errorf("%q is a wildcard: %v", p, p.Wildcard())
			}
		}
	}
}

func TestPatternRefusedWithHint(t *testing.T) {
	for s, hint := range map[string]string{
		"":                      "write a host",
		"*:443":                 "write * for all ports, or *.suffix:443",
		"*foo.com":              "write *.foo.com",
		"**":                    "write *.",
		"**.foo.com":            "write *.foo.com",
		"a.*.b":                 "only the first label",
		"a*.b":                  "only the first label",
		"*.*.b":                 "more than one star",
		"*.a*.b":                "more than one star",
		"*.":                    "empty",
		"*..com":                "empty label",
		"*.:443":                "empty",
		"*.com:0":               "ports start at 1",
		"*.com:":                "start at 1",
		"*.com:x":               "digits only",
		"*.192.0.2.1":           "write a CIDR",
		"*.5":                   "write a CIDR",
		"*.[::1]":               "write a CIDR",
		"*.foo.123":             "ends in a number",
		"https://a.com":         "write the host alone",
		"a.com/path":            "not a CIDR",
		"10.0.0.0/8:80":         "CIDR alone",
		"[2001:db8::/32]:80":    "CIDR with a port",
		"10/8":                  "not a CIDR",
		"10.0.0.0/33":           "not a CIDR",
		"10.0.0.0/08":           "not a CIDR",
		"10.0.0.0/":             "not a CIDR",
		"/8":                    "not a CIDR",
		"2001:db8::/129":        "not a CIDR",
		"fe80::%eth0/64":        "not a CIDR",
		"::ffff:10.0.0.0/90":    "write the IPv4 network",
		"example.com:0":         "ports start at 1",
		"example.com:":          "start at 1",
		"example.com:65536":     "above 65535",
		"example.com:+1":        "digits only",
		"[::1]:":                "start at 1",
		"[::1]x":                "behind the bracket",
		"[example.com]":         "not an IPv6",
		"fe80::1%eth0":          "zone",
		"a b":                   "' '",
		"1.2.3.256":             "part 4",
		"example.com:80:80":     "not an IPv6",
		strings.Repeat("a", 64): "label longer",
	} {
		p, err := ParsePattern(s)
		if !errors.Is(err, ErrPattern) || !strings.Contains(err.Error(), hint) || p != (Pattern{}) {
			t.Errorf("ParsePattern(%q) = %q, %v, want an ErrPattern with %q", s, p, err, hint)
		}
	}
}

// FuzzParsePattern: a pattern's text parses to itself, is ASCII, and names a limit that validates.
func FuzzParsePattern(f *testing.F) {
	for _, s := range []string{"*", "*.a.b:80", "10.1.2.3/8", "[::1]:80", "::ffff:10.0.0.0/104", "a:1", "*.bücher.example", "*:1", "a.*.b", "0x7f.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePattern(s)
		if err != nil {
			return
		}
		again, err := ParsePattern(p.text)
		if err != nil || again != p {
			t.Fatalf("%q gives %#v, and that %#v, %v", s, p, again, err)
		}
		for i := 0; i < len(p.text); i++ {
			if p.text[i] >= 0x80 {
				t.Fatalf("%q gives %q", s, p.text)
			}
		}
		l := Limit{Pattern: p, Connections: 1, Source: SourceAPI}
		if err := l.Validate(); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

func TestLimitValidate(t *testing.T) {
	wild, host := pattern("*.a.b"), pattern("a.b")
	ok := Queue{Timeout: 1, Size: 1}
	total, _ := ScopeTotal.ParsePattern("")
	connection, _ := ScopeConnection.ParsePattern("")
	user, _ := ScopeUser.ParsePattern("ann")
	prefix, _ := ScopeKey.ParsePattern("tenant/*")
	rate, bandwidth := Rate{Thousandths: 1, Per: 1e9, Burst: 1}, Bandwidth{Download: 1}
	for _, l := range []Limit{
		{Pattern: host},
		{Pattern: host, Connections: Unlimited},
		{Pattern: host, Connections: MaxConnections},
		{Pattern: host, Connections: 1, Queue: ok},
		{Pattern: host, Connections: 0, Queue: Queue{MaxQueueTimeout, MaxQueueSize}},
		{Pattern: wild, Connections: 1, Shared: true},
		{Pattern: pattern("*"), Connections: 1, Shared: true},
		{Pattern: pattern("10.0.0.0/8"), Connections: 1, Shared: true},
		{Pattern: total, Connections: 1, Requests: rate, Bandwidth: bandwidth, Queue: ok, Report: true},
		{Pattern: connection, Connections: Unlimited, Bandwidth: bandwidth},
		{Pattern: user, Connections: Unlimited, Requests: rate, Queue: ok},
		{Pattern: prefix, Connections: 1, Shared: true},
	} {
		if err := l.Validate(); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
	}
	for _, c := range []struct {
		l    Limit
		want string
	}{
		{Limit{}, "no pattern"},
		{Limit{Pattern: host, Connections: -2}, "connections is -2"},
		{Limit{Pattern: host, Connections: MaxConnections + 1}, "connections is 1000001"},
		{Limit{Pattern: host, Connections: 1, Shared: true}, "shared has no meaning"},
		{Limit{Pattern: pattern("a.b:80"), Connections: 1, Shared: true}, "shared has no meaning"},
		{Limit{Pattern: pattern("10.0.0.1"), Connections: 1, Shared: true}, "shared has no meaning"},
		{Limit{Pattern: host, Connections: 1, Queue: Queue{Size: 1}}, "queue timeout is 0s"},
		{Limit{Pattern: host, Connections: 1, Queue: Queue{Timeout: -1, Size: 1}}, "queue timeout is -1ns"},
		{Limit{Pattern: host, Connections: 1, Queue: Queue{MaxQueueTimeout + 1, 1}}, "queue timeout is 1h"},
		{Limit{Pattern: host, Connections: 1, Queue: Queue{Timeout: 1}}, "queue size is 0"},
		{Limit{Pattern: host, Connections: 1, Queue: Queue{1, -1}}, "queue size is -1"},
		{Limit{Pattern: host, Connections: 1, Queue: Queue{1, MaxQueueSize + 1}}, "queue size is 1000001"},
		{Limit{Pattern: host, Connections: Unlimited, Queue: ok}, "needs a cap"},
		{Limit{Pattern: host, Connections: Unlimited, Bandwidth: bandwidth, Queue: ok}, "a queue needs a cap to wait for: set connections or requests"},
		{Limit{Pattern: host, Requests: Rate{Thousandths: 1, Per: 5, Burst: 1}}, "the rate counts by 5ns: write /s, /m or /h"},
		{Limit{Pattern: host, Requests: Rate{Thousandths: -1, Per: 1e9, Burst: 1}}, "write a number above 0"},
		{Limit{Pattern: host, Requests: Rate{Thousandths: 1, Per: 1e9}}, "the burst is 0: write at least 1"},
		{Limit{Pattern: host, Requests: Rate{Burst: 1}}, "the rate counts by 0s"},
		{Limit{Pattern: host, Bandwidth: Bandwidth{Burst: 5000}}, "has a burst and no rate"},
		{Limit{Pattern: user, Connections: 1, Shared: true}, "shared has no meaning on a single user: leave it out, or write *"},
		{Limit{Pattern: total, Connections: 1, Shared: true}, "shared has no meaning"},
		{Limit{Pattern: connection, Connections: 1}, "scope connection limits the bandwidth of each connection alone"},
		{Limit{Pattern: connection, Connections: Unlimited, Requests: rate}, "set bandwidth, and nothing else"},
		{Limit{Pattern: connection, Connections: Unlimited, Requests: rate, Queue: ok}, "set bandwidth, and nothing else"},
	} {
		if err := c.l.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.l, err, c.want)
		}
	}
	all := Limit{Pattern: host, Connections: -7, Requests: Rate{Thousandths: -1, Per: 1e9, Burst: 1}, Bandwidth: Bandwidth{Burst: 5000}, Shared: true, Queue: Queue{-1, -1}}
	const want = `invalid value: limit "a.b": connections is -7: write 0 to 1000000, or leave it out for no cap; the rate is -0.001/s: write a number above 0; ` +
		"a bandwidth has a burst and no rate: set upload, download or both; shared has no meaning on a single host: leave it out, or write "
	if err := all.Validate(); !strings.HasPrefix(err.Error(), want) || strings.Count(err.Error(), "; ") != 5 || strings.Contains(err.Error(), "\n") {
		t.Errorf("not every problem is named: %v", err)
	}
	own := Limit{Pattern: connection, Connections: Unlimited, Bandwidth: bandwidth, Queue: ok}
	const alone = `invalid value: limit "connection": scope connection limits the bandwidth of each connection alone: set bandwidth, and nothing else`
	if err := own.Validate(); err == nil || err.Error() != alone {
		t.Errorf("a queue of each connection's own: %v", err)
	}
}

// pattern is for patterns that tests know to be right.
func pattern(s string) Pattern {
	p, err := ParsePattern(s)
	if err != nil {
		panic(err)
	}
	return p
}
