package cluster

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/clustertest"
	"github.com/weirproxy/weir/cluster/handshake"
	"github.com/weirproxy/weir/config/certs"
)

// TestClusterOverTLS: three servers form a cluster over TLS, commit, and replace a leader.
func TestClusterOverTLS(t *testing.T) {
	t.Parallel()
	l := clustertest.NewLab(t)
	secured := func(name string) option {
		set := l.Set(name, 1, 30)
		return func(c *Config) { c.TLS = func() *certs.Set { return set } }
	}
	nodes := []*testNode{startNode(t, "a", "", secured("a"), expecting(3))}
	for _, name := range []string{"b", "c"} {
		nodes = append(nodes, startNode(t, name, "", secured(name), expecting(3), joining(nodes[0])))
	}
	leader := waitLeader(t, nodes...)
	propose(t, leader, "x")
	for _, n := range nodes {
		res, err := (&http.Client{Transport: n.RoundTripper(leader.RPCAddr()), Timeout: 5 * time.Second}).Get("http://peer/")
		must(t, err)
		_ = res.Body.Close()
	}
	conn, err := net.Dial("tcp", leader.RPCAddr())
	must(t, err)
	defer func() { _ = conn.Close() }()
	const alertBytes = 7 // a TLS record with an alert
	hello, err := handshake.AppendPreface(nil, &clusterpb.Preface{Kind: handshake.KindHTTP})
	must(t, err)
	_, err = conn.Write(append(hello, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"...))
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	if answer, _ := io.ReadAll(conn); bytes.Contains(answer, []byte("HTTP")) || len(answer) > alertBytes {
		t.Errorf("a client without TLS is answered %q", answer)
	}
}
