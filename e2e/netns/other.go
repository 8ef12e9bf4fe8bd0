//go:build !linux

package netns

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Space, Network and Member can't be made but on Linux.
type (
	Space   struct{}
	Network struct{}
	Member  struct{ Space }
)

// Missing says that all is.
func Missing() error { return ErrUnavailable }

// NewSpace fails, as all else does here.
func NewSpace() (*Space, error) { return nil, ErrUnavailable }

// NewNetwork fails.
func NewNetwork(...string) (*Network, error) { return nil, ErrUnavailable }

// Close fails.
func (*Space) Close() error { return ErrUnavailable }

// Path is empty.
func (*Space) Path() string { return "" }

// Enter is empty.
func (*Space) Enter() []string { return nil }

// Do fails.
func (*Space) Do(func() error) error { return ErrUnavailable }

// Configure fails.
func (*Space) Configure(...string) error { return ErrUnavailable }

// Redirect fails.
func (*Space) Redirect(int, int) error { return ErrUnavailable }

// DialContext fails.
func (*Space) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, ErrUnavailable
}

// DialBy fails.
func (*Space) DialBy(context.Context, *net.Dialer, string, string) (net.Conn, error) {
	return nil, ErrUnavailable
}

// Close fails.
func (*Network) Close() error { return ErrUnavailable }

// Member finds none.
func (*Network) Member(string) *Member { return nil }

// Set fails.
func (*Network) Set(...Fault) error { return ErrUnavailable }

// Slow fails.
func (*Network) Slow(time.Duration, ...string) (how string, err error) { return "", ErrUnavailable }

// Fast fails.
func (*Network) Fast(...string) error { return ErrUnavailable }

// Addr is the zero address.
func (*Member) Addr() netip.Addr { return netip.Addr{} }

// AddAddr fails.
func (*Member) AddAddr() (netip.Addr, error) { return netip.Addr{}, ErrUnavailable }

// OpenTo fails.
func (*Member) OpenTo(netip.Addr) (count int, err error) { return 0, ErrUnavailable }
