package proxy

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/proxy/sock"
)

func TestSever(t *testing.T) {
	u := newUpstream(t, nil)
	for _, reason := range []lease.Reason{lease.SeverFenced, lease.SeverEvicted} {
		w := newWorld(t, 1)
		t.Run("tunnel", func(t *testing.T) {
			p := w.connect(u.addr)
			q := u.accept()
			w.adm.slots()[0].holder.Sever(reason)
			q.expectReset()
			p.expectReset()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		})
		t.Run("half-closed", func(t *testing.T) {
			p := w.connect(u.addr)
			q := u.accept()
			p.CloseWrite()
			q.expectEOF()
			w.adm.slots()[0].holder.Sever(reason)
			p.expectReset()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		})
		t.Run("wanted, but busy", func(t *testing.T) {
			p := w.connect(u.addr)
			q := u.accept()
			w.adm.slots()[0].holder.Sever(lease.SeverWanted)
			q.send("unharmed")
			p.expect("unharmed")
			p.Close()
			q.Close()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		})
	}
}

func TestSeverWhileDialling(t *testing.T) {
	for _, c := range []struct {
		reason lease.Reason
		status int
		code   string
	}{
		{lease.SeverFenced, 503, "proxy_internal_error"},
		{lease.SeverEvicted, 429, "connection_limit_reached"},
	} {
		w := newWorld(t, 1, policy(func(p *Policy) { p.RejectStatus = 429 }))
		p := w.dial()
		p.send("CONNECT " + fullListener(t) + " HTTP/1.1\r\n\r\n")
		eventually(t, "the dial has begun", func() bool { return len(w.flows.all()) == 1 && isDialling(w.flows.all()[0]) })
		w.adm.slots()[0].holder.Sever(c.reason)
		p.refused("CONNECT", c.status, c.code)
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

// A process that wakes up after its lease has run out reads nothing more, with or without a fence.
func TestNothingIsRelayedPastTheDeadline(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, fromClient := range []bool{true, false} {
		p := w.connect(u.addr)
		q := u.accept()
		w.adm.slots()[0].live.Store(false)
		from, to := p, q
		if !fromClient {
			from, to = q, p
		}
		_, _ = from.Write([]byte("too late")) // a check of the idle tunnel may have reset it before
		to.expectReset()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

// It begins no connection either, on a slot that ran out while the request waited for its token.
func TestNothingIsDialledPastTheDeadline(t *testing.T) {
	u := newUpstream(t, nil)
	for _, request := range []string{"CONNECT " + u.addr + " HTTP/1.1\r\n\r\n", get(u, "/", "")} {
		for _, what := range []string{"slot", "claims"} {
			w := newWorld(t, 1)
			w.adm.setTokens(0, nil)
			p := w.dial()
			p.send(request)
			eventually(t, "the request waits for its token", func() bool { _, n := w.adm.tokensTaken(); return n == 1 })
			if what == "slot" {
				w.adm.slots()[0].live.Store(false)
			} else {
				w.adm.only(t).live.Store(false)
			}
			w.adm.setTokens(1, nil)
			p.refused("CONNECT", 503, "proxy_internal_error")
		}
	}
	if n := u.all.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func isDialling(f *flow) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dialling != nil
}

func TestCloseConnection(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	p := w.connect(u.addr)
	q := u.accept()
	if w.CloseConnection("no number") || w.CloseConnection("999999") {
		t.Fatal("closed what isn't there")
	}
	c := w.Connections("")[0]
	if c.Limited {
		t.Error("an unlimited connection is called limited")
	}
	if !w.CloseConnection(c.ID) {
		t.Fatal("not closed")
	}
	q.expectReset()
	p.expectReset()
}

// A client's reset, met by a write to the client, is not the upstream's: the upstream gets its
// reset from the proxy, and the slot waits for that to arrive.
func TestClientResetHoldsTheSlot(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, answer := range []string{
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
	} {
		for range 5 { // the hang-up watcher may be first
			p := w.dial()
			p.send(get(u, "/", "Connection: upgrade\r\nUpgrade: websocket\r\n"))
			q := u.accept()
			q.readHead()
			s := w.adm.slots()[0]
			p.reset()
			q.send(answer)
			q.expectReset()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
			if !s.wasHeld() {
				t.Errorf("%q: the slot was released at once", answer)
			}
		}
	}
	if n := w.Counters().Refused.Load(); n != 0 {
		t.Errorf("%d refusals of upstreams that did nothing wrong", n)
	}
}

// An error of this machine is not the upstream's reset either.
func TestFailedRelayHoldsTheSlot(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	w.connect(u.addr)
	q := u.accept()
	s := w.adm.slots()[0]
	w.flows.all()[0].pumpFailed(unix.ENOMEM, errUpstreamReset, 0)
	q.expectReset()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	if !s.wasHeld() {
		t.Error("the slot was released at once")
	}
}

// No byte goes to either side of a tunnel once its slot, or its request's claims, are not live,
// whichever way it was opened.
func TestBothSidesOfATunnelAreGuarded(t *testing.T) {
	for _, what := range []string{"slot", "claims"} {
		w := newWorld(t, 0)
		u := newUpstream(t, nil)
		_, _, f := w.sleepingTunnel(u) // nobody else uses the sockets
		f.mu.Lock()
		sides := map[string]*sock.Conn{"upstream": f.upstream, "client": f.client.sock}
		f.mu.Unlock()
		if what == "slot" {
			w.adm.slots()[0].live.Store(false)
		} else {
			w.adm.only(t).live.Store(false)
		}
		for side, s := range sides {
			if s.Write([]byte("late"), nil, nil) == nil {
				t.Errorf("without live %s, a byte went to the %s", what, side)
			}
		}
	}
}
