//go:build !portable

package proxy

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/proxytest"
)

// A connection that somebody else makes from the port of one of the proxy's own, to another address,
// is not the proxy's: also a moment after the proxy's was reset.
func TestDialledFromTheSamePort(t *testing.T) {
	w := newWorld(t, 0)
	u := newUpstream(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := l.Addr().(*net.TCPAddr).AddrPort()
	elsewhere := netip.AddrPortFrom(accepted.Addr(), accepted.Port()^1)

	tunnel := w.connect(u.addr)
	far := u.accept()
	end := far.RemoteAddr().(*net.TCPAddr)
	check := func(when string, same bool) {
		t.Helper()
		if got := w.Dialled(end.AddrPort(), accepted); got == same {
			t.Errorf("%s: %v, want %v", when, got, !same)
		}
		if !w.Dialled(end.AddrPort(), elsewhere) {
			t.Errorf("%s: a connection to an address that nobody has connected to counts as another's", when)
		}
	}
	check("alone", false)
	direct, err := dialFrom(end, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	check("beside a tunnel", true)
	if err := direct.(*net.TCPConn).SetLinger(0); err != nil { // nothing of it stays behind
		t.Fatal(err)
	}
	direct.Close()

	tunnel.reset()
	far.expectReset()
	direct, err = dialFrom(end, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	check("after a reset", true)
}

// A connection of the proxy that has ended, and is not yet forgotten, no longer owns its port: who
// has the port next is not taken for the proxy.
func TestDialledFromTheSamePortLater(t *testing.T) {
	w := newWorld(t, 0)
	u := newUpstream(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := l.Addr().(*net.TCPAddr).AddrPort()

	c, err := net.Dial("tcp", u.addr)
	if err != nil {
		t.Fatal(err)
	}
	end := c.LocalAddr().(*net.TCPAddr)
	f := &flow{srv: w.Server, upstream: proxytest.Sock(t, c.(*net.TCPConn), &w.buffers)}
	w.flows.add(f)
	defer w.flows.remove(f)
	u.accept().reset()
	eventually(t, "the end of the proxy's connection", func() bool { return !f.upstream.Remote().IsValid() })
	if !w.Dialled(end.AddrPort(), accepted) {
		t.Error("a connection that nobody else has made is not taken for the proxy's")
	}
	direct, err := dialFrom(end, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	if w.Dialled(end.AddrPort(), accepted) {
		t.Error("the next connection from the port is taken for the proxy's")
	}
}

// dialFrom connects from an address whose port may be that of another connection: an explicit bind
// does not allow that, the kernel's choice among one port does (ip(7), IP_LOCAL_PORT_RANGE, since
// Linux 6.3).
func dialFrom(end *net.TCPAddr, to string) (net.Conn, error) {
	only := func(_, _ string, raw syscall.RawConn) (err error) {
		one := end.Port<<16 | end.Port
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, one)
		})
		return errors.Join(err, cerr)
	}
	return (&net.Dialer{Control: only}).Dial("tcp", to)
}
