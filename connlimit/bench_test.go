package connlimit

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	hashicorp "github.com/hashicorp/go-connlimit"
	"golang.org/x/net/netutil"
)

// limits are some of each kind, none of which is reached.
func limits() Config {
	return Config{Connections: Limits{Total: AtMost(1_000_000), PerClient: AtMost(100_000)}}
}

// clients are connections from n addresses, in no order.
func clients(n int) []net.Conn {
	conns := make([]net.Conn, n)
	for i := range conns {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		conns[i] = &conn{remote: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 4711))}
	}
	rand.Shuffle(n, func(i, j int) { conns[i], conns[j] = conns[j], conns[i] })
	return conns
}

// BenchmarkAccept accepts a connection and frees it, while each address has one open all the time
// ("busy"), or none ("idle"): then a client comes and goes. Compare -cpu 1,2. cpu-ns/op is
// processor time, which other programs on the machine prolong less than the clock's.
func BenchmarkAccept(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		for _, busy := range []string{"busy", "idle"} {
			b.Run(fmt.Sprintf("addresses=%d/%s/connlimit", n, busy), func(b *testing.B) {
				l := newLimiter(b, limits())
				if busy == "busy" {
					for _, c := range clients(n) {
						admit(b, l, c)
					}
				}
				parallel(b, n, func(c net.Conn) {
					free, err := l.Accept(c)
					if err != nil {
						b.Fatal(err)
					}
					free()
				})
			})
			b.Run(fmt.Sprintf("addresses=%d/%s/go-connlimit", n, busy), func(b *testing.B) {
				l := hashicorp.NewLimiter(hashicorp.Config{MaxConnsPerClientIP: 100_000})
				if busy == "busy" {
					for _, c := range clients(n) {
						l.Accept(c)
					}
				}
				parallel(b, n, func(c net.Conn) {
					free, err := l.Accept(c)
					if err != nil {
						b.Fatal(err)
					}
					free()
				})
			})
		}
	}
}

// parallel measures f, with connections from the first n addresses, in no order. Like a connection
// that has just been accepted, they are in the processor's cache; what is known of their clients
// need not be.
func parallel(b *testing.B, n int, f func(net.Conn)) {
	b.ReportAllocs()
	b.ResetTimer()
	before := processorTime()
	b.RunParallel(func(pb *testing.PB) {
		addr := &net.TCPAddr{IP: net.IP{10, 0, 0, 0}, Port: 4711}
		c := &conn{remote: addr}
		r := rand.New(rand.NewPCG(rand.Uint64(), 0))
		for pb.Next() {
			binary.BigEndian.PutUint32(addr.IP, 10<<24|uint32(r.IntN(n)))
			f(c)
		}
	})
	b.ReportMetric(float64(processorTime()-before)/float64(b.N), "cpu-ns/op")
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func admit(t testing.TB, l *Limiter, c net.Conn) Slot {
	t.Helper()
	slot, err := l.Admit(c)
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

// endless is a listener that always has another connection.
type endless struct{ conns []net.Conn }

func (e endless) Accept() (net.Conn, error) { return e.conns[rand.IntN(len(e.conns))], nil }
func (endless) Close() error                { return nil }
func (endless) Addr() net.Addr              { return &net.TCPAddr{} }

// sockets are connections from n addresses of the loopback network.
func sockets(b *testing.B, n int) []net.Conn {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	conns := make([]net.Conn, n)
	for i := range conns {
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i))}}
		c, err := from.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		if conns[i], err = ln.Accept(); err != nil {
			b.Fatal(err)
		}
	}
	return conns
}

// BenchmarkListener accepts through a listener and closes. Of sockets alone a Listener knows that
// their address is at hand, and these are closed again and again: the Close inside fails, and
// allocates its error. So each is measured without a limit as well ("none"); what a listener costs
// is the difference.
func BenchmarkListener(b *testing.B) {
	inner := endless{sockets(b, 100)}
	for _, l := range []struct {
		name string
		net.Listener
	}{
		{"none", inner},
		{"connlimit", newLimiter(b, limits()).Listener(inner)},
		{"netutil", netutil.LimitListener(inner, 1_000_000)},
	} {
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			b.ResetTimer()
			before := processorTime()
			for range b.N {
				c, err := l.Accept()
				if err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
			b.ReportMetric(float64(processorTime()-before)/float64(b.N), "cpu-ns/op")
		})
		l.Close()
	}
}
