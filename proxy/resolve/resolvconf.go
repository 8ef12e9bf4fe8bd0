package resolve

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// The bounds of resolv.conf, which are those of resolv.conf(5).
const (
	maxServers  = 3
	maxTimeout  = 30 * time.Second
	maxAttempts = 5
)

// resolvConf is the part of resolv.conf(5) that matters for absolute names: search, domain and
// ndots don't.
type resolvConf struct {
	nameservers []netip.Addr
	timeout     time.Duration // of one query to one server
	attempts    int           // at each server
	rotate      bool          // begin with another server for each lookup
	useTCP      bool
	noAAAA      bool
}

// parseResolvConf reads a resolv.conf. Unknown options and lines that make no sense are skipped.
// Without a server it names those of the machine itself.
func parseResolvConf(text []byte) resolvConf {
	c := resolvConf{timeout: 5 * time.Second, attempts: 2}
	for line := range bytes.Lines(text) {
		if i := bytes.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if addr, err := netip.ParseAddr(fields[1]); err == nil && len(c.nameservers) < maxServers {
				c.nameservers = append(c.nameservers, addr)
			}
		case "options":
			for _, option := range fields[1:] {
				c.option(option)
			}
		}
	}
	if len(c.nameservers) == 0 {
		c.nameservers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return c
}

func (c *resolvConf) option(option string) {
	name, value, _ := strings.Cut(option, ":")
	n, err := strconv.Atoi(value)
	switch {
	case name == "timeout" && err == nil:
		c.timeout = time.Duration(min(max(n, 1), int(maxTimeout/time.Second))) * time.Second
	case name == "attempts" && err == nil:
		c.attempts = min(max(n, 1), maxAttempts)
	case option == "rotate":
		c.rotate = true
	case option == "use-vc":
		c.useTCP = true
	case option == "no-aaaa":
		c.noAAAA = true
	}
}
