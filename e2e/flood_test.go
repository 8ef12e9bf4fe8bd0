package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

const (
	// strangersAddress is none of the nodes' and none that clients may come from.
	strangersAddress = "127.66.0.1"
	floodTime        = 10 * time.Second
	floodConns       = 2000
	floodDatagrams   = 20_000
)

// flood is what strangers do to the ports of a cluster.
type flood struct {
	ctx context.Context
	wg  sync.WaitGroup
}

// spread calls f n times, evenly spread over the flood.
func (f *flood) spread(n int, do func(i int)) {
	tick := time.NewTicker(floodTime / time.Duration(n))
	defer tick.Stop()
	for i := range n {
		do(i)
		select {
		case <-tick.C:
		case <-f.ctx.Done():
			return
		}
	}
}

// connect opens a connection, sends what is given, and waits until it is closed; false says that
// nobody listens.
func (f *flood) connect(addr, say string) bool {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(strangersAddress)}}
	conn, err := d.DialContext(f.ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer context.AfterFunc(f.ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	if _, err := io.WriteString(conn, say); err == nil {
		_, _ = io.Copy(io.Discard, conn) // until it ends, however
	}
	return true
}

// conns opens floodConns connections to a port, each of which stays for as long as it may. Most are
// silent.
func (f *flood) conns(addr string) {
	says := []string{"", "", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "weir\x02", "\x16\x03\x01", "CONNECT x:1 HTTP/1.1\r\n"}
	f.wg.Go(func() {
		f.spread(floodConns, func(i int) {
			f.wg.Go(func() { f.connect(addr, says[i%len(says)]) })
		})
	})
}

// datagrams sends floodDatagrams to a gossip port, of every kind that memberlist has a complaint
// about.
func (f *flood) datagrams(t *testing.T, addr string) {
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(strangersAddress)}, must(net.ResolveUDPAddr("udp", addr)))
	if err != nil {
		t.Fatal(err)
	}
	mark := "w\x02" + strings.Repeat("\x00", 12) + "\xf4\x04weir"
	f.wg.Go(func() {
		defer conn.Close()
		garbage := make([]byte, 64)
		f.spread(floodDatagrams, func(i int) {
			for j := range garbage {
				garbage[j] = byte(rand.Int())
			}
			packet := string(garbage)
			if i%4 > 0 {
				packet = mark + string(rune(i%16)) + packet
			}
			_, _ = conn.Write([]byte(packet)) // the port may be gone for a moment
		})
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// withFewFiles starts a node with 1,024 descriptors, for clients that are no strangers.
func withFewFiles(n *node) {
	n.clients = "127.0.0.1/32"
	n.wrapper = []string{"sh", "-c", `ulimit -n 1024 && exec "$@"`, "sh"}
}

// TestFloods: strangers flood every port of three nodes, all at once. The sessions stay live, a
// tunnel goes on, a slot that a node holds admits as fast as ever, and the log stays short.
func TestFloods(t *testing.T) {
	c := startCluster(t, shape{prepare: withFewFiles})
	up := c.upstream(t)
	c.setLimit(t, up.name, `{"connections":5}`)
	n := c.nodes[1]
	tunnel := n.open(t, up.target)
	before := map[*node]int{}
	for _, n := range c.nodes {
		before[n] = len(loggedLines(t, n))
	}
	slow := slowness(t)

	ctx, cancel := context.WithTimeout(t.Context(), floodTime)
	defer cancel()
	f := &flood{ctx: ctx}
	for _, n := range c.nodes {
		for _, addr := range []string{n.proxy, n.api, n.rpc, n.gossip} {
			f.conns(addr)
		}
		f.datagrams(t, n.gossip)
	}
	var times []time.Duration
	var failed error
	looks, fences := 0, 0
	for ctx.Err() == nil {
		begun := time.Now()
		one, err := n.try(up.target)
		if err != nil {
			failed = err
		} else {
			times = append(times, time.Since(begun))
			_ = one.Close()
		}
		if looks++; looks%20 == 0 {
			var s statusAnswer
			if err := n.http.read("/v1/status", &s); err == nil && s.Session.State != "live" {
				fences++
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	f.wg.Wait()
	if err := alive(tunnel); err != nil {
		t.Errorf("the tunnel that was open before: %v", err)
	}
	slices.Sort(times)
	slow = max(slow, slowness(t))
	median := load.Percentile(times, 50)
	t.Logf("%d tunnels, median %v, p99 %v, on a machine that is %.1f times slower", len(times), median, load.Percentile(times, 99), slow)
	if most := time.Duration(slow * float64(50*time.Millisecond)); median > most || len(times) == 0 {
		t.Errorf("the median of %d is %v, above %v", len(times), median, most)
	}
	if failed != nil || fences > 0 {
		t.Errorf("a tunnel: %v; the session was not live %d times", failed, fences)
	}
	for _, n := range c.nodes {
		lines := loggedLines(t, n)[before[n]:]
		t.Logf("node %s: %d lines", n.name, len(lines))
		for _, line := range lines {
			if strings.Contains(line, "fenced") {
				t.Errorf("node %s: %s", n.name, line)
			}
		}
		if len(lines) >= 100 {
			t.Errorf("node %s wrote %d lines, such as:\n%s", n.name, len(lines), strings.Join(lines[len(lines)-50:], "\n"))
		}
	}
}

// loggedLines are the lines of a node's log but those of its tunnels.
func loggedLines(t *testing.T, n *node) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(n.logPath)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "tunnel ended") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// TestElectionUnderSilentConnections: strangers hold 300 silent connections to each rpc port, and
// make a new one for each that is closed. A leader that is killed is replaced about as fast as
// without them.
func TestElectionUnderSilentConnections(t *testing.T) {
	const silent = 300
	c := startCluster(t, shape{prepare: withFewFiles})
	leader, others := c.leader(t)
	ctx, cancel := context.WithCancel(t.Context())
	f := &flood{ctx: ctx}
	for _, n := range c.nodes {
		for range silent {
			f.wg.Go(func() {
				for ctx.Err() == nil && f.connect(n.rpc, "") {
				}
			})
		}
	}
	slow := slowness(t) // and with it the time for the connections to come about
	leader.kill(t)
	most := time.Duration(slow * float64(4*time.Second))
	took := eventually(t, most, "another leader", func() error {
		for _, n := range others {
			var s statusAnswer
			if err := n.http.read("/v1/status", &s); err != nil {
				return err
			}
			if s.Leader == "" || s.Leader == leader.name || s.Session.State != "live" {
				return fmt.Errorf("node %s: leader %q, session %s", n.name, s.Leader, s.Session.State)
			}
		}
		return nil
	})
	t.Logf("another leader, with live sessions, after %v on a machine that is %.1f times slower", took, slow)
	cancel()
	f.wg.Wait()
}
