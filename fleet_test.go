package weir_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/weirproxy/weir"
	nodeconfig "github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/connlimit"
)

// guarded is an HTTP server whose connections are under the limits of a configuration.
func guarded(t *testing.T, config connlimit.Config) (*connlimit.Limiter, net.Addr) {
	t.Helper()
	limiter, err := connlimit.New(config)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
	limiter.Guard(server)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return limiter, listener.Addr()
}

// visit makes a request on a new connection, which stays open, and returns the answer's status.
func visit(t *testing.T, server net.Addr) (net.Conn, int) {
	t.Helper()
	c, err := net.Dial(server.Network(), server.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s without Retry-After", resp.Status)
	}
	return c, resp.StatusCode
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 seconds: %s", what)
		}
	}
}

// TestFleet: two servers, each with a node and limits of its own, share the cluster's limit. What
// one gives back the other can have; where a node ends, the connections that hold its slots are
// closed.
func TestFleet(t *testing.T) {
	t.Parallel()
	shared := []weir.Limit{weir.KeyLimit("web", 3)}
	a := start(t, weir.Config{Name: "a", Limits: shared, Cluster: &weir.Cluster{
		DataDir: t.TempDir(), RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0"}})
	b := start(t, weir.Config{Name: "b", Limits: shared, Cluster: &weir.Cluster{
		Role: nodeconfig.RoleProxy, RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", Join: []string{a.GossipAddr()}}})
	for _, n := range []*weir.Node{a, b} {
		if err := n.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// quote: fleet
	config := connlimit.Config{
		Connections: connlimit.Limits{Total: connlimit.AtMost(2)}, // of this server
		Cluster:     a,                                            // a *weir.Node
		ClusterKey:  "web",
	}
	// end quote
	atA, serverA := guarded(t, config)
	atB, serverB := guarded(t, connlimit.Config{Cluster: b, ClusterKey: "web"})

	first, status := visit(t, serverA)
	if status != http.StatusOK {
		t.Fatalf("the first connection: %d", status)
	}
	if _, status := visit(t, serverA); status != http.StatusOK {
		t.Fatalf("the second: %d", status)
	}
	if _, status := visit(t, serverA); status != http.StatusServiceUnavailable {
		t.Errorf("over the server's own limit: %d; want 503", status)
	}
	onB, status := visit(t, serverB)
	if status != http.StatusOK {
		t.Fatalf("the third, at the other server: %d", status)
	}
	if _, status := visit(t, serverB); status != http.StatusTooManyRequests {
		t.Errorf("over the cluster's limit: %d; want 429", status)
	}
	if open := atA.Stats().Connections.Open + atB.Stats().Connections.Open; open > 3 {
		t.Errorf("%d are open; the cluster's limit is 3", open)
	}

	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other server has what the first gave back", func() bool {
		_, status := visit(t, serverB)
		return status == http.StatusOK
	})
	if err := b.Close(ended()); err != nil {
		t.Fatal(err)
	}
	if _, err := onB.Read(make([]byte, 1)); err == nil {
		t.Error("a connection is open whose slot was lost")
	}
	eventually(t, "what the node held is gone", func() bool { return atB.Stats().Connections.Open == 0 })
	if _, status := visit(t, serverB); status != http.StatusServiceUnavailable {
		t.Errorf("without a node: %d; want 503", status)
	}
	if _, status := visit(t, serverA); status != http.StatusOK {
		t.Errorf("at the first server, with what the node gave back: %d; want 200", status)
	}
}
