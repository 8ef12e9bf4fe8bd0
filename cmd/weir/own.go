package main

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/weirproxy/weir/cluster"
	"github.com/weirproxy/weir/proxy"
)

const (
	// ownPortsEvery is how often the cluster's own ports are looked up without a cause: a node may advertise a name, whose
	// address changes.
	ownPortsEvery = time.Minute
	ownPortsWait  = 2 * time.Second // for looking up one name
)

// forbidOwnPorts keeps the proxy from connecting clients to the cluster's own ports as they are now.
func (a *agent) forbidOwnPorts(ctx context.Context) {
	a.mu.Lock()
	allowed := a.cfg.Proxy.AllowClusterDestinations
	a.mu.Unlock()
	var ports proxy.Ports
	if !allowed {
		rpc, gossip := a.members.Listening()
		ports = ownPorts(ctx, a.members.Members(), rpc, gossip, addrPort(a.apiListener.Addr()))
	}
	a.proxy.SetForbidden(ports)
}

// guardOwnPorts does so again whoever joins or moves.
func (a *agent) guardOwnPorts(ctx context.Context) {
	ticker := time.NewTicker(ownPortsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-a.portsChanged:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		a.forbidOwnPorts(ctx)
	}
}

// checkOwnPorts makes guardOwnPorts look again.
func (a *agent) checkOwnPorts() {
	select {
	case a.portsChanged <- struct{}{}:
	default: // it will
	}
}

func addrPort(addr net.Addr) netip.AddrPort {
	at, _ := netip.ParseAddrPort(addr.String()) // a listener's always is one
	return at
}

// ownPorts are what the members advertise, and what this node listens on. The API of another node may be on loopback, too: nodes
// that share a machine share that.
func ownPorts(ctx context.Context, members []cluster.Member, bound ...netip.AddrPort) (ports proxy.Ports) {
	for _, at := range bound {
		switch {
		case !at.IsValid():
		case at.Addr().IsUnspecified():
			ports.Everywhere = append(ports.Everywhere, at.Port())
		default:
			ports.At = append(ports.At, at)
		}
	}
	for _, m := range members {
		if m.Health == cluster.HealthLeft {
			continue // its address may be anybody's by now
		}
		ports.At = append(ports.At, lookupAddrPort(ctx, m.RPCAddr)...)
		ports.At = append(ports.At, lookupAddrPort(ctx, m.GossipAddr)...)
		ports.At = append(ports.At, lookupAddrPort(ctx, apiOf(m))...)
	}
	return ports
}

// apiOf is where others reach a member's API: where it listens on all of its addresses, the one that it advertises for rpc.
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

// lookupAddrPort lists the addresses of host:port; none where they can't be found, and then nobody can dial it by name either.
func lookupAddrPort(ctx context.Context, hostPort string) (list []netip.AddrPort) {
	if at, err := netip.ParseAddrPort(hostPort); err == nil {
		return []netip.AddrPort{at}
	}
	host, text, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ownPortsWait)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for _, addr := range addrs {
		list = append(list, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
	}
	return list
}
