package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// FuzzLoad feeds any bytes to Load and LoadLimits: neither panics; each answers a value or problems, never both; every
// problem has a message, and a position inside the file; nothing written out can steer a terminal.
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
	f.Fuzz(func(t *testing.T, src []byte) {
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
		}
		checkDiagnostics(t, diags, src)
		limits, diags := LoadLimits(name, testOptions())
		if limits != nil && len(diags) > 0 {
			t.Fatalf("limits with problems: %v", diags)
		}
		checkDiagnostics(t, diags, src)
	})
}

// checkLoaded checks what a node relies on in any config that it is given.
func checkLoaded(t *testing.T, c *Config) {
	t.Helper()
	ok := usableName(c.Name) && c.Lease.TTL >= minTTL && c.Lease.TTL <= maxTTL && c.Proxy.DialTimeout > 0 &&
		(c.Role == RoleProxy || c.DataDir != "") &&
		(loopback(c.API.Listen) || c.API.Token != "")
	for _, l := range c.Limits {
		ok = ok && l.Connections >= Unlimited && (l.Queue.Timeout > 0) == (l.Queue.Size > 0)
	}
	if live, restart := Diff(c, c); !ok || len(live)+len(restart) > 0 {
		t.Fatalf("accepted: %+v (differs from itself in %v %v)", c, live, restart)
	}
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
