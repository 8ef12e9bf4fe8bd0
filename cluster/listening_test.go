package cluster

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirproxy/weir/cluster/clustertest"
)

// The others learn of an address that a machine is given while its node runs, and of one that it
// loses.
func TestNewAddressesAreTold(t *testing.T) {
	t.Parallel()
	var machine atomic.Pointer[[]net.Addr]
	set := func(list ...string) { addrs := clustertest.Interfaces(list...); machine.Store(&addrs) }
	set("10.1.0.2")
	everywhere := func(c *Config) {
		c.ProxyAddrs = []string{"[::]:8080"}
		c.addressesEvery = time.Millisecond
		c.interfaceAddrs = func() ([]net.Addr, error) {
			if list := machine.Load(); list != nil {
				return *list, nil
			}
			return nil, errors.New("no list")
		}
	}
	a := startNode(t, "a", "", asProxy)
	b := startNode(t, "b", "", asProxy, everywhere, joining(a))
	knows := func(want ...string) {
		t.Helper()
		eventually(t, 5*time.Second, "a knows b's addresses "+strings.Join(want, ", "), func() bool {
			m, _ := a.Member("b")
			var got []string
			for _, addr := range m.Listening.Addrs {
				got = append(got, addr.String())
			}
			return slices.Equal(got, want)
		})
	}
	knows("10.1.0.2")
	set("10.1.0.2", "10.2.0.2", "fd00::2")
	knows("10.1.0.2", "10.2.0.2", "fd00::2")
	machine.Store(nil)
	set("10.2.0.2")
	knows("10.2.0.2")
	m, _ := a.Member("b")
	rpc, gossip := b.Listening()
	if !slices.Equal(m.Listening.Nodes, []netip.AddrPort{rpc, gossip}) || !slices.Equal(m.Listening.Proxies, clustertest.AddrPorts("0.0.0.0:8080")) {
		t.Errorf("a knows that b listens on %+v", m.Listening)
	}
}
