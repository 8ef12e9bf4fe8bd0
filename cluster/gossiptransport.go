package cluster

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

const gossipPortTries = 10

// gossipTransport is memberlist's own transport, with dials and dialled connections that end when the node stops.
type gossipTransport struct {
	*memberlist.NetTransport
	life       context.Context
	cancel     context.CancelFunc
	bound      netip.AddrPort
	everywhere bool // bound to every IPv6 address
}

// dialled is a connection that is closed when the node stops: memberlist waits for an answer on it.
type dialled struct {
	net.Conn
	forget func() bool
}

func (c dialled) Close() error {
	c.forget()
	return c.Conn.Close()
}

// listenGossip binds TCP and UDP on one port; 0 takes a free one.
func listenGossip(addr string, logger *log.Logger) (*gossipTransport, error) {
	ip, port, err := resolveBind(addr)
	if err != nil {
		return nil, fmt.Errorf("cluster.gossip: %w", err)
	}
	conf := &memberlist.NetTransportConfig{BindAddrs: []string{ip.String()}, BindPort: port, Logger: logger}
	tries := 1
	if port == 0 {
		tries = gossipPortTries // the port that is free for TCP may be taken for UDP
	}
	var inner *memberlist.NetTransport
	for range tries {
		if inner, err = memberlist.NewNetTransport(conf); err == nil {
			life, cancel := context.WithCancel(context.Background())
			bound := netip.AddrPortFrom(ip, uint16(inner.GetAutoBindPort()))
			return &gossipTransport{NetTransport: inner, life: life, cancel: cancel, bound: bound, everywhere: ip == netip.IPv6Unspecified()}, nil
		}
	}
	if probeBind(addr) {
		return nil, fmt.Errorf("cluster.gossip: %s is in use by another process: stop that one, or change the address", addr)
	}
	return nil, fmt.Errorf("cluster.gossip: can't listen on %s: %w", addr, err)
}

// probeBind reports whether an address is taken, for TCP or UDP: memberlist's error doesn't say.
func probeBind(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return errors.Is(err, syscall.EADDRINUSE)
	}
	_ = l.Close()
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		return errors.Is(err, syscall.EADDRINUSE)
	}
	_ = p.Close()
	return false
}

// DialTimeout implements [memberlist.Transport].
func (t *gossipTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.life, timeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return dialled{Conn: conn, forget: context.AfterFunc(t.life, func() { _ = conn.Close() })}, nil
}

// DialAddressTimeout implements [memberlist.NodeAwareTransport].
func (t *gossipTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// Shutdown implements [memberlist.Transport].
func (t *gossipTransport) Shutdown() error {
	t.cancel()
	return t.NetTransport.Shutdown()
}

// discard closes a transport that no memberlist reads from: its goroutines block on what has arrived.
func (t *gossipTransport) discard() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = t.Shutdown()
	}()
	for {
		select {
		case <-t.PacketCh():
		case conn := <-t.StreamCh():
			_ = conn.Close()
		case <-done:
			return
		}
	}
}

// resolveBind reads a listen address; an empty host is every address.
func resolveBind(addr string) (netip.Addr, int, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("%q is not an address with a port: write, for example, \"127.0.0.1:8083\"", addr)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("%q has no port from 0 to 65535", addr)
	}
	if host == "" {
		return netip.IPv4Unspecified(), int(port), nil
	}
	ip, err := resolveIP(host)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("%q can't be resolved: %w", host, err)
	}
	return ip, int(port), nil
}

func resolveIP(host string) (netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap(), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, ip := range ips {
		if ip.Unmap().Is4() {
			return ip.Unmap(), nil
		}
	}
	return ips[0], nil
}
