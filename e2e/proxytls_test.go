package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// identity is a certificate for 127.0.0.1 that signs itself, in files that a test may replace.
type identity struct{ cert, key string }

func newIdentity(t testing.TB) identity {
	t.Helper()
	dir := t.TempDir()
	id := identity{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	id.renew(t)
	return id
}

// renew writes another certificate.
func (id identity) renew(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		Subject: pkix.Name{CommonName: "weir test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{id.cert: {Type: "CERTIFICATE", Bytes: cert}, id.key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// roots are what a client trusts that knows the certificate of the moment.
func (id identity) roots(t testing.TB) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(id.cert)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatalf("%s: %v", id.cert, err)
	}
	return pool
}

// hcl is a proxy block that speaks TLS, and takes more.
func (id identity) hcl(more string) string {
	return fmt.Sprintf("proxy {\n%s\n  tls {\n    cert_file = %q\n    key_file  = %q\n  }\n}\n", more, id.cert, id.key)
}

// dialTLS connects to a node's proxy port with TLS.
func (n *node) dialTLS(t testing.TB, roots *x509.CertPool) *wire {
	t.Helper()
	dialer := &net.Dialer{Timeout: wireWithin}
	conn, err := tls.DialWithDialer(dialer, "tcp", n.proxy, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	return newWire(t, conn)
}

// TestProxyTLS: workers speak TLS to the proxy, with users, limits and both ends of a tunnel as
// ever.
func TestProxyTLS(t *testing.T) {
	t.Parallel()
	id, file := newIdentity(t), newUsersFile(t)
	file.add(t, "ada", "lovelace")
	c := startCluster(t, shape{names: []string{"a"}, prepare: func(n *node) {
		n.more = id.hcl(fmt.Sprintf("  users_file = %q", file.path))
	}})
	n, up := c.nodes[0], c.site(t)
	t.Run("curl", func(t *testing.T) { proxyTLSByCurl(t, c, n, up, id) })
	t.Run("requests", func(t *testing.T) { proxyTLSByRequests(t, c, n, up, id) })
	t.Run("limit", func(t *testing.T) { proxyTLSLimit(t, c, n, id) })
	t.Run("plain", func(t *testing.T) {
		w := n.dialWire(t)
		w.say(t, "CONNECT "+up.target+" HTTP/1.1\r\nHost: "+up.target+"\r\n\r\n")
		w.awaitText(t, "HTTP/1.1 400 ")
		w.awaitText(t, "this port speaks TLS: use https:// in the proxy's URL")
		_ = w.awaitEnd(t)
	})
	t.Run("renewal", func(t *testing.T) { proxyTLSRenewal(t, c, n, id) })
	up.visits(t)
}

func proxyTLSByCurl(t *testing.T, c *cluster, n *node, up *site, id identity) {
	if !needCurl(t) {
		return
	}
	proxy, secure := "https://"+n.proxy, c.secure(t)
	for _, test := range []struct {
		url, want string
		args      []string
	}{
		{up.url, "000 200 1", nil},
		{up.url, "200 200 1", []string{"-p"}},
		{"https://" + secure.target + "/close?ms=1", "200 200 1", []string{"-k"}}, // TLS in TLS
	} {
		args := append(test.args, "--proxy-cacert", id.cert, "-U", "ada:lovelace")
		if got := curlStatus(t, proxy, test.url, args...); got != test.want {
			t.Errorf("%s %q: %s; want %s", test.url, test.args, got, test.want)
		}
	}
	if got := curlStatus(t, proxy, up.url, "--proxy-cacert", id.cert); got != "000 407 1" {
		t.Errorf("without credentials: %s", got)
	}
	if got := curlStatus(t, proxy, up.url, "-U", "ada:lovelace"); !strings.HasPrefix(got, "000 000 ") {
		t.Errorf("with a certificate that it does not know, curl gets %s", got)
	}
}

// proxyTLSByRequests goes through the proxy with Python's requests, by its environment alone.
func proxyTLSByRequests(t *testing.T, c *cluster, n *node, up *site, id identity) {
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Log("python3 is not on this machine (Debian: apt-get install python3): not checked")
		return
	}
	if _, _, code := run(t, nil, path, "-c", "import requests"); code != 0 {
		t.Log("python3 has no requests (Debian: apt-get install python3-requests): not checked")
		return
	}
	// The upstream's certificate is not looked at; that of the proxy is.
	const program = `
import sys, requests
s = requests.Session()
r = s.get(sys.argv[1], timeout=10, verify=sys.argv[2])
print(r.status_code, r.text)
`
	proxy := (&url.URL{Scheme: "https", User: url.UserPassword("ada", "lovelace"), Host: n.proxy}).String()
	env := []string{"http_proxy=" + proxy, "https_proxy=" + proxy, "no_proxy="}
	stdout, stderr, _ := run(t, env, path, "-c", program, up.url, id.cert)
	if !strings.Contains(stdout, "200 the site says hello") {
		t.Errorf("requests:\n%s%s", stdout, stderr)
	}
	env[0] = "http_proxy=" + strings.Replace(proxy, "lovelace", "wrong", 1)
	if stdout, stderr, _ = run(t, env, path, "-c", program, up.url, id.cert); !strings.Contains(stdout, "407 ") {
		t.Errorf("requests with a wrong password:\n%s%s", stdout, stderr)
	}
}

// proxyTLSLimit: the slot of a tunnel is free once the upstream has seen its end, however the
// client ends.
func proxyTLSLimit(t *testing.T, c *cluster, n *node, id identity) {
	h := c.wireHost(t)
	n.http.setLimit(t, h.name, connections(1))
	for name, leave := range map[string]func(*wire) error{
		"close_notify": func(w *wire) error { return w.Conn.(*tls.Conn).CloseWrite() },
		"FIN alone":    func(w *wire) error { return w.Conn.(*tls.Conn).NetConn().(*net.TCPConn).CloseWrite() },
		"reset": func(w *wire) error {
			tcp := w.Conn.(*tls.Conn).NetConn().(*net.TCPConn)
			return errors.Join(tcp.SetLinger(0), tcp.Close())
		},
	} {
		w := n.dialTLS(t, id.roots(t))
		w.say(t, login(h.wires, "ada", "lovelace"))
		w.awaitText(t, "HTTP/1.1 200 ")
		far := h.accept(t)
		second := n.dialTLS(t, id.roots(t))
		second.say(t, login(h.wires, "ada", "lovelace"))
		second.awaitText(t, "error=connection_limit_reached")
		w.say(t, "to the upstream")
		far.awaitText(t, "to the upstream")
		far.say(t, "to the client")
		w.awaitText(t, "to the client")
		if err := leave(w); err != nil {
			t.Fatal(err)
		}
		_ = far.awaitEnd(t)
		_ = far.Close()
		c.awaitUse(t, h.host, 0)
		if name == "close_notify" {
			if err := w.awaitEnd(t); err != nil && err.Error() != "EOF" {
				t.Errorf("after the upstream's end the client reads %v", err)
			}
		}
	}
}

// proxyTLSRenewal: a certificate that is replaced on the disk is shown to new connections; those
// that are open go on.
func proxyTLSRenewal(t *testing.T, c *cluster, n *node, id identity) {
	h := c.wireHost(t)
	w := n.dialTLS(t, id.roots(t))
	w.say(t, login(h.wires, "ada", "lovelace"))
	w.awaitText(t, "HTTP/1.1 200 ")
	far := h.accept(t)
	id.renew(t)
	roots := id.roots(t)
	eventually(t, 30*time.Second, "the new certificate", func() error {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: wireWithin}, "tcp", n.proxy, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	w.say(t, "still here")
	far.awaitText(t, "still here")
}

// TestProxyProtocol: load balancers that the config names say who the client is: that is who must
// be allowed, and who the log names.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}, prepare: func(n *node) {
		n.more = "proxy {\n  proxy_protocol_from = [\"127.0.0.1/32\"]\n  allow_clients       = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n}\n"
	}})
	n, up := c.nodes[0], c.site(t)
	request := "GET " + up.url + " HTTP/1.1\r\nHost: x\r\n\r\n"
	const signature = "\r\n\r\n\x00\r\nQUIT\n"
	for header, want := range map[string]string{
		"PROXY TCP4 192.0.2.1 192.0.2.2 4001 8080\r\n":                                 "200",
		"PROXY TCP6 2001:db8::1 2001:db8::2 4002 8080\r\n":                             "200",
		signature + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x0f\xa3\x1f\x90": "200", // 192.0.2.1:4003
		"PROXY TCP4 198.51.100.1 192.0.2.2 4004 8080\r\n":                              "403",
		"PROXY UNKNOWN\r\n":               "403", // the balancer itself is no allowed client
		signature + "\x20\x00\x00\x00":    "403",
		"":                                "400",
		"PROXY TCP4 here there 1 2\r\n":   "400",
		"PROXY TCP4 192.0.2.1 192.0.2.2 ": "400", // followed by a request
	} {
		w := n.dialWire(t)
		w.say(t, header+request)
		w.awaitText(t, "HTTP/1.1 "+want)
	}
	for _, client := range []string{"client=192.0.2.1:4001 ", "client=[2001:db8::1]:4002 ", "client=192.0.2.1:4003 "} {
		eventually(t, wireWithin, client, func() error { return n.says(client) })
	}
	before, err := os.ReadFile(n.logPath)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // a health check: somebody listens
		w := n.dialWire(t)
		_ = w.Close()
	}
	n.dialWire(t).say(t, "PROXY TCP4 192.0.2.1 192.0.2.2 4009 8080\r\n"+request)
	eventually(t, wireWithin, "the last request's line", func() error { return n.says("client=192.0.2.1:4009 ") })
	after, err := os.ReadFile(n.logPath)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(bytes.TrimPrefix(after, before))) {
		if strings.Contains(line, "[WARN]") && strings.Contains(line, "weir.proxy") {
			t.Errorf("a health check leaves a line: %s", line)
		}
	}
}
