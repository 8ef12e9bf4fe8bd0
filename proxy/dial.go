package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/weirproxy/weir/fsm"
	"golang.org/x/sys/unix"
)

// Resolver finds a name's addresses; [net.Resolver] is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// minDialShare is the least time that one address gets while others wait their turn.
const minDialShare = 2 * time.Second

// dial resolves the target and connects to the first of its addresses that is allowed and
// answers. One address is tried at a time: two at once could both be connections that the upstream counts,
// on one slot. All share the policy's DialTimeout.
func (s *Server) dial(ctx context.Context, t fsm.Target) (*net.TCPConn, error) {
	policy := s.policy.Load()
	deadline := time.Now().Add(policy.DialTimeout)
	addrs, err := s.resolve(ctx, t, deadline)
	if err != nil {
		return nil, err
	}
	err = errProhibited
	for i, addr := range addrs {
		if !policy.allowsDestination(addr) {
			continue
		}
		var conn *net.TCPConn
		conn, err = dialAddr(ctx, netip.AddrPortFrom(addr, t.Port), policy, shareOf(deadline, len(addrs)-i))
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			break
		}
	}
	return nil, err
}

// shareOf divides the time until deadline among n addresses, and returns when the first must be done.
func shareOf(deadline time.Time, n int) time.Time {
	now := time.Now()
	share := max(deadline.Sub(now)/time.Duration(n), minDialShare)
	if end := now.Add(share); end.Before(deadline) {
		return end
	}
	return deadline
}

// resolve lists the target's addresses in the resolver's order.
func (s *Server) resolve(ctx context.Context, t fsm.Target, deadline time.Time) ([]netip.Addr, error) {
	if t.Addr.IsValid() {
		return []netip.Addr{t.Addr.Unmap()}, nil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	addrs, err := s.resolver.LookupNetIP(ctx, "ip", t.Host)
	var dns *net.DNSError
	switch {
	case err == nil && len(addrs) == 0:
		return nil, &net.DNSError{Err: "no addresses", Name: t.Host, IsNotFound: true}
	case err == nil:
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, &net.DNSError{Err: err.Error(), Name: t.Host, IsTimeout: true}
	case !errors.As(err, &dns):
		return nil, &net.DNSError{Err: err.Error(), Name: t.Host}
	default:
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// dialAddr connects to one address. The policy is asked once more about the address that the
// socket really connects to. A dial that is given up while the upstream has already accepted ends in a reset: after
// a FIN the upstream might count the connection for as long as it likes.
func dialAddr(ctx context.Context, addr netip.AddrPort, p *Policy, deadline time.Time) (*net.TCPConn, error) {
	d := net.Dialer{
		Deadline: deadline,
		ControlContext: func(_ context.Context, _, address string, raw syscall.RawConn) error {
			real, err := netip.ParseAddrPort(address)
			if err != nil || !p.allowsDestination(real.Addr()) {
				return errProhibited
			}
			return setLinger(raw, &unix.Linger{Onoff: 1})
		},
	}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("dial %v: got a %T for a TCP connection", addr, conn)
	}
	if err := tcp.SetLinger(-1); err != nil {
		tcp.Close()
		return nil, err
	}
	return tcp, nil
}

// setLinger sets SO_LINGER on a socket that is not connected yet.
func setLinger(raw syscall.RawConn, l *unix.Linger) error {
	var err error
	if ctl := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, l)
	}); ctl != nil {
		return ctl
	}
	return err
}
