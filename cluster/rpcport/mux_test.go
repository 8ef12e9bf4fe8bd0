package rpcport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/clustertest"
	"github.com/weirproxy/weir/cluster/handshake"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// doorOf is the doorkeeper of a server, of a cluster or ("") of none yet.
func doorOf(serverID, cluster string) *handshake.Doorkeeper {
	return &handshake.Doorkeeper{
		Name: handshake.NameOf(serverID), ServerID: serverID,
		Of: handshake.NewAffiliation(cluster, func(string) error { return nil }, nil),
	}
}

func newTestMux(t *testing.T, id string) *mux {
	t.Helper()
	return startMux(t, id, nil, nil)
}

// ctxWithin accepts beside a dial that blocks until somebody does.
func ctxWithin(t *testing.T, accept bool, m *mux, k handshake.Kind) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	if accept {
		go func() { _, _ = m.sub(k).Accept() }()
	}
	return ctx
}

func TestMuxSeparatesKindsAndServers(t *testing.T) {
	t.Parallel()
	m, from := newTestMux(t, "a.1"), newTestMux(t, "b.2")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, k := range []handshake.Kind{handshake.KindRaft, handshake.KindGRPC, handshake.KindHTTP} {
		for _, dialler := range []*mux{from, m} { // m dials itself
			conn, err := dialler.dial(ctxWithin(t, dialler == m, m, k), m.self, k, "a.1")
			if err != nil {
				t.Fatalf("kind %d: %v", k, err)
			}
			if dialler == m {
				continue // ctxWithin has accepted it
			}
			got, err := m.sub(k).Accept()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4)
			if _, err := io.ReadFull(got, b); err != nil || string(b) != "ping" {
				t.Errorf("kind %d carries %q, %v", k, b, err)
			}
		}
	}
	if _, err := from.dial(ctx, m.self, handshake.KindRaft, "a.former"); !errors.Is(err, handshake.ErrWrongServer) {
		t.Errorf("a connection for a former server: %v", err)
	}
}

func TestMuxClosesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	m := newTestMux(t, "a.1")
	for _, hello := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x00\xc8\x01", "weir\x01\x02\x00", "weir\x02\x00\x02\x08\x09"} {
		conn, err := net.Dial("tcp", m.self)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(hello)); err != nil {
			t.Fatal(err)
		}
		clustertest.Must(t, conn.SetReadDeadline(time.Now().Add(3*time.Second)))
		answer, err := io.ReadAll(conn)
		if clustertest.IsTimeout(err) || len(answer) != 0 && (hello[0] != handshake.TLSHandshake || !bytes.Equal(answer, mismatch[:])) {
			t.Errorf("%q: not closed, or answered %q: %v", hello, answer, err)
		}
		_ = conn.Close()
	}
	m.close()
	if _, err := m.dial(t.Context(), m.self, handshake.KindHTTP, ""); err == nil {
		t.Error("a closed mux dials")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.conns) != 0 {
		t.Errorf("%d connections are left", len(m.conns))
	}
}

// TestMuxRefusesOtherClusters: whatever a connection is for, no member of another cluster gets it,
// and both ends log which clusters met.
func TestMuxRefusesOtherClusters(t *testing.T) {
	t.Parallel()
	var near, far clustertest.Log
	a, b := startMux(t, "a.1", nil, &far), startMux(t, "b.2", nil, &near)
	clustertest.Must(t, errors.Join(a.door.Of.Lean("1111"), b.door.Of.Lean("2222")))
	for _, k := range []handshake.Kind{handshake.KindRaft, handshake.KindGRPC, handshake.KindHTTP} {
		if err := talk(t, b, a, k, ""); !errors.Is(err, handshake.ErrOtherCluster) {
			t.Errorf("kind %s: %v", k, err)
		}
	}
	if err := talk(t, b, a, handshake.KindRaft, "a.1"); !errors.Is(err, handshake.ErrOtherCluster) {
		t.Errorf("for this very server: %v", err)
	}
	const dials, accepts = "node a at", "node b at"
	clustertest.Eventually(t, 5*time.Second, "it is logged", func() bool { return strings.Contains(far.String(), accepts) })
	for text, log := range map[string]*clustertest.Log{dials: &near, accepts: &far} {
		if got := log.String(); strings.Count(got, text) != 1 || !strings.Contains(got, "1111") || !strings.Contains(got, "2222") {
			t.Errorf("want one line with %q and both clusters:\n%s", text, got)
		}
	}
}

// TestMuxDropsOthersOnceDecided: connections that a young node opened to members of a cluster that
// turns out to be another one end.
func TestMuxDropsOthersOnceDecided(t *testing.T) {
	t.Parallel()
	young, member := newTestMux(t, "a.1"), newTestMux(t, "b.2")
	clustertest.Must(t, member.door.Of.Lean("2222"))
	conn, err := member.dial(ctxWithin(t, true, young, handshake.KindRaft), young.self, handshake.KindRaft, "a.1")
	clustertest.Must(t, err)
	young.dropOthers("2222")
	clustertest.Must(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	if _, err := conn.Read(make([]byte, 1)); !clustertest.IsTimeout(err) {
		t.Errorf("a connection of its own cluster: %v", err)
	}
	young.dropOthers("1111")
	clustertest.Must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || clustertest.IsTimeout(err) {
		t.Errorf("a connection of another cluster is still open: %v", err)
	}
}

// TestNothingPassesWithoutTheNonce: one that can't read the answer, such as a client of a proxy
// that stops at the greeting, is not taken for a node.
func TestNothingPassesWithoutTheNonce(t *testing.T) {
	t.Parallel()
	m := newTestMux(t, "a.1")
	m.door.Of.Seed = true
	m.door.Heard = func(p *clusterpb.Preface, _ net.Addr) { t.Errorf("%v counts without the nonce", p) }
	for name, follows := range map[string][]byte{
		"nothing": nil, "a request": []byte("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"), "zeros": make([]byte, 16),
	} {
		conn, err := net.Dial("tcp", m.self)
		clustertest.Must(t, err)
		hello, err := handshake.AppendPreface(nil, &clusterpb.Preface{Kind: handshake.KindHTTP, From: &clusterpb.Introduction{Node: "x", Cluster: "2222"}})
		clustertest.Must(t, err)
		_, err = conn.Write(append(hello, follows...))
		clustertest.Must(t, err)
		clustertest.Must(t, conn.SetReadDeadline(time.Now().Add(2*handshake.Timeout)))
		answer, err := io.ReadAll(conn)
		if clustertest.IsTimeout(err) || !strings.HasPrefix(string(answer), handshake.Greeting) {
			t.Errorf("%s: answered %q, %v", name, answer, err)
		}
		_ = conn.Close()
		if _, ok := acceptNow(m, handshake.KindHTTP); ok || m.door.Of.Cluster() != "" {
			t.Errorf("%s: the connection was accepted, or counts: %q", name, m.door.Of.Cluster())
		}
	}
}

func acceptNow(m *mux, k handshake.Kind) (net.Conn, bool) {
	select {
	case conn := <-m.subs[k].accepted:
		return conn, true
	default:
		return nil, false
	}
}

// Silent connections to an rpc port, renewed as soon as they are closed, keep no node out.
func TestSilentConnectionsKeepNoNodeOut(t *testing.T) {
	lab := clustertest.NewLab(t)
	from, to := muxOf(t, lab, "a", handshake.PlainRefuse), newMuxOf(t, lab, "b", handshake.PlainRefuse)
	to.greeting = handshake.NewPlaces("test connections", to.log, 64)
	to.start()
	addr := to.listener.Addr().String()
	done := make(chan struct{})
	const silent = 64
	ended := make(chan struct{}, silent)
	var closed atomic.Int64
	for range silent {
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				stop := make(chan struct{})
				go func() {
					select {
					case <-done:
						c.Close()
					case <-stop:
					}
				}()
				_, _ = c.Read(make([]byte, 1)) // until it is closed
				closed.Add(1)
				close(stop)
				c.Close()
				select {
				case <-done:
					return
				default:
				}
			}
		}()
	}
	clustertest.Eventually(t, 10*time.Second, "all places are taken", func() bool { return closed.Load() > silent })
	failed := 0
	const dials = 20
	for range dials {
		if talk(t, from, to, handshake.KindRaft, "") != nil {
			failed++
		}
	}
	close(done)
	for range silent {
		<-ended
	}
	if failed > dials/10 {
		t.Errorf("%d of %d connections between nodes failed", failed, dials)
	}
}

// A connection that passes the handshake as a Raft peer's and then says nothing is closed, and it
// holds one of few places.
func TestSilentRaftConnectionIsClosed(t *testing.T) {
	from, to := newTestMux(t, "a"), newTestMux(t, "b")
	conn, err := from.dial(ctxWithin(t, false, to, handshake.KindRaft), to.self, handshake.KindRaft, "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, ok := acceptWithin(to, handshake.KindRaft)
	if !ok {
		t.Fatal("no connection was accepted")
	}
	defer accepted.Close()
	if to.settled.Taken() != 1 {
		t.Errorf("%d places are taken", to.settled.Taken())
	}
	if _, err := accepted.Read(make([]byte, 1)); !clustertest.IsTimeout(err) {
		t.Errorf("reading from a silent peer: %v", err)
	}
	accepted.Close()
	if to.settled.Taken() != 0 {
		t.Error("the place is not given back")
	}
}
