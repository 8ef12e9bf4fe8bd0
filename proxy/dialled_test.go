package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// The proxy recognises its connection by the local end, while it is open and for a moment after a
// reset.
func TestDialled(t *testing.T) {
	w := newWorld(t, 0)
	u := newUpstream(t, nil)
	ends := func(p *peer) netip.AddrPort { return p.RemoteAddr().(*net.TCPAddr).AddrPort() }
	check := func(what string, at netip.AddrPort, want bool) {
		t.Helper()
		if got := w.Dialled(at, netip.MustParseAddrPort(u.addr)); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}

	tunnel := w.connect(u.addr)
	far := u.accept()
	check("a tunnel", ends(far), true)
	check("a tunnel, as IPv6", netip.AddrPortFrom(netip.AddrFrom16(ends(far).Addr().As16()), ends(far).Port()), true)
	check("another port", netip.AddrPortFrom(ends(far).Addr(), ends(far).Port()^1), false)
	check("another machine", netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), ends(far).Port()), false)
	check("the client's end", tunnel.LocalAddr().(*net.TCPAddr).AddrPort(), false)

	plain := w.dial()
	plain.send(get(u, "/", ""))
	asked := u.accept()
	asked.readHead()
	check("a request", ends(asked), true)
	asked.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	plain.response("GET")
	check("a connection kept for reuse", ends(asked), true)

	tunnel.reset()
	far.expectReset()
	check("a tunnel that was reset", ends(far), true)

	direct, err := net.Dial("tcp", u.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	check("a connection that is not the proxy's", ends(u.accept()), false)
}

func TestResetLog(t *testing.T) {
	var l resetLog
	now := time.Unix(1000, 0)
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
	}
	for i := range maxResets {
		l.add(at(i), now)
	}
	for i, want := range map[int]bool{0: true, maxResets - 1: true, maxResets: false} {
		if l.has(at(i), now.Add(resetsFor)) != want {
			t.Errorf("connection %d: not %v", i, want)
		}
	}
	if l.has(at(0), now.Add(resetsFor+1)) {
		t.Error("a reset is remembered for too long")
	}
	l.add(at(maxResets), now.Add(1))
	if !l.has(netip.MustParseAddrPort("203.0.113.7:1"), now.Add(resetsFor+1)) {
		t.Error("once some were forgotten too early, any connection may be one of them")
	}
	if l.has(at(0), now.Add(2*resetsFor)) || len(l.list) > maxResets {
		t.Errorf("%d are remembered", len(l.list))
	}
	l.add(at(0), now.Add(3*resetsFor))
	if len(l.list) != 1 {
		t.Errorf("%d are remembered that are old", len(l.list)-1)
	}
}
