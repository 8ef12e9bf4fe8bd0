package weir

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/config/certs"
)

// Each URL of a proxy leads Go's own client through it, with the name of the host; of a proxy that
// speaks SOCKS5 inside TLS only there is none.
func TestProxyURL(t *testing.T) {
	t.Parallel()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer up.Close()
	both, socks := []config.Protocol{config.ProtocolHTTP, config.ProtocolSOCKS5}, []config.Protocol{config.ProtocolSOCKS5}
	for _, c := range []struct {
		scheme    string
		protocols []config.Protocol
		tls       bool
	}{
		{"http", both, false}, {"http", both[:1], false}, {"socks5h", socks, false}, {"https", both, true}, {"", socks, true},
	} {
		dir := t.TempDir()
		files := certs.Files{Cert: filepath.Join(dir, "a.pem"), Key: filepath.Join(dir, "a-key.pem")}
		newCertificate(t, files)
		n, err := Start(t.Context(), Config{
			Proxy: "127.0.0.1:0", Limits: []Limit{HostLimit("blocked.test", 0)},
			Settings: func(cfg *config.Config) {
				cfg.Proxy.Protocols = c.protocols
				if c.tls {
					cfg.Proxy.TLS = config.TLS{CertFile: files.Cert, KeyFile: files.Key}
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close(context.Background()) }()
		u := n.ProxyURL()
		if u == nil && c.scheme == "" {
			continue
		}
		if u == nil || u.Scheme != c.scheme {
			t.Errorf("%v, TLS %v: %v; want %s://", c.protocols, c.tls, u, c.scheme)
			continue
		}
		if c.tls {
			continue // the client knows no CA of its certificate
		}
		client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u), DisableKeepAlives: true}}
		resp, err := client.Get(up.URL)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(body) != "hello" || n.proxy.Counters().Requests.Load() != 1 {
			t.Errorf("by %s: %q, %v; %d requests through the proxy", u, body, err, n.proxy.Counters().Requests.Load())
		}
		resp, err = client.Get("http://blocked.test/")
		if err == nil {
			_ = resp.Body.Close()
		}
		if refused := n.proxy.Counters().Refused.Load(); refused != 1 || err == nil && resp.StatusCode != http.StatusServiceUnavailable ||
			err != nil && !strings.Contains(err.Error(), "not allowed by ruleset") {
			t.Errorf("by %s, to a blocked name: %v, %d refused", u, err, refused)
		}
	}
}
