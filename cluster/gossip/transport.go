package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weirproxy/weir/cluster/clusterpb"
	"github.com/weirproxy/weir/cluster/handshake"
)

const (
	portTries      = 10
	resolveTimeout = 3 * time.Second
)

// transport wraps memberlist's own transport. Dials and dialled connections end when the node
// stops. A handshake on each stream and a mark on each packet keep other clusters out.
type transport struct {
	*memberlist.NetTransport
	life       context.Context
	cancel     context.CancelFunc
	bound      netip.AddrPort
	everywhere bool // bound to every IPv6 address
	door       *handshake.Doorkeeper
	refused    func(peer string, err error) // logs why gossip with an address is refused

	packets chan *memberlist.Packet
	streams chan net.Conn
	places  *handshake.Places // places of streams, kept until they end
	wg      sync.WaitGroup
	ended   chan struct{} // closed once the inner transport has stopped
	endOnce sync.Once
}

// dialled is a connection that is closed when the node stops: memberlist would go on waiting for an
// answer on it.
type dialled struct {
	net.Conn
	forget func() bool
}

func (c dialled) Close() error {
	c.forget()
	return c.Conn.Close()
}

// listen binds TCP and UDP on one port; 0 takes a free one.
func listen(addr string, log *log.Logger, door *handshake.Doorkeeper, refused func(peer string, err error)) (*transport, error) {
	ip, port, err := resolveBind(addr)
	if err != nil {
		return nil, fmt.Errorf("cluster.gossip: %w", err)
	}
	inner, err := bind(ip, port, log)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cluster.gossip: %s is taken (%w): stop the other process, or change the address", addr, syscall.EADDRINUSE)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster.gossip: can't listen on %s: %w", addr, err)
	}
	life, cancel := context.WithCancel(context.Background())
	return &transport{
		NetTransport: inner, life: life, cancel: cancel,
		bound:      netip.AddrPortFrom(ip, uint16(inner.GetAutoBindPort())),
		everywhere: ip == netip.IPv6Unspecified(),
		door:       door, refused: refused,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		ended: make(chan struct{}),
	}, nil
}

// bind tries again where any port will do, because the one that is free for TCP may be taken for
// UDP, and where a port has become free meanwhile.
func bind(ip netip.Addr, port int, log *log.Logger) (inner *memberlist.NetTransport, err error) {
	conf := &memberlist.NetTransportConfig{BindAddrs: []string{ip.String()}, BindPort: port, Logger: log}
	for range portTries {
		if inner, err = memberlist.NewNetTransport(conf); err == nil {
			return inner, nil
		}
		if why := probeBind(netip.AddrPortFrom(ip, uint16(port)).String()); why != nil {
			return nil, why
		}
	}
	return nil, err
}

// probeBind returns why an address can't be bound, for TCP or UDP: memberlist's error is a text.
func probeBind(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	_ = l.Close()
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	return p.Close()
}

// start begins to deliver streams and packets, which memberlist must read.
func (t *transport) start() {
	t.wg.Go(t.takePackets)
	t.wg.Go(t.takeStreams)
}

// DialTimeout implements [memberlist.Transport].
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	conn, _, err := t.open(t.life, addr, timeout, handshake.KindGossip, handshake.MetDialled)
	if err != nil {
		return nil, err
	}
	return &checkedStream{Conn: conn}, nil
}

// DialAddressTimeout implements [memberlist.NodeAwareTransport].
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// probe asks who listens at an address of cluster.join.
func (t *transport) probe(ctx context.Context, addr string, timeout time.Duration) (*clusterpb.Introduction, error) {
	conn, other, err := t.open(ctx, addr, timeout, handshake.KindProbe, handshake.MetProbed)
	if conn != nil {
		_ = conn.Close()
	}
	return other, err
}

// open connects to another node's gossip port, and returns once that node has accepted the
// connection.
func (t *transport) open(ctx context.Context, addr string, timeout time.Duration, k handshake.Kind, how handshake.Meeting) (net.Conn, *clusterpb.Introduction, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	conn := dialled{Conn: raw, forget: context.AfterFunc(t.life, func() { _ = raw.Close() })}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	var other *clusterpb.Introduction
	if err = raw.SetDeadline(handshake.Deadline(ctx)); err == nil {
		other, err = t.door.Open(raw, k, "", addr, how)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close()
		t.refused(addr, err)
		return nil, other, fmt.Errorf("gossip with %s can't begin: %w", addr, err)
	}
	return conn, other, nil
}

// takeStreams accepts streams.
func (t *transport) takeStreams() {
	for {
		select {
		case raw := <-t.NetTransport.StreamCh():
			t.admit(raw)
		case <-t.ended:
			return
		}
	}
}

// admit does the handshake in a goroutine of its own. The stream keeps its place until it ends.
func (t *transport) admit(raw net.Conn) {
	place := t.places.Take(raw, t.life.Done())
	if place == nil {
		_ = raw.Close()
		return
	}
	conn := &placedStream{Conn: raw, place: place}
	t.wg.Go(func() {
		taken, err := t.greet(conn)
		if err == nil {
			select {
			case t.streams <- taken:
				return
			case <-t.life.Done():
				err = net.ErrClosed
			}
		}
		_ = conn.Close()
		if !errors.Is(err, handshake.ErrProbed) {
			t.refused(raw.RemoteAddr().String(), err)
		}
	})
}

// greet answers the preface and returns the stream for memberlist.
func (t *transport) greet(conn *placedStream) (net.Conn, error) {
	stop := context.AfterFunc(t.life, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(handshake.Timeout)); err != nil {
		return nil, err
	}
	p, err := handshake.ReadPreface(conn)
	if err != nil {
		return nil, err
	}
	conn.place.Spoke()
	if err := t.door.Answer(conn, p, func(k handshake.Kind) bool { return k == handshake.KindGossip }); err != nil {
		return nil, err
	}
	if p.GetKind() == handshake.KindProbe {
		return nil, handshake.ErrProbed
	}
	return &checkedStream{Conn: conn}, conn.SetDeadline(time.Time{})
}

// StreamCh implements [memberlist.Transport].
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// PacketCh implements [memberlist.Transport].
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// takePackets delivers packets of this cluster, and of nodes that have yet to find theirs.
func (t *transport) takePackets() {
	for {
		select {
		case p := <-t.NetTransport.PacketCh():
			if !t.takes(p) {
				continue
			}
			select {
			case t.packets <- p:
			case <-t.life.Done(): // memberlist may have stopped reading; the inner transport must still be drained
			}
		case <-t.ended:
			return
		}
	}
}

// takes makes a packet fit for memberlist, or refuses it.
func (t *transport) takes(p *memberlist.Packet) bool {
	body, err := unmark(p.Buf, t.door.Of.Cluster())
	if err == nil {
		body, err = checkPacket(body)
	}
	if err != nil {
		t.refused(p.From.String(), err)
		return false
	}
	p.Buf = body
	return true
}

// WriteTo implements [memberlist.Transport].
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.NetTransport.WriteTo(mark(b, t.door.Of.Cluster()), addr)
}

// WriteToAddress implements [memberlist.NodeAwareTransport].
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.NetTransport.WriteToAddress(mark(b, t.door.Of.Cluster()), a)
}

// Shutdown implements [memberlist.Transport]. It may be called before start, and again.
//
// The inner transport's goroutines block on what has arrived until somebody takes it. Before start,
// nobody else does.
func (t *transport) Shutdown() error {
	t.cancel()
	t.wg.Go(func() {
		for {
			select {
			case <-t.NetTransport.PacketCh():
			case conn := <-t.NetTransport.StreamCh():
				_ = conn.Close()
			case <-t.ended:
				return
			}
		}
	})
	err := t.NetTransport.Shutdown()
	t.endOnce.Do(func() { close(t.ended) })
	t.wg.Wait()
	return err
}

// resolveBind reads a listen address; an empty host means every address.
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

// placedStream is a stream that keeps its place until it is closed.
type placedStream struct {
	net.Conn
	place *handshake.Place
}

// Close implements [net.Conn].
func (c *placedStream) Close() error {
	c.place.Free()
	return c.Conn.Close()
}
