package gossip

import (
	"bytes"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/clustertest"
	"github.com/weirproxy/weir/cluster/handshake"
)

func TestListeningIsToldAsItIs(t *testing.T) {
	l := Listening{Nodes: clustertest.AddrPorts("0.0.0.0:8082", "10.1.0.2:8083", "[fd00::2]:8081"), Proxies: clustertest.AddrPorts("[::]:8080", "127.0.0.1:8090")}
	machine := clustertest.Interfaces("127.0.0.1", "::1", "10.1.0.2", "fe80::1", "169.254.1.1", "10.2.0.2", "fd00::2", "224.0.0.1", "2001:db8::2", "::ffff:10.3.0.2")
	got := decodeListening(l.Encode(append(machine, &net.UnixAddr{})))
	want := Listening{
		Nodes: l.Nodes, Proxies: clustertest.AddrPorts("0.0.0.0:8080", "127.0.0.1:8090"),
		Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.2.0.2"), netip.MustParseAddr("10.3.0.2"), netip.MustParseAddr("fd00::2"), netip.MustParseAddr("2001:db8::2")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	l = Listening{Nodes: clustertest.AddrPorts("10.1.0.2:8082"), Proxies: clustertest.AddrPorts("127.0.0.1:8080")}
	if got := decodeListening(l.Encode(machine)); !reflect.DeepEqual(got, l) {
		t.Errorf("with nothing bound to every address: %v, want %v", got, l)
	}
}

// Addresses that don't fit are left out, and nothing else is.
func TestAddressesTakeTheRoomThatIsLeft(t *testing.T) {
	var machine []string
	for i := range 40 {
		machine = append(machine, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}).String(), netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}).String())
	}
	l := Listening{Nodes: clustertest.AddrPorts("0.0.0.0:8082", "0.0.0.0:8083", "0.0.0.0:8081"), Proxies: clustertest.AddrPorts("0.0.0.0:8080")}
	last := maxAddresses + 1
	for _, length := range []int{1, 64, 150, 240, 300} {
		meta := &clusterpb.Meta{
			Identity: make([]byte, handshake.IdentityBytes), RpcAddr: strings.Repeat("x", length), Version: strings.Repeat("v", MaxText),
			Cluster: strings.Repeat("c", 36), Listening: l.Encode(clustertest.Interfaces(machine...)),
		}
		told := len(meta.GetListening().GetIpv4())
		raw, err := encodeMeta(meta)
		if err != nil || len(raw) > memberlist.MetaMaxSize {
			t.Fatalf("with an address of %d bytes: %d bytes, %v", length, len(raw), err)
		}
		back, err := decodeMeta(raw)
		if err != nil {
			t.Fatal(err)
		}
		m := Member{}
		m.describe(back)
		if m.RPCAddr != meta.GetRpcAddr() || !slices.Equal(m.Listening.Nodes, l.Nodes) || !slices.Equal(m.Listening.Proxies, l.Proxies) {
			t.Errorf("more than addresses was lost: %+v", m)
		}
		if len(m.Listening.Addrs) >= last || length == 1 && len(m.Listening.Addrs) < 16 {
			t.Errorf("with an address of %d bytes there is room for %d, before for %d", length, len(m.Listening.Addrs), last)
		}
		last = len(m.Listening.Addrs)
		if len(meta.GetListening().GetIpv4()) != told {
			t.Error("the metadata itself was changed")
		}
	}
	if _, err := encodeMeta(&clusterpb.Meta{RpcAddr: strings.Repeat("x", memberlist.MetaMaxSize), Listening: l.Encode(nil)}); err == nil {
		t.Error("what is too long without any address was taken")
	}
}

// What another node says is believed within bounds.
func TestListeningThatCantBe(t *testing.T) {
	many := make([]*clusterpb.Listener, 100)
	for i := range many {
		many[i] = &clusterpb.Listener{Port: uint32(i + 1)}
	}
	got := decodeListening(&clusterpb.Listening{
		Nodes: []*clusterpb.Listener{{Port: 0}, {Port: 70000}, {Ip: []byte{1, 2, 3}, Port: 1}, nil, {Ip: net.IPv6zero, Port: 2}}, Proxies: many,
		Ipv4: append([]byte{0, 0, 0, 0, 127, 0, 0, 1, 10, 0, 0, 1}, 9, 9), Ipv6: bytes.Repeat([]byte{0x20}, 16*200),
	})
	if len(got.Nodes) != 1 || !got.Nodes[0].Addr().IsUnspecified() || len(got.Proxies) != maxListeners || len(got.Addrs) != maxAddresses || got.Addrs[0].String() != "10.0.0.1" {
		t.Errorf("%+v", got)
	}
}
