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
	"time"
)

const (
	linksWithin = 10 * time.Second
	linksPoll   = 10 * time.Millisecond
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

// NewNetwork makes a network of members, who all reach each other. Names are short: at most 12
// bytes.
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
	if err := n.hub.ip("link add name hub type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set hub up"); err != nil {
		return err
	}
	if err := n.hub.nft("add table bridge faults",
		"add chain bridge faults forward { type filter hook forward priority 0; policy accept; }"); err != nil {
		return err
	}
	for i, name := range names {
		if err := n.add(name, i+1); err != nil {
			return fmt.Errorf("member %s: %w", name, err)
		}
	}
	return n.awaitLinks()
}

func (n *Network) add(name string, index int) error {
	space, err := NewSpace()
	if err != nil {
		return err
	}
	m := &Member{Space: space, name: name, index: index}
	n.members[name] = m
	if err := n.hub.ip(
		fmt.Sprintf("link add name %s type veth peer name eth0 netns %s", port(name), space.Path()),
		fmt.Sprintf("link set %s master hub", port(name)),
		fmt.Sprintf("link set %s up", port(name)),
	); err != nil {
		return err
	}
	if err := m.ip("link set lo up", "link set eth0 up"); err != nil {
		return err
	}
	_, err = m.AddAddr()
	return err
}

// awaitLinks waits until every link carries frames: the kernel notices that both ends are up within
// a second.
func (n *Network) awaitLinks() error {
	deadline := time.Now().Add(linksWithin)
	for tick := time.Tick(linksPoll); ; <-tick {
		waiting, err := n.waiting()
		if err != nil || waiting == "" {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not up within %v", waiting, linksWithin)
		}
	}
}

// waiting names something that does not carry frames yet; "" if all do.
func (n *Network) waiting() (string, error) {
	ports, err := n.hub.run("", "ip", "-oneline", "-details", "link", "show", "master", "hub")
	if err != nil {
		return "", err
	}
	if strings.Count(ports, " state forwarding ") < len(n.members) {
		return "the bridge", nil
	}
	for name, m := range n.members {
		link, err := m.run("", "ip", "-oneline", "link", "show", "eth0")
		if err != nil {
			return "", err
		}
		if !strings.Contains(link, " state UP ") {
			return "member " + name, nil
		}
	}
	return "", nil
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
	if err := m.ip("addr add " + addr.String() + "/16 dev eth0"); err != nil {
		return netip.Addr{}, err
	}
	m.addrs++
	return addr, nil
}

// OpenTo counts the member's TCP sockets to addr whose connection has not ended on the member's
// side.
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
	script := []string{"flush chain bridge faults forward"}
	for _, f := range faults {
		for _, name := range slices.Concat(f.From, f.To) {
			if n.members[name] == nil {
				return fmt.Errorf("a fault names %q, which is no member", name)
			}
		}
		for _, rule := range f.rules() {
			script = append(script, "add rule bridge faults forward "+rule)
		}
	}
	return n.hub.nft(script...)
}

// Slow makes the links to some members slow, and tells how: by delay where the kernel has netem,
// else by a narrow link, whose queue holds packets up for as long as delay, and drops what does not
// fit.
func (n *Network) Slow(delay time.Duration, members ...string) (how string, err error) {
	netem := fmt.Sprintf("netem delay %dms %dms", delay.Milliseconds(), delay.Milliseconds()/2)
	narrow := fmt.Sprintf("tbf rate %s burst 2k latency %dms", narrowRate, delay.Milliseconds())
	for _, name := range members {
		if n.members[name] == nil {
			return "", fmt.Errorf("%q, to be slow, is no member", name)
		}
		how = netem
		if n.shape(name, netem) == nil {
			continue
		}
		how = narrow
		if err := n.shape(name, narrow); err != nil {
			return "", err
		}
	}
	return how, nil
}

// narrowRate is what gets through a narrow link: less than a node of a busy cluster is sent, at
// times.
const narrowRate = "96kbit"

func (n *Network) shape(member, how string) error {
	_, err := n.hub.run("", "tc", append([]string{"qdisc", "replace", "dev", port(member), "root"}, strings.Fields(how)...)...)
	return err
}

// Fast undoes Slow.
func (n *Network) Fast(members ...string) error {
	for _, name := range members {
		if _, err := n.hub.run("", "tc", "qdisc", "del", "dev", port(name), "root"); err != nil {
			return err
		}
	}
	return nil
}
