package gossip

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

func metaOf(identity byte, change ...func(*clusterpb.Meta)) *clusterpb.Meta {
	m := &clusterpb.Meta{Identity: bytes.Repeat([]byte{identity}, handshake.IdentityBytes), Role: clusterpb.Role_ROLE_SERVER, RpcAddr: "127.0.0.1:1"}
	for _, f := range change {
		f(m)
	}
	return m
}

func TestMetaFitsAndIsChecked(t *testing.T) {
	t.Parallel()
	long := metaOf(1, func(m *clusterpb.Meta) {
		m.RpcAddr = strings.Repeat("h", 253) + ":65535"
		m.Version, m.ConfigDigest = strings.Repeat("v", 32), strings.Repeat("d", MaxText)
		m.ClusterDigest = strings.Repeat("d", MaxClusterDigest)
		m.Cluster = strings.Repeat("c", 36)
		m.LeadsTerm, m.SessionLeft = 1<<63, 1<<63
	})
	if _, err := encodeMeta(long); err != nil {
		t.Error(err)
	}
	if _, err := encodeMeta(metaOf(1, func(m *clusterpb.Meta) { m.RpcAddr = strings.Repeat("h", 600) })); err == nil {
		t.Error("metadata beyond memberlist's limit was encoded")
	}
	if _, err := decodeMeta([]byte("\xff\xff")); err == nil {
		t.Error("garbage was decoded")
	}
	if _, err := decodeMeta(nil); err == nil {
		t.Error("metadata without an identity was decoded")
	}
}

// FuzzMeta: whatever gossip carries as a node's metadata is refused, or describes a member that a
// node can use, and survives being sent on.
func FuzzMeta(f *testing.F) {
	for _, m := range []*clusterpb.Meta{
		{Identity: make([]byte, handshake.IdentityBytes)},
		{
			Identity: bytes.Repeat([]byte{0xab}, handshake.IdentityBytes), Role: clusterpb.Role_ROLE_SERVER, RpcAddr: "127.0.0.1:8082", Version: "v1", ConfigDigest: "d",
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
		if len(m.Identity) != 2*handshake.IdentityBytes || m.Role != RoleServer && m.Role != RoleProxy || m.IsServer() != (m.Role == RoleServer) || m.Expect < 0 {
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
