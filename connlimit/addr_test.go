package connlimit

import (
	"net"
	"net/netip"
	"testing"
)

// endlessConn wraps itself, and has no address.
type endlessConn struct{ conn }

func (c *endlessConn) NetConn() net.Conn { return c }

// TestWrapperOfItself: what wraps itself is a mistake, but nothing hangs.
func TestWrapperOfItself(t *testing.T) {
	c := &endlessConn{}
	if addr := addrOf(c); addr != (netip.Addr{}) {
		t.Errorf("its address is %v; want none", addr)
	}
	l := newLimiter(t, total(1))
	free, err := l.Accept(c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.Accept(from("192.0.2.1"))
	refusedBy(t, err, ScopeTotal)
	free()
	if n := l.Stats().Connections.Open; n != 0 {
		t.Errorf("%d are open; want 0", n)
	}
}
