package proxy

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/sock"
)

// Errors that mean that this machine has run out of something; the destination is not at fault.

// dialError is the failure to connect to one address.
type dialError struct {
	addr netip.AddrPort
	err  error
}

func (e *dialError) Error() string { return fmt.Sprintf("connect to %v: %v", e.addr, e.err) }

func (e *dialError) Unwrap() error { return e.err }

// newDialError distinguishes the two meanings of EADDRNOTAVAIL: all local ports for connections to
// the address are taken, or the machine has no source address to reach it from (typically no IPv6).
// The second becomes ENETUNREACH.
func newDialError(addr netip.AddrPort, err error) error {
	if errors.Is(err, unix.EADDRNOTAVAIL) && !sock.HasSource(addr) {
		err = unix.ENETUNREACH
	}
	return &dialError{addr, err}
}

// isExhausted reports whether err is this machine's fault rather than the peer's.
func isExhausted(err error) bool { return exhausted(err) != "" }

// exhausted names the resource that is used up and the remedy, or returns "" if err has another
// cause.
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

// dialledAddr returns the address that could not be dialled.
func dialledAddr(err error) string {
	var dial *dialError
	if errors.As(err, &dial) {
		return dial.addr.String()
	}
	return "the destination"
}

// refuseExhausted invites a retry: it may succeed in a moment, or through another node.
func refuseExhausted(what string) *refusal {
	return &refusal{reason: reasonExhausted, details: what, retryAfter: retryAfter}
}
