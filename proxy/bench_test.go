package proxy

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/proxy/resolve"
)

// benchServer is a proxy whose admitter has no limit, and an echoing upstream.
func benchServer(b testing.TB) (proxyAddr, upstreamAddr string) {
	b.Helper()
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			c, err := up.Accept()
			if err != nil {
				return
			}
			go func() {
				echo(c.(*net.TCPConn))
				c.Close()
			}()
		}
	}()
	hosts := filepath.Join(b.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	names := resolve.New(resolve.Config{Hosts: hosts})
	adm := newAdmitter(0)
	adm.uncounted = true
	s, err := New(Config{Node: "n1", NodeGreeting: testGreeting, Policy: testPolicy()}, adm, names, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve(l)
	b.Cleanup(func() {
		s.Close()
		names.Close()
		up.Close()
	})
	return l.Addr().String(), up.Addr().String()
}

// One connection: dial, CONNECT, a small round trip, close. The figures include the client and the
// upstream.
func BenchmarkChurn(b *testing.B) {
	proxy, up := benchServer(b)
	churn(b, proxy, up)
}

// The same, with a name whose addresses are known.
func BenchmarkChurnByName(b *testing.B) {
	proxy, up := benchServer(b)
	churn(b, proxy, "localhost"+up[strings.LastIndexByte(up, ':'):])
}

func churn(b *testing.B, proxy, up string) {
	once := byCONNECT(b, proxy, up)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}

// The same by SOCKS5: two round trips before the tunnel is open.
func BenchmarkChurnSOCKS5(b *testing.B) {
	proxy, up := benchServer(b)
	once := bySOCKS5(b, proxy, up)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}

// byCONNECT returns a function that makes one connection.
func byCONNECT(tb testing.TB, proxy, up string) func() {
	head := []byte("CONNECT " + up + " HTTP/1.1\r\nHost: " + up + "\r\n\r\n")
	buf := make([]byte, len(established))
	return func() {
		once(tb, proxy, buf, func(c net.Conn) {
			c.Write(head)
			io.ReadFull(c, buf)
		})
	}
}

// bySOCKS5 is byCONNECT for SOCKS5.
func bySOCKS5(tb testing.TB, proxy, up string) func() {
	hello, ask := []byte(socksHello), []byte(socksAsk(up))
	buf := make([]byte, 10)
	return func() {
		once(tb, proxy, buf, func(c net.Conn) {
			c.Write(hello)
			io.ReadFull(c, buf[:2])
			c.Write(ask)
			io.ReadFull(c, buf)
		})
	}
}

// once makes one connection, in which open opens the tunnel.
func once(tb testing.TB, proxy string, buf []byte, open func(net.Conn)) {
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		tb.Fatal(err)
	}
	open(c)
	c.Write(buf[:8])
	io.ReadFull(c, buf[:8])
	c.(*net.TCPConn).CloseWrite()
	c.Read(buf)
	c.Close()
}

// A few bytes to the upstream and back, in an open tunnel.
func BenchmarkTunnelEcho(b *testing.B) {
	c := benchTunnel(b)
	buf := make([]byte, 8)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(buf)
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// Bulk data to the upstream and back.
func BenchmarkTunnelBulk(b *testing.B) {
	c := benchTunnel(b)
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(buf)))
	go func() {
		out := make([]byte, 1<<20)
		for {
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	}()
	for b.Loop() {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// benchTunnel opens a tunnel to an echoing upstream.
func benchTunnel(b *testing.B) net.Conn {
	b.Helper()
	proxy, up := benchServer(b)
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	io.WriteString(c, "CONNECT "+up+" HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := io.ReadFull(c, make([]byte, len(established))); err != nil {
		b.Fatal(err)
	}
	return c
}

// One request on a kept-alive client connection, and a kept-alive upstream connection.
func BenchmarkExchange(b *testing.B) {
	up, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer up.Close()
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	go func() {
		c, err := up.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 4096)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			c.Write(answer)
		}
	}()
	proxy, _ := benchServer(b)
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request := []byte("GET http://" + up.Addr().String() + "/ HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		c.Write(request)
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
