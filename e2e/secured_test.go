package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secured is a cluster whose nodes encrypt all that goes between them, and whose API speaks TLS.
type secured struct {
	*cluster
	files  string            // directory of the certificates
	keys   []string          // gossip keys, the first in use
	tokens map[string]string // files by what they are for
}

const secretPassword = "correct-horse-battery"

// startSecured starts three nodes, as docs/security.md has it.
func startSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{files: t.TempDir(), keys: []string{newGossipKey(t)}, tokens: map[string]string{}}
	s.tokens["write"] = filepath.Join(s.files, "token")
	if err := os.WriteFile(s.tokens["write"], []byte(newGossipKey(t)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.weirTLS(t, "ca", "--out", s.files)
	s.cluster = startCluster(t, shape{prepare: func(n *node) {
		s.weirTLS(t, "cert", n.name, "--out", s.files, "--force")
		s.configure(t, n)
		n.http = s.client(t, n)
	}})
	return s
}

// configure gives a node its secrets, and a log that hides nothing.
func (s *secured) configure(t *testing.T, n *node) {
	t.Helper()
	n.token = s.tokens["write"]
	var more []string
	for _, key := range s.keys[1:] {
		more = append(more, fmt.Sprintf("%q", key))
	}
	files := fmt.Sprintf("    cert_file = %q\n    key_file  = %q\n", filepath.Join(s.files, n.name+".pem"), filepath.Join(s.files, n.name+"-key.pem"))
	n.more = fmt.Sprintf(`
log {
  level = "trace"
}

cluster {
  gossip_key         = %q
  gossip_accept_keys = [%s]

  tls {
    ca_file   = %q
%s  }
}

api {
  tls {
%s  }
}
`, s.keys[0], strings.Join(more, ", "), filepath.Join(s.files, "ca.pem"), files, files)
}

func (s *secured) weirTLS(t *testing.T, args ...string) {
	t.Helper()
	if _, stderr, code := run(t, nil, os.Getenv(binaryVariable), append([]string{"tls"}, args...)...); code != 0 {
		t.Fatalf("weir tls %s: exit code %d\n%s", strings.Join(args, " "), code, stderr)
	}
}

func newGossipKey(t *testing.T) string {
	t.Helper()
	out, stderr, code := run(t, nil, os.Getenv(binaryVariable), "keygen")
	if code != 0 {
		t.Fatalf("weir keygen: %s", stderr)
	}
	return strings.TrimSpace(out)
}

// withToken adds the API's token to every request.
type withToken struct {
	http.RoundTripper
	token string
}

func (w withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "Bearer "+w.token)
	}
	return w.RoundTripper.RoundTrip(r)
}

// client asks a node's API over TLS, and believes the CAs in the directory.
func (s *secured) client(t *testing.T, n *node) *client {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(s.files, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &client{base: "https://" + n.api, http: &http.Client{
		Timeout:   15 * time.Second,
		Transport: withToken{&http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}, s.token(t)},
	}}
}

func (s *secured) token(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(s.tokens["write"])
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// cli runs a client command against a node.
func (s *secured) cli(t *testing.T, n *node, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	env := []string{"WEIR_ADDR=https://" + n.api, "WEIR_CA_FILE=" + filepath.Join(s.files, "ca.pem"), "WEIR_TOKEN=" + s.token(t)}
	return run(t, env, os.Getenv(binaryVariable), args...)
}
