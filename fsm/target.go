package fsm

import (
	"errors"
	"net/netip"
)

// Target is a normalised destination: what a worker asked to be connected to.
type Target struct {
	// Host is canonical: lower case, no trailing dot, IDNA as ASCII, IPv6 without
	// brackets, an IPv4 address in dotted decimal however it was written.
	Host string
	// Addr is valid where Host is an address literal.
	Addr netip.Addr
	// Port is 1 to 65535; 0 means "no particular port" when matching.
	Port uint16
}

// ErrHost is wrapped by every error about a host that can't be one.
var ErrHost = errors.New("not a host")

// ParseHost normalises a host without a port.
func ParseHost(s string) (Target, error) { panic("unwritten") }

// ParseTarget normalises "host", "host:port", "[v6]", "[v6]:port"; defaultPort is used where none is given
// (0: a port is required).
func ParseTarget(s string, defaultPort uint16) (Target, error) { panic("unwritten") }

// String is the target with its port, IPv6 in brackets.
func (t Target) String() string { panic("unwritten") }
