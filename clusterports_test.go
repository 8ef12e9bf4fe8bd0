package weir

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/proxy"
)

func addrPorts(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// testPortBook is one whose machine has some addresses, and where no name is known.
func testPortBook(own ...string) *portBook {
	b := newPortBook()
	b.lookup = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such name") }
	b.machine = func() (list []net.Addr, err error) {
		for _, addr := range own {
			list = append(list, &net.IPNet{IP: net.ParseIP(addr)})
		}
		return list, nil
	}
	return b
}

func checkListeners(t *testing.T, what string, got, want proxy.Listeners) {
	t.Helper()
	sorted := func(list []netip.AddrPort) []netip.AddrPort {
		list = slices.Clone(list)
		slices.SortFunc(list, netip.AddrPort.Compare)
		return slices.Compact(list)
	}
	slices.Sort(got.Everywhere)
	if !slices.Equal(sorted(got.At), sorted(want.At)) || !slices.Equal(slices.Compact(got.Everywhere), want.Everywhere) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestOwnPorts(t *testing.T) {
	got := testPortBook("10.0.0.1").list(t.Context(), []cluster.Member{
		{Name: "a", RPCAddr: "10.0.0.1:8082", GossipAddr: "10.0.0.1:8083", APIAddr: "[::]:8081", Health: cluster.HealthAlive},
		{Name: "b", RPCAddr: "[fd00::2]:8082", GossipAddr: "[fd00::2]:8083", APIAddr: "127.0.0.1:8181", Health: cluster.HealthDead},
		{Name: "c", RPCAddr: "10.0.0.3:8082", GossipAddr: "10.0.0.3:8083", Health: cluster.HealthLeft, Listening: cluster.Listening{
			Nodes: addrPorts("0.0.0.0:8082"), Proxies: addrPorts("0.0.0.0:8080"), Addrs: addrs("10.0.0.3"),
		}},
		{Name: "d", RPCAddr: "nonsense", GossipAddr: "127.0.0.1:nonsense"},
	}, append(addrPorts("0.0.0.0:8082", "[::]:8083", "127.0.0.1:8081"), netip.AddrPort{}), addrPorts("10.0.0.1:8080"), time.Now())
	checkListeners(t, "nodes", got.Nodes, proxy.Listeners{
		At: addrPorts("127.0.0.1:8081", "10.0.0.1:8082", "10.0.0.1:8083", "10.0.0.1:8081",
			"[fd00::2]:8082", "[fd00::2]:8083", "127.0.0.1:8181"),
		Everywhere: []uint16{8082, 8083},
	})
	checkListeners(t, "proxies", got.Proxies, proxy.Listeners{At: addrPorts("10.0.0.1:8080")})
}

// A member's ports are forbidden by all the addresses that it tells, unless they lead elsewhere
// from here.
func TestOwnPortsOfOthers(t *testing.T) {
	bound := cluster.Listening{
		Nodes:   addrPorts("0.0.0.0:8082", "[::]:8083", "10.3.0.2:8081"),
		Proxies: addrPorts("0.0.0.0:8080", "127.0.0.1:8090"),
		Addrs:   addrs("10.1.0.2", "10.2.0.2", "fd01::2", "172.17.0.1"),
	}
	b := cluster.Member{Name: "b", RPCAddr: "10.1.0.2:9082", GossipAddr: "10.1.0.2:8083", APIAddr: "10.3.0.2:8081", Listening: bound}
	here := cluster.Member{Name: "b", RPCAddr: "10.1.0.1:9082", GossipAddr: "10.1.0.1:8083", Listening: cluster.Listening{
		Nodes: addrPorts("0.0.0.0:8182"), Proxies: addrPorts("0.0.0.0:8180", "127.0.0.1:8190"), Addrs: addrs("10.1.0.1", "172.17.0.1"),
	}}
	for _, tt := range []struct {
		name           string
		member         cluster.Member
		nodes, proxies proxy.Listeners
	}{
		{
			"on another machine", b,
			proxy.Listeners{At: addrPorts("10.1.0.2:9082", "10.1.0.2:8082", "10.2.0.2:8082", "[fd01::2]:8082", "10.1.0.2:8083", "10.2.0.2:8083", "[fd01::2]:8083", "10.3.0.2:8081")},
			proxy.Listeners{At: addrPorts("10.1.0.2:8080", "10.2.0.2:8080", "[fd01::2]:8080")},
		},
		{
			"on this machine", here,
			proxy.Listeners{At: addrPorts("10.1.0.1:9082", "10.1.0.1:8083", "10.1.0.1:8182", "172.17.0.1:8182"), Everywhere: []uint16{8182}},
			proxy.Listeners{At: addrPorts("10.1.0.1:8180", "172.17.0.1:8180", "127.0.0.1:8190"), Everywhere: []uint16{8180}},
		},
	} {
		got := testPortBook("127.0.0.1", "10.1.0.1", "172.17.0.1").list(t.Context(), []cluster.Member{tt.member}, nil, nil, time.Now())
		checkListeners(t, tt.name+", nodes", got.Nodes, tt.nodes)
		checkListeners(t, tt.name+", proxies", got.Proxies, tt.proxies)
	}
}

// A name that a node advertises is looked up once in a while, and stays what it was where that
// fails.
func TestOwnPortsByName(t *testing.T) {
	book := testPortBook()
	found, asked := addrs("10.0.0.5", "fd00::5"), 0
	failure := error(nil)
	book.lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
		asked++
		if host != "b.example" {
			return nil, errors.New("no such name")
		}
		return found, failure
	}
	now := time.Unix(1000, 0)
	check := func(later time.Duration, wantAsked int, want ...string) {
		t.Helper()
		got := book.list(t.Context(), []cluster.Member{{Name: "b", RPCAddr: "b.example:8082", GossipAddr: "10.0.0.5:8083"}}, nil, nil, now.Add(later))
		checkListeners(t, fmt.Sprint("after ", later), got.Nodes, proxy.Listeners{At: append(addrPorts("10.0.0.5:8083"), addrPorts(want...)...)})
		if asked != wantAsked {
			t.Errorf("asked %d times, want %d", asked, wantAsked)
		}
	}
	check(0, 1, "10.0.0.5:8082", "[fd00::5]:8082")
	check(time.Second, 1, "10.0.0.5:8082", "[fd00::5]:8082")
	found = addrs("10.0.0.6")
	check(ownPortsEvery, 2, "10.0.0.6:8082")
	failure = errors.New("timeout")
	check(2*ownPortsEvery, 3, "10.0.0.6:8082")
}

func TestClusterLoopMark(t *testing.T) {
	one, two := loopMark("8d8e8b9d0b"), loopMark("8d8e8b9d0c")
	if one == two || one != loopMark("8d8e8b9d0b") || len(one) != 16 {
		t.Errorf("%q and %q", one, two)
	}
}

// A cluster of hundreds, each with several addresses, is listed and compared within milliseconds.
func BenchmarkOwnPorts(b *testing.B) {
	var members []cluster.Member
	for i := range 500 {
		own := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		l := cluster.Listening{Nodes: addrPorts("0.0.0.0:8081", "0.0.0.0:8082", "0.0.0.0:8083"), Proxies: addrPorts("0.0.0.0:8080")}
		for j := range 10 {
			l.Addrs = append(l.Addrs, netip.AddrFrom4([4]byte{10, byte(j + 1), byte(i >> 8), byte(i)}))
		}
		members = append(members, cluster.Member{
			Name: fmt.Sprint(i), RPCAddr: netip.AddrPortFrom(own, 8082).String(), GossipAddr: netip.AddrPortFrom(own, 8083).String(), Listening: l,
		})
	}
	book := testPortBook("10.0.0.1")
	for b.Loop() {
		book.list(b.Context(), members, nil, nil, time.Time{})
	}
}

// Nodes of two clusters may have one name, and stand behind each other: in Via each is its own.
func TestViaNames(t *testing.T) {
	members := []cluster.Member{{Name: "a", Health: cluster.HealthAlive}, {Name: "b ü", Health: cluster.HealthDead}, {Name: "c", Health: cluster.HealthLeft}}
	mine, other := viaName("a", "cluster 1"), viaName("a", "cluster 2")
	if mine == other || mine == "a" || mine != viaName("a", "cluster 1") {
		t.Errorf("one name in two clusters is %q and %q", mine, other)
	}
	for name, want := range map[string]bool{
		mine: true, strings.ToUpper(mine): true, viaName("b ü", "cluster 1"): true,
		other: false, "a": false, viaName("c", "cluster 1"): false, "": false,
	} {
		for _, names := range [][]string{{name}, {"x", name}, {name, other}} {
			if namesProxy(members, "cluster 1", names) != want {
				t.Errorf("%q name a proxy of the cluster: %t", names, !want)
			}
		}
	}
	if strings.ContainsAny(viaName("b ü", "x"), " ü") {
		t.Errorf("%q is no token", viaName("b ü", "x"))
	}
}
