package proxy

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/resolve"
)

// halfClosed has requests to u after which the client only ends its sending side, and the
// upstream's view of them.
func halfClosed(u *upstream) map[string]struct{ request, content string } {
	return map[string]struct{ request, content string }{
		"GET":           {"GET http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\n\r\n", ""},
		"GET, HTTP/1.0": {"GET http://" + u.addr + "/ HTTP/1.0\r\n\r\n", ""},
		"POST":          {"POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", "body"},
	}
}

// answer sends q's answer and checks that p reads all of it.
func answer(p, q *peer, content string) {
	p.t.Helper()
	q.readHead()
	q.expect(content)
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	if resp, body := p.response("GET"); resp.StatusCode != 200 || body != "ok" {
		p.t.Errorf("got %s %q", resp.Status, body)
	}
	p.expectEOF()
}

// asked waits until the client has been sent the first bytes of its answer.
func (p *peer) asked() {
	p.t.Helper()
	if b, err := p.r.Peek(len(http1.StatusPrefix)); err != nil || string(b) != http1.StatusPrefix {
		p.t.Fatalf("peeked at %q, %v", b, err)
	}
}

func TestHalfClosedClientIsServedFromTheQueue(t *testing.T) {
	u := newUpstream(t, nil)
	for name, c := range halfClosed(u) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			first := w.connect(u.addr)
			held := u.accept()
			p := w.dial()
			p.send(c.request)
			eventually(t, "the client waits", func() bool { return w.adm.queued() == 1 })
			p.CloseWrite()
			p.asked()
			if w.adm.queued() != 1 {
				t.Fatal("it has lost its place")
			}
			first.Close()
			held.Close()
			answer(p, u.accept(), c.content)
		})
	}
}

// The same for a CONNECT, with and without bytes for the tunnel.
func TestHalfClosedConnectIsServedFromTheQueue(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, early := range []string{"", "question"} {
		first := w.connect(u.addr)
		held := u.accept()
		p := w.dial()
		p.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n" + early)
		eventually(t, "the client waits", func() bool { return w.adm.queued() == 1 })
		p.CloseWrite()
		p.asked()
		first.Close()
		held.Close()
		p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
		q := u.accept()
		q.expect(early)
		q.expectEOF()
		q.send("answer")
		q.Close()
		p.expect("answer")
		p.expectEOF()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

// A refusal also continues behind the first bytes.
func TestHalfClosedClientIsRefused(t *testing.T) {
	res, asked, _ := slowName(netip.Addr{})
	w := newWorld(t, 1, names(res), policy(func(p *Policy) { p.DialTimeout = 200 * time.Millisecond }))
	p := w.dial()
	p.send("GET http://slow.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
	<-asked
	p.CloseWrite()
	p.asked()
	p.refused("GET", 504, "dns_timeout")
}

func TestHalfClosedClientIsServedWhileConnecting(t *testing.T) {
	u := newUpstream(t, nil)
	at := netip.MustParseAddrPort(u.addr)
	for name, c := range halfClosed(u) {
		t.Run(name, func(t *testing.T) {
			asked, found := make(chan struct{}), make(chan struct{})
			w := newWorld(t, 1, names(resolver{"slow.test": func(context.Context) (resolve.Addrs, error) {
				close(asked)
				<-found
				return resolve.InOrder(at.Addr()), nil
			}}))
			p := w.dial()
			p.send(strings.Replace(c.request, at.Addr().String(), "slow.test", 1))
			<-asked
			p.CloseWrite()
			p.asked()
			close(found)
			answer(p, u.accept(), c.content)
		})
	}
}

// The upstream's silence and its answer may each last longer than half_close_timeout.
func TestHalfClosedClientIsServedBySlowUpstreams(t *testing.T) {
	const timeout = 20 * time.Millisecond
	u := newUpstream(t, nil)
	for name, c := range halfClosed(u) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, policy(func(p *Policy) { p.HalfCloseTimeout = timeout }))
			p := w.dial()
			p.send(c.request)
			p.CloseWrite()
			p.asked()
			q := u.accept()
			q.readHead()
			q.expect(c.content)
			<-time.After(5 * timeout) // the upstream's pace
			q.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
			p.readHead()
			p.expect("o")
			<-time.After(5 * timeout)
			q.send("k")
			p.expect("k")
			p.expectEOF()
		})
	}
}

// Several requests that are sent at once are all answered after a half-close.
func TestHalfClosedClientsPipelineIsServed(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	p.send(get(u, "/1", "") + get(u, "/2", ""))
	p.CloseWrite()
	p.asked()
	q := u.accept()
	for range 2 {
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		if resp, body := p.response("GET"); resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("got %s %q", resp.Status, body)
		}
	}
	p.expectEOF()
}

// Clients that have sent more than the socket's buffers hold lose their places in the queue, too,
// when they go away, though their FINs can't arrive. Those that stay are served.
func TestClientBehindMuchContentLosesItsPlace(t *testing.T) {
	u := newUpstream(t, nil)
	content := strings.Repeat("x", 16<<20)
	for name, request := range map[string]string{
		"POST":    "POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: " + strconv.Itoa(len(content)) + "\r\n\r\n",
		"CONNECT": "CONNECT " + u.addr + " HTTP/1.1\r\n\r\n",
		"SOCKS5":  socksHello + socksAsk(u.addr),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			first := w.connect(u.addr)
			held := u.accept()
			begin := func() (p *peer, sent int) { // as much as fits
				p = w.dial()
				p.send(request)
				eventually(t, "the client waits", func() bool { return w.adm.queued() == 1 })
				p.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
				sent, err := p.Write([]byte(content))
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("%d of %d bytes were sent: %v", sent, len(content), err)
				}
				return p, sent
			}
			p, _ := begin()
			p.Close()
			eventually(t, "it has lost its place", func() bool { return w.adm.queued() == 0 })

			p, n := begin()
			if _, err := p.r.Peek(2); err != nil { // it has been asked twice
				t.Fatal(err)
			}
			if w.adm.queued() != 1 {
				t.Fatal("it has lost its place")
			}
			first.Close()
			held.Close()
			q := u.accept()
			sent := make(chan error, 1)
			go func() {
				p.SetWriteDeadline(time.Now().Add(patience))
				_, err := p.Write([]byte(content[n:]))
				sent <- err
			}()
			switch name {
			case "POST":
				q.readHead()
				q.expect(content)
				q.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				if resp, body := p.response("POST"); resp.StatusCode != 200 || body != "ok" {
					t.Errorf("got %s %q", resp.Status, body)
				}
			case "CONNECT":
				p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
				q.expect(content)
			default:
				p.expect(socksChosen)
				p.opened()
				q.expect(content)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			q.Close()
			p.Close()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		})
	}
}
