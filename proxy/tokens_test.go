package proxy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/lease"
)

const noContent = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// Each CONNECT, plain request and upgraded request takes one token, also on a client connection,
// and on an upstream connection, that is kept.
func TestATokenForEachRequest(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	takes := func(what string, want int) {
		t.Helper()
		if got, _ := w.adm.tokensTaken(); got != want {
			t.Fatalf("after %s: %d tokens, want %d", what, got, want)
		}
	}
	w.connect(u.addr)
	takes("a CONNECT", 1)
	u.accept()
	p, q := park(t, w, u)
	takes("a plain request", 2)
	p.send(get(u, "/", ""))
	q.readHead()
	q.send(noContent)
	p.response("GET")
	takes("another one", 3)
	p.send(get(u, "/", "Connection: upgrade\r\nUpgrade: websocket\r\n"))
	q.readHead()
	q.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	p.response("GET")
	takes("an upgraded request", 4)
}

// A request that is sent again because its kept connection was stale takes no second token.
func TestNoTokenForARetry(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p, q := park(t, w, u)
	p.send(get(u, "/", ""))
	q.readHead()
	q.Close()
	q = u.accept()
	q.readHead()
	q.send(noContent)
	p.response("GET")
	taken, _ := w.adm.tokensTaken()
	if retries := w.Counters().Retries.Load(); retries != 1 || taken != 2 {
		t.Errorf("%d retries, %d tokens for 2 requests", retries, taken)
	}
}

// Who waits for a token holds the claims and the slot, and has sent nothing. Who goes away
// meanwhile gives all back.
func TestWaitForAToken(t *testing.T) {
	u := newUpstream(t, nil)
	for method, request := range map[string]string{"CONNECT": "CONNECT " + u.addr + " HTTP/1.1\r\n\r\n", "GET": get(u, "/", "")} {
		w := newWorld(t, 1)
		w.adm.setTokens(0, nil)
		waits := func() bool { _, n := w.adm.tokensTaken(); return n == 1 }
		p := w.dial()
		p.send(request)
		eventually(t, "it waits for a token", waits)
		if n, m := w.adm.inHandNow(), w.adm.inUse(); n != 1 || m != 1 {
			t.Errorf("%s: %d requests in hand, %d slots held; want 1 of each", method, n, m)
		}
		all := u.all.Load()
		p.reset()
		eventually(t, "all is given back", func() bool { return !waits() && w.adm.inHandNow()+w.adm.inUse() == 0 })
		if u.all.Load() != all {
			t.Errorf("%s: the upstream was dialled without a token", method)
		}
		p = w.dial()
		p.send(request)
		eventually(t, "another waits", waits)
		w.adm.setTokens(1, nil)
		q := u.accept()
		if method == "GET" {
			q.readHead()
			q.send(noContent)
			p.response(method)
		} else {
			p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
			p.Close()
			q.Close()
		}
	}
}

// While a request waits for its token, its kept connection is safe: it is used once the token has
// come, and kept on if the client goes away or the request is refused.
func TestWaitForATokenWithAKeptConnection(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p, q := park(t, w, u)
	w.adm.setTokens(0, nil)
	waits := func() bool { _, n := w.adm.tokensTaken(); return n == 1 }
	isKept := func() bool {
		list := w.idle.all()
		return len(list) == 1 && list[0].isParked() && w.adm.slots()[0].isParked()
	}

	p.send(get(u, "/", ""))
	eventually(t, "it waits", waits)
	p.reset()
	eventually(t, "the connection is kept on", func() bool { return isKept() && w.adm.inHandNow() == 0 })

	p = w.dial()
	p.send(get(u, "/", ""))
	eventually(t, "it waits", waits)
	w.adm.setTokens(0, lease.ErrQueueTimeout)
	p.refused("GET", 503, codeLimit)
	eventually(t, "the connection is kept on", func() bool { return isKept() && w.adm.inHandNow() == 0 })

	w.adm.setTokens(0, nil)
	p.send(get(u, "/", ""))
	eventually(t, "it waits", waits)
	w.adm.setTokens(1, nil)
	q.readHead()
	q.send(noContent)
	p.response("GET")
	if n := u.all.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	eventually(t, "the connection is kept", isKept)

	// A slot that is severed meanwhile ends the connection alone: the request opens another.
	w.adm.setTokens(0, nil)
	p.send(get(u, "/", ""))
	eventually(t, "it waits", waits)
	w.adm.slots()[0].holder.Sever(lease.SeverEvicted)
	q.expectReset()
	w.adm.setTokens(1, nil)
	q = u.accept()
	q.readHead()
	q.send(noContent)
	p.response("GET")
	eventually(t, "the connection is kept", isKept)

	// So does the upstream's own end.
	w.adm.setTokens(0, nil)
	p.send("POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
	eventually(t, "it waits", waits)
	q.CloseWrite()
	f := w.flows.all()[0]
	eventually(t, "the end has come", func() bool { return !f.upstream.Quiet() })
	w.adm.setTokens(1, nil)
	q.Close()
	q = u.accept()
	q.readHead()
	q.send(noContent)
	p.response("POST")
}

// The wait for a token is none for the slot, and does not count as time of the dial.
func TestWaitForATokenIsNoDial(t *testing.T) {
	u := newUpstream(t, nil)
	const timeout = 20 * time.Millisecond
	var j journal
	w := newWorld(t, 1, policy(func(p *Policy) { p.DialTimeout = timeout }), func(_ *Config, _ *resolver, o *worldOptions) {
		o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true
	})
	w.adm.setTokens(0, nil)
	p := w.dial()
	began := time.Now()
	p.send("CONNECT " + u.addr + " HTTP/1.1\r\n\r\n")
	eventually(t, "it waits for longer than a dial may take", func() bool {
		_, n := w.adm.tokensTaken()
		return n == 1 && time.Since(began) > 2*timeout
	})
	w.adm.setTokens(1, nil)
	p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
	p.Close()
	u.accept().Close()
	var line map[string]any
	eventually(t, "the line is written", func() bool {
		list := j.Lines(t, "tunnel ended")
		if len(list) == 1 {
			line = list[0]
		}
		return line != nil
	})
	took := func(key string) time.Duration {
		d, err := time.ParseDuration(fmt.Sprint(line[key]))
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		return d
	}
	if token := took("token_wait"); token < timeout || took("dial") >= token || took("slot_wait") >= token {
		t.Errorf("the line has %v", line)
	}
}

// Take is told how long the request has waited before.
func TestTokenIsToldOfTheWait(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 0)
	w.adm.inHand.Store(1)
	first := w.connect(u.addr)
	u.accept()
	p := w.dial()
	p.send(fmt.Sprintf("CONNECT %s HTTP/1.1\r\n\r\n", u.addr))
	eventually(t, "it waits for its claims", func() bool { _, n := w.adm.claimed(); return n == 1 })
	began := time.Now()
	eventually(t, "it has waited", func() bool { return time.Since(began) > 10*time.Millisecond })
	first.reset()
	p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
	w.adm.mu.Lock()
	defer w.adm.mu.Unlock()
	if longest := slices.Max(w.adm.waits); longest < 10*time.Millisecond {
		t.Errorf("the longest wait is said to be %v", longest)
	}
}

// While a request waits for its token, a limit is set on its host that has no room for it: it gives
// its slot back and asks for another, and for another token, as if it had none.
func TestLimitIsSetDuringTheWaitForAToken(t *testing.T) {
	u := newUpstream(t, nil)
	for _, request := range []string{"CONNECT " + u.addr + " HTTP/1.1\r\n\r\n", get(u, "/", "")} {
		w := newWorld(t, 1)
		w.adm.setTokens(0, nil)
		p := w.dial()
		p.send(request)
		eventually(t, "the request waits for its token", func() bool { _, n := w.adm.tokensTaken(); return n == 1 })
		former := w.adm.slots()[0]
		former.uncovered.Store(true)
		w.adm.setTokens(1, nil)
		eventually(t, "it waits for another token", func() bool { taken, n := w.adm.tokensTaken(); return taken == 1 && n == 1 })
		slots := w.adm.slots()
		if len(slots) != 1 || slots[0] == former {
			t.Errorf("%d slots are held, want another one", len(slots))
		}
		if n := u.all.Load(); n != 0 {
			t.Fatalf("%d connections were opened without room for one", n)
		}

		slots[0].uncovered.Store(true)
		w.adm.refuseWith(lease.ErrOverLimit)
		w.adm.setTokens(1, nil)
		p.refused("CONNECT", 503, codeLimit)
		eventually(t, "all is given back", func() bool { return len(w.adm.slots()) == 0 && w.adm.inHandNow() == 0 })
	}
}
