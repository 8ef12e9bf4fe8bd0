//go:build !portable

package sock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel knows more local addresses than its interfaces list.
func TestLocalByRoute(t *testing.T) {
	inNewNetwork(t, `link set lo up
link add name one type veth peer name two
link set one up
link set two up
addr add 10.1.0.2/24 dev one
addr add 10.1.0.3/24 dev one
addr add fd01::2/64 dev one nodad
addr add fe80::2/64 dev one nodad
route add local 10.9.0.0/24 dev lo
route add local 10.10.0.0/24 dev lo src 10.1.0.2
route add local fd09::/64 dev lo
route add blackhole 10.11.0.0/24
route add prohibit 10.12.0.0/24
route add unreachable 10.13.0.0/24
`, func() error {
		// The kernel adds the local routes of IPv6 addresses in the background.
		for _, addr := range []string{"fd01::2", "fe80::2%one"} {
			if err := becomesLocal(netip.AddrPortFrom(netip.MustParseAddr(addr), 8080)); err != nil {
				return err
			}
		}
		for addr, want := range map[string]bool{
			"127.0.0.1": true, "127.3.2.1": true, "::1": true, "10.1.0.2": true, "10.1.0.3": true, "10.1.0.4": false, "10.9.0.77": true,
			"10.10.0.1": true, "10.9.1.1": false, "fd01::2": true, "fd01::3": false, "fd09::77": true, "fd10::1": false, "10.1.0.255": true,
			"fe80::2%one": true, "fe80::3%one": false, "fe80::2%none": false, "10.11.0.1": true, "10.12.0.1": false, "10.13.0.1": false,
		} {
			if got := IsLocal(netip.AddrPortFrom(netip.MustParseAddr(addr), 8080)); got != want {
				return fmt.Errorf("%s: local is %v", addr, got)
			}
		}
		if err := ip("addr add 10.1.0.4/24 dev one\n"); err != nil {
			return err
		}
		if !IsLocal(netip.MustParseAddrPort("10.1.0.4:8080")) {
			return errors.New("an address that was added later is not found")
		}
		if err := ip("rule add ipproto tcp dport 8080 to 10.14.0.0/24 lookup 14\nroute add local 10.14.0.0/24 dev lo table 14\n"); err != nil {
			return err
		}
		if !IsLocal(netip.MustParseAddrPort("10.14.0.1:8080")) || IsLocal(netip.MustParseAddrPort("10.14.0.1:8081")) {
			return errors.New("a rule for one port is not followed")
		}
		return nil
	})
}

// becomesLocal waits until the kernel knows addr as this machine's.
func becomesLocal(addr netip.AddrPort) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !IsLocal(addr); <-tick.C {
		if time.Now().After(deadline) {
			return fmt.Errorf("%v does not become local", addr)
		}
	}
	return nil
}

// inNewNetwork calls f in a new network namespace, in which ip has run the script.
func inNewNetwork(t *testing.T, script string, f func() error) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("*** NOT TESTED: install iproute2 ***")
	}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = ip(script)
		}
		if err == nil {
			err = f()
		}
		failed <- err
	}()
	err := <-failed
	if errors.Is(err, unix.EPERM) {
		t.Skip("*** NOT TESTED: network namespaces need root ***")
	}
	if err != nil {
		t.Fatal(err)
	}
}

func ip(script string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// A malformed answer of the kernel is an error, which counts as local; it is never taken for a
// route to another machine.
func FuzzRouteAnswer(f *testing.F) {
	message := func(kind uint16, data ...byte) []byte {
		b := make([]byte, unix.SizeofNlMsghdr)
		binary.NativeEndian.PutUint32(b, uint32(len(b)+len(data)))
		binary.NativeEndian.PutUint16(b[4:], kind)
		return append(b, data...)
	}
	route := make([]byte, unix.SizeofRtMsg)
	route[7] = unix.RTN_LOCAL
	f.Add(message(unix.RTM_NEWROUTE, route...))
	f.Add(message(unix.NLMSG_ERROR, binary.NativeEndian.AppendUint32(nil, ^uint32(unix.ENETUNREACH)+1)...))
	f.Add(message(unix.NLMSG_ERROR, 0, 0))
	f.Add(message(unix.NLMSG_DONE))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, err := parseRouteAnswer(b)
		if err == nil && kind == unix.RTN_UNICAST && (len(b) < 24 || b[16+7] != unix.RTN_UNICAST) {
			t.Errorf("% x is taken for a route elsewhere", b)
		}
	})
}

func BenchmarkIsLocal(b *testing.B) {
	addr := netip.MustParseAddrPort("192.0.2.7:8080")
	for b.Loop() {
		IsLocal(addr)
	}
}
