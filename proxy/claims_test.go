package proxy

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/sock"
)

// only returns the one request in hand.
func (a *admitter) only(t *testing.T) *claims {
	t.Helper()
	list, _ := a.claimed()
	if len(list) != 1 {
		t.Fatalf("%d requests in hand, want 1", len(list))
	}
	return list[0]
}

// A tunnel is in hand from its CONNECT to its end, under its host, client and user.
func TestTunnelHoldsItsClaims(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0, policy(func(p *Policy) { p.Users = testUsers(t) }))
	p := w.dial()
	p.send("CONNECT " + u.addr + " HTTP/1.1\r\n" + authorization("ada:lovelace") + "\r\n")
	p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
	q := u.accept()
	w.adm.only(t)
	at := netip.MustParseAddrPort(u.addr)
	want := limit.Subject{
		Host:   limit.Target{Host: "127.0.0.1", Addr: at.Addr(), Port: at.Port()},
		Client: limit.ClientOf(netip.MustParseAddr("127.0.0.1")), User: "ada",
	}
	if got := w.adm.allBegun()[0]; got != want {
		t.Errorf("it is under the limits of %+v, want %+v", got, want)
	}
	p.CloseWrite()
	q.expectEOF()
	q.send("still in hand")
	p.expect("still in hand")
	w.adm.only(t)
	q.Close()
	p.expectEOF()
	eventually(t, "the request has ended", func() bool { return w.adm.inHandNow() == 0 })
}

// A client that has the whole response finds its limits with room for the next request, which may
// come over another connection.
func TestRoomComesWithTheEndOfAResponse(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	sized := func(n int) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, strings.Repeat("x", n))
	}
	for name, answer := range map[string]string{
		"nothing":      sized(0),
		"small":        sized(10),
		"a piece":      sized(10_000),
		"many pieces":  sized(1_000_000),
		"chunks":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"to the end":   "HTTP/1.0 200 OK\r\n\r\nabc",
		"not for kept": "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
	} {
		for range 20 {
			p := w.dial()
			p.send(get(u, "/", ""))
			q := u.accept()
			q.readHead()
			s := w.adm.slots()[0]
			go func() {
				io.WriteString(q, answer)
				q.Close()
			}()
			p.response("GET")
			if n := w.adm.inHandNow(); n != 0 {
				t.Errorf("%s: %d requests are in hand", name, n)
			}
			if !s.isParked() && !s.wasHeld() {
				t.Errorf("%s: the connection is still in use", name)
			}
			p.Close()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		}
	}
}

// A plain request is in hand to the end of its response. The kept connection keeps its slot alone,
// and the next request on it is one of its own.
func TestPlainRequestHoldsItsClaims(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	w.adm.inHand.Store(1)
	p := w.dial()
	q := (*peer)(nil)
	for n := 1; n <= 3; n++ {
		p.send(get(u, "/", ""))
		if n == 1 {
			q = u.accept()
		}
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1")
		first := w.adm.only(t)
		q.send("2")
		p.response("GET")
		if w.adm.inHandNow() != 0 || len(w.idle.all()) != 1 || !w.idle.all()[0].isParked() {
			t.Fatal("the request has not ended, or its connection is not kept")
		}
		if f := w.idle.all()[0]; f.hasClaims() {
			t.Error("the kept connection has claims")
		}
		first.holder.Sever(lease.SeverEvicted) // late: it must meet neither the connection nor the next request
		first.live.Store(false)
		if begun := len(w.adm.allBegun()); begun != n || w.adm.inUse() != 1 {
			t.Errorf("%d requests begun, %d slots held; want %d and 1", begun, w.adm.inUse(), n)
		}
	}
	eventually(t, "two requests were sent on a kept connection", func() bool { return w.Counters().Reused.Load() == 2 })
	// It ends with the upstream, although the claims of its last request are no longer live.
	s := w.adm.slots()[0]
	w.idle.all()[0].retire()
	q.expectEOF()
	q.Close()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	if s.wasHeld() {
		t.Error("the kept connection was reset")
	}
}

// hasClaims reports whether the flow, which must be parked, has any.
func (f *flow) hasClaims() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.claims != nil
}

// A claim that is severed ends the request, as a slot that is severed does.
func TestSeveredClaims(t *testing.T) {
	u := newUpstream(t, nil)
	for _, reason := range []lease.Reason{lease.SeverFenced, lease.SeverEvicted} {
		w := newWorld(t, 0)
		p := w.connect(u.addr)
		q := u.accept()
		w.adm.only(t).holder.Sever(reason)
		q.expectReset()
		p.expectReset()
		eventually(t, "the tunnel has ended", func() bool { return w.adm.inHandNow()+w.adm.inUse() == 0 })

		p = w.dial()
		p.send(get(u, "/", ""))
		q = u.accept()
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1")
		p.expect("HTTP/1.1 200 OK\r\n")
		w.adm.only(t).holder.Sever(reason)
		q.expectReset()
		p.expectReset()
		eventually(t, "the request has ended", func() bool { return w.adm.inHandNow()+w.adm.inUse() == 0 })
	}
}

// A claim that is severed during the dial refuses the request.
func TestSeveredClaimsWhileDialling(t *testing.T) {
	for _, request := range []string{"CONNECT %s HTTP/1.1\r\n\r\n", "GET http://%s/ HTTP/1.1\r\nHost: x\r\n\r\n"} {
		w := newWorld(t, 0)
		p := w.dial()
		p.send(fmt.Sprintf(request, fullListener(t)))
		eventually(t, "the dial has begun", func() bool { return len(w.flows.all()) == 1 && isDialling(w.flows.all()[0]) })
		w.adm.only(t).holder.Sever(lease.SeverEvicted)
		p.refused("GET", 503, codeLimit)
		eventually(t, "all is given back", func() bool { return w.adm.inHandNow()+w.adm.inUse() == 0 })
	}
}

// Once the claims are not live, no byte is passed on in either direction, though the slot is live.
func TestNoByteWithoutLiveClaims(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	for _, from := range []string{"client", "upstream"} {
		p := w.connect(u.addr)
		q := u.accept()
		w.adm.only(t).live.Store(false)
		if from == "client" {
			p.send("x")
		} else {
			q.send("x")
		}
		p.expectReset()
		q.expectReset()
		eventually(t, "the tunnel has ended", func() bool { return w.adm.inHandNow()+w.adm.inUse() == 0 })
	}
	p := w.dial()
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	w.adm.only(t).live.Store(false)
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	p.expectReset()
	q.expectReset()
}

// Splicing checks the claims as well.
func TestNoSplicingWithoutLiveClaims(t *testing.T) {
	w := newWorld(t, 0)
	u := newUpstream(t, nil)
	p := w.connect(u.addr)
	q := u.accept()
	go io.Copy(q, noise(1, 1<<40)) // until the reset
	if _, err := io.CopyN(io.Discard, p.r, 4<<20); err != nil {
		t.Fatal(err)
	}
	w.adm.only(t).live.Store(false)
	if _, err := io.Copy(io.Discard, p.r); !sock.IsReset(err) {
		t.Errorf("the tunnel ended with %v, want a reset", err)
	}
	eventually(t, "all is given back", func() bool { return w.adm.inHandNow()+w.adm.inUse() == 0 })
}

// A request that waits for its slot holds its claims; who is refused one, or goes away, gives all
// back.
func TestClaimsWhileAnotherIsInTheWay(t *testing.T) {
	u := newUpstream(t, nil)
	requests := map[string]string{"CONNECT": "CONNECT " + u.addr + " HTTP/1.1\r\n\r\n", "GET": get(u, "/", "")}
	for method, request := range requests {
		t.Run(method, func(t *testing.T) {
			w := newWorld(t, 1)
			first := w.connect(u.addr)
			u.accept()
			p := w.dial()
			p.send(request)
			eventually(t, "it waits for its slot", func() bool { return w.adm.queued() == 1 })
			if n := w.adm.inHandNow(); n != 2 {
				t.Errorf("%d requests in hand, want 2", n)
			}
			p.reset()
			eventually(t, "its claims are back", func() bool { return w.adm.inHandNow() == 1 && w.adm.queued() == 0 })

			w.adm.refuseWith(lease.ErrOverLimit)
			p = w.dial()
			p.send(request)
			p.refused(method, 503, codeLimit)
			eventually(t, "its claims are back", func() bool { return w.adm.inHandNow() == 1 })
			first.Close()
		})
		t.Run(method+" in the queue of its claims", func(t *testing.T) {
			w := newWorld(t, 0)
			w.adm.inHand.Store(1)
			first := w.connect(u.addr)
			u.accept()
			p := w.dial()
			p.send(request)
			waits := func() bool { _, n := w.adm.claimed(); return n == 1 }
			eventually(t, "it waits for its claims", waits)
			if n := w.adm.inUse(); n != 1 {
				t.Errorf("it holds a slot while it waits for its claims: %d are held", n)
			}
			p.reset()
			eventually(t, "it waits no longer", func() bool { return !waits() })
			p = w.dial()
			p.send(request)
			eventually(t, "another waits", waits)
			first.reset()
			q := u.accept()
			if method == "GET" {
				q.readHead()
				q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				p.response(method)
				return
			}
			p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
			p.Close()
		})
	}
}

// Claims are refused before a kept connection is touched, and the client's connection goes on.
func TestRefusedClaimsLeaveTheKeptConnection(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p, q := park(t, w, u)
	w.adm.mu.Lock()
	w.adm.failBegin = lease.ErrOverLimit
	w.adm.mu.Unlock()
	p.send(get(u, "/", ""))
	p.refused("GET", 503, codeLimit)
	w.adm.mu.Lock()
	w.adm.failBegin = nil
	w.adm.mu.Unlock()
	p.send(get(u, "/", ""))
	q.readHead()
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	p.response("GET")
}

// Nothing is held while a name is resolved, also when a request is sent again after its kept
// connection turned out to be closed.
func TestNoClaimsWhileANameIsResolved(t *testing.T) {
	u := newUpstream(t, nil)
	at := netip.MustParseAddrPort(u.addr)
	res, asked, _ := slowName(at.Addr())
	w := newWorld(t, 0, names(res))
	for _, method := range []string{"CONNECT", "GET"} {
		p := w.dial()
		if method == "CONNECT" {
			p.send(fmt.Sprintf("CONNECT slow.test:%d HTTP/1.1\r\n\r\n", at.Port()))
		} else {
			p.send(fmt.Sprintf("GET http://slow.test:%d/ HTTP/1.1\r\nHost: x\r\n\r\n", at.Port()))
		}
		<-asked
		if n := w.adm.inHandNow(); n != 0 {
			t.Errorf("%s: %d requests hold claims", method, n)
		}
		p.reset()
	}
}

// A client's name is made once, and different clients are told apart.
func TestClientNames(t *testing.T) {
	var n clientNames
	for i := range 300 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if got := n.client(a); got != limit.ClientOf(a) {
			t.Fatalf("%v is known as %+v", a, got)
		}
	}
	mapped := netip.MustParseAddr("::ffff:10.0.0.1")
	n.client(mapped)
	if allocs := testing.AllocsPerRun(100, func() { n.client(mapped) }); allocs != 0 {
		t.Errorf("%v allocations for a client that is known", allocs)
	}
}
