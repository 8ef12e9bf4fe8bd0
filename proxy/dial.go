package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/resolve"
	"github.com/weirproxy/weir/proxy/sock"
)

// A name is resolved before anything is acquired, so that a slow name server holds no slot. If the
// answer expires in the queue, a fresher one is used if known. Addresses that failed in the last
// 30 s come last. Each address gets a short time at first; those that did not answer divide the
// rest. So a living address is found behind several dead ones, and a slow one is found too.
//
// The lease may end while dialling. Then the answer is 503 (fenced) or reject_status (evicted),
// because there is no connection to reset yet. Later, both sides are reset.

// Resolver finds the addresses of names. Names are absolute, in lower case and without the final
// dot.
type Resolver interface {
	// Remembered returns a name's addresses if they are known without asking a server.
	Remembered(name string) (resolve.Addrs, bool)
	// Lookup asks for a name's addresses, unless they are known. Its error is a [*net.DNSError] or
	// ctx's.
	Lookup(ctx context.Context, name string) (resolve.Addrs, error)
}

// firstAttempt bounds the first attempt on an address if there are others. It leaves time to
// retransmit one lost packet, which takes a second. A higher value gives slow upstreams more time;
// a lower one finds the living one of many addresses sooner.
const firstAttempt = 1200 * time.Millisecond

// resolve finds the target's addresses. It has a DialTimeout of its own, in which the request holds
// no claims. A blocked name is not looked up: the result has no addresses, and connectFor refuses
// it.
func (f *flow) resolve(r *request) (addrs resolve.Addrs, err error) {
	s := f.srv
	if f.target.Addr.IsValid() {
		return addrs, nil
	}
	addrs, known := s.resolver.Remembered(f.target.Host)
	if !known && !s.blocks(f.target) {
		r.giveBack()
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

// dial connects to the first of the target's addresses that is allowed and answers. Addresses are
// tried one at a time, because two attempts at once could both become connections that the upstream
// counts, on one slot. All attempts share the policy's DialTimeout: the first round gives each
// address a short time, and those that did not answer divide the rest.
func (f *flow) dial(addrs resolve.Addrs, now time.Time) error {
	s, policy := f.srv, f.srv.policy.Load()
	deadline := now.Add(policy.DialTimeout)
	if f.target.Addr.IsValid() {
		addr := netip.AddrPortFrom(f.target.Addr.Unmap(), f.target.Port)
		if err := s.forbids(policy, addr); err != nil {
			return err
		}
		return f.connect(addr, deadline)
	}
	if addrs.Expired(now) { // while waiting for the slot
		if fresh, known := s.resolver.Remembered(f.target.Host); known {
			addrs = fresh
		}
	}
	var space [8]netip.AddrPort
	list, err := s.candidates(space[:0], policy, &addrs, f.target.Port, now)
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

// candidates appends the addresses that may be dialled to dst, those that failed lately last. The
// error is the reason if there are none: errLoop if any of them is a loop.
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

// attemptEnd returns the deadline for the next of n addresses. Each has an equal share of the time
// left, and in a brief round at most firstAttempt.
func attemptEnd(now, deadline time.Time, n int, brief bool) time.Time {
	share := deadline.Sub(now) / time.Duration(n)
	if brief {
		share = min(share, firstAttempt)
	}
	return now.Add(share)
}

// connect connects to one address, which must be allowed, and gives the connection to the flow. An
// abandoned dial is reset: the upstream may have accepted it, and after a FIN the upstream could
// count the connection for as long as it likes. The lease may have ended since the last attempt, or
// while the request waited for its token: then no connection is begun.
func (f *flow) connect(addr netip.AddrPort, deadline time.Time) error {
	if err := f.mayDial(); err != nil {
		return err
	}
	family, peer, err := sock.Sockaddr(addr)
	var up *sock.Conn
	var own *netip.AddrPort
	if f.client != nil {
		own = f.client.bound
	}
	connected := false
	if err == nil {
		up, connected, err = sock.Dial(family, peer, addr, own, &f.srv.buffers)
	}
	if err == nil && !connected {
		err = f.awaitConnect(up, peer, addr, own, deadline)
	}
	if err == nil {
		return f.connected(up, addr.Addr())
	}
	if up != nil {
		up.Reset()
	}
	return newDialError(addr, err)
}

// mayDial reports whether the flow may connect now.
func (f *flow) mayDial() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.checkLive()
}

// awaitConnect waits until the connection is established or fails, the deadline passes, or the flow
// is aborted.
func (f *flow) awaitConnect(up *sock.Conn, peer unix.Sockaddr, addr netip.AddrPort, own *netip.AddrPort, deadline time.Time) error {
	f.mu.Lock()
	if f.cause.Load() != nil {
		defer f.mu.Unlock()
		return f.endCause()
	}
	f.dialling = up
	up.SetWriteDeadline(deadline)
	f.watchSoon()
	f.mu.Unlock()

	err := up.FinishConnect(peer, addr, own)

	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialling = nil
	switch {
	case f.cause.Load() != nil:
		return f.endCause()
	case err == nil:
		up.SetWriteDeadline(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return unix.ETIMEDOUT
	}
	return err
}
