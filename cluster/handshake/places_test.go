package handshake

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/cluster/clustertest"
)

// fakeConn is a connection from an address.
type fakeConn struct {
	net.Conn
	from   string
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.from), 1))
}

func (c *fakeConn) Close() error { c.closed = true; return nil }

// When places run out, strangers lose theirs: of the busiest address first those that are silent,
// then the oldest.
func TestPlacesGoToMembersFirst(t *testing.T) {
	var log clustertest.Log
	p := NewPlaces("test connections", hclog.New(&hclog.LoggerOptions{Output: &log}), 8)
	p.Members = func() map[netip.Addr]struct{} {
		return map[netip.Addr]struct{}{netip.MustParseAddr("10.0.0.1"): {}, netip.MustParseAddr("10.0.0.2"): {}}
	}
	now := time.Now()
	open := func(from string) (*fakeConn, *Place) {
		c := &fakeConn{from: from}
		now = now.Add(grace)
		got, wait := p.try(c, now)
		if wait > 0 {
			t.Fatalf("a place that is older than %v is waited for: %v", grace, wait)
		}
		return c, got
	}
	expect := func(what string, conns map[string]*fakeConn, closed ...string) {
		t.Helper()
		for name, c := range conns {
			want := strings.Contains(" "+strings.Join(closed, " ")+" ", " "+name+" ")
			if c.closed != want {
				t.Errorf("%s: connection %s: closed %v", what, name, c.closed)
			}
		}
	}
	conns := map[string]*fakeConn{}
	placedBy := map[string]*Place{}
	for _, name := range []string{"s1", "s2", "s3", "s4"} { // all that one stranger may have
		conns[name], placedBy[name] = open("192.0.2.1")
	}
	placedBy["s1"].Spoke()
	conns["s5"], _ = open("192.0.2.1")
	expect("a stranger has its share", conns, "s2")
	conns["t1"], _ = open("192.0.2.2")
	conns["m1"], _ = open("10.0.0.1")
	conns["m2"], _ = open("10.0.0.1")
	conns["m3"], _ = open("10.0.0.2")
	expect("all places are taken", conns, "s2")
	conns["m4"], _ = open("10.0.0.1")
	conns["m5"], _ = open("10.0.0.1")
	expect("members take those of the busiest stranger", conns, "s2", "s3", "s4")
	conns["t2"], _ = open("192.0.2.2")
	expect("and so do other strangers", conns, "s2", "s3", "s4", "s5")
	for _, name := range []string{"m6", "m7", "m8"} {
		conns[name], placedBy[name] = open("10.0.0.1")
	}
	expect("members have them all", conns, "s2", "s3", "s4", "s5", "s1", "t1", "t2")
	if _, wait := p.try(&fakeConn{from: "10.0.0.1"}, now.Add(-8*grace)); wait <= 0 {
		t.Error("a connection loses its place that has just begun")
	}
	if _, got := open("192.0.2.1"); got != nil {
		t.Error("a stranger has got a member's place")
	}
	conns["m9"], _ = open("10.0.0.2")
	expect("a member may", conns, "s2", "s3", "s4", "s5", "s1", "t1", "t2", "m1")
	placedBy["m8"].Free()
	placedBy["m8"].Free()
	if p.Taken() != 7 {
		t.Errorf("%d places are taken", p.Taken())
	}
	if n := strings.Count(log.String(), "no place for another connection"); n != 1 {
		t.Errorf("%d lines within a minute: %s", n, log.String())
	}

	p.Beyond = true
	for range 4 {
		if _, got := open("10.0.0.1"); got == nil {
			t.Error("a member has got no place")
		}
	}
	if p.Taken() != 11 {
		t.Errorf("%d places are taken, those of members beyond the bound included", p.Taken())
	}
}
