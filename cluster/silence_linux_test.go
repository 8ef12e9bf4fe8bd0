package cluster

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSilentConnectionsEnd: both ends of every connection between rpc ports give up on a peer that acknowledges nothing.
func TestSilentConnectionsEnd(t *testing.T) {
	from, to := newTestMux(t, "a.1"), newTestMux(t, "b.1")
	for _, k := range []kind{kindRaft, kindGRPC, kindHTTP} {
		near, err := from.dial(t.Context(), to.self, k, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = near.Close() }()
		far, err := to.sub(k).Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = far.Close() }()
		for name, conn := range map[string]net.Conn{"dialled": near, "accepted": far} {
			if got := userTimeout(t, conn); got != silenceTimeout {
				t.Errorf("kind %d, %s: given up after %v; want %v", k, name, got, silenceTimeout)
			}
		}
	}
}

func userTimeout(t *testing.T, conn net.Conn) (timeout time.Duration) {
	t.Helper()
	raw, err := conn.(*trackedConn).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		ms, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if err != nil {
			t.Error(err)
		}
		timeout = time.Duration(ms) * time.Millisecond
	}); err != nil {
		t.Fatal(err)
	}
	return timeout
}
