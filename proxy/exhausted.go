package proxy

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// What this machine has run out of, rather than the destination.

// dialError is why one address could not be connected to.
type dialError struct {
	addr netip.AddrPort
	err  error
}

func (e *dialError) Error() string { return fmt.Sprintf("connect to %v: %v", e.addr, e.err) }

func (e *dialError) Unwrap() error { return e.err }

// newDialError tells apart the two things that EADDRNOTAVAIL means: that all local ports for
// connections to the address are taken, and that the machine has no address of its own to reach it
// from, such as one of IPv6.
func newDialError(addr netip.AddrPort, err error) error {
	if errors.Is(err, unix.EADDRNOTAVAIL) && !hasSource(addr) {
		err = unix.ENETUNREACH
	}
	return &dialError{addr, err}
}

// hasSource reports whether the machine has an address to reach another one from. Connecting a UDP
// socket finds that out and sends nothing; its ports are not those of TCP.
func hasSource(addr netip.AddrPort) bool {
	family, peer, err := sockaddr(addr)
	if err != nil {
		return false
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return true // unknown: then what the kernel says of the connection is passed on
	}
	defer unix.Close(fd)
	return unix.Connect(fd, peer) == nil
}

// isExhausted reports whether err is about this machine, not about the peer.
func isExhausted(err error) bool { return exhausted(err) != "" }

// exhausted says what the machine has run out of, and what helps; "" where err is about something
// else.
func exhausted(err error) string {
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return "no local port is left for connections to " + dialledAddr(err) +
			": widen the machine's range of local ports (net.ipv4.ip_local_port_range), or lower the destination's limit"
	case errors.Is(err, unix.EMFILE):
		return "the proxy has no file descriptor left: raise its limit (LimitNOFILE, ulimit -n)"
	case errors.Is(err, unix.ENFILE):
		return "the proxy's machine has no file descriptor left: raise fs.file-max"
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
		return "the proxy's machine has no memory left for sockets"
	}
	return ""
}

// dialledAddr is the address that an error of dialling is about.
func dialledAddr(err error) string {
	var dial *dialError
	if errors.As(err, &dial) {
		return dial.addr.String()
	}
	return "the destination"
}

// refuseExhausted answers what may work again in a moment, or through another node.
func refuseExhausted(what string) *refusal {
	return &refusal{reasonExhausted, what, retryAfter}
}
