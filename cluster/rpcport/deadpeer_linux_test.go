package rpcport

import (
	"maps"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/cluster/clustertest"
	"github.com/weirproxy/weir/cluster/handshake"
)

// TestSilentConnectionsEnd: both ends of every connection between rpc ports give up on a peer that
// acknowledges nothing.
func TestSilentConnectionsEnd(t *testing.T) {
	plain, secure := newTestMux(t, "a.1"), clustertest.NewLab(t)
	checkSilence(t, plain, newTestMux(t, "b.1"))
	checkSilence(t, muxOf(t, secure, "a", handshake.PlainRefuse), muxOf(t, secure, "b", handshake.PlainRefuse))
}

func checkSilence(t *testing.T, from, to *mux) {
	t.Helper()
	for _, k := range []handshake.Kind{handshake.KindRaft, handshake.KindGRPC, handshake.KindHTTP} {
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
			want := map[int]int{unix.TCP_USER_TIMEOUT: 3000, unix.TCP_KEEPIDLE: 1, unix.TCP_KEEPINTVL: 1, unix.TCP_KEEPCNT: 3}
			if got := options(t, conn, want); !maps.Equal(got, want) {
				t.Errorf("kind %d, %s: TCP's options are %v; want %v", k, name, got, want)
			}
		}
	}
}

// options reads the socket options that are named.
func options(t *testing.T, conn net.Conn, named map[int]int) map[int]int {
	t.Helper()
	raw, err := trackedUnder(t, conn).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]int{}
	if err := raw.Control(func(fd uintptr) {
		for option := range named {
			if got[option], err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return got
}
