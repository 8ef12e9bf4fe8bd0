package connlimit

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"testing"
)

// TestClusterClients: what is one client here is one client of the cluster, too, by whatever
// address it comes; and the counters are those of the client.
func TestClusterClients(t *testing.T) {
	for _, test := range []struct{ from, want string }{
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
		{"2001:db8:1:2::", "2001:db8:1:2::"},
		{"2001:db8:ffff:1:2::9", "2001:db8:ffff:1:2::"}, // a Network smaller than a client
		{"192.0.2.77", "192.0.2.64"},
		{"::ffff:192.0.2.77", "192.0.2.64"},
		{"fe80::1:2:3:4%eth0", "fe80::1:2:3:4%eth0"},
		{"fe80::1:2:3:4", "fe80::1:2:3:4"},
	} {
		f := &fleet{slots: 1}
		config := clustered(f, Limits{Networks: []Network{{Prefix: netip.MustParsePrefix("2001:db8:ffff:1:2::/80")}}})
		config.IPv4Prefix, config.ClusterKey = 26, ""
		l := newLimiter(t, config)
		slot := admit(t, l, &conn{remote: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(test.from), 4711))})
		if !slices.Equal(f.asked, []string{test.want + " "}) {
			t.Errorf("for %s the cluster was asked for %q; want %s", test.from, f.asked, test.want)
		}
		f.lose()
		if s := l.Stats().Connections; s.Lost != 1 {
			t.Errorf("%s: %+v; want 1 lost", test.from, s)
		}
		slot.Free()
	}
}

// TestClusterExemptsProxies: the connections of trusted proxies are under the key's limits alone,
// also in the cluster; requests are those of their clients, or the proxy's own.
func TestClusterExemptsProxies(t *testing.T) {
	f := &fleet{slots: 10}
	config := clustered(f, Limits{Networks: []Network{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}}})
	config.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	l := newLimiter(t, config)
	admit(t, l, from("10.0.0.1"))
	admit(t, l, from("10.1.0.1"))
	admit(t, l, from("192.0.2.1"))
	config.ClusterRequests = true
	if err := l.SetConfig(config); err != nil {
		t.Fatal(err)
	}
	h := l.Handler(http.NotFoundHandler())
	request(h, "10.0.0.1:1", "X-Forwarded-For", "198.51.100.1")
	request(h, "10.0.0.1:1")
	want := []string{"invalid IP web", "invalid IP web", "192.0.2.1 web", "198.51.100.1 web", "10.0.0.1 web"}
	if !slices.Equal(f.asked, want) {
		t.Errorf("the cluster was asked for %q; want %q", f.asked, want)
	}
}

// closeCounter counts how often it is closed.
type closeCounter struct {
	net.Conn
	closes int
}

func (c *closeCounter) RemoteAddr() net.Addr { return from("192.0.2.1").RemoteAddr() }
func (c *closeCounter) Close() error         { c.closes++; return nil }

// TestClusterLosesNothingAfterTheEnd: a cluster may say late that a slot is lost. If it was given
// back before, nothing is lost, and the connection, which may be another's by now, is left alone.
func TestClusterLosesNothingAfterTheEnd(t *testing.T) {
	f := &fleet{slots: 1}
	l := newLimiter(t, clustered(f, Limits{}))
	c := &closeCounter{}
	admit(t, l, c).Free()
	f.lose()
	if s := l.Stats().Connections; s.Lost != 0 || c.closes != 0 {
		t.Errorf("%+v, closed %d times; want none lost, and the connection left alone", s, c.closes)
	}
	admit(t, l, c)
	f.lose()
	if s := l.Stats().Connections; s.Lost != 1 || c.closes != 1 {
		t.Errorf("%+v, closed %d times; want one lost, and its connection closed", s, c.closes)
	}
}

// TestClusterAnswersAfterTheEnd: a connection may end while the cluster is asked. Its slot there
// goes back, and is nobody's loss, either.
func TestClusterAnswersAfterTheEnd(t *testing.T) {
	f := &fleet{slots: 1}
	l := newLimiter(t, clustered(f, Limits{}))
	c := &closeCounter{}
	slot, err := l.conns.take(addrOf(c), 0)
	if err != nil {
		t.Fatal(err)
	}
	slot.Free()
	if err := l.holdWithin(closing(c), l.conns, l.current(), slot, addrOf(c)); err != nil {
		t.Fatal(err)
	}
	f.lose()
	if s := l.Stats().Connections; s.Lost != 0 || c.closes != 0 || f.free() != 1 {
		t.Errorf("%+v, closed %d times, %d slots free in the cluster; want none lost, and one free", s, c.closes, f.free())
	}
}
