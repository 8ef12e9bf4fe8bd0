package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/resolve"
)

// Resolver finds the addresses of names, which are absolute, in lower case and without the final
// dot.
type Resolver interface {
	// Remembered returns a name's addresses where they are known without waiting.
	Remembered(name string) (resolve.Addrs, bool)
	// Lookup asks for them where they are not known. Its error is a [*net.DNSError], or that of
	// ctx.
	Lookup(ctx context.Context, name string) (resolve.Addrs, error)
}

// firstAttempt is how long an address is tried at first, where there are others: a lost packet is
// sent again after a second. Raising it gives slow upstreams more time; lowering it reaches the
// living one of many addresses sooner.
const firstAttempt = 1200 * time.Millisecond

// resolve finds the target's addresses. It has a DialTimeout of its own. Name servers are not asked
// for a name that is blocked: it has no addresses, and will get no slot.
func (f *flow) resolve() (addrs resolve.Addrs, err error) {
	s := f.srv
	if f.target.Addr.IsValid() {
		return addrs, nil
	}
	addrs, known := s.resolver.Remembered(f.target.Host)
	if !known && !s.blocks(f.target) {
		began := time.Now()
		addrs, err = s.lookup((*waiting)(f), f.target.Host)
		f.lookupTime = time.Since(began)
	}
	return addrs, err
}

func (s *Server) lookup(ctx context.Context, host string) (resolve.Addrs, error) {
	ctx, cancel := context.WithTimeout(ctx, s.policy.Load().DialTimeout)
	defer cancel()
	addrs, err := s.resolver.Lookup(ctx, host)
	var dns *net.DNSError
	switch {
	case err == nil || errors.As(err, &dns):
		return addrs, err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return addrs, &net.DNSError{Err: err.Error(), Name: host, IsTimeout: true}
	}
	return addrs, &net.DNSError{Err: err.Error(), Name: host}
}

// dial connects to the first of the target's addresses that is allowed and answers. One address is
// tried at a time: two at once could both be connections that the upstream counts, on one slot. All
// share the policy's DialTimeout: each has a short time at first, and those that did not answer
// divide what is left.
func (f *flow) dial(addrs resolve.Addrs) error {
	s, policy := f.srv, f.srv.policy.Load()
	deadline := f.since.Add(policy.DialTimeout)
	if f.target.Addr.IsValid() {
		addr := netip.AddrPortFrom(f.target.Addr.Unmap(), f.target.Port)
		if err := s.forbids(policy, addr); err != nil {
			return err
		}
		return f.connect(addr, deadline)
	}
	if addrs.Expired(f.since) { // while waiting for the slot
		if fresh, known := s.resolver.Remembered(f.target.Host); known {
			addrs = fresh
		}
	}
	var space [8]netip.AddrPort
	list, err := s.candidates(space[:0], policy, &addrs, f.target.Port, f.since)
	for first := true; len(list) > 0; first = false {
		silent := list[:0]
		for i, addr := range list {
			left := len(list) - i
			err = f.connect(addr, attemptEnd(time.Now(), deadline, left, first && left+len(silent) > 1))
			if err == nil {
				s.failed.forget(addr)
				return nil
			}
			if f.endCause() != nil {
				return err
			}
			now := time.Now()
			if !isExhausted(err) {
				s.failed.add(addr, now)
			}
			if !now.Before(deadline) {
				return err
			}
			if isTimeout(err) {
				silent = append(silent, addr)
			}
		}
		list = silent
	}
	return err
}

// candidates appends the addresses that may be dialled to dst: those that have failed lately last.
// The error is why none may, where none may: that they lead in a loop, if any does.
func (s *Server) candidates(dst []netip.AddrPort, p *Policy, addrs *resolve.Addrs, port uint16, now time.Time) ([]netip.AddrPort, error) {
	failed, none := 0, errProhibited
	take := func(addr netip.AddrPort) {
		switch why := s.forbids(p, addr); why {
		case nil:
			dst = append(dst, addr)
		case errLoop:
			none = why
		}
	}
	for i := range addrs.Len() {
		if addr := netip.AddrPortFrom(addrs.At(i), port); s.failed.has(addr, now) {
			failed++
		} else {
			take(addr)
		}
	}
	for i := 0; failed > 0 && i < addrs.Len(); i++ {
		if addr := netip.AddrPortFrom(addrs.At(i), port); s.failed.has(addr, now) {
			take(addr)
		}
	}
	return dst, none
}

// attemptEnd is when the next of n addresses must have answered: each has an equal share of the
// time until deadline, and in a brief round at most firstAttempt.
func attemptEnd(now, deadline time.Time, n int, brief bool) time.Time {
	share := deadline.Sub(now) / time.Duration(n)
	if brief {
		share = min(share, firstAttempt)
	}
	return now.Add(share)
}

// connect connects to one address, which is allowed, and makes the connection the flow's. A dial
// that is given up resets: the upstream may have accepted already, and after a FIN it might count
// the connection for as long as it likes.
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
	return newDialError(addr, err)
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

// lowestEphemeral is the lowest port that the kernel could be set to give to a connection that asks
// for none.
const lowestEphemeral = 1024

// notItself is what connecting to addr has come to: a connection to itself counts as refused. TCP
// allows it: a socket that connects to a port of its own machine where nobody listens may be given
// just that port.
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
