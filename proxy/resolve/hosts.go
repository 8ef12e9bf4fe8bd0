package resolve

import (
	"bytes"
	"net/netip"
	"strings"
)

// hosts are the names of a hosts file.
type hosts map[string][]netip.Addr

// parseHosts reads a hosts file (hosts(5)). A line that makes no sense is skipped, as everywhere.
func parseHosts(text []byte) hosts {
	h := hosts{}
	for line := range bytes.Lines(text) {
		line, _, _ := strings.Cut(string(line), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			h.add(strings.ToLower(strings.TrimSuffix(name, ".")), addr.Unmap())
		}
	}
	return h
}

func (h hosts) add(name string, addr netip.Addr) {
	list := h[name]
	if name == "" || len(list) >= 2*maxAddrs {
		return
	}
	for _, known := range list {
		if known == addr {
			return
		}
	}
	h[name] = append(list, addr)
}

// grouped sorts every name's addresses. routed is asked once for each address: a block list has one
// address for thousands of names.
func (h hosts) grouped(routed func(netip.Addr) bool) map[string]*groups {
	known := map[netip.Addr]bool{}
	once := func(addr netip.Addr) bool {
		yes, asked := known[addr]
		if !asked {
			yes = routed(addr)
			known[addr] = yes
		}
		return yes
	}
	out := make(map[string]*groups, len(h))
	for name, list := range h {
		out[name] = group(list, once)
	}
	return out
}
