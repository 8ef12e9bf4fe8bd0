package server

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// loopbackTLS is a certificate for 127.0.0.1, and what trusts it.
func loopbackTLS(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// TestServeTLS: everything is answered over TLS as it is without, in HTTP/2 and HTTP/1.1, streams
// and profiles too; and nothing without.
func TestServeTLS(t *testing.T) {
	pair, roots := loopbackTLS(t)
	n := newBench(t, Config{Token: "w", TLS: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}}, "a").nodes["a"]
	addr := n.listen(t)
	for version, proto := range map[string]bool{"HTTP/2.0": true, "HTTP/1.1": false} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: proto}
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		get := func(path, host string) *http.Response {
			t.Helper()
			req, err := http.NewRequest(http.MethodGet, "https://"+addr+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer w")
			req.Host = host
			res, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s %s: %v", version, path, err)
			}
			if res.Proto != version {
				t.Errorf("%s is spoken; want %s", res.Proto, version)
			}
			return res
		}
		for path, want := range map[string]string{"/v1/status": `"node"`, "/ui/": "<!doctype html>", "/metrics": "weir_ready", "/debug/pprof/heap?debug=1": "heap profile"} {
			res := get(path, "")
			b, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || res.StatusCode != 200 || !strings.Contains(strings.ToLower(string(b)), want) {
				t.Errorf("%s %s: %d, %v, %.200s", version, path, res.StatusCode, err, b)
			}
		}
		res := get("/v1/status", "elsewhere.example")
		_ = res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: a Host of elsewhere is answered %d", version, res.StatusCode)
		}
		res = get("/v1/events", "")
		if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || !strings.Contains(line, ":") {
			t.Errorf("%s: events begin with %q, %v", version, line, err)
		}
		_ = res.Body.Close()
		transport.CloseIdleConnections()
	}
	plain := &http.Transport{}
	defer plain.CloseIdleConnections()
	res, err := (&http.Client{Transport: plain, Timeout: 10 * time.Second}).Get("http://" + addr + "/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 400 || !strings.Contains(string(b), "HTTP request to an HTTPS server") {
		t.Errorf("without TLS: %d %s", res.StatusCode, b)
	}
	old := &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS11}
	if conn, err := tls.Dial("tcp", addr, old); err == nil {
		_ = conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

// TestSetTokens: the tokens change while the server runs.
func TestSetTokens(t *testing.T) {
	n := newBench(t, Config{Token: "old", ReadToken: "read"}, "a").nodes["a"]
	status := func(token string) int {
		return n.do(try{method: "GET", path: "/v1/status", header: map[string]string{"Authorization": "Bearer " + token}}).Code
	}
	n.server.SetTokens("new", "")
	for token, want := range map[string]int{"old": 401, "new": 200, "read": 401, "": 401} {
		if got := status(token); got != want {
			t.Errorf("%q: %d; want %d", token, got, want)
		}
	}
	n.server.SetTokens("", "")
	if got := status(""); got != 200 {
		t.Errorf("without tokens: %d", got)
	}
}
