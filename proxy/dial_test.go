package proxy

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/sock"
)

// socketOption returns one of a socket's options.
func socketOption(t *testing.T, s *sock.Conn, level, name int) (value int) {
	t.Helper()
	err := s.Control(func(fd uintptr) {
		var err error
		if value, err = unix.GetsockoptInt(int(fd), level, name); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Error(err)
	}
	return value
}

// keptAlive reports whether the kernel probes a silent peer.
func keptAlive(t *testing.T, s *sock.Conn) bool {
	t.Helper()
	return socketOption(t, s, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 0 && socketOption(t, s, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL) == 15 &&
		socketOption(t, s, unix.IPPROTO_TCP, unix.TCP_KEEPCNT) == 9
}

// Accepted sockets inherit their options; connected ones get each when it pays.
func TestSocketOptions(t *testing.T) {
	w := newWorld(t, 0)
	u := newUpstream(t, echo)
	p := w.connect(u.addr)
	f := w.flows.all()[0]
	f.mu.Lock()
	client, up := f.client.sock, f.upstream
	f.mu.Unlock()
	if !keptAlive(t, client) || socketOption(t, client, unix.IPPROTO_TCP, unix.TCP_NODELAY) == 0 {
		t.Error("the client's socket inherits no options")
	}
	for i, noDelay := range []int{0, 1, 1} {
		p.send("ping")
		p.expect("ping")
		if got := socketOption(t, up, unix.IPPROTO_TCP, unix.TCP_NODELAY); got != noDelay {
			t.Errorf("after %d writes TCP_NODELAY is %d, want %d", i+1, got, noDelay)
		}
	}

	if keptAlive(t, up) {
		t.Error("keep-alive is on for a connection that has just begun")
	}
	if n := len(w.flows.lasting(f.since)); n != 0 {
		t.Errorf("%d flows have begun before the first", n)
	}
	for _, f := range w.flows.lasting(time.Now()) {
		f.keepAlive()
	}
	if !keptAlive(t, up) {
		t.Error("keep-alive is off for a connection that has lasted")
	}
	if n := len(w.flows.lasting(time.Now())); n != 0 {
		t.Errorf("%d flows are looked at twice", n)
	}
}
