package cluster

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

// TestPacketMarks: a packet is taken of members of the own cluster and of nodes without one.
func TestPacketMarks(t *testing.T) {
	t.Parallel()
	const one, two = "0123456789abcdef0123456789abcdef", "1123456789abcdef0123456789abcdef"
	for _, test := range []struct {
		from, to string
		taken    bool
	}{{one, one, true}, {one, two, false}, {"", one, true}, {one, "", true}, {"", "", true}} {
		body, err := unmark(mark([]byte("ping"), test.from), test.to)
		if (err == nil) != test.taken || err == nil && string(body) != "ping" {
			t.Errorf("from %q to %q: %q, %v", test.from, test.to, body, err)
		}
	}
	for _, b := range []string{"", "w", "ping", "w\x01" + strings.Repeat("x", 40)} {
		if _, err := unmark([]byte(b), one); !errors.Is(err, errUnmarked) {
			t.Errorf("%q: %v", b, err)
		}
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
		if len(m.Identity) != 2*handshake.IdentityBytes || m.Role != RoleServer && m.Role != RoleProxy || m.server() != (m.Role == RoleServer) || m.expect < 0 {
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
