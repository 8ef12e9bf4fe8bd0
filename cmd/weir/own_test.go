package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/proxy"
)

func TestOwnPorts(t *testing.T) {
	at := netip.MustParseAddrPort
	got := ownPorts(t.Context(), []cluster.Member{
		{Name: "a", RPCAddr: "10.0.0.1:8082", GossipAddr: "10.0.0.1:8083", APIAddr: "[::]:8081", Health: cluster.HealthAlive},
		{Name: "b", RPCAddr: "[fd00::2]:8082", GossipAddr: "[fd00::2]:8083", APIAddr: "127.0.0.1:8181", Health: cluster.HealthDead},
		{Name: "c", RPCAddr: "10.0.0.3:8082", GossipAddr: "10.0.0.3:8083", Health: cluster.HealthLeft},
		{Name: "d", RPCAddr: "nonsense", GossipAddr: "127.0.0.1:nonsense"},
	}, at("0.0.0.0:8082"), at("[::]:8083"), at("127.0.0.1:8081"), netip.AddrPort{})
	want := proxy.Ports{
		At: []netip.AddrPort{at("127.0.0.1:8081"), at("10.0.0.1:8082"), at("10.0.0.1:8083"), at("10.0.0.1:8081"),
			at("[fd00::2]:8082"), at("[fd00::2]:8083"), at("127.0.0.1:8181")},
		Everywhere: []uint16{8082, 8083},
	}
	if !slices.Equal(got.At, want.At) || !slices.Equal(got.Everywhere, want.Everywhere) {
		t.Errorf("%v, want %v", got, want)
	}
	if list := lookupAddrPort(t.Context(), "localhost:8082"); !slices.Contains(list, at("127.0.0.1:8082")) && !slices.Contains(list, at("[::1]:8082")) {
		t.Errorf("localhost:8082 is %v", list)
	}
}
