package limit

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// Every line: the canonical host, then other ways to write it.
var spellings = [][]string{
	{"example.com", "EXAMPLE.com", "Example.COM.", "example.com.", "ｅｘａｍｐｌｅ.com", "example。com", "example．com", "example｡com", "example。com。", "exam\u00adple.com"},
	{"localhost", "LOCALHOST", "localhost.", "LocalHost。"},
	{"xn--bcher-kva.example", "bücher.example", "BÜCHER.example", "Bücher.Example.", "bu\u0308cher.example", "XN--BCHER-KVA.example", "ｘn--bcher-kva.example"},
	{"xn--fa-hia.de", "faß.de", "Faß.DE"},
	{"xn--fiqs8s", "中国", "中国。", "xn--FIQS8S."},
	{"k.example", "\u212a.example"},
	{"_srv.example.com", "_SRV.example.com."},
	{"_srv.xn--bcher-kva.de", "_srv.bücher.de"},
	{"r3---sn-apo3qvuoxuxbt-j5pe.example.com", "R3---SN-apo3qvuoxuxbt-j5pe.example.com"},
	{"a-.b", "A-.b"},
	{"-a.b", "-A.b"},
	{"1.example", "1.EXAMPLE"},
	{"-1", "-1."},
	{"0.0.1.0", "256", "0x100", "0.0.256"},
	{"0xg", "0XG"},
	{"3com", "3COM."},
	{"1.2.3.4a", "1.2.3.4A"},
	{
		"127.0.0.1", "2130706433", "0x7f000001", "0X7F000001", "017700000001", "127.1", "127.0.1", "0177.0.0.1", "0x7f.1", "0x7f.0.0.1", "0x7F.0X0.0.01",
		"127.0.0.1.", "127.1.", "2130706433.", "0177.1.", "127.0x000000000000000000001", "１２７.0.0.1", "127。0。0。1", "①②⑦.1",
		"::ffff:127.0.0.1", "[::ffff:127.0.0.1]", "::FFFF:7f00:1", "[::ffff:7F00:0001]", "0:0:0:0:0:ffff:7f00:1", "00000000000000000000000177.1", "127.1。",
	},
	{"0.0.0.0", "0", "0x0", "00", "0x", "0.0", "0.", "0.0.0.0.", "::ffff:0:0"},
	{"255.255.255.255", "4294967295", "0xffffffff", "037777777777", "255.16777215", "255.255.65535", "0xff.0377.0xffff"},
	{"1.2.3.4", "1.2.772", "1.131844", "16909060", "0x1020304", "01.02.03.04", "1.2.0x304"},
	{"0.0.0.8", "8", "010", "0x8"},
	{"::1", "[::1]", "0:0:0:0:0:0:0:1", "0000::0001", "[0:0::0:1]", "::0.0.0.1"},
	{"::", "[::]", "0::0", "0:0:0:0:0:0:0:0"},
	{"2001:db8::1", "2001:DB8::1", "[2001:0db8:0000:0000:0000:0000:0000:0001]", "2001:db8:0:0::1"},
	{"2001:db8:0:1:1:1:1:1", "2001:db8::1:1:1:1:1"}, // RFC 5952 section 4.2.2: one group isn't shortened
	{"2001:0:0:1::1", "2001:0:0:1:0:0:0:1"},         // section 4.2.3: the longest run is
	{"2001:db8::1:0:0:1", "2001:db8:0:0:1:0:0:1"},   // and of equal ones the first
	{"64:ff9b::102:304", "64:ff9b::1.2.3.4"},
	{strings.Repeat("a", 63) + ".b", strings.Repeat("A", 63) + ".b."},
	{longName(253), strings.ToUpper(longName(253)) + "."},
}

func longName(n int) string {
	name := strings.Repeat("abcdefg.", n/8+1)[:n]
	return name[:n-1] + "z"
}

func TestEverySpellingIsOneHost(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range spellings {
		want := row[0]
		if seen[want] {
			t.Fatalf("%q stands twice in the table", want)
		}
		seen[want] = true
		addr, _ := netip.ParseAddr(want)
		for _, s := range row {
			got, err := ParseHost(s)
			if err != nil {
				t.Errorf("ParseHost(%q): %v", s, err)
				continue
			}
			if got != (Target{Host: want, Addr: addr}) {
				t.Errorf("ParseHost(%q) = %#v, want host %q, address %v", s, got, want, addr)
			}
		}
	}
}

// What is no host, and a part of the error that says why.
var refusedHosts = map[string]string{
	"":                              "empty",
	".":                             "empty label",
	"..":                            "empty label",
	"。":                             "empty label",
	".example.com":                  "empty label",
	"a..b":                          "empty label",
	"example.com..":                 "empty label",
	"127.0.0.1..":                   "empty label",
	"a。。b":                          "empty label",
	"\u00ad":                        "empty",
	strings.Repeat("a", 64):         "label longer",
	strings.Repeat("ü", 63):         "longer than 63",
	longName(254):                   "longer than 253",
	strings.Repeat("a.", 600):       "1200 bytes",
	"exam ple.com":                  "' '",
	" example.com":                  "' '",
	"example.com\n":                 "'\\n'",
	"a\x00b":                        "'\\x00'",
	"a\x7fb":                        "'\\x7f'",
	"a\tb":                          "'\\t'",
	"%65xample.com":                 "percent",
	"％65xample.com":                 "percent",
	"a/b":                           "'/'",
	"a\u2100b":                      "no host name has",
	"a\\b":                          "'\\\\'",
	"user@example.com":              "'@'",
	"*.example.com":                 "'*'",
	"＊.example.com":                 "'*'",
	"a,b":                           "','",
	"a?b":                           "'?'",
	"a#b":                           "'#'",
	"\xff.com":                      "UTF-8",
	"a\ufffdb.com":                  "no ASCII form",
	"xn--bücher.example":            "no ASCII form",
	"example.com:80":                "no port",
	"example.com：80":                "':'",
	"127.0.0.1:80":                  "no port",
	"256.0.0.1":                     "part 1",
	"1.256.1":                       "part 2",
	"1.2.65536":                     "part 3",
	"1.16777216":                    "part 2",
	"4294967296":                    "part 1",
	"99999999999999999999":          "part 1",
	"0x100000000":                   "part 1",
	"0x10000000000000000":           "part 1",
	"08":                            "part 1",
	"1.2.3.09":                      "part 4",
	"0x1g.0x1":                      "part 1",
	"1.2.3.4.5":                     "too many parts",
	"foo.0x4":                       "part 1",
	"foo.bar.123":                   "part 1",
	"a.0x":                          "part 1",
	"[127.0.0.1]":                   "not an IPv6",
	"[example.com]":                 "not an IPv6",
	"[]":                            "not an IPv6",
	"[":                             "bracket",
	"[::1":                          "bracket",
	"[::1]x":                        "bracket",
	"[::1].":                        "bracket",
	"[::1]:80":                      "bracket",
	"::1]":                          "not an IPv6",
	"::1.":                          "not an IPv6",
	":::":                           "not an IPv6",
	"12345::":                       "not an IPv6",
	"1:2:3:4:5:6:7:8:9":             "not an IPv6",
	"::ffff:127.1":                  "not an IPv6",
	"::ffff:0177.0.0.1":             "not an IPv6",
	"fe80::1%eth0":                  "zone",
	"[fe80::1%25eth0]":              "zone",
	"［::1］":                         "not an IPv6",
	"example.com\u3002\u3002":       "empty label",
	"https://example.com":           "no port",
	"a" + strings.Repeat(".b", 127): "longer than 253",
}

func TestHostRefused(t *testing.T) {
	for s, want := range refusedHosts {
		got, err := ParseHost(s)
		if !errors.Is(err, ErrHost) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseHost(%q) = %v, %v, want an ErrHost with %q", s, got, err, want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		in          string
		defaultPort uint16
		want        string
	}{
		{"Example.com:443", 0, "example.com:443"},
		{"Example.com.:443", 80, "example.com:443"},
		{"example.com", 80, "example.com:80"},
		{"example.com:", 80, "example.com:80"},
		{"example.com:0443", 0, "example.com:443"},
		{"example.com:0000000000000443", 0, "example.com:443"},
		{"example.com:65535", 0, "example.com:65535"},
		{"example.com:1", 0, "example.com:1"},
		{"0x7f.1:8080", 0, "127.0.0.1:8080"},
		{"127.1.:8080", 0, "127.0.0.1:8080"},
		{"[::1]", 443, "[::1]:443"},
		{"[::1]:", 443, "[::1]:443"},
		{"[0:0::1]:8443", 443, "[::1]:8443"},
		{"[::ffff:1.2.3.4]:80", 0, "1.2.3.4:80"},
		{"bücher.example:1", 0, "xn--bcher-kva.example:1"},
	} {
		got, err := ParseTarget(c.in, c.defaultPort)
		if err != nil || got.String() != c.want {
			t.Errorf("ParseTarget(%q, %d) = %v, %v, want %s", c.in, c.defaultPort, got, err, c.want)
		}
	}
	for in, want := range map[string]error{
		"":                                    ErrHost,
		":80":                                 ErrHost,
		"example.com":                         ErrPort,
		"example.com:":                        ErrPort,
		"[::1]":                               ErrPort,
		"example.com:0":                       ErrPort,
		"example.com:00":                      ErrPort,
		"example.com:00000000000000443":       ErrPort,
		"example.com:65536":                   ErrPort,
		"example.com:99999999999999999999999": ErrPort,
		"example.com:+80":                     ErrPort,
		"example.com:-80":                     ErrPort,
		"example.com: 80":                     ErrPort,
		"example.com:80 ":                     ErrPort,
		"example.com:0x50":                    ErrPort,
		"example.com:http":                    ErrPort,
		"example.com:８０":                      ErrPort,
		"::1":                                 ErrHost,
		"::1:80":                              ErrHost,
		"[::1]80":                             ErrHost,
		"[::1":                                ErrHost,
		"[]:80":                               ErrHost,
		"[example.com]:80":                    ErrHost,
		"a:80:90":                             ErrHost,
		"user:pw@example.com:80":              ErrHost,
		"user@example.com:80":                 ErrHost,
		"example.com/:80":                     ErrHost,
	} {
		if got, err := ParseTarget(in, 0); !errors.Is(err, want) {
			t.Errorf("ParseTarget(%q, 0) = %v, %v, want %v", in, got, err, want)
		}
	}
}

// A target may be kept for long, and with it all of the text that it was made of: that is short.
func TestTargetKeepsNoLongText(t *testing.T) {
	zeros, long := strings.Repeat("0", 60_000), strings.Repeat("a", 60_000)
	for _, s := range []string{"h:" + zeros + "443", "h:" + zeros, "H.:" + zeros + "1", "[::1]:" + zeros + "1", "0x" + zeros + "7f.1:1", long + ":1", "[" + zeros + "::1]:1"} {
		if got, err := ParseTarget(s, 80); err == nil {
			t.Errorf("%.20q… of %d bytes is read as %v", s, len(s), got)
		}
		if got, err := ParseOptionalPort(s); err == nil {
			t.Errorf("%.20q… of %d bytes, its port optional, is read as %v", s, len(s), got)
		}
	}
}

func TestParseOptionalPort(t *testing.T) {
	for in, want := range map[string]string{
		"Example.com.": "example.com", "Example.com:0443": "example.com:443", "::1": "::1", "[::1]": "::1", "[::1]:80": "[::1]:80", "10.1": "10.0.0.1", "10.1:80": "10.0.0.1:80",
	} {
		if got, err := ParseOptionalPort(in); err != nil || got.String() != want {
			t.Errorf("ParseOptionalPort(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]error{
		"": ErrHost, ":80": ErrHost, "a:80:90": ErrHost, "[a]:80": ErrHost, "a b": ErrHost, "a b:80": ErrHost,
		"a:": ErrPort, "a:0": ErrPort, "a:65536": ErrPort, "http://a/": ErrPort,
	} {
		if got, err := ParseOptionalPort(in); !errors.Is(err, want) {
			t.Errorf("ParseOptionalPort(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
}

func TestTargetString(t *testing.T) {
	for want, target := range map[string]Target{
		"a":        {Host: "a"},
		"a:1":      {Host: "a", Port: 1},
		"::1":      {Host: "::1", Addr: netip.MustParseAddr("::1")},
		"[::1]:80": {Host: "::1", Addr: netip.MustParseAddr("::1"), Port: 80},
	} {
		if got := target.String(); got != want {
			t.Errorf("%#v gives %q, want %q", target, got, want)
		}
	}
}

// inetAton is written after the manual page, with strconv's own bases, to be
// compared with the parser.
func inetAton(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, p := range parts {
		if p == "" || strings.Contains(p, "_") || p[0] == '+' || p[0] == '-' || strings.HasPrefix(p, "0b") || strings.HasPrefix(p, "0o") {
			return netip.Addr{}, false
		}
		if p == "0x" {
			p = "0"
		}
		n, err := strconv.ParseUint(p, 0, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		if i < len(parts)-1 {
			if n > 255 {
				return netip.Addr{}, false
			}
			v |= n << (24 - 8*i)
		} else {
			if n >= 1<<(8*(4-i)) {
				return netip.Addr{}, false
			}
			v |= n
		}
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

// FuzzParseHost: parsing is idempotent, agrees with the standard library and with
// inet_aton where they have an opinion, and gives nothing that can't be a host.
func FuzzParseHost(f *testing.F) {
	for _, row := range spellings {
		for _, s := range row {
			f.Add(s)
		}
	}
	for _, s := range []string{"08", "1.2.3.4.5", "a..b", "[::1]:80", "fe80::1%1", "\xff", "xn--a", "xn--", "0x.0x.0x.0x", "𝟭𝟐７.1", "a\u200db.c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseHost(s)
		if err != nil {
			if !errors.Is(err, ErrHost) || got != (Target{}) {
				t.Fatalf("ParseHost(%q) = %v, %v: not an ErrHost alone", s, got, err)
			}
			if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
				t.Fatalf("ParseHost refuses the address %q", s)
			}
			if _, ok := inetAton(strings.ToLower(s)); ok {
				t.Fatalf("ParseHost refuses %q, which inet_aton reads", s)
			}
			return
		}
		again, err := ParseHost(got.Host)
		if err != nil || again != got {
			t.Fatalf("ParseHost(%q) = %v, and of that %v, %v", s, got, again, err)
		}
		if got.Addr.IsValid() != (got.Host != "" && got.Addr.String() == got.Host) || got.Addr.Is4In6() {
			t.Fatalf("ParseHost(%q) = %q with the address %v", s, got.Host, got.Addr)
		}
		if a, err := netip.ParseAddr(s); err == nil && a.Unmap() != got.Addr {
			t.Fatalf("ParseHost(%q) = %v, but it is the address %v", s, got, a)
		}
		if a, ok := inetAton(strings.ToLower(s)); ok && a != got.Addr {
			t.Fatalf("ParseHost(%q) = %v, inet_aton says %v", s, got, a)
		}
		if !got.Addr.IsValid() {
			if len(got.Host) > maxHostLen || strings.Trim(got.Host, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
				t.Fatalf("ParseHost(%q) = %q", s, got.Host)
			}
		}
		withPort, err := ParseTarget(Target{got.Host, got.Addr, 8080}.String(), 0)
		if err != nil || withPort != (Target{got.Host, got.Addr, 8080}) {
			t.Fatalf("ParseTarget of %v with a port = %v, %v", got, withPort, err)
		}
	})
}

func TestParseHostAllocatesNothing(t *testing.T) {
	for _, s := range []string{"api.example.com", "xn--bcher-kva.example", "_srv.a-b.example", "192.0.2.1"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = ParseHost(s) }); n != 0 {
			t.Errorf("ParseHost(%q) allocates %v times", s, n)
		}
	}
}

func BenchmarkParseTarget(b *testing.B) {
	for _, s := range []string{"api.example.com:443", "API.Example.com.:443", "192.0.2.1:443", "[2001:db8::1]:443", "0x7f.1:443", "bücher.example:443"} {
		b.Run(fmt.Sprintf("%q", s), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseTarget(s, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
