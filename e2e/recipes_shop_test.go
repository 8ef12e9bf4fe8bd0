package e2e

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weirproxy/weir/e2e/upstream"
)

// shop is the upstream of the recipes: the same over HTTP and HTTPS, for any name below
// example.test, and an SSH server.
type shop struct {
	address            string
	plain, secure, ssh int    // ports
	certificate        string // a file
	repository         string // a directory

	mu       sync.Mutex
	requests map[string]int // requests, by host
}

// openShop opens a shop on an address. It closes with the test.
func openShop(t *testing.T, address string) *shop {
	t.Helper()
	s := &shop{address: address, requests: map[string]int{}}
	dir := t.TempDir()
	config, err := upstream.SelfSigned("*.example.test")
	if err != nil {
		t.Fatal(err)
	}
	config.NextProtos = []string{"http/1.1"}
	s.certificate = filepath.Join(dir, "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: config.Certificates[0].Certificate[0]}
	if err := os.WriteFile(s.certificate, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	s.repository = filepath.Join(dir, "tools.git")
	layRepository(t, dir, s.repository)
	s.plain = s.serve(t, nil)
	s.secure = s.serve(t, config)
	ln := s.listen(t)
	s.ssh = ln.Addr().(*net.TCPAddr).Port
	serveSSH(t, ln, "in stock", func() { s.note("ssh.example.test") })
	return s
}

func (s *shop) port(scheme string) int {
	if scheme == "http" {
		return s.plain
	}
	return s.secure
}

// seen is how many requests there were for a host.
func (s *shop) seen(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[host]
}

func (s *shop) note(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[host]++
}

// trust is the environment in which clients accept the shop's certificate.
func (s *shop) trust(t *testing.T, dir string) []string {
	t.Helper()
	wgetrc := filepath.Join(dir, "wgetrc")
	if err := os.WriteFile(wgetrc, []byte("ca_certificate = "+s.certificate+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"WGETRC=" + wgetrc}
	for _, name := range []string{
		"CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "npm_config_cafile",
	} {
		env = append(env, name+"="+s.certificate)
	}
	return env
}

func (s *shop) listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(s.address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// serve serves HTTP, or HTTPS with a configuration, and returns the port.
func (s *shop) serve(t *testing.T, config *tls.Config) int {
	t.Helper()
	ln := s.listen(t)
	port := ln.Addr().(*net.TCPAddr).Port
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	server := &http.Server{Handler: s.handler(t)}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return port
}

func (s *shop) handler(t *testing.T) http.Handler {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/data", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintln(w, "in stock")
	})
	mux.Handle("/tools.git/", http.StripPrefix("/tools.git", http.FileServer(http.Dir(s.repository))))
	wheel, tarball := pythonWheel(t), npmTarball(t)
	give := func(path, kind string, body []byte) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write(body)
		})
	}
	give("/simple/tools/", "text/html", []byte(`<a href="/tools-1.0-py3-none-any.whl">tools-1.0-py3-none-any.whl</a>`))
	give("/tools-1.0-py3-none-any.whl", "application/zip", wheel)
	sum := sha1.Sum(tarball)
	mux.HandleFunc("/npm/tools", func(w http.ResponseWriter, r *http.Request) {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"name":"tools","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"tools","version":"1.0.0","dist":{"tarball":"%s://%s/npm/tools/-/tools-1.0.0.tgz","shasum":"%x"}}}}`, scheme, r.Host, sum)
	})
	give("/npm/tools/-/tools-1.0.0.tgz", "application/octet-stream", tarball)
	give("/debian/Packages", "text/plain", nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.Host, ":")
		s.note(host)
		mux.ServeHTTP(w, r)
	})
}

// layRepository makes a repository that git reads as files.
func layRepository(t *testing.T, dir, bare string) {
	t.Helper()
	work := filepath.Join(dir, "tools")
	for _, args := range [][]string{
		{"init", "-q", work},
		{"-C", work, "-c", "user.name=t", "-c", "user.email=t@example.test", "commit", "-q", "--allow-empty", "-m", "First"},
		{"clone", "-q", "--bare", work, bare},
		{"-C", bare, "update-server-info"},
	} {
		command(t, "git", args...)
	}
}

func pythonWheel(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, text := range map[string]string{
		"tools.py":                     "",
		"tools-1.0.dist-info/WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"tools-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tools\nVersion: 1.0\n",
		"tools-1.0.dist-info/RECORD":   "tools.py,,\ntools-1.0.dist-info/WHEEL,,\ntools-1.0.dist-info/METADATA,,\ntools-1.0.dist-info/RECORD,,\n",
	} {
		f, err := w.Create(name)
		if err == nil {
			_, err = f.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func npmTarball(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	text := []byte(`{"name":"tools","version":"1.0.0"}`)
	err := w.WriteHeader(&tar.Header{Name: "package/package.json", Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = w.Write(text)
	}
	if err = errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
