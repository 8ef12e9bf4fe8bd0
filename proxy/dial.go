package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

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
func (f *flow) dial() error {
	s, policy := f.srv, f.srv.policy.Load()
	if f.target.Addr.IsValid() {
		addr := netip.AddrPortFrom(f.target.Addr.Unmap(), f.target.Port)
		if err := s.forbids(policy, addr); err != nil {
			return err
		}
		return f.connect(addr, f.since.Add(policy.DialTimeout))
	}
	deadline := time.Now().Add(policy.DialTimeout)
	addrs, err := s.resolve((*waiting)(f), f.target.Host, deadline)
	if err != nil {
		return err
	}
	err = errProhibited
	for i, ip := range addrs {
		addr := netip.AddrPortFrom(ip, f.target.Port)
		if why := s.forbids(policy, addr); why != nil {
			if err == errProhibited {
				err = why // a loop rather than a refusal without a reason
			}
			continue
		}
		err = f.connect(addr, shareOf(deadline, len(addrs)-i))
		if err == nil || f.endCause() != nil || time.Now().After(deadline) {
			break
		}
	}
	return err
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

// resolve lists a name's addresses in the resolver's order.
func (s *Server) resolve(ctx context.Context, host string, deadline time.Time) ([]netip.Addr, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	addrs, err := s.resolver.LookupNetIP(ctx, "ip", host)
	var dns *net.DNSError
	switch {
	case err == nil && len(addrs) == 0:
		return nil, &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	case err == nil:
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, &net.DNSError{Err: err.Error(), Name: host, IsTimeout: true}
	case !errors.As(err, &dns):
		return nil, &net.DNSError{Err: err.Error(), Name: host}
	default:
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// connect connects to one address, which is allowed, and makes the connection the flow's. A dial that is given up resets: the
// upstream may have accepted already, and after a FIN it might count the connection for as long as it likes.
func (f *flow) connect(addr netip.AddrPort, deadline time.Time) error {
	family, peer, err := sockaddr(addr)
	var up *sock
	connected := false
	if err == nil {
		up, connected, err = dialSock(family, peer, addr, &f.srv.buffers)
	}
	if err == nil && !connected {
		err = f.awaitConnect(up, peer, addr, deadline)
	}
	if err == nil {
		return f.connected(up, addr.Addr())
	}
	if up != nil {
		up.reset()
	}
	return fmt.Errorf("connect to %v: %w", addr, err)
}

// awaitConnect waits until a connection has come about, the deadline, or an abort.
func (f *flow) awaitConnect(up *sock, peer unix.Sockaddr, addr netip.AddrPort, deadline time.Time) error {
	f.mu.Lock()
	if f.cause != nil {
		defer f.mu.Unlock()
		return f.cause
	}
	f.dialling = up
	up.conn.SetWriteDeadline(deadline)
	f.watchSoon()
	f.mu.Unlock()

	err := up.finishConnect(peer, addr)

	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialling = nil
	switch {
	case f.cause != nil:
		return f.cause
	case err == nil:
		up.conn.SetWriteDeadline(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return unix.ETIMEDOUT
	}
	return err
}

// dialSock begins to connect to peer, which is addr.
func dialSock(family int, peer unix.Sockaddr, addr netip.AddrPort, pool *bufferPool) (s *sock, connected bool, err error) {
	fd, err := newSocket(family)
	if err != nil {
		return nil, false, err
	}
	err = unix.Connect(fd, peer)
	if err == unix.EINPROGRESS {
		// Over a short way the answer is there by now: asking costs less than waiting to be told.
		err = connectOn(fd, peer)
	}
	err = notItself(fd, addr, err)
	if err != nil && !isConnecting(err) {
		unix.Close(fd)
		return nil, false, err
	}
	s = newSock(fd, pool)
	s.slowStart = true
	return s, err == nil, nil
}

// lowestEphemeral is the lowest port that the kernel could be set to give to a connection that asks for none.
const lowestEphemeral = 1024

// notItself is what connecting to addr has come to: a connection to itself counts as refused. TCP allows it: a socket that
// connects to a port of its own machine where nobody listens may be given just that port.
func notItself(fd int, addr netip.AddrPort, err error) error {
	if err == nil && addr.Port() >= lowestEphemeral && localAddr(fd) == addr {
		return unix.ECONNREFUSED
	}
	return err
}

// isConnecting reports whether connect, on a socket that does not block, says that it is under way.
func isConnecting(err error) bool {
	return err == unix.EINPROGRESS || err == unix.EALREADY || err == unix.EINTR
}

// zoneIndex is the number of a zone's interface.
func zoneIndex(zone string) (index uint32, ok bool) {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), true
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, false
	}
	return uint32(ifi.Index), true
}

// sockaddr is an address as the kernel takes it.
func sockaddr(addr netip.AddrPort) (family int, sa unix.Sockaddr, err error) {
	ip := addr.Addr()
	if ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}, nil
	}
	six := &unix.SockaddrInet6{Port: int(addr.Port()), Addr: ip.As16()}
	if zone := ip.Zone(); zone != "" {
		index, ok := zoneIndex(zone)
		if !ok {
			return 0, nil, unix.EHOSTUNREACH // there is no such interface
		}
		six.ZoneId = index
	}
	return unix.AF_INET6, six, nil
}
