package gossip

import (
	"net"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/weirproxy/weir/cluster/clusterpb"
)

// maxListeners and maxAddresses bound the ports and addresses that are sent and accepted. Gossip
// metadata has room for even fewer addresses.
const (
	maxListeners = 32
	maxAddresses = 64
)

// Listening holds the addresses of a node's ports, as far as the node knows them. Other nodes'
// proxies keep clients away from them. An unspecified address stands for all of Addrs.
type Listening struct {
	Nodes   []netip.AddrPort // rpc, gossip and API
	Proxies []netip.AddrPort
	Addrs   []netip.Addr // of the machine, without loopback and link-local ones
}

// Everywhere reports whether any port is bound to all addresses of the machine.
func (l *Listening) Everywhere() bool {
	for _, list := range [][]netip.AddrPort{l.Nodes, l.Proxies} {
		for _, at := range list {
			if at.Addr().IsUnspecified() {
				return true
			}
		}
	}
	return false
}

// Encode returns l for the metadata, with the machine's addresses if a port is bound to all of
// them.
func (l *Listening) Encode(machine []net.Addr) *clusterpb.Listening {
	pb := &clusterpb.Listening{Nodes: encodeListeners(l.Nodes), Proxies: encodeListeners(l.Proxies)}
	if l.Everywhere() {
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

// packAddrs packs the addresses that other nodes can reach. Loopback and link-local addresses exist
// on every machine, so they are left out.
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

// shorten drops one address, the last of the family that takes more room. It returns false if none
// is left.
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

// fit encodes metadata in at most limit bytes, dropping addresses if it must. Metadata that is
// still too long is returned as it is.
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

// decodeListening reads another node's ports and addresses, and leaves out invalid ones.
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
