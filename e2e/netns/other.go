//go:build !linux

package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

var errNotLinux = errors.New("network namespaces need Linux")

// Space, Network and Member exist on Linux only.
type (
	Space   struct{}
	Network struct{}
	Member  struct{ Space }
)

func Missing() error                                   { return errNotLinux }
func NewSpace() (*Space, error)                        { return nil, errNotLinux }
func NewNetwork(...string) (*Network, error)           { return nil, errNotLinux }
func (*Space) Close() error                            { return errNotLinux }
func (*Space) Path() string                            { return "" }
func (*Space) Do(func() error) error                   { return errNotLinux }
func (*Network) Close() error                          { return errNotLinux }
func (*Network) Member(string) *Member                 { return nil }
func (*Network) Set(...Fault) error                    { return errNotLinux }
func (*Member) Addr() netip.Addr                       { return netip.Addr{} }
func (*Member) AddAddr() (netip.Addr, error)           { return netip.Addr{}, errNotLinux }
func (*Member) OpenTo(netip.Addr) (count int, _ error) { return 0, errNotLinux }

func (*Space) DialContext(context.Context, string, string) (net.Conn, error) { return nil, errNotLinux }
