package proxy

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestForbidden(t *testing.T) {
	f := newForbidden(Ports{
		At:         []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:8082"), netip.MustParseAddrPort("[::ffff:10.0.0.3]:8083"), netip.MustParseAddrPort("[fe80::1%eth0]:8083")},
		Everywhere: []uint16{8081, 8082},
	})
	asked := 0
	f.addrs = func() ([]net.Addr, error) {
		asked++
		return []net.Addr{&net.IPNet{IP: net.ParseIP("192.0.2.1"), Mask: net.CIDRMask(24, 32)}, &net.IPNet{IP: net.ParseIP("2001:db8::1"), Mask: net.CIDRMask(64, 128)}}, nil
	}
	for addr, want := range map[string]bool{
		"10.0.0.2:8082": true, "[::ffff:10.0.0.2]:8082": true, "10.0.0.2:8083": false, "10.0.0.3:8083": true, "10.0.0.3:8082": false,
		"[fe80::1%eth1]:8083": true, "127.0.0.1:8081": true, "127.9.9.9:8082": true, "[::1]:8081": true, "127.0.0.1:8080": false,
		"192.0.2.1:8081": true, "192.0.2.2:8081": false, "192.0.2.1:80": false, "[2001:db8::1]:8082": true, "[2001:db8::2]:8082": false,
		"[::ffff:127.0.0.1]:8081": true,
	} {
		if got := f.has(netip.MustParseAddrPort(addr)); got != want {
			t.Errorf("%s: %t", addr, got)
		}
	}
	if asked != 1 {
		t.Errorf("the machine's addresses were asked for %d times", asked)
	}
	f.addrs = func() ([]net.Addr, error) { return nil, errors.New("no") }
	if !f.isOwn(netip.MustParseAddr("192.0.2.2"), time.Now().Add(2*ownAddrsFor)) {
		t.Error("an address of which nothing is known is taken for another's")
	}
	if newForbidden(Ports{}).has(netip.MustParseAddrPort("127.0.0.1:1")) {
		t.Error("nothing is forbidden, but something is")
	}
}

// A port of the cluster's is out of reach by address and by name; others of the same machine are not.
func TestForbiddenPortsAreNotDialled(t *testing.T) {
	own, other := newUpstream(t, nil), newUpstream(t, echo)
	at := netip.MustParseAddrPort(own.addr)
	w := newWorld(t, 0, names(resolver{"own.test": []netip.Addr{at.Addr()}}))
	w.SetForbidden(Ports{At: []netip.AddrPort{at}})
	_, port, _ := net.SplitHostPort(own.addr)
	for _, target := range []string{own.addr, "own.test:" + port, "[::ffff:127.0.0.1]:" + port, "0x7f000001:" + port, "127.1:" + port} {
		p := w.dial()
		p.send("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
		p.refused("CONNECT", 502, "destination_ip_prohibited")
	}
	w.connect(other.addr)
	w.SetForbidden(Ports{Everywhere: []uint16{at.Port()}})
	p := w.dial()
	p.send("GET http://" + own.addr + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
	p.refused("GET", 502, "destination_ip_prohibited")
	if n := own.all.Load(); n != 0 {
		t.Errorf("%d connections came through", n)
	}
	w.SetForbidden(Ports{})
	w.connect(own.addr)
}

// A connection that is kept for reuse ends when its upstream's address turns out to be the cluster's own.
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
	w.SetForbidden(Ports{At: []netip.AddrPort{netip.MustParseAddrPort(u.addr)}})
	q.expectEOF()
	q.Close()
	eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
}
