package lease

import (
	"context"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/weirproxy/weir/fsm"
	"github.com/weirproxy/weir/lease/leader"
	"github.com/weirproxy/weir/lease/leasepb"
	"github.com/weirproxy/weir/lease/leasetest/kit"
	"github.com/weirproxy/weir/limit"
)

// holdMany lets a node hold a slot of each of many keys, in the log as at the node. The leader must
// be another afterwards: it has not proposed this.
func holdMany(t *testing.T, c *testCluster, m *Manager, keys int) {
	t.Helper()
	session := m.Session().ID
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, batch := 0, uint64(1); i < keys; batch++ {
		adj := &fsm.Adjust{Term: 1, Batch: batch}
		for ; i < keys && len(adj.Adjustments) < leasepb.MaxBatch; i++ {
			key := limit.HostConnections(fmt.Sprintf("host-%d.a-name-of-the-usual-length.example.com", i))
			adj.Adjustments = append(adj.Adjustments, fsm.Adjustment{Session: session, Key: key, Delta: 1})
		}
		c.index++
		if res := c.state.Apply(c.index, 1, adj); res.Err != nil || len(res.Adjusted) != len(adj.Adjustments) {
			t.Fatalf("the log grants %d of %d: %v", len(res.Adjusted), len(adj.Adjustments), res.Err)
		}
		m.do(func(time.Duration) {
			for _, a := range adj.Adjustments {
				m.node.grant(a.Key, 1)
			}
		})
	}
}

// awaitResumed waits until a node has been welcomed by the next leader.
func awaitResumed(t *testing.T, m *Manager) {
	t.Helper()
	if err := m.await(t.Context(), func() bool { return m.node.sess.term == 2 && m.node.welcomed() }); err != nil {
		t.Fatal(err)
	}
}

// A node that holds slots of more keys than one message states keeps its session, and all of them,
// over a reconnect.
func TestReconnectWithManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = 3*maxStated + 10
		c := startCluster(t, kit.Limit(t, "*", 25, limit.Queue{}))
		m, _ := c.start(t, "a", "1")
		if err := m.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		id := m.Session().ID
		holdMany(t, c, m, keys)
		c.depose()
		c.lead(t, 2)
		awaitResumed(t, m)
		if now := m.Session(); now.ID != id || now.Fences != 0 {
			t.Fatalf("session %d goes on as %+v", id, now)
		}
		held := func() (node, log int) {
			for _, h := range m.Uses() {
				node += int(h.Granted)
			}
			c.Read(func(st *fsm.State) { log = len(st.SessionGrants(id)) })
			return node, log
		}
		if node, log := held(); node != keys || log != keys {
			t.Fatalf("after the reconnect the node holds %d, the log grants %d, want %d", node, log, keys)
		}
		time.Sleep(20 * time.Second) // virtual: nothing is used, so all of it goes back
		if node, log := held(); node != 0 || log != 0 {
			t.Errorf("given back, the node holds %d, the log grants %d", node, log)
		}
	})
}

// The same with 200,000 keys over gRPC, whose messages are bounded by 4 MiB unless a server says
// otherwise.
func TestReconnectOverGRPC(t *testing.T) {
	c := &testCluster{cut: map[string]bool{}, streams: map[string]*memStream{}, state: fsm.NewState(), changed: make(chan struct{})}
	c.server = leader.New(c, c, func() string { return "" }, hclog.NewNullLogger())
	if _, err := c.Propose(t.Context(), 1, &fsm.Init{ClusterID: "test", TTL: time.Minute, Limits: []limit.Limit{kit.Limit(t, "*", 25, limit.Queue{})}}); err != nil {
		t.Fatal(err)
	}
	c.depose = c.lead(t, 1)
	server := grpc.NewServer()
	leasepb.RegisterLeaseServer(server, c.server)
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///leader", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	m := NewManager(ManagerConfig{Name: "a", Identity: "1", Clock: NewSystemClock(), Log: hclog.NewNullLogger(), Connect: func(ctx context.Context, _ string) (Stream, error) {
		ctx, cancel := context.WithCancel(ctx)
		s, err := leasepb.NewLeaseClient(conn).Session(ctx)
		return grpcStream{s, cancel}, err
	}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	defer func() {
		cancel()
		<-ended
	}()
	deadline, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if err := m.WaitLive(deadline); err != nil {
		t.Fatal(err)
	}
	id := m.Session().ID
	holdMany(t, c, m, heldKeys)
	began := time.Now()
	c.depose()
	c.lead(t, 2)
	awaitResumed(t, m)
	t.Logf("%d keys: the node is back after %v", heldKeys, time.Since(began).Round(time.Millisecond))
	if now := m.Session(); now.ID != id || now.Fences != 0 {
		t.Errorf("session %d goes on as %+v", id, now)
	}
}

type grpcStream struct {
	leasepb.Lease_SessionClient
	cancel context.CancelFunc
}

func (s grpcStream) Close() { s.cancel() }
