package weir_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/weirproxy/weir"
	"github.com/weirproxy/weir/connlimit"
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
