package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/weirproxy/weir/limit"
)

func addrPorts(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestForbidden(t *testing.T) {
	local := map[string]bool{"127.0.0.1": true, "127.9.9.9": true, "::1": true, "192.0.2.1": true, "10.9.0.7": true, "2001:db8::1": true}
	asked := 0
	f := newForbidden(Ports{
		Nodes: Listeners{
			At:         addrPorts("10.0.0.2:8082", "[::ffff:10.0.0.3]:8083", "[fe80::1%eth0]:8083", "10.0.0.4:8084"),
			Everywhere: []uint16{8081, 8082},
		},
		Proxies: Listeners{
			At:         addrPorts("10.0.0.2:8080", "[fd00::2]:8080", "10.0.0.4:8084"),
			Everywhere: []uint16{8080, 8082},
		},
	}, func(addr netip.AddrPort) bool {
		asked++
		return local[addr.Addr().String()]
	})
	for addr, want := range map[string]error{
		"10.0.0.2:8082": errProhibited, "[::ffff:10.0.0.2]:8082": errProhibited, "10.0.0.2:8083": nil, "10.0.0.3:8083": errProhibited,
		"10.0.0.3:8082": nil, "[fe80::1%eth1]:8083": errProhibited, "127.0.0.1:8081": errProhibited, "127.9.9.9:8082": errProhibited,
		"[::1]:8081": errProhibited, "127.0.0.1:8090": nil, "192.0.2.1:8081": errProhibited, "192.0.2.2:8081": nil, "192.0.2.1:80": nil,
		"[2001:db8::1]:8082": errProhibited, "[2001:db8::2]:8082": nil, "[::ffff:127.0.0.1]:8081": errProhibited, "10.9.0.7:8081": errProhibited,
		"10.0.0.2:8080": errLoop, "[fd00::2]:8080": errLoop, "[fd00::2]:8082": nil, "127.0.0.1:8080": errLoop, "10.9.0.7:8080": errLoop,
		"[::ffff:192.0.2.1]:8080": errLoop, "192.0.2.9:8080": nil, "10.0.0.4:8084": errProhibited,
	} {
		if got := f.check(netip.MustParseAddrPort(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	asked = 0
	f.check(netip.MustParseAddrPort("192.0.2.1:443"))
	if asked != 0 {
		t.Error("the kernel was asked about a port on which nobody listens everywhere")
	}
	if err := newForbidden(Ports{}, nil).check(netip.MustParseAddrPort("127.0.0.1:1")); err != nil {
		t.Errorf("nothing is forbidden, but: %v", err)
	}
}

// Setting the same ports again, in any order, changes nothing.
func TestForbiddenIsCompared(t *testing.T) {
	w := newWorld(t, 0)
	p := Ports{Nodes: Listeners{At: addrPorts("10.0.0.2:1", "10.0.0.3:1"), Everywhere: []uint16{1, 2}}}
	w.SetForbidden(p)
	before := w.forbidden.Load()
	w.SetForbidden(Ports{Nodes: Listeners{At: addrPorts("10.0.0.3:1", "10.0.0.2:1", "10.0.0.2:1"), Everywhere: []uint16{2, 1}}})
	if w.forbidden.Load() != before {
		t.Error("the same ports were set anew")
	}
	for _, other := range []Ports{{}, {Proxies: p.Nodes}, {Nodes: Listeners{At: p.Nodes.At}}, {Nodes: Listeners{Everywhere: p.Nodes.Everywhere}}} {
		w.SetForbidden(p)
		before := w.forbidden.Load()
		w.SetForbidden(other)
		if w.forbidden.Load() == before {
			t.Errorf("%v were not set", other)
		}
	}
}

// A port of the cluster can't be reached by address or by name; other ports of the machine can.
func TestForbiddenPortsAreNotDialled(t *testing.T) {
	own, other := newUpstream(t, nil), newUpstream(t, echo)
	at := netip.MustParseAddrPort(own.addr)
	w := newWorld(t, 0, names(resolver{"own.test": []netip.Addr{at.Addr()}}))
	w.SetForbidden(Ports{Nodes: Listeners{At: []netip.AddrPort{at}}})
	_, port, _ := net.SplitHostPort(own.addr)
	for _, target := range []string{own.addr, "own.test:" + port, "[::ffff:127.0.0.1]:" + port, "0x7f000001:" + port, "127.1:" + port} {
		p := w.dial()
		p.send("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
		p.refused("CONNECT", 502, "destination_ip_prohibited")
	}
	w.connect(other.addr)
	w.SetForbidden(Ports{Nodes: Listeners{Everywhere: []uint16{at.Port()}}})
	p := w.dial()
	p.send("GET http://" + own.addr + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
	p.refused("GET", 502, "destination_ip_prohibited")
	if n := own.all.Load(); n != 0 {
		t.Errorf("%d connections came through", n)
	}
	w.SetForbidden(Ports{})
	w.connect(own.addr)
}

// A port that turns out to be the cluster's while it is dialled, behind an address that does not
// answer, is refused as one that was known.
func TestForbiddenWhileDialling(t *testing.T) {
	silent := netip.MustParseAddrPort(fullListener(t))
	l, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), silent.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	node := netip.MustParseAddrPort(l.Addr().String())
	w := newWorld(t, 0, names(resolver{"two.test": []netip.Addr{silent.Addr(), node.Addr()}}))
	p := w.dial()
	p.send(fmt.Sprintf("CONNECT two.test:%d HTTP/1.1\r\n\r\n", silent.Port()))
	eventually(t, "the first address is dialled", func() bool { all := w.flows.all(); return len(all) == 1 && isDialling(all[0]) })
	w.SetForbidden(Ports{Nodes: Listeners{At: []netip.AddrPort{node}}})
	p.refused("CONNECT", 502, "destination_ip_prohibited")
}

// A kept connection is closed when its upstream's address turns out to be the cluster's own.
func TestForbiddenPortsAreNotKept(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	p.response("GET")
	eventually(t, "the connection is kept", func() bool { s := w.adm.slots(); return len(s) == 1 && s[0].isParked() })
	w.SetForbidden(Ports{Nodes: Listeners{At: addrPorts(u.addr)}})
	q.expectEOF()
	q.Close()
	eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
}

// A proxy's port is a loop, by address and by name. If a name has other addresses, those are used.
func TestProxyPortsAreLoops(t *testing.T) {
	own, other := newUpstream(t, nil), newUpstream(t, echo)
	at := netip.MustParseAddrPort(own.addr)
	_, port, _ := net.SplitHostPort(own.addr)
	_, otherPort, _ := net.SplitHostPort(other.addr)
	one, two := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	w := newWorld(t, 0, names(resolver{
		"own.test": []netip.Addr{one}, "mixed.test": []netip.Addr{two, one},
		"denied.test": []netip.Addr{netip.MustParseAddr("169.254.1.1"), one},
	}))
	w.SetForbidden(Ports{Proxies: Listeners{At: []netip.AddrPort{at, netip.AddrPortFrom(two, netip.MustParseAddrPort(other.addr).Port())}}})
	for _, target := range []string{own.addr, "own.test:" + port, "[::ffff:127.0.0.1]:" + port, "0x7f000001:" + port, "denied.test:" + port} {
		p := w.dial()
		p.send("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
		p.refused("CONNECT", 502, "proxy_loop_detected")
	}
	p := w.dial()
	p.send("GET http://" + own.addr + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
	p.refused("GET", 502, "proxy_loop_detected")
	if n := own.all.Load(); n != 0 {
		t.Errorf("%d connections came through", n)
	}
	if n := w.Counters().Refusals[RefusedLoop].Load(); n != 6 {
		t.Errorf("%d loops were counted", n)
	}
	w.connect("mixed.test:" + otherPort)
}

// Connections that were made before their port was known as the cluster's own end: tunnels and
// requests at once, kept ones too. Other connections go on.
func TestOpenConnectionsToForbiddenPortsEnd(t *testing.T) {
	own, other := newUpstream(t, nil), newUpstream(t, echo)
	w := newWorld(t, 0)
	tunnel, bystander := w.connect(own.addr), w.connect(other.addr)
	far := own.accept()
	slow := w.dial()
	slow.send(get(own, "/", ""))
	asked := own.accept()
	asked.readHead()
	w.SetForbidden(Ports{Proxies: Listeners{At: addrPorts(own.addr)}})
	for _, p := range []*peer{tunnel, far, slow, asked} {
		p.expectReset()
	}
	bystander.send("hello")
	bystander.expect("hello")
	bystander.Close()
	eventually(t, "the slots are back", func() bool { return w.adm.inUse() == 0 })
}

// A kept connection is looked at again once the policy, or what is known of the cluster's ports,
// has changed.
func TestKeptConnectionIsCheckedAgain(t *testing.T) {
	s := newWorld(t, 0).Server
	at := netip.MustParseAddrPort("127.0.0.1:8080")
	f := &flow{srv: s, plain: new(exchanges), addr: at.Addr(), target: limit.Target{Host: "127.0.0.1", Port: at.Port()}}
	is := func(want error) {
		t.Helper()
		if why := f.forbidden(); why != want {
			t.Fatalf("forbidden: %v, want %v", why, want)
		}
	}
	is(nil)
	is(nil)
	s.SetForbidden(Ports{Proxies: Listeners{At: []netip.AddrPort{at}}})
	is(errLoop)
	is(errLoop)
	s.SetForbidden(Ports{})
	is(nil)
	p := *s.policy.Load()
	p.DenyDestinations = []netip.Prefix{netip.PrefixFrom(at.Addr(), 8)}
	s.policy.Store(&p)
	is(errProhibited)
	is(errProhibited)
}
