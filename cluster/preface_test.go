package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

func FuzzReadPreface(f *testing.F) {
	for _, p := range []preface{{kind: kindRaft, target: "a.0123456789abcdef"}, {kind: kindGRPC}, {kind: kindHTTP}} {
		b, err := p.append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(b, "what follows"...))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{0x16, 3, 1, 0, 200})
	f.Add([]byte("weir\x01\x02\xff"))
	f.Add([]byte("weir\x02\x01\x00"))
	f.Add([]byte("weir\x01\x04\x00"))
	f.Add([]byte("wei"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		p, err := readPreface(r)
		// Four bytes of magic, a version, a kind, a length, and so many bytes more.
		whole := len(b) >= 7 && string(b[:4]) == "weir" && b[4] == 1 && b[5] >= 1 && b[5] <= 3 && len(b) >= 7+int(b[6])
		if whole != (err == nil) {
			t.Fatalf("%q: %v", b, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			if p != (preface{}) || len(b)-r.Len() > 7+255 || len(b) >= 4 && string(b[:4]) != "weir" && len(b)-r.Len() > 4 {
				t.Errorf("%q: refused after %d bytes with %+v", b, len(b)-r.Len(), p)
			}
			return
		}
		again, err := p.append(nil)
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Fatalf("%q was read as %+v, which is written %q, %v", b, p, again, err)
		}
		if r.Len() != len(b)-len(again) {
			t.Errorf("reading took %d bytes of a preface of %d", len(b)-r.Len(), len(again))
		}
		if slow, err := readPreface(iotest.OneByteReader(bytes.NewReader(b))); err != nil || slow != p {
			t.Errorf("byte by byte it is %+v, %v, want %+v", slow, err, p)
		}
	})
}

// FuzzMeta: whatever gossip carries as a node's metadata is refused, or describes a member that a node can use, and
// survives being sent on.
func FuzzMeta(f *testing.F) {
	for _, m := range []*clusterpb.Meta{
		{Identity: make([]byte, identityBytes)},
		{
			Identity: bytes.Repeat([]byte{0xab}, identityBytes), Role: clusterpb.Role_ROLE_SERVER, RpcAddr: "127.0.0.1:8082", Version: "v1", ConfigDigest: "d",
			LeadsTerm: 3, SessionLeft: 9, Cluster: "c", BootstrapExpect: 3, HasState: true, Detached: true,
			Listening: &clusterpb.Listening{
				Nodes: []*clusterpb.Listener{{Port: 8082}, {Ip: []byte{10, 0, 0, 1}, Port: 8081}}, Proxies: []*clusterpb.Listener{{Port: 8080}},
				Ipv4: []byte{10, 1, 0, 2, 10, 2, 0, 2}, Ipv6: append([]byte{0xfd}, make([]byte, 15)...),
			},
		},
		{Identity: []byte("short")},
	} {
		b, err := encodeMeta(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		meta, err := decodeMeta(b)
		if err != nil {
			if meta != nil {
				t.Fatalf("% x: %v and %v", b, meta, err)
			}
			return
		}
		m := Member{Name: "n"}
		m.describe(meta)
		if len(m.Identity) != 2*identityBytes || m.Role != RoleServer && m.Role != RoleProxy || m.server() != (m.Role == RoleServer) || m.expect < 0 {
			t.Fatalf("% x describes %+v", b, m)
		}
		if proto.Size(meta) > memberlist.MetaMaxSize {
			return // it would lose addresses
		}
		again, err := encodeMeta(meta)
		if err != nil {
			return // too long: it was not a node of ours that sent it
		}
		back, err := decodeMeta(again)
		if err != nil {
			t.Fatal(err)
		}
		other := Member{Name: "n"}
		if other.describe(back); !reflect.DeepEqual(other, m) {
			t.Fatalf("% x describes %+v, and sent on %+v", b, m, other)
		}
	})
}

func newTestMux(t *testing.T, id string) *mux {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := newMux(hclog.NewNullLogger(), l, l.Addr().String(), id, nil)
	m.start()
	t.Cleanup(m.close)
	return m
}

func TestMuxSeparatesKindsAndServers(t *testing.T) {
	t.Parallel()
	m, from := newTestMux(t, "a.1"), newTestMux(t, "b.2")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, k := range []kind{kindRaft, kindGRPC, kindHTTP} {
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
	conn, err := from.dial(ctx, m.self, kindRaft, "a.former")
	if err != nil {
		t.Fatal(err)
	}
	must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Errorf("a connection for a former server was not closed: %v", err)
	}
}

// ctxWithin accepts beside a dial that blocks until somebody does.
func ctxWithin(t *testing.T, accept bool, m *mux, k kind) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	if accept {
		go func() { _, _ = m.sub(k).Accept() }()
	}
	return ctx
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestMuxClosesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	m := newTestMux(t, "a.1")
	for _, hello := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x00\xc8\x01", "weir\x02\x01\x00", "weir\x01\x09\x00"} {
		conn, err := net.Dial("tcp", m.self)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(hello)); err != nil {
			t.Fatal(err)
		}
		must(t, conn.SetReadDeadline(time.Now().Add(3*time.Second)))
		answer, err := io.ReadAll(conn)
		if isTimeout(err) || len(answer) != 0 && (hello[0] != handshakeRecord || !bytes.Equal(answer, mismatch[:])) {
			t.Errorf("%q: not closed, or answered %q: %v", hello, answer, err)
		}
		_ = conn.Close()
	}
	m.close()
	if _, err := m.dial(t.Context(), m.self, kindHTTP, ""); err == nil {
		t.Error("a closed mux dials")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.conns) != 0 {
		t.Errorf("%d connections are left", len(m.conns))
	}
}
