package cluster

import (
	"context"
	"net"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

const (
	// addressesEvery is how often the machine's addresses are listed. Longer, the others learn
	// later of a new one; shorter costs an idle node more.
	addressesEvery = 5 * time.Second
	// maxListeners and maxAddresses bound what is told and believed. Gossip metadata has room for
	// fewer addresses yet.
	maxListeners = 32
	maxAddresses = 64
)

// Listening is where a node's ports are reached, as far as the node can tell: its proxies keep
// clients away from them. An unspecified address is every one in Addrs.
type Listening struct {
	Nodes   []netip.AddrPort // rpc, gossip and API
	Proxies []netip.AddrPort
	Addrs   []netip.Addr // of its machine, but for loopback and link-local ones
}

// everywhere reports whether any port is bound to all addresses of the machine.
func (l *Listening) everywhere() bool {
	for _, list := range [][]netip.AddrPort{l.Nodes, l.Proxies} {
		for _, at := range list {
			if at.Addr().IsUnspecified() {
				return true
			}
		}
	}
	return false
}

// listening is what this node's ports are bound to, without the machine's addresses.
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

// followAddresses tells the others the machine's addresses, again whenever they change.
func (c *Cluster) followAddresses(ctx context.Context) {
	l := c.listening()
	if !l.everywhere() {
		return
	}
	for sleep(ctx, c.cfg.addressesEvery) {
		if list, err := c.cfg.interfaceAddrs(); err == nil { // else what was told before stays
			c.setMeta(func(m *clusterpb.Meta) { m.Listening = l.encode(list) })
		}
	}
}

// encode is l as gossip has it, with the machine's addresses where they matter to others.
func (l *Listening) encode(machine []net.Addr) *clusterpb.Listening {
	pb := &clusterpb.Listening{Nodes: encodeListeners(l.Nodes), Proxies: encodeListeners(l.Proxies)}
	if l.everywhere() {
		pb.Ipv4, pb.Ipv6 = packAddrs(machine)
	}
	return pb
}

func encodeListeners(list []netip.AddrPort) (listeners []*clusterpb.Listener) {
	for _, at := range list[:min(len(list), maxListeners)] {
		one := &clusterpb.Listener{Port: uint32(at.Port())}
		if !at.Addr().IsUnspecified() {
			one.Ip = at.Addr().AsSlice()
		}
		listeners = append(listeners, one)
	}
	return listeners
}

// packAddrs packs the addresses that others may reach. Loopback and link-local addresses are every
// machine's own.
func packAddrs(list []net.Addr) (v4, v6 []byte) {
	count := 0
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		ip = ip.Unmap()
		if !ok || !ip.IsGlobalUnicast() || count == maxAddresses {
			continue
		}
		count++
		if ip.Is4() {
			v4 = append(v4, ip.AsSlice()...)
		} else {
			v6 = append(v6, ip.AsSlice()...)
		}
	}
	return v4, v6
}

// shorten drops one address, the last of the family that takes more room; false says that there is
// none left.
func shorten(l *clusterpb.Listening) bool {
	v4, v6 := len(l.GetIpv4()), len(l.GetIpv6())
	switch {
	case v6 >= max(v4, net.IPv6len):
		l.Ipv6 = l.Ipv6[:v6-net.IPv6len]
	case v4 >= net.IPv4len:
		l.Ipv4 = l.Ipv4[:v4-net.IPv4len]
	default:
		return false
	}
	return true
}

// fit encodes metadata in at most limit bytes, at the cost of addresses where it must be; what
// remains too long is returned as it is.
func fit(meta *clusterpb.Meta, limit int) ([]byte, error) {
	options := proto.MarshalOptions{Deterministic: true}
	raw, err := options.Marshal(meta)
	for shortened := false; err == nil && len(raw) > limit; shortened = true {
		if !shortened {
			meta = proto.CloneOf(meta)
		}
		if !shorten(meta.GetListening()) {
			break
		}
		raw, err = options.Marshal(meta)
	}
	return raw, err
}

// decodeListening reads what another node says of itself; what can't be right is left out.
func decodeListening(pb *clusterpb.Listening) Listening {
	l := Listening{Nodes: decodeListeners(pb.GetNodes()), Proxies: decodeListeners(pb.GetProxies())}
	for _, family := range []struct {
		packed []byte
		size   int
	}{{pb.GetIpv4(), net.IPv4len}, {pb.GetIpv6(), net.IPv6len}} {
		for b := family.packed; len(b) >= family.size && len(l.Addrs) < maxAddresses; b = b[family.size:] {
			if ip, _ := netip.AddrFromSlice(b[:family.size]); ip.Unmap().IsGlobalUnicast() {
				l.Addrs = append(l.Addrs, ip.Unmap())
			}
		}
	}
	return l
}

func decodeListeners(list []*clusterpb.Listener) (addrs []netip.AddrPort) {
	for _, one := range list[:min(len(list), maxListeners)] {
		port := one.GetPort()
		if port == 0 || port > 65535 {
			continue
		}
		ip := netip.IPv4Unspecified()
		if b := one.GetIp(); len(b) > 0 {
			parsed, ok := netip.AddrFromSlice(b)
			if !ok {
				continue
			}
			ip = parsed.Unmap()
		}
		addrs = append(addrs, netip.AddrPortFrom(ip, uint16(port)))
	}
	return addrs
}
