package proxy

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/proxy/sock"
	"github.com/weirproxy/weir/proxy/socks5"
)

var handshakes = flag.Int("handshakes", 2000, "how many SOCKS5 handshakes TestSOCKSHandshakes makes up")

// What a made-up client may begin with, say next and do at the end. Most messages are whole, so
// that all states are reached; bytes are then changed, left out or added.
var (
	socksOpenings = []string{socksHello, "\x05\x02\x00\x02", "\x05\x01\x02", "\x05\x00", "\x05\xff", "\x04\x01", "\x05"}
	socksLogins   = []string{"", "", "\x01\x03ada\x08lovelace", "\x01\x03ada\x04love", "\x01\x00\x00", "\x01\xff", "\x05"}
)

// fuzzedHandshake makes up what one client sends, who may be a user.
func fuzzedHandshake(rng *rand.Rand, user bool, echo, closed string) []byte {
	requests := []string{
		socksAsk(echo), socksAsk(echo), socksAsk(closed), socksAsk("api.test:" + portOf(echo)), socksAsk("nowhere.test:1"), socksAsk("0.0.0.0:80"),
		"\x05\x02" + socksAsk(echo)[2:], "\x05\x01\x00\x02", "\x05\x01\x00\x03\xff", "\x05\x01\x00\x04" + strings.Repeat("\x00", 18), "",
	}
	pick := func(list []string) string { return list[rng.IntN(len(list))] }
	begin := pick(socksOpenings) + pick(socksLogins)
	if user && rng.IntN(2) == 0 {
		begin = "\x05\x01\x02\x01\x03ada\x08lovelace"
	}
	b := []byte(begin + pick(requests) + strings.Repeat("early", rng.IntN(3)))
	for range max(0, rng.IntN(5)-2) {
		if len(b) == 0 {
			break
		}
		switch i := rng.IntN(len(b)); rng.IntN(3) {
		case 0:
			b[i] = byte(rng.Uint32())
		case 1:
			b = append(b[:i], b[i+1:]...)
		default:
			b = b[:i]
		}
	}
	return b
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// converse sends b in pieces, and ends the connection in one way or another. It returns an error if
// the server's answers are none of SOCKS5, or if it does not end the connection.
func converse(rng *rand.Rand, proxy string, b []byte) error {
	conn, err := net.Dial("tcp", proxy)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	tcp := conn.(*net.TCPConn)
	socks := len(b) > 0 && b[0] == socks5.Version
	for len(b) > 0 {
		n := len(b)
		if rng.IntN(2) == 0 {
			n = 1 + rng.IntN(len(b))
		}
		if _, err := conn.Write(b[:n]); err != nil {
			return nil // the server has refused, and closed
		}
		b = b[n:]
	}
	switch rng.IntN(4) {
	case 0:
		tcp.SetLinger(0)
		return nil
	case 1:
		return nil
	}
	if err := tcp.CloseWrite(); err != nil {
		return nil
	}
	answer, err := io.ReadAll(conn)
	switch {
	case err != nil && !sock.IsReset(err):
		return fmt.Errorf("after %q: %w", answer, err)
	case socks && len(answer) > 0 && answer[0] != socks5.Version:
		return fmt.Errorf("answered with %q", answer)
	}
	return nil
}

// openDescriptors counts those of this process.
func openDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Whatever clients send, and however they leave: each connection ends, nothing is held afterwards,
// and the server goes on. make long runs 1,000,000.
func TestSOCKSHandshakes(t *testing.T) {
	u := newUpstream(t, echo)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	res := resolver{"api.test": []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	// Changed bytes are also of addresses: nothing beyond this machine is dialled.
	here := policy(func(p *Policy) { p.AllowDestinations = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	open := newWorld(t, 0, names(res), here)
	guarded := newWorld(t, 0, names(res), here, policy(func(p *Policy) { p.Users = testUsers(t) }))
	begun, before := time.Now(), openDescriptors(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const workers = 16
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for n := i; n < *handshakes; n += workers {
				w := open
				if n%8 == 0 { // bcrypt is slow
					w = guarded
				}
				b := fuzzedHandshake(rng, w == guarded, u.addr, closed.Addr().String())
				if err := converse(rng, w.addr, b); err != nil {
					t.Errorf("%q: %v", b, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, w := range []*world{open, guarded} {
		eventually(t, "no client is left, and no slot held", func() bool { return w.Counters().Clients.Load() == 0 && w.adm.inUse() == 0 })
		if c := w.Counters(); c.Requests.Load() == 0 || c.Tunnels.Load() == 0 || c.Refused.Load() == 0 {
			t.Errorf("%d requests, %d tunnels, %d refusals: not every state was reached", c.Requests.Load(), c.Tunnels.Load(), c.Refused.Load())
		}
	}
	eventually(t, "no descriptor is left", func() bool { return openDescriptors(t) <= before })
	t.Logf("%d handshakes in %v", *handshakes, time.Since(begun).Round(time.Millisecond))
	p := open.socks(u.addr)
	p.send("hello")
	p.expect("hello")
}
