package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
	"github.com/weirproxy/weir/e2e/netns"
)

// The ports of the nodes of a ports lab, all on every address of their machines.
const (
	labProxy = 8080
	labAPI   = 8081
)

// portsLab is two nodes with more addresses than they advertise, and a machine of neither.
type portsLab struct {
	*cluster
	net  *netns.Network
	a, b *node
}

// startPortsLab gives each node, beside the address that it advertises, one more in a second IPv4
// network, 10.2.0.0/16, and one in an IPv6 network, fd02::/64, each ending in the node's number: 1
// for a, 2 for b. The proxies trust a load balancer at every address.
func startPortsLab(t *testing.T) *portsLab {
	t.Helper()
	if err := netns.Missing(); errors.Is(err, netns.ErrUnavailable) {
		t.Skipf("NOT TESTED: ports: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	names := []string{"a", "b"}
	network, err := netns.NewNetwork(append([]string{upstreamMember}, names...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, name := range append(names, upstreamMember) {
		err := network.Member(name).Configure(fmt.Sprintf("addr add 10.2.0.%d/16 dev eth0", i+1), fmt.Sprintf("addr add fd02::%d/64 dev eth0 nodad", i+1))
		if err != nil {
			t.Fatal(err)
		}
	}
	const token = "the-token"
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &portsLab{net: network}
	l.cluster = startCluster(t, shape{names: names, prepare: func(n *node) {
		m := network.Member(n.name)
		n.proxy, n.api, n.token = fmt.Sprintf("0.0.0.0:%d", labProxy), fmt.Sprintf("[::]:%d", labAPI), tokenFile
		n.rpc, n.gossip = fmt.Sprintf("0.0.0.0:%d", labRPC), fmt.Sprintf("0.0.0.0:%d", labGossip)
		n.join = nil
		for _, name := range names {
			n.join = append(n.join, fmt.Sprintf("%v:%d", network.Member(name).Addr(), labGossip))
		}
		n.more = l.more(n.name, false)
		n.wrapper = m.Enter()
		n.dial = func(ctx context.Context, _ string) (net.Conn, error) {
			return m.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", labProxy))
		}
		n.http = newClient(fmt.Sprintf("127.0.0.1:%d", labAPI))
		n.http.http.Transport = bearer{&http.Transport{DisableKeepAlives: true, DialContext: m.DialContext}, token}
	}})
	l.a, l.b = l.nodes[0], l.nodes[1]
	return l
}

// more is what a node's config has beside the rest.
func (l *portsLab) more(name string, allow bool) string {
	addr := l.net.Member(name).Addr()
	return fmt.Sprintf("cluster {\n  advertise_rpc    = \"%v:%d\"\n  advertise_gossip = \"%v:%d\"\n}\n"+
		"proxy {\n  allow_clients              = [\"0.0.0.0/0\", \"::/0\"]\n  allow_cluster_destinations = %v\n}\n",
		addr, labRPC, addr, labGossip, allow)
}

// settled waits until node n refuses target for the reason: gossip takes a moment.
func settled(t *testing.T, n *node, target, reason string) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("node %s refuses %s: %s", n.name, target, reason), func() error {
		tunnel, err := n.try(target)
		var refused *load.Refusal
		switch {
		case err == nil:
			_ = tunnel.Close()
			return errors.New("it opens a tunnel")
		case !errors.As(err, &refused) || refused.Reason() != reason:
			return err
		}
		return nil
	})
}

// forbidden checks that through node n no port of the node at host is reached.
func forbidden(t *testing.T, n *node, host string) {
	t.Helper()
	for _, port := range []int{labRPC, labGossip, labAPI} {
		settled(t, n, net.JoinHostPort(host, fmt.Sprint(port)), "destination_ip_prohibited")
	}
	settled(t, n, net.JoinHostPort(host, fmt.Sprint(labProxy)), "proxy_loop_detected")
}

// TestClusterPorts: no worker reaches a port of the cluster's own through a proxy, by whatever
// address.
func TestClusterPorts(t *testing.T) {
	t.Parallel()
	l := startPortsLab(t)
	a, b := l.net.Member("a"), l.net.Member("b")
	up := l.upstream(t)
	end(t, l.a.open(t, up.target))

	t.Run("another node", func(t *testing.T) {
		for _, host := range []string{
			b.Addr().String(), "10.2.0.2", "fd02::2", "::ffff:10.2.0.2", "0x0a020002", "10.131074", "012.2.0.2", "fd02:0:0::0002",
		} {
			forbidden(t, l.a, host)
		}
		later, err := b.AddAddr() // of its own network, and of another interface
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Configure("link add name one type veth peer name two", "link set one up", "link set two up", "addr add 10.6.0.2/24 dev one"); err != nil {
			t.Fatal(err)
		}
		if err := a.Configure(fmt.Sprintf("route add 10.6.0.0/24 via %v", b.Addr())); err != nil {
			t.Fatal(err)
		}
		forbidden(t, l.a, later.String())
		forbidden(t, l.a, "10.6.0.2")
	})

	t.Run("this node", func(t *testing.T) {
		if err := a.Configure("route add local 10.9.0.0/24 dev lo", "route add local fd09::/64 dev lo", "route add local 10.10.0.0/24 dev lo src "+a.Addr().String(),
			"link add name one type veth peer name two", "link set one up", "addr add 10.5.0.1/24 dev one"); err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{
			"127.0.0.1", "127.77.7.7", "::1", "localhost", "0x7f.1", a.Addr().String(), "10.2.0.1", "fd02::1", "10.9.0.77", "::ffff:10.9.0.77", "fd09::77", "10.10.0.1", "10.5.0.1",
		} {
			forbidden(t, l.a, host)
		}
		for _, host := range []string{"0.0.0.0", "::", "::ffff:0.0.0.0", "0"} {
			l.a.refuse(t, net.JoinHostPort(host, fmt.Sprint(labProxy)), "destination_ip_prohibited")
		}
	})

	t.Run("plain requests", func(t *testing.T) {
		for target, reason := range map[string]string{
			"10.2.0.2:8081": "destination_ip_prohibited", "10.2.0.2:8080": "proxy_loop_detected", "10.9.0.77:8081": "destination_ip_prohibited", "10.9.0.77:8080": "proxy_loop_detected",
		} {
			w := l.wire(t, l.a)
			w.say(t, "PUT http://"+target+"/v1/limits/host/evil.example HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
			w.awaitText(t, "error="+reason)
		}
	})

	// A load balancer's word is taken from a's address; no worker writes it to b through a.
	t.Run("PROXY header", func(t *testing.T) {
		l.b.more = strings.Replace(l.more("b", false), "proxy {\n", fmt.Sprintf("proxy {\n  proxy_protocol_from = [%q]\n", a.Addr()), 1)
		l.reload(t, l.b)
		w := newWire(t, l.dial(t, a, fmt.Sprintf("%v:%d", b.Addr(), labProxy)))
		w.say(t, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nCONNECT "+up.target+" HTTP/1.1\r\nHost: x\r\n\r\n")
		w.awaitText(t, "HTTP/1.1 200 ") // what a load balancer on a's machine may do
		for _, host := range []string{b.Addr().String(), "10.2.0.2"} {
			l.a.refuse(t, net.JoinHostPort(host, fmt.Sprint(labProxy)), "proxy_loop_detected")
		}
	})

	// Other machines, and the same ports on them, are nothing to the cluster.
	t.Run("others", func(t *testing.T) {
		for _, host := range []string{l.net.Member(upstreamMember).Addr().String(), "10.2.0.3", "fd02::3"} {
			other := l.serve(t, net.JoinHostPort(host, fmt.Sprint(labProxy)), func(c net.Conn) { _, _ = io.Copy(c, c) })
			w := l.wire(t, l.a)
			w.say(t, "CONNECT "+other+" HTTP/1.1\r\nHost: x\r\n\r\n")
			w.awaitText(t, "HTTP/1.1 200 ")
			w.say(t, "hello")
			w.awaitText(t, "hello")
		}
	})

	t.Run("allowed", func(t *testing.T) {
		l.a.more = l.more("a", true)
		l.reload(t, l.a)
		for _, target := range []string{"10.2.0.2:8081", "10.9.0.77:8081"} {
			eventually(t, 5*time.Second, "the API at "+target+" is allowed", func() error {
				tunnel, err := l.a.try(target)
				if err == nil {
					return tunnel.Close()
				}
				return err
			})
		}
		for _, target := range []string{"10.2.0.2:8080", "10.9.0.77:8080"} {
			l.a.refuse(t, target, "proxy_loop_detected")
		}
	})
}

// TestUnlistedPorts: a node that is reached by an address that no node has is known by its first
// bytes.
func TestUnlistedPorts(t *testing.T) {
	t.Parallel()
	l := startPortsLab(t)
	up := l.upstream(t)
	elsewhere := l.net.Member(upstreamMember)
	forward := func(port int, to string) string {
		return l.serve(t, fmt.Sprintf("%v:%d", elsewhere.Addr(), port), func(c net.Conn) {
			inner, err := elsewhere.DialContext(t.Context(), "tcp", to)
			if err != nil {
				return
			}
			defer func() { _ = inner.Close() }()
			go func() { _, _ = io.Copy(inner, c); _ = inner.(*net.TCPConn).CloseWrite() }()
			_, _ = io.Copy(c, inner)
		})
	}

	// A connection for peers' HTTP requests, as a node opens it: version 2, two bytes of a message,
	// kind 3; on the gossip port kind 4.
	for port, preface := range map[int]string{labRPC: "weir\x02\x00\x02\x08\x03", labGossip: "weir\x02\x00\x02\x08\x04"} {
		t.Run(fmt.Sprintf("node port %d", port), func(t *testing.T) {
			to := fmt.Sprintf("10.2.0.2:%d", port)
			w := newWire(t, l.dial(t, elsewhere, to)) // without a proxy, the node answers
			w.say(t, preface)
			w.awaitText(t, "\x00weir\x02\r\n")
			before := l.refusals(t, l.a, "node_detected")
			address := forward(port, to)
			for i, pieces := range [][]string{{preface}, strings.SplitAfter(preface, "")} {
				w := l.wire(t, l.a)
				w.say(t, "CONNECT "+address+" HTTP/1.1\r\nHost: x\r\n\r\n")
				w.awaitText(t, "\r\n\r\n")
				head := len(w.heard())
				for _, piece := range pieces {
					w.say(t, piece)
				}
				if err := w.awaitEnd(t); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the tunnel ends with %v", err)
				}
				if got := w.heard()[head:]; len(got) > 7 {
					t.Errorf("the worker heard %q", got)
				}
				l.counted(t, l.a, "node_detected", before+i+1)
			}
		})
	}

	t.Run("greeting in pieces", func(t *testing.T) {
		before := l.refusals(t, l.a, "node_detected")
		greeter := l.serve(t, fmt.Sprintf("%v:7001", elsewhere.Addr()), func(c net.Conn) {
			_, _ = io.WriteString(c, "\x00weir")
			_, _ = io.ReadFull(c, make([]byte, 1)) // once the worker has those
			_, _ = io.WriteString(c, "\x02\r\nnonce")
			_, _ = io.Copy(io.Discard, c)
		})
		w := l.wire(t, l.a)
		w.say(t, "CONNECT "+greeter+" HTTP/1.1\r\nHost: x\r\n\r\n")
		w.awaitText(t, "\x00weir")
		w.say(t, "x")
		if err := w.awaitEnd(t); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the tunnel ends with %v", err)
		}
		if got := string(w.heard()); !strings.HasSuffix(got, "\x00weir") {
			t.Errorf("the worker heard %q", got)
		}
		l.counted(t, l.a, "node_detected", before+1)
	})

	for name, to := range map[string]string{
		"this proxy": fmt.Sprintf("%v:%d", l.net.Member("a").Addr(), labProxy), "another proxy": fmt.Sprintf("10.2.0.2:%d", labProxy),
	} {
		t.Run(name, func(t *testing.T) {
			before := l.refusals(t, l.a, "proxy_loop_detected")
			address := forward(7002+len(name), to)
			for i, request := range []string{
				"CONNECT " + up.target + " HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n", "nonsense\r\n\r\n",
				"GET http://" + up.target + "/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic eDp5\r\nUpgrade: x\r\nContent-Length: x\r\n\r\n",
			} {
				w := l.wire(t, l.a)
				w.say(t, "CONNECT "+address+" HTTP/1.1\r\nHost: x\r\n\r\n")
				w.awaitText(t, "200 Connection established\r\nWeir-Loop: ")
				w.say(t, request)
				if err := w.awaitEnd(t); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%q: the tunnel ends with %v", request, err)
				}
				if got := string(w.heard()); strings.Count(got, "Weir-Loop: ") > 1 {
					t.Errorf("%q: the worker heard %q", request, got)
				}
				l.counted(t, l.a, "proxy_loop_detected", before+i+1)
			}
			up.awaitOpen(t, 5*time.Second, 0)
		})
	}

	// A rule that translates addresses hides this node's own ports from its proxy.
	t.Run("redirected", func(t *testing.T) {
		a := l.net.Member("a")
		for from, to := range map[int]int{7081: labAPI, 7082: labRPC, 7080: labProxy} {
			if err := a.Redirect(from, to); err != nil {
				t.Fatal(err)
			}
		}
		const request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
		w := newWire(t, l.dial(t, a, "10.2.0.77:7081")) // without a proxy, the rule leads to the API
		w.say(t, request)
		w.awaitText(t, "HTTP/1.1 200 ")
		for _, again := range []bool{false, true} {
			w = l.wire(t, l.a)
			w.say(t, "CONNECT 10.2.0.77:7081 HTTP/1.1\r\nHost: x\r\n\r\n")
			if !again {
				w.awaitText(t, "\r\n\r\n")
			}
			w.say(t, request+request)
			w.awaitText(t, "through_proxy")
			if got := string(w.heard()); strings.Count(got, " 200 ") != 1 {
				t.Errorf("the worker heard %q", got)
			}
		}
		w = l.wire(t, l.a)
		w.say(t, "GET http://10.2.0.77:7081/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		w.awaitText(t, "through_proxy")
		for target, sent := range map[string]string{"10.2.0.77:7082": "weir\x02\x00\x02\x08\x03", "10.2.0.77:7080": "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"} {
			w := l.wire(t, l.a)
			w.say(t, "CONNECT "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
			w.awaitText(t, "\r\n\r\n")
			w.say(t, sent)
			if err := w.awaitEnd(t); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: the tunnel ends with %v", target, err)
			}
		}
	})

	t.Run("another product", func(t *testing.T) {
		other := l.serve(t, fmt.Sprintf("%v:7003", elsewhere.Addr()), func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\nWeir-Loop: 0000000000000000\r\n\r\n")
			_, _ = io.Copy(c, c)
		})
		w := l.wire(t, l.a)
		w.say(t, "CONNECT "+other+" HTTP/1.1\r\nHost: x\r\n\r\n")
		w.awaitText(t, "Weir-Loop: 0000000000000000\r\n\r\n")
		w.say(t, "hello")
		w.awaitText(t, "hello")
	})
}

// upstream starts a counting upstream on the machine that has no node.
func (l *portsLab) upstream(t *testing.T) (h host) {
	t.Helper()
	m := l.net.Member(upstreamMember)
	if err := m.Do(func() (err error) {
		h, err = listen(m.Addr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// serve handles connections to addr, on the machine that has no node, until the test ends.
func (l *portsLab) serve(t *testing.T, addr string, handle func(net.Conn)) string {
	t.Helper()
	var ln net.Listener
	if err := l.net.Member(upstreamMember).Do(func() (err error) {
		ln, err = net.Listen("tcp", netip.MustParseAddrPort(addr).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range slices.Clone(conns) {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return addr
}

// dial connects from one of the machines.
func (l *portsLab) dial(t *testing.T, from *netns.Member, addr string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wireWithin)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// wire is a raw connection to a node's proxy.
func (l *portsLab) wire(t *testing.T, n *node) *wire {
	t.Helper()
	return newWire(t, l.dial(t, l.net.Member(n.name), fmt.Sprintf("127.0.0.1:%d", labProxy)))
}

// reload makes a node go by its fields as they are now.
func (l *portsLab) reload(t *testing.T, n *node) {
	t.Helper()
	n.writeConfig(t)
	if a, err := n.http.call("POST", "/v1/reload", "", nil); err != nil || a.status != 200 {
		t.Fatalf("reload node %s: %v, %+v", n.name, err, a)
	}
}

// refusals counts what a node has refused for a reason.
func (l *portsLab) refusals(t *testing.T, n *node, reason string) int {
	t.Helper()
	a, err := n.http.call("GET", "/metrics", "", nil)
	if err != nil || a.status != 200 {
		t.Fatalf("the metrics of node %s: %v, %+v", n.name, err, a)
	}
	count := 0
	for line := range strings.Lines(string(a.body)) {
		if text, ok := strings.CutPrefix(line, fmt.Sprintf("weir_refusals_total{reason=%q} ", reason)); ok {
			if _, err := fmt.Sscan(text, &count); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
		}
	}
	return count
}

// counted waits until a node has refused for a reason so often.
func (l *portsLab) counted(t *testing.T, n *node, reason string, want int) {
	t.Helper()
	eventually(t, 5*time.Second, fmt.Sprintf("%d refusals: %s", want, reason), func() error {
		if got := l.refusals(t, n, reason); got != want {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}
