package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/lease"
)

func TestKeepAliveAndPipelining(t *testing.T) {
	u := httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, b)
	})
	w := newWorld(t, 1)
	p := w.dial()
	p.send(get(u, "/1", "") + "POST http://" + u.addr + "/2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" +
		"POST http://" + u.addr + "/3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n" + get(u, "/4", ""))
	for i, want := range []string{"GET /1 ", "POST /2 abc", "POST /3 abc", "GET /4 "} {
		if resp, body := p.response("GET"); resp.StatusCode != 200 || body != want {
			t.Fatalf("response %d: %s %q, want %q", i, resp.Status, body, want)
		}
	}
	if n := u.all.Load(); n != 1 {
		t.Errorf("%d upstream connections, want 1", n)
	}
	eventually(t, "the connection is parked", func() bool { return w.adm.slots()[0].isParked() })
	if c := w.Connections(""); len(c) != 1 || c[0].Kind != KindIdle || c[0].Client != "" {
		t.Errorf("connections: %+v", c)
	}
	// Another client uses the same upstream connection.
	p2 := w.dial()
	p2.send(get(u, "/5", ""))
	if _, body := p2.response("GET"); body != "GET /5 " || u.all.Load() != 1 {
		t.Errorf("got %q over %d upstream connections", body, u.all.Load())
	}
	eventually(t, "four exchanges are counted on a connection that was there", func() bool { return w.Counters().Reused.Load() == 4 })
}

func TestIdleConnectionIsGivenUp(t *testing.T) {
	u := newUpstream(t, nil)
	serve := func(w *world) *peer {
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		p.response("GET")
		eventually(t, "the connection is parked", func() bool { return w.adm.slots()[0].isParked() })
		return q
	}
	t.Run("wanted", func(t *testing.T) {
		w := newWorld(t, 1)
		q := serve(w)
		w.adm.slots()[0].holder.Sever(lease.SeverWanted)
		q.expectEOF()
		if w.adm.inUse() != 1 {
			t.Fatal("released before the upstream's end")
		}
		q.Close()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	})
	t.Run("wanted, upstream without an end", func(t *testing.T) {
		w := newWorld(t, 1, policy(func(p *Policy) { p.HalfCloseTimeout = 50 * time.Millisecond }))
		q := serve(w)
		w.adm.slots()[0].holder.Sever(lease.SeverWanted)
		q.expectEOF()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		if _, err := q.Write([]byte("x")); err == nil {
			_, err = q.Write([]byte("x"))
			t.Logf("writes after the reset: %v", err)
		}
	})
	t.Run("fenced", func(t *testing.T) {
		w := newWorld(t, 1)
		q := serve(w)
		w.adm.slots()[0].holder.Sever(lease.SeverFenced)
		q.expectReset()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	})
	t.Run("closed by the upstream", func(t *testing.T) {
		w := newWorld(t, 1)
		q := serve(w)
		q.Close()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	})
	t.Run("reset by the upstream", func(t *testing.T) {
		w := newWorld(t, 1)
		serve(w).reset()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	})
	t.Run("another host waits", func(t *testing.T) {
		w := newWorld(t, 1)
		q := serve(w)
		other := newUpstream(t, echo)
		p := w.dial()
		p.send("CONNECT " + other.addr + " HTTP/1.1\r\n\r\n")
		q.expectEOF()
		q.Close()
		p.expect("HTTP/1.1 200 Connection established\r\n\r\n")
	})
	t.Run("destination denied meanwhile", func(t *testing.T) {
		w := newWorld(t, 1)
		q := serve(w)
		p := testPolicy()
		p.DenyDestinations = p.AllowClients
		if err := w.SetPolicy(p); err != nil {
			t.Fatal(err)
		}
		q.expectEOF()
	})
	t.Run("drained", func(t *testing.T) {
		w := newWorld(t, 1)
		q := serve(w)
		w.SetDraining(true)
		q.expectEOF()
		q.Close()
		eventually(t, "the upstream connection ends", func() bool { return w.adm.inUse() == 0 })
	})
}

func TestStaleConnectionIsRetriedOnce(t *testing.T) {
	u := newUpstream(t, nil)
	for _, c := range []struct {
		request string
		retried bool
	}{
		{"GET http://UP/ HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"DELETE http://UP/ HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"POST http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", false},
		{"PUT http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", false},
	} {
		w := newWorld(t, 1)
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		p.response("GET")
		p.send(strings.ReplaceAll(c.request, "UP", u.addr))
		q.readHead()
		q.Close() // it read the request, but the proxy can't know that
		if !c.retried {
			p.refused("POST", 502, "connection_terminated")
			continue
		}
		q = u.accept()
		q.readHead()
		q.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
		if resp, _ := p.response("GET"); resp.StatusCode != 201 {
			t.Errorf("%q: %s", c.request, resp.Status)
		}
		// A fresh connection that fails is not replaced.
		if n := w.Counters().Retries.Load(); n != 1 {
			t.Errorf("%q: %d retries", c.request, n)
		}
		q.Close()
	}
}

// Without a queue, a stale connection must not cost the request its only slot.
func TestStaleConnectionGivesItsSlotToTheRetry(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	w.adm.queue = -1
	p := w.dial()
	for i := range 20 {
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if resp, _ := p.response("GET"); resp.StatusCode != 200 {
			t.Fatalf("request %d: %s", i, resp.Status)
		}
		p.send(get(u, "/", ""))
		q.readHead()
		q.Close()
		q = u.accept()
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		q.Close()
		if resp, _ := p.response("GET"); resp.StatusCode != 200 {
			t.Fatalf("retry %d: %s", i, resp.Status)
		}
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

// age makes the parked connections look idle for longer.
func (w *world) age(d time.Duration) {
	w.t.Helper()
	eventually(w.t, "a connection is parked", func() bool { return len(w.idle.all()) == 1 && w.idle.all()[0].isParked() })
	for _, f := range w.idle.all() {
		f.mu.Lock()
		f.idleUntil = f.idleUntil.Add(-d)
		f.mu.Unlock()
		f.tick()
	}
}

func TestIdleTimeOfUpstreamConnections(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	serve := func(q *peer, request string) *peer {
		p.send(strings.ReplaceAll(request, "UP", u.addr))
		if q == nil {
			q = u.accept()
		}
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		p.response("GET")
		return q
	}
	const once = "POST http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
	const again = "GET http://UP/ HTTP/1.1\r\nHost: x\r\n\r\n"
	q := serve(nil, once)
	serve(q, once) // it has just been used
	w.age(unsafeIdle)
	serve(q, again) // this request could be repeated
	w.age(unsafeIdle)
	go func() { // the upstream ends when asked to
		io.Copy(io.Discard, q.r)
		q.Close()
	}()
	serve(nil, once)
	if n := u.all.Load(); n != 2 {
		t.Errorf("%d connections, want a second one for a request that can't be repeated", n)
	}
	w.age(upstreamIdleTimeout)
	eventually(t, "the connection ends", func() bool { return w.adm.inUse() == 0 })
}
