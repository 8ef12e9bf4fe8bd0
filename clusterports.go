package weir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/proxy"
)

const (
	// ownPortsEvery is the interval at which the cluster's own ports are resolved without a cause:
	// a node may advertise a name, whose address changes.
	ownPortsEvery = time.Minute
	// ownPortsPause is the minimum between two rounds: while a cluster of hundreds starts, it
	// changes hundreds of times.
	ownPortsPause = 50 * time.Millisecond
	ownPortsWait  = 2 * time.Second // for resolving one name
)

// portBook finds the addresses of the nodes' ports. It belongs to one goroutine at a time.
type portBook struct {
	lookup  func(ctx context.Context, host string) ([]netip.Addr, error)
	machine func() ([]net.Addr, error) // this machine's addresses
	names   map[string]foundName
}

// foundName is the result of resolving an advertised name.
type foundName struct {
	addrs []netip.Addr
	until time.Time
}

func newPortBook() *portBook {
	return &portBook{
		lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		machine: net.InterfaceAddrs, names: make(map[string]foundName),
	}
}

// forbidOwnPorts forbids the proxy to connect clients to the cluster's own ports, as they are now.
func (n *Node) forbidOwnPorts(ctx context.Context) {
	cfg := n.cfg.Load()
	rpc, gossip := n.members.Listening()
	var proxies []netip.AddrPort
	for _, l := range n.proxyListeners {
		proxies = append(proxies, addrPort(l))
	}
	ports := n.ports.list(ctx, n.members.Members(), []netip.AddrPort{rpc, gossip, addrPort(n.apiListener)}, proxies, time.Now())
	if cfg.Proxy.AllowClusterDestinations {
		ports.Nodes = proxy.Listeners{}
	}
	n.proxy.SetForbidden(ports)
	if id := n.members.ClusterID(); id != "" {
		n.proxy.SetLoopMark(loopMark(id))
		n.proxy.SetPseudonym(viaName(cfg.Name, id))
	}
}

// loopMark is the mark by which the cluster's proxies recognise each other's answers. Workers see
// it, so it does not reveal the id.
func loopMark(clusterID string) string {
	sum := sha256.Sum256([]byte("weir proxy loop\x00" + clusterID))
	return hex.EncodeToString(sum[:8])
}

// viaName is a node's name in Via, which upstreams see. It contains a hash of the cluster's id,
// because nodes of two clusters may have one name. Until a node knows its cluster, its own identity
// is used instead.
func viaName(node, clusterID string) string { return viaNameOf(node, viaHash(clusterID)) }

func viaNameOf(node, hash string) string { return proxy.Pseudonym(node + "-" + hash) }

func viaHash(clusterID string) string {
	sum := sha256.Sum256([]byte("weir via\x00" + clusterID))
	return hex.EncodeToString(sum[:6])
}

// Proxied implements [server.ProxySource].
func (v view) Proxied() bool {
	return !v.cfg.Load().Proxy.AllowClusterDestinations
}

// Dialled implements [server.ProxySource].
func (v view) Dialled(client, accepted netip.AddrPort) bool { return v.proxy.Dialled(client, accepted) }

// NamesProxy implements [server.ProxySource].
func (v view) NamesProxy(pseudonyms []string) bool {
	return namesProxy(v.members.Members(), v.members.ClusterID(), pseudonyms)
}

// namesProxy looks at the members only for a name that could be one of theirs: callers without a
// token can ask.
func namesProxy(members []cluster.Member, clusterID string, pseudonyms []string) bool {
	hash := viaHash(clusterID)
	possible := map[string]bool{}
	for _, p := range pseudonyms {
		if p = strings.ToLower(p); strings.HasSuffix(p, hash) {
			possible[p] = true
		}
	}
	return len(possible) > 0 && slices.ContainsFunc(members, func(m cluster.Member) bool {
		return m.Health != cluster.HealthLeft && possible[strings.ToLower(viaNameOf(m.Name, hash))]
	})
}

// guardOwnPorts calls forbidOwnPorts again whenever a member joins or moves.
func (n *Node) guardOwnPorts(ctx context.Context) {
	ticker := time.NewTicker(ownPortsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-n.portsChanged:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		n.forbidOwnPorts(ctx)
		select {
		case <-time.After(ownPortsPause):
		case <-ctx.Done():
			return
		}
	}
}

// checkOwnPorts makes guardOwnPorts look again.
func (n *Node) checkOwnPorts() {
	select {
	case n.portsChanged <- struct{}{}:
	default: // a look is pending already
	}
}

func addrPort(l net.Listener) netip.AddrPort {
	at, _ := netip.ParseAddrPort(address(l)) // a listener's address always parses; without one there is none
	return at
}

// list returns the ports of all members, and those that this node is bound to.
func (b *portBook) list(ctx context.Context, members []cluster.Member, nodes, proxies []netip.AddrPort, now time.Time) proxy.Ports {
	var ports proxy.Ports
	bind(&ports.Nodes, nodes, nil, true)
	bind(&ports.Proxies, proxies, nil, true)
	own := b.ownAddrs()
	for _, m := range members {
		if m.Health == cluster.HealthLeft {
			continue // its address may belong to anybody by now
		}
		b.listMember(ctx, &ports, m, own, now)
	}
	return ports
}

// listMember adds one member's ports: at the addresses that it advertises, and at any others where
// its listeners answer.
func (b *portBook) listMember(ctx context.Context, ports *proxy.Ports, m cluster.Member, own map[netip.Addr]bool, now time.Time) {
	var addrs []netip.Addr // the member's
	for _, text := range []string{m.RPCAddr, m.GossipAddr} {
		at := b.resolve(ctx, text, now)
		ports.Nodes.At = append(ports.Nodes.At, at...)
		for _, one := range at {
			addrs = append(addrs, one.Addr())
		}
	}
	// The API may be on loopback, which nodes on one machine share.
	ports.Nodes.At = append(ports.Nodes.At, b.resolve(ctx, apiOf(m), now)...)

	here := false // the member runs on this machine
	for _, addr := range addrs {
		here = here || own[addr] || addr.IsLoopback()
	}
	for _, addr := range m.Listening.Addrs {
		// An address that this machine has too, such as that of a container bridge, leads here and
		// not to the member.
		if here || !own[addr] {
			addrs = append(addrs, addr)
		}
	}
	bind(&ports.Nodes, m.Listening.Nodes, addrs, here)
	bind(&ports.Proxies, m.Listening.Proxies, addrs, here)
}

// bind adds listeners. A listener on every address is added at all addresses of its machine or, if
// that is this machine, for whatever the kernel delivers to it.
func bind(to *proxy.Listeners, bound []netip.AddrPort, addrs []netip.Addr, here bool) {
	for _, at := range bound {
		switch {
		case !at.IsValid():
		case !at.Addr().IsUnspecified():
			if here || !at.Addr().IsLoopback() { // another machine's loopback can't be reached
				to.At = append(to.At, at)
			}
		default:
			if here {
				to.Everywhere = append(to.Everywhere, at.Port())
			}
			for _, addr := range addrs {
				to.At = append(to.At, netip.AddrPortFrom(addr, at.Port()))
			}
		}
	}
}

// ownAddrs returns this machine's addresses.
func (b *portBook) ownAddrs() map[netip.Addr]bool {
	list, err := b.machine()
	if err != nil {
		return nil // then no member's address counts as this machine's
	}
	own := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				own[ip.Unmap()] = true
			}
		}
	}
	return own
}

// apiOf returns the address of a member's API. If it listens on all addresses, its host is the one
// that the member advertises for rpc.
func apiOf(m cluster.Member) string {
	at, err := netip.ParseAddrPort(m.APIAddr)
	if err != nil || !at.Addr().IsUnspecified() {
		return m.APIAddr
	}
	host, _, err := net.SplitHostPort(m.RPCAddr)
	if err != nil {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(int(at.Port())))
}

// resolve returns the addresses of host:port. If a name can't be resolved, there are none, and
// clients can't dial it by name either.
func (b *portBook) resolve(ctx context.Context, hostPort string, now time.Time) (list []netip.AddrPort) {
	host, text, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), uint16(port))}
	}
	for _, addr := range b.name(ctx, host, now) {
		list = append(list, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
	}
	return list
}

// name resolves a name, at most once a minute. If that fails, the last answer stays.
func (b *portBook) name(ctx context.Context, host string, now time.Time) []netip.Addr {
	found, known := b.names[host]
	if known && now.Before(found.until) {
		return found.addrs
	}
	ctx, cancel := context.WithTimeout(ctx, ownPortsWait)
	defer cancel()
	if addrs, err := b.lookup(ctx, host); err == nil {
		found.addrs = addrs
	}
	found.until = now.Add(ownPortsEvery / 2) // the next regular round resolves it again
	b.names[host] = found
	return found.addrs
}
