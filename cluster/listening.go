package cluster

import (
	"context"
	"net/netip"
	"time"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// addressesEvery is the interval at which the machine's addresses are read. With a longer one,
// other nodes learn of a new address later; a shorter one costs an idle node more.
const addressesEvery = 5 * time.Second

// listening returns the addresses that this node's ports are bound to, without those of the
// machine.
func (c *Cluster) listening() Listening {
	rpc, gossip := c.Listening()
	l := Listening{Proxies: parseAddrs(c.cfg.ProxyAddrs)}
	for _, at := range append([]netip.AddrPort{rpc, gossip}, parseAddrs([]string{c.cfg.APIAddr})...) {
		if at.IsValid() {
			l.Nodes = append(l.Nodes, at)
		}
	}
	return l
}

func parseAddrs(list []string) (addrs []netip.AddrPort) {
	for _, text := range list {
		if at, err := netip.ParseAddrPort(text); err == nil {
			addrs = append(addrs, netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port()))
		}
	}
	return addrs
}

// followAddresses spreads the machine's addresses, again whenever they change.
func (c *Cluster) followAddresses(ctx context.Context) {
	l := c.listening()
	if !l.Everywhere() {
		return
	}
	for sleep(ctx, c.cfg.addressesEvery) {
		if list, err := c.cfg.interfaceAddrs(); err == nil { // on an error, the former addresses stay
			c.setMeta(func(m *clusterpb.Meta) { m.Listening = l.Encode(list) })
		}
	}
}
