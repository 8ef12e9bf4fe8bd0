package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/config/certs"
)

// weirTLS runs weir tls … and returns what it says.
func weirTLS(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(context.Background(), testProcess(), append([]string{"tls"}, args...), &out, &errs, newTLSCommand())
	return code, out.String(), errs.String()
}

func TestTLSCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "certs")
	if code, out, errs := weirTLS(t, "ca", "--out", dir); code != 0 || !strings.Contains(out, filepath.Join(dir, "ca.pem")+"  the CA's certificate, valid until ") {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	code, out, errs := weirTLS(t, "cert", "a", "--out", dir, "--ip", "10.0.0.1", "--dns", "weir-a.example.com")
	for _, part := range []string{"cluster {\n  tls {\n    ca_file   = \"" + dir + "/ca.pem\"", "key_file  = \"" + dir + "/a-key.pem\"", "api {\n  tls {"} {
		if code != 0 || !strings.Contains(out, part) {
			t.Fatalf("%d %s %s; want %q", code, out, errs, part)
		}
	}
	for name, mode := range map[string]os.FileMode{"ca.pem": 0o644, "ca-key.pem": 0o600, "a.pem": 0o644, "a-key.pem": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, info, err, mode)
		}
	}
	files := certs.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "a.pem"), Key: filepath.Join(dir, "a-key.pem")}
	set, problems := certs.Read(files, time.Now())
	if len(problems) > 0 || len(set.CheckNode(files, "a")) > 0 {
		t.Fatal(problems)
	}
	leaf := set.Certificate.Leaf
	for _, name := range []string{"10.0.0.1", "weir-a.example.com", "localhost"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if days := time.Until(leaf.NotAfter).Hours() / 24; days < 363 || days > 367 {
		t.Errorf("it is valid for %.0f days", days)
	}
	before, err := os.ReadFile(files.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"ca --out " + dir, 1, "ca.pem is there already, and nothing was written"},
		{"cert a --out " + dir, 1, "a.pem is there already"},
		{"cert b --out " + t.TempDir(), 1, "make a CA with weir tls ca, or say where it is"},
		{"cert b --days 0 --out " + dir, 2, "--days is a number from 1"},
		{"cert a/b --out " + dir, 2, "can't be a node's name"},
		{"cert --out " + dir, 2, "accepts 1 arg"},
		{"cert b --dns bücher.example --out " + dir, 1, ""},
		{"cert b --ip 10.0.0 --out " + dir, 2, "10.0.0"},
		{"cert b --ca " + dir + "/a.pem --ca-key " + dir + "/a-key.pem --out " + dir, 1, "is not a CA's"},
		{"ca --out /dev/null/x", 1, "can't make the directory"},
	} {
		if code, out, errs := weirTLS(t, strings.Fields(c.args)...); code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("weir tls %s: %d\n%s%s; want %d and %q", c.args, code, out, errs, c.code, c.says)
		}
	}
	if after, _ := os.ReadFile(files.Key); string(after) != string(before) {
		t.Error("the key was replaced without --force")
	}
	if code, _, errs := weirTLS(t, "cert", "a", "--out", dir, "--force"); code != 0 {
		t.Errorf("%d %s", code, errs)
	}
	if after, _ := os.ReadFile(files.Key); string(after) == string(before) {
		t.Error("--force does not replace the key")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("files are left behind: %v, %v", entries, err)
	}
}

// TestTLSOthersFiles: --force replaces a node's own files, never the CA's or another node's.
func TestTLSOthersFiles(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	// The node "a" has an a-key.pem, "b-key" has a b-key.pem.
	for _, args := range [][]string{{"ca"}, {"cert", "a"}, {"cert", "b-key"}} {
		if code, _, errs := weirTLS(t, append(args, "--out", dir)...); code != 0 {
			t.Fatal(errs)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "others"), 0o700); err != nil {
		t.Fatal(err)
	}
	content := func() string {
		var all strings.Builder
		for _, name := range []string{"ca.pem", "ca-key.pem", "a.pem", "a-key.pem", "b-key.pem", "b-key-key.pem"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
		return all.String()
	}
	before := content()
	for args, says := range map[string]string{
		"cert ca --out " + dir:                                        `the files of a node "ca" would replace the CA's ` + dir + "/ca.pem, and nothing was written: choose another directory with --out",
		"cert ca-key --out " + dir:                                    `the files of a node "ca-key" would replace the CA's ` + dir + "/ca-key.pem",
		"cert ca --out " + link + " --ca " + dir + "/ca.pem":          `would replace the CA's ` + link + "/ca.pem",
		"cert ca --out " + dir + " --ca " + dir + "/others/../ca.pem": `would replace the CA's ` + dir + "/ca.pem",
		"cert a-key --out " + dir:                                     dir + `/a-key.pem would be both the certificate of "a-key" and the key of "a"`,
		"cert b --out " + dir:                                         dir + `/b-key.pem would be both the key of "b" and the certificate of "b-key"`,
	} {
		for _, force := range []string{"", " --force"} {
			if code, _, errs := weirTLS(t, strings.Fields(args+force)...); code != 1 || !strings.Contains(errs, says) || strings.Contains(errs, "--force") {
				t.Errorf("weir tls %s%s: %d %s; want %q", args, force, code, errs, says)
			}
		}
	}
	if content() != before {
		t.Error("a file was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 7 {
		t.Errorf("files are left behind: %v, %v", entries, err)
	}
	for _, name := range []string{"ca", "a-key", "b"} {
		if code, _, errs := weirTLS(t, "cert", name, "--out", filepath.Join(dir, name), "--ca", filepath.Join(dir, "ca.pem")); code != 0 {
			t.Errorf("%s elsewhere: %s", name, errs)
		}
	}
}

// TestClientTLS: what stands between a client and an API that speaks TLS, or doesn't, is said with
// its remedy.
func TestClientTLS(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"ca", "--out", dir}, {"cert", "a", "--out", dir}} {
		if code, _, errs := weirTLS(t, args...); code != 0 {
			t.Fatal(errs)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "a.pem"), filepath.Join(dir, "a-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(statusJSON)) })
	secure, plain := httptest.NewUnstartedServer(answer), httptest.NewServer(answer)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	defer plain.Close()
	ca := filepath.Join(dir, "ca.pem")
	for _, c := range []struct {
		name string
		env  []string
		args []string
		code int
		says string
	}{
		{"by flag", nil, []string{"--addr", secure.URL, "--ca-file", ca}, 0, "b"},
		{"by environment", []string{"WEIR_CA_FILE=" + ca, "WEIR_ADDR=" + secure.URL}, nil, 0, "b"},
		{"without the CA", nil, []string{"--addr", secure.URL}, 1, "name the CA's certificate (such as the ca.pem of weir tls ca) with --ca-file or WEIR_CA_FILE"},
		{"http to TLS", nil, []string{"--addr", "http" + strings.TrimPrefix(secure.URL, "https")}, 1, "this port speaks TLS: use https:// in --addr or WEIR_ADDR (" + secure.URL + ")"},
		{"https to plain", nil, []string{"--addr", "https" + strings.TrimPrefix(plain.URL, "http"), "--ca-file", ca}, 1, "does not speak TLS: use http://"},
		{"no such file", nil, []string{"--addr", secure.URL, "--ca-file", dir + "/none"}, 1, "can't be read: no such file"},
		{"a key for a CA", nil, []string{"--addr", secure.URL, "--ca-file", dir + "/ca-key.pem"}, 1, "holds a private key and no certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs strings.Builder
			code := run(context.Background(), testProcess(c.env...), append([]string{"status"}, c.args...), &out, &errs)
			if code != c.code || !strings.Contains(out.String()+errs.String(), c.says) {
				t.Errorf("%d\n%s%s; want %d and %q", code, &out, &errs, c.code, c.says)
			}
		})
	}
	if got := explainTLS("x", pair.Leaf.VerifyHostname("weir.example.com")); got == nil || !strings.Contains(got.Error(), "is for other names (a.node.weir, node.weir, localhost, 127.0.0.1, ::1)") {
		t.Error(got)
	}
	if got := explainTLS("x", x509.CertificateInvalidError{Cert: pair.Leaf, Reason: x509.Expired}); got == nil || !strings.Contains(got.Error(), "has expired, on ") {
		t.Error(got)
	}
}
