package weir_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/weirproxy/weir"
	"github.com/weirproxy/weir/connlimit"
	"github.com/weirproxy/weir/limit"
)

var _ connlimit.Cluster = (*weir.Node)(nil)

// Two nodes and a server in one process: the server's clients are under the limits of one node,
// whatever the other allows.
func TestServerUnderANode(t *testing.T) {
	t.Parallel()
	node := start(t, weir.Config{Limits: []weir.Limit{weir.KeyLimit("web", 1)}})
	start(t, weir.Config{Limits: []weir.Limit{weir.KeyLimit("web", 100)}})
	limiter, err := connlimit.New(connlimit.Config{Cluster: node, ClusterKey: "web", ClusterRequests: true})
	if err != nil {
		t.Fatal(err)
	}
	began, end := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(limiter.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-end
	})))
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	ask := func() int {
		resp, err := (&http.Client{Transport: transport}).Get(server.URL)
		if err != nil {
			t.Error(err)
			return 0
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	first := make(chan int, 1)
	go func() { first <- ask() }()
	<-began
	if status := ask(); status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		t.Errorf("a second request is answered %d", status)
	}
	close(end)
	if status := <-first; status != http.StatusOK {
		t.Errorf("the first request is answered %d", status)
	}
}

// A ClusterKey that a node does not take is an error in the configuration. If it were one only of
// each connection, ClusterOptional would admit them all.
func TestClusterKeys(t *testing.T) {
	t.Parallel()
	node := start(t, weir.Config{})
	for _, key := range []string{
		"", "web", "a b*", "é", strings.Repeat("é", 255), strings.Repeat("a", 256),
		"a\n", "\x00", "\x7f", "\u0085", "\u2028", "\u2029", "\xff", "\ufffd", "\U0001f600",
	} {
		release, err := node.Hold(t.Context(), netip.Addr{}, key, nil)
		if err == nil {
			release()
		}
		_, invalid := connlimit.New(connlimit.Config{Cluster: node, ClusterKey: key, ClusterOptional: true})
		if (err == nil) != (invalid == nil) {
			t.Errorf("key %q: the node says %v, the configuration %v", key, err, invalid)
		}
	}
	for r := range rune(0x20000) {
		key := "a" + string(r)
		c := connlimit.Config{Cluster: node, ClusterKey: key}
		if (limit.CheckName(key) == nil) != (c.Validate() == nil) {
			t.Errorf("key %q: the cluster says %v, the configuration %v", key, limit.CheckName(key), c.Validate())
		}
	}
}
