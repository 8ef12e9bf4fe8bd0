package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/proxy/resolve"
)

func TestDrain(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	p := w.connect(u.addr)
	q := u.accept()
	idle := w.dial()
	idle.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.refused("GET", 400, "http_request_error")

	w.SetDraining(true)
	idle.expectEOF()
	late := w.dial()
	late.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
	if late.refused("CONNECT", 503, "proxy_internal_error").Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.SetDraining(false)
	again := w.connect(u.addr)
	q2 := u.accept()
	again.Close()
	q2.expectEOF()
	q2.Close()

	drained := make(chan error, 1)
	go func() { drained <- w.Drain(context.Background()) }()
	eventually(t, "the listener is closed", func() bool {
		c, err := net.Dial("tcp", w.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	q.send("tunnels go on")
	p.expect("tunnels go on")
	p.Close()
	q.expectEOF()
	q.Close()
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
}

// A request whose name was being looked up when draining began is not admitted any more.
func TestDrainDuringALookup(t *testing.T) {
	u := newUpstream(t, nil)
	at := netip.MustParseAddrPort(u.addr)
	asked, answer := make(chan struct{}), make(chan struct{})
	w := newWorld(t, 0, names(resolver{"slow.test": func(context.Context) (resolve.Addrs, error) {
		asked <- struct{}{}
		<-answer
		return resolve.InOrder(at.Addr()), nil
	}}))
	p := w.dial()
	p.send(fmt.Sprintf("CONNECT slow.test:%d HTTP/1.1\r\n\r\n", at.Port()))
	<-asked
	w.SetDraining(true)
	close(answer)
	resp := p.refused("CONNECT", 503, "proxy_internal_error")
	if got := resp.Header.Get("Proxy-Status"); !strings.HasSuffix(got, "; details=\"draining\"") {
		t.Errorf("Proxy-Status %q, want draining", got)
	}
	p.Close()
}

// A request that the node's end cuts off is counted as refused for that, whatever it waited for.
func TestCloseDuringAdmission(t *testing.T) {
	res, asked, _ := slowName(netip.Addr{})
	w := newWorld(t, 1, names(res))
	u := newUpstream(t, nil)
	w.connect(u.addr)
	u.accept()
	w.dial().send("CONNECT slow.test:443 HTTP/1.1\r\n\r\n")
	<-asked
	w.dial().send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
	w.dial().send(socksHello + socksAsk(u.addr))
	eventually(t, "both wait", func() bool { return w.adm.queued() == 2 })
	w.Close()
	c := w.Counters()
	all, because := c.Refused.Load(), c.Refusals[RefusedDraining].Load()
	if all != 3 || because != 3 {
		t.Errorf("%d refusals, %d because it drains; want 3 and 3", all, because)
	}
}

func TestDrainResetsTheRestAtItsEnd(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.connect(u.addr)
	q := u.accept()
	waiting := w.dial()
	waiting.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
	eventually(t, "a client waits", func() bool { return w.adm.queued() == 1 })
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errTest)
	if err := w.Drain(ctx); err != errTest {
		t.Fatalf("Drain: %v", err)
	}
	p.expectReset()
	q.expectReset()
	if w.adm.inUse() != 0 {
		t.Fatal("a slot is held after Drain")
	}
}

// A client of SOCKS5 that has authenticated, and then has its tunnel, waits for nothing: neither a
// drain nor a full proxy ends it as one that does.
func TestSOCKSTunnelOfAUserIsNotIdle(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0, policy(func(p *Policy) { p.Users = testUsers(t) }))
	p := w.dial()
	p.send("\x05\x01\x02")
	p.expect("\x05\x02")
	p.send("\x01\x03ada\x08lovelace")
	p.expect("\x01\x00")
	eventually(t, "the proxy waits for the request", func() bool { return len(w.idlers(time.Now())) == 1 })
	p.send(socksAsk(u.addr))
	p.opened()
	q := u.accept()
	if n := len(w.idlers(time.Now())); n != 0 {
		t.Errorf("%d clients count as idle", n)
	}
	w.SetDraining(true)
	p.send("tunnels go on")
	q.expect("tunnels go on")
	p.Close()
	q.expectEOF()
	q.Close()
}

// A request that comes just as its idle client is ended is not begun: of its content and its
// tunnel, nothing could be read. Where the server drains, it is answered.
func TestRequestThatMeetsItsClientsEnd(t *testing.T) {
	for name, request := range map[string]func(target string) string{
		"HTTP":   func(target string) string { return "CONNECT " + target + " HTTP/1.1\r\n\r\n" },
		"SOCKS5": func(target string) string { return "\x05\x01\x00" + socksAsk(target) },
	} {
		for _, draining := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, draining %v", name, draining), func(t *testing.T) {
				u := newUpstream(t, nil)
				w := newWorld(t, 0)
				p := w.dial()
				var c *conn
				eventually(t, "the client is idle", func() bool {
					w.mu.Lock()
					defer w.mu.Unlock()
					for c = range w.clients {
					}
					return c != nil && !c.idleSince().IsZero()
				})
				c.mu.Lock()
				p.send(request(u.addr))
				eventually(t, "the request is read", func() bool { return c.sock.Unread() == 0 })
				w.draining.Store(draining)
				c.endIdle()
				c.mu.Unlock()
				switch {
				case !draining:
					p.expectEOF()
				case name == "HTTP":
					p.expect("HTTP/1.1 503 ")
				default:
					p.expect("\x05\x00\x05\x01")
				}
				if n := len(w.flows.all()); n != 0 {
					t.Errorf("%d flows are open", n)
				}
			})
		}
	}
}
