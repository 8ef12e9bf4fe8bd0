//go:build linux

package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
)

// Network is some members on one bridge.
type Network struct {
	hub     *Space
	members map[string]*Member
}

// Member is one host of a network, reached by the others at its addresses.
type Member struct {
	*Space
	name  string
	index int

	mu    sync.Mutex
	addrs int // given so far
}

// NewNetwork makes a network of members, who all reach each other. Names are short: at most 12 bytes.
func NewNetwork(names ...string) (*Network, error) {
	hub, err := NewSpace()
	if err != nil {
		return nil, err
	}
	n := &Network{hub: hub, members: map[string]*Member{}}
	if err := n.build(names); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) build(names []string) error {
	// A bridge that learns at once and speaks to nobody on its own.
	if err := n.hub.run("link add name hub type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set hub up\n",
		"ip", "-batch", "-"); err != nil {
		return err
	}
	if err := n.hub.run("add table bridge faults\nadd chain bridge faults forward { type filter hook forward priority 0; policy accept; }\n",
		"nft", "-f", "-"); err != nil {
		return err
	}
	for i, name := range names {
		if err := n.add(name, i+1); err != nil {
			return fmt.Errorf("member %s: %w", name, err)
		}
	}
	return nil
}

func (n *Network) add(name string, index int) error {
	space, err := NewSpace()
	if err != nil {
		return err
	}
	m := &Member{Space: space, name: name, index: index}
	n.members[name] = m
	err = n.hub.run(fmt.Sprintf("link add name %[1]s type veth peer name eth0 netns %[2]s\nlink set %[1]s master hub\nlink set %[1]s up\n",
		port(name), space.Path()), "ip", "-batch", "-")
	if err != nil {
		return err
	}
	if err := space.run("link set lo up\nlink set eth0 up\n", "ip", "-batch", "-"); err != nil {
		return err
	}
	_, err = m.AddAddr()
	return err
}

// Close lets the namespaces go.
func (n *Network) Close() error {
	errs := []error{n.hub.Close()}
	for _, m := range n.members {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Member finds a member by its name; nil if there is none.
func (n *Network) Member(name string) *Member { return n.members[name] }

// Addr is the member's first address, which its connections come from.
func (m *Member) Addr() netip.Addr { return m.addr(1) }

func (m *Member) addr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(m.index), byte(i)})
}

// AddAddr gives the member one more address, up to 254.
func (m *Member) AddAddr() (netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.addrs == 254 {
		return netip.Addr{}, fmt.Errorf("member %s has all its addresses", m.name)
	}
	addr := m.addr(m.addrs + 1)
	if err := m.run("", "ip", "addr", "add", addr.String()+"/16", "dev", "eth0"); err != nil {
		return netip.Addr{}, err
	}
	m.addrs++
	return addr, nil
}

// OpenTo counts the member's TCP sockets to addr whose connection has not ended on the member's side.
func (m *Member) OpenTo(addr netip.Addr) (count int, err error) {
	err = m.Do(func() error {
		table, err := os.ReadFile("/proc/thread-self/net/tcp")
		if err == nil {
			count, err = countTo(string(table), addr)
		}
		return err
	})
	return count, err
}

// Set replaces the faults of the network, all at once; with none, it heals.
func (n *Network) Set(faults ...Fault) error {
	var script strings.Builder
	script.WriteString("flush chain bridge faults forward\n")
	for _, f := range faults {
		for _, name := range slices.Concat(f.From, f.To) {
			if n.members[name] == nil {
				return fmt.Errorf("a fault names %q, which is no member", name)
			}
		}
		for _, rule := range f.rules() {
			script.WriteString("add rule bridge faults forward " + rule + "\n")
		}
	}
	return n.hub.run(script.String(), "nft", "-f", "-")
}
