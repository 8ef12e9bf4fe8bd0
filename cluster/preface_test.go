package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
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
	for _, p := range []*clusterpb.Preface{
		{Kind: kindRaft, Target: "a.0123456789abcdef", From: &clusterpb.Introduction{Node: "b", Cluster: "c1", GossipAddr: "127.0.0.1:1", LeadsTerm: 3}},
		{Kind: kindGRPC}, {Kind: kindProbe, From: &clusterpb.Introduction{Node: "b"}},
	} {
		b, err := appendPreface(nil, p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(b, "what follows"...))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{0x16, 3, 1, 0, 200})
	f.Add([]byte("weir\x01\x02\xff"))
	f.Add([]byte("weir\x02\x00\x02\x08\x09"))
	f.Add([]byte("wei"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		p, err := readPreface(r)
		taken := len(b) - r.Len()
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			if taken > 7+maxPreface || len(b) >= 4 && string(b[:4]) != "weir" && taken > 4 {
				t.Errorf("%q: refused after %d bytes", b, taken)
			}
			return
		}
		if string(b[:5]) != "weir\x02" || taken != 7+int(binary.BigEndian.Uint16(b[5:7])) {
			t.Fatalf("%q is taken for a preface of %d bytes", b, taken)
		}
		again, err := appendPreface(nil, p)
		if err != nil {
			t.Fatalf("%q was read as %+v, which can't be written: %v", b, p, err)
		}
		if back, err := readPreface(bytes.NewReader(again)); err != nil || !proto.Equal(back, p) {
			t.Fatalf("%+v was written and read as %+v, %v", p, back, err)
		}
		if slow, err := readPreface(iotest.OneByteReader(bytes.NewReader(b))); err != nil || !proto.Equal(slow, p) {
			t.Errorf("byte by byte it is %+v, %v, want %+v", slow, err, p)
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	good, err := appendAnswer(nil, &clusterpb.Answer{Verdict: clusterpb.Verdict_VERDICT_ACCEPTED, Nonce: make([]byte, nonceBytes), From: &clusterpb.Introduction{Node: "a", Cluster: "c1"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(mismatch[:])
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		a, err := readAnswer(r)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			return
		}
		if !bytes.HasPrefix(b, []byte(Greeting)) || len(a.GetNonce()) != nonceBytes || !plainText(a.GetFrom().GetNode()+a.GetFrom().GetCluster()) {
			t.Errorf("%q is taken for the answer %+v", b, a)
		}
	})
}

// FuzzMeta: whatever gossip carries as a node's metadata is refused, or describes a member that a
// node can use, and survives being sent on.
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
	m := newMux(hclog.NewNullLogger(), l, l.Addr().String(), doorOf(id, ""), nil)
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
	if _, err := from.dial(ctx, m.self, kindRaft, "a.former"); !errors.Is(err, errWrongServer) {
		t.Errorf("a connection for a former server: %v", err)
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
	for _, hello := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x00\xc8\x01", "weir\x01\x02\x00", "weir\x02\x00\x02\x08\x09"} {
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
