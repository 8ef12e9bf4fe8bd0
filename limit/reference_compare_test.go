package limit_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/limit/limittest"
)

func checkVerdict(t *testing.T, what, s string, err error, v verdict) (both bool) {
	t.Helper()
	if v == noOpinion {
		return false
	}
	if (err == nil) != (v == accepted) {
		t.Fatalf("%s(%q): %v; the reference: accepted is %v", what, s, err, v == accepted)
	}
	return err == nil
}

// FuzzHostReference: hosts and destinations are what the rules say, neither more nor less, and
// every spelling of one is one.
func FuzzHostReference(f *testing.F) {
	for _, row := range limit.Spellings {
		for _, s := range row {
			f.Add(s, uint16(0))
			f.Add(s+":443", uint16(80))
		}
	}
	for s := range limit.RefusedHosts {
		f.Add(s, uint16(1))
	}
	for _, s := range []string{"[::1]:", "[::1]:080", "a:", "a:65536", "a:00000000080", "ａ.ＥＸ:80", "été.fr", "ΩΜΈΓΑ.gr", "москва.рф", "例え.jp", "日本。中国", "１。２", "0x.0x"} {
		f.Add(s, uint16(80))
	}
	f.Fuzz(func(t *testing.T, s string, port uint16) {
		want, v := refHost(s)
		got, err := limit.ParseHost(s)
		if checkVerdict(t, "ParseHost", s, err, v) && got.Host != want {
			t.Fatalf("ParseHost(%q) = %q, the reference says %q", s, got.Host, want)
		}
		if err == nil && s[len(s)-1] != ']' && !strings.Contains(s, ":") && !strings.HasSuffix(s, ".") && s[len(s)-1] < utf8.RuneSelf {
			if again, err := limit.ParseHost(strings.ToUpper(got.Host) + "."); !got.Addr.Is6() && (err != nil || again != got) {
				t.Fatalf("%q is %v, and in upper case with a dot %v, %v", s, got, again, err)
			}
		}
		host, number, v := refTarget(s, port)
		target, err := limit.ParseTarget(s, port)
		if checkVerdict(t, "ParseTarget", s, err, v) && (target.Host != host || int(target.Port) != number) {
			t.Fatalf("ParseTarget(%q, %d) = %v, the reference says %s port %d", s, port, target, host, number)
		}
	})
}

// FuzzPatternReference: patterns are what the rules say.
func FuzzPatternReference(f *testing.F) {
	for _, s := range append(slices.Clone(limittest.Patterns), "*.bücher.example:80", "10.1.2.3/8", "::ffff:10.0.0.0/104", "[2001:DB8::]/32", "*:1", "a.*.b", "0x7f.1:1",
		"*.[::1]", "*.1", "[::ffff:1.2.3.4]:80", "10/8", "::/0:80", "a/8", "1.2.3.4/032", "::ffff:0:0/95", "*.", "*.:1", "[*]", "[::1/64", "[::]/0]") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, v := readPattern(s)
		got, err := limit.ParsePattern(s)
		if checkVerdict(t, "ParsePattern", s, err, v) && got.String() != want.String() {
			t.Fatalf("ParsePattern(%q) = %q, the reference says %q", s, got, want)
		}
		if err == nil && v == accepted && got.Wildcard() != (want.kind != "exact") {
			t.Fatalf("%q is a wildcard: %v", s, got.Wildcard())
		}
	})
}

// FuzzMatch: of any patterns, the one that the reference calls the most specific governs a
// destination, and it is counted as the rules say. The first line is the destination; each other is
// a pattern, shared where it begins with '!'.
func FuzzMatch(f *testing.F) {
	f.Add("a.b.example:443\n*\n!*.example\n*.b.example:443\na.b.example")
	f.Add("10.1.2.3:80\n!0.0.0.0/0\n10.0.0.0/8\n10.1.2.3/32\n::/0\n10.1.2.3:81")
	f.Add("[2001:db8::1]:443\n2001:db8::/32\n[2001:db8::1]:443\n2001:db8::1\n!::/0")
	f.Add("x.org:1\n*.org:1\n*.x.org\norg\nx.org:2\n!*")
	f.Fuzz(func(t *testing.T, s string) {
		lines := strings.Split(s, "\n")
		host, port, v := refTarget(lines[0], 80)
		if v != accepted || len(lines) > 20 {
			return
		}
		target, err := limit.ParseTarget(lines[0], 80)
		if err != nil {
			t.Fatal(err)
		}
		var limits []limit.Limit
		var best refPattern
		shared := map[string]bool{}
		for i, line := range lines[1:] {
			text, isShared := strings.CutPrefix(line, "!")
			ref, v := readPattern(text)
			if _, twice := shared[ref.String()]; v != accepted || twice {
				continue
			}
			l := limit.Limit{Pattern: limittest.Pattern(text), Connections: int64(i), Source: limit.SourceAPI, Shared: isShared && ref.kind != "exact"}
			limits, shared[ref.String()] = append(limits, l), l.Shared
			if ref.matches(host, port) && (best.kind == "" || compareSpecific(ref, best) > 0) {
				best = ref
			}
		}
		table := limit.NewTable(1, 1, limits)
		l, key := table.Match(target)
		switch {
		case best.kind == "":
			if l != nil || key.Name != host {
				t.Fatalf("%v matches %+v as %v, where nothing does", target, l, key)
			}
			return
		case l == nil || l.Pattern.String() != best.String():
			t.Fatalf("%v matches %+v, want %s", target, l, best)
		}
		want := host
		switch {
		case shared[best.String()]:
			want = best.String()
		case best.port != 0:
			want = refPattern{kind: "exact", host: host, port: port}.String()
		}
		if key != limit.HostConnections(want) || table.Governing(key) != l || !key.Canonical() {
			t.Fatalf("%v under %s is counted as %v, want %s; that is governed by %+v", target, best, key, want, table.Governing(key))
		}
	})
}

// TestReferenceItself: the reference is slow and naive, not wrong: it agrees with the tables of
// limit.Spellings, and with the standard library on all IPv6 forms that it is shown.
func TestReferenceItself(t *testing.T) {
	for _, row := range limit.Spellings {
		for _, s := range row {
			if got, v := refHost(s); v == refused || v == accepted && got != row[0] {
				t.Errorf("%q gives %q, %v", s, got, v)
			}
		}
	}
	for s := range limit.RefusedHosts {
		if got, v := refHost(s); v == accepted {
			t.Errorf("%q gives %q", s, got)
		}
	}
	for mask := range 1 << 8 {
		var b [16]byte
		for i := range 8 {
			binary.BigEndian.PutUint16(b[2*i:], uint16(mask>>i&1)*0xa0b)
		}
		a := netip.AddrFrom16(b)
		for _, s := range []string{a.String(), a.StringExpanded()} {
			if got, v := refHost(s); v != accepted || got != a.String() {
				t.Errorf("%s gives %s", s, got)
			}
		}
	}
}
