//go:build linux

package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// helperVariable makes the test program the process that is killed: see
// TestKilledProcessLeavesNothing.
const helperVariable = "WEIR_NETNS_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) != "" {
		os.Exit(holdNetwork())
	}
	goleak.VerifyTestMain(m)
}

// network makes a network for a test, or skips the test where that is not allowed.
func network(t *testing.T, names ...string) *Network {
	t.Helper()
	if err := Missing(); errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	n, err := NewNetwork(names...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// ear is a member's UDP socket.
type ear struct {
	net.PacketConn
	addr net.Addr
}

func listenUDP(t *testing.T, m *Member, port int) ear {
	t.Helper()
	var conn net.PacketConn
	err := m.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", fmt.Sprintf("%v:%d", m.Addr(), port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return ear{PacketConn: conn, addr: conn.LocalAddr()}
}

// hears reports how many of count datagrams from one socket reach another, all sent before any is
// awaited.
func hears(t *testing.T, from, to ear, count int) int {
	t.Helper()
	for range count {
		if _, err := from.WriteTo([]byte("x"), to.addr); err != nil {
			t.Fatal(err)
		}
	}
	got := 0
	for buf := make([]byte, 8); got < count; got++ {
		// Sending passes through the bridge at once: what is not here soon has been dropped.
		if err := to.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := to.ReadFrom(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func set(t *testing.T, n *Network, faults ...Fault) {
	t.Helper()
	if err := n.Set(faults...); err != nil {
		t.Fatal(err)
	}
}

// Each fault stops what it should, and nothing else; after it all is as before.
func TestFaults(t *testing.T) {
	n := network(t, "a", "b", "c")
	a, b, c := listenUDP(t, n.Member("a"), 70), listenUDP(t, n.Member("b"), 70), listenUDP(t, n.Member("c"), 70)
	other := listenUDP(t, n.Member("b"), 71)
	otherA := listenUDP(t, n.Member("a"), 71)
	pairs := []struct {
		name     string
		from, to ear
	}{{"a>b", a, b}, {"b>a", b, a}, {"a>c", a, c}, {"c>b", c, b}, {"a>b:71", otherA, other}}
	for _, test := range []struct {
		name   string
		faults []Fault
		lost   string
	}{
		{"none", nil, ""},
		{"cut", Cut([]string{"a"}, []string{"b", "c"}), "a>b b>a a>c a>b:71"},
		{"one way", OneWay([]string{"a"}, []string{"b"}), "a>b a>b:71"},
		{"port", CutPorts([]string{"a"}, []string{"b", "c"}, 70), "a>b b>a a>c"},
		{"two ports", CutPorts([]string{"a"}, []string{"b"}, 70, 71), "a>b b>a a>b:71"},
		{"healed", nil, ""},
	} {
		set(t, n, test.faults...)
		var lost []string
		for _, p := range pairs {
			if hears(t, p.from, p.to, 1) == 0 {
				lost = append(lost, p.name)
			}
		}
		if got := strings.Join(lost, " "); got != test.lost {
			t.Errorf("%s: lost is %q; want %q", test.name, got, test.lost)
		}
	}
}

func TestLossIsPartial(t *testing.T) {
	n := network(t, "a", "b")
	a, b := listenUDP(t, n.Member("a"), 70), listenUDP(t, n.Member("b"), 70)
	set(t, n, Lossy(30, []string{"a"}, []string{"b"})...)
	const sent = 200
	got := hears(t, a, b, sent)
	if got < sent/2 || got > sent*9/10 { // 140 is meant; these are six standard deviations away
		t.Errorf("%d of %d datagrams arrive with a loss of 30 %%", got, sent)
	}
}

// TestSlow: what is sent over a slow link at once arrives late, and not after it is fast again.
func TestSlow(t *testing.T) {
	n := network(t, "a", "b")
	a, b := listenUDP(t, n.Member("a"), 70), listenUDP(t, n.Member("b"), 70)
	last := func() time.Duration {
		begun, packet := time.Now(), make([]byte, 1000)
		for range 5 {
			if _, err := a.WriteTo(packet, b.addr); err != nil {
				t.Fatal(err)
			}
		}
		got, took := 0, time.Duration(0)
		for ; got < 5; got++ {
			if err := b.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := b.ReadFrom(packet); err != nil {
				break
			}
			took = time.Since(begun)
		}
		if got == 0 {
			t.Fatal("nothing arrives")
		}
		return took
	}
	if took := last(); took > 100*time.Millisecond {
		t.Errorf("over a fast link: %v", took)
	}
	how, err := n.Slow(300*time.Millisecond, "b")
	if err != nil {
		t.Fatal(err)
	}
	if took := last(); took < 100*time.Millisecond {
		t.Errorf("over a slow link (%s): %v", how, took)
	}
	if err := n.Fast("b"); err != nil {
		t.Fatal(err)
	}
	if took := last(); took > 100*time.Millisecond {
		t.Errorf("over a link that is fast again: %v", took)
	}
}

func TestSetNamesWhoIsNoMember(t *testing.T) {
	n := network(t, "a")
	if err := n.Set(Cut([]string{"a"}, []string{"z"})...); err == nil || !strings.Contains(err.Error(), `"z"`) {
		t.Errorf("a fault of a stranger: %v; want an error that names it", err)
	}
}

// TestOpenTo: a member counts its own connections, until it has ended them, whatever the other side
// knows.
func TestOpenTo(t *testing.T) {
	n := network(t, "a", "b")
	a, b := n.Member("a"), n.Member("b")
	second, err := b.AddAddr()
	if err != nil {
		t.Fatal(err)
	}
	var ln net.Listener
	if err := b.Do(func() (err error) {
		ln, err = net.Listen("tcp4", "0.0.0.0:80")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	want := func(addr netip.Addr, want int) {
		t.Helper()
		if got, err := a.OpenTo(addr); got != want || err != nil {
			t.Errorf("%d open to %v, %v; want %d", got, addr, err, want)
		}
	}
	conn, err := a.DialContext(t.Context(), "tcp", netip.AddrPortFrom(second, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	if host, _, _ := net.SplitHostPort(conn.LocalAddr().String()); host != a.Addr().String() {
		t.Errorf("connections of a come from %s; want %v", host, a.Addr())
	}
	want(second, 1)
	want(b.Addr(), 0)
	set(t, n, Cut([]string{"a"}, []string{"b"})...)
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	want(second, 0)
}

// TestEnter: a program that is started so sees what its member has.
func TestEnter(t *testing.T) {
	n := network(t, "a")
	command := append(n.Member("a").Enter(), "ip", "-4", "-oneline", "addr")
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), n.Member("a").Addr().String()) {
		t.Errorf("a program in a's namespace sees %q, %v; want a's address", out, err)
	}
}

func TestCountTo(t *testing.T) {
	const table = "  sl  local_address rem_address   st tx_queue rx_queue\n" +
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n" +
		"   1: 01014D0A:9C40 02094D0A:0050 01 00000000:00000000\n" +
		"   2: 01014D0A:9C41 02094D0A:0050 06 00000000:00000000\n" +
		"   3: 01014D0A:9C42 02094D0A:0051 04 00000000:00000000\n" +
		"   4: 01014D0A:9C43 01094D0A:0050 01 00000000:00000000\n"
	if got, err := countTo(table, netip.MustParseAddr("10.77.9.2")); got != 2 || err != nil {
		t.Errorf("%d, %v; want 2: one established, one that waits for the end to be acknowledged", got, err)
	}
	if _, err := countTo("heading\nshort line\n", netip.MustParseAddr("10.77.9.2")); err == nil {
		t.Error("a table of another form is taken")
	}
}

// TestKilledProcessLeavesNothing: a network dies with its process. The proof is an interface of an
// observer's that is paired with one inside it: the kernel removes both when it removes the
// network.
func TestKilledProcessLeavesNothing(t *testing.T) {
	if err := Missing(); errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	observer, err := NewSpace()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = observer.Close() }()
	helper := exec.Command(os.Args[0])
	helper.Env = append(os.Environ(), helperVariable+"=1")
	helper.Stderr = os.Stderr
	out, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := helper.StdinPipe(); err != nil { // never closed: the helper waits for its end
		t.Fatal(err)
	}
	if err := observer.Do(helper.Start); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = helper.Process.Kill()
	if err != nil || line != "ready\n" {
		t.Fatalf("the helper says %q, %v", line, err)
	}
	if !slices.Contains(interfaces(t, observer), "seen") {
		t.Fatal("the observer has no interface into the network")
	}
	_ = helper.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for tick := time.Tick(20 * time.Millisecond); slices.Contains(interfaces(t, observer), "seen"); {
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatal("the network outlives its process")
		}
	}
}

func interfaces(t *testing.T, s *Space) (names []string) {
	t.Helper()
	if err := s.Do(func() error {
		list, err := net.Interfaces()
		for _, i := range list {
			names = append(names, i.Name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

// holdNetwork is the helper: it makes a network, pairs it with the namespace that it runs in, and
// waits to be killed.
func holdNetwork() (exitCode int) {
	n, err := NewNetwork("a", "b")
	if err == nil {
		err = exec.Command("ip", "link", "add", "name", "seen", "type", "veth", "peer", "name", "x", "netns", n.hub.Path()).Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}
