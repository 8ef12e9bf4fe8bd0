package config

import (
	"net"
	"runtime"
	"testing"
)

// TestSamePortAsTheKernelHasIt: two listeners are refused if, and only if, they can't be bound. An
// address that this machine lacks is left out.
func TestSamePortAsTheKernelHasIt(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("others let an address be bound beside all of them: which connections go where is then anyone's guess")
	}
	for _, a := range []string{"", "0.0.0.0", "::", "::ffff:0.0.0.0", "127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", "localhost"} {
		for _, b := range []string{"0.0.0.0", "127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "LocalHost"} {
			both, known := bindBoth(t, a, b)
			if !known {
				continue
			}
			if got := collide(written(t, a), written(t, b)); got == both {
				t.Errorf("%q and %q: refused %v, bound %v", a, b, got, both)
			}
		}
	}
}

// written is a host with a port, as the config has it.
func written(t *testing.T, host string) string {
	t.Helper()
	s, faults := listenAddress(1).parse(value{kind: kindString, text: net.JoinHostPort(host, "1")})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return s
}

// bindBoth reports whether two hosts can be listened on at one port; known is false if one of them
// can't at any. Of several ports, some may be taken by other processes.
func bindBoth(t *testing.T, a, b string) (both, known bool) {
	t.Helper()
	free, err := net.Listen("tcp", net.JoinHostPort(b, "0"))
	if err != nil {
		return false, false
	}
	defer free.Close()
	for range 5 {
		first, err := net.Listen("tcp", net.JoinHostPort(a, "0"))
		if err != nil {
			return false, false
		}
		defer first.Close()
		_, port, err := net.SplitHostPort(first.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if second, err := net.Listen("tcp", net.JoinHostPort(b, port)); err == nil {
			_ = second.Close()
			return true, true
		}
	}
	return false, true
}
