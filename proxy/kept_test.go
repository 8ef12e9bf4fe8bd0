package proxy

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/weirproxy/weir/limit"
)

// Bytes that the upstream sends unasked may cross with the next request, after every check. If they
// can be told from an answer, an idempotent request is repeated, and the connection is not reused.
func TestUnaskedBytesThatCrossARequest(t *testing.T) {
	u := newUpstream(t, nil)
	for name, unasked := range map[string]string{
		"a 408":             "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"a last chunk":      "0\r\n\r\n",
		"content of no one": "{}\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			p, q := park(t, w, u)
			p.send(get(u, "/", ""))
			q.readHead()
			q.send(unasked)
			go func() { // the upstream ends when asked to
				io.Copy(io.Discard, q.r)
				q.Close()
			}()
			fresh := u.accept()
			fresh.readHead()
			fresh.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
			if resp, _ := p.response("GET"); resp.StatusCode != 201 {
				t.Error(resp.Status)
			}
			if n := w.Counters().Retries.Load(); n != 1 {
				t.Errorf("%d retries", n)
			}
		})
	}
}

// A 408 goes to the client if the request can't be repeated or the connection is fresh.
func TestAskedTimeoutIsPassedOn(t *testing.T) {
	u := newUpstream(t, nil)
	const timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	w := newWorld(t, 1)
	p, q := park(t, w, u)
	p.send("POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	q.readHead()
	q.send(timeout)
	q.Close()
	if resp, _ := p.response("POST"); resp.StatusCode != 408 {
		t.Error(resp.Status)
	}
	p.send(get(u, "/", ""))
	q = u.accept()
	q.readHead()
	q.send(timeout)
	q.Close()
	if resp, _ := p.response("GET"); resp.StatusCode != 408 {
		t.Error(resp.Status)
	}
}

// Content may follow a response that announces some although it can have none: its connection is
// not kept.
func TestConnectionBehindAnnouncedContentIsNotKept(t *testing.T) {
	u := newUpstream(t, nil)
	for _, answer := range []string{
		"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
	} {
		w := newWorld(t, 1)
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		q.send(answer)
		if strings.Contains(answer, " 103 ") {
			p.readHead()
		}
		if resp, _ := p.response("GET"); resp.StatusCode != 204 {
			t.Errorf("%q: %s", answer, resp.Status)
		}
		q.expectEOF()
		q.Close()
		w.freed()
	}
}

// If kept connections are shared, any client may get them; otherwise only the same user from the
// same address.
func TestPrivateConnections(t *testing.T) {
	u := newUpstream(t, nil)
	private := func(p *Policy) { p.PrivateConnections = true }
	for _, c := range []struct {
		name   string
		option option
		fresh  bool
	}{{"shared", policy(func(*Policy) {}), false}, {"private", policy(private), true}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 0, policy(balanced), policy(func(p *Policy) {
				p.AllowClients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			}), c.option)
			ask := func(client, path string) *peer {
				p := w.dial()
				p.send(fmt.Sprintf("PROXY TCP4 %s 192.0.2.99 258 443\r\n", client) + get(u, path, ""))
				return p
			}
			answer := func(p, q *peer, path string) {
				t.Helper()
				if head := q.readHead(); !strings.HasPrefix(head, "GET "+path+" ") {
					t.Fatalf("the upstream reads %q", head)
				}
				q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				p.response("GET")
			}
			idle := func(n int) {
				t.Helper()
				eventually(t, "the connections are kept", func() bool { return len(w.idle.all()) == n })
			}
			p := ask("192.0.2.1", "/1")
			q := u.accept()
			answer(p, q, "/1")
			idle(1)
			p = ask("192.0.2.2", "/2")
			second := q
			if c.fresh {
				second = u.accept()
			}
			answer(p, second, "/2")
			if !c.fresh {
				idle(1)
				return
			}
			idle(2)
			answer(ask("192.0.2.1", "/3"), q, "/3") // another connection of the first client
		})
	}
	t.Run("reloaded", func(t *testing.T) { // a connection that served several has no owner
		f, o, other := &flow{plain: new(exchanges)}, owner{user: "a"}, owner{user: "b"}
		f.plain.owner = o
		var pool idlePool
		for _, c := range []struct {
			by      owner
			private bool
			want    *flow
		}{{o, true, f}, {other, true, nil}, {other, false, f}, {o, true, nil}, {other, true, nil}, {o, false, f}} {
			pool = idlePool{}
			f.plain.list = pool.join(f.target)
			pool.put(f)
			if got := pool.take(f.plain.list, c.by, c.private); got != c.want {
				t.Errorf("%+v: took %v", c, got)
			}
		}
	})
}

// A connection that another request has taken and parked again, just after it was put, stays in the
// pool.
func TestWithdrawnFromTheIdlePool(t *testing.T) {
	var pool idlePool
	list := pool.join(limit.Target{})
	f := &flow{plain: &exchanges{list: list}}
	first := pool.put(f)
	if pool.take(list, owner{}, false) != f {
		t.Fatal("the connection is not in the pool")
	}
	pool.withdraw(f, first)
	second := pool.put(f)
	pool.withdraw(f, first)
	if !pool.has(list, owner{}, false) || pool.total != 1 {
		t.Fatal("the second entry was removed in the first one's place")
	}
	pool.withdraw(f, second)
	if pool.has(list, owner{}, false) || pool.total != 0 {
		t.Error("the entry was not removed")
	}
}

// The pool forgets a target without connections and clients, whichever go first.
func TestForgottenByTheIdlePool(t *testing.T) {
	for _, clientFirst := range []bool{true, false} {
		var pool idlePool
		list := pool.join(limit.Target{Host: "a", Port: 80})
		if pool.join(list.target) != list {
			t.Fatal("two lists of one target")
		}
		pool.leave(list)
		f := &flow{plain: &exchanges{list: list}}
		pool.put(f)
		for _, client := range []bool{clientFirst, !clientFirst} {
			if pool.targets[list.target] != list {
				t.Errorf("client first %t: forgotten too early", clientFirst)
			}
			if client {
				pool.leave(list)
			} else {
				pool.remove(f)
			}
		}
		if len(pool.targets) != 0 {
			t.Errorf("client first %t: not forgotten", clientFirst)
		}
	}
}

// A connection that a client has authenticated, as NTLM and Negotiate do, carries no other client's
// requests, and ends with its client, who stays on it.
func TestAuthenticatedConnectionIsItsClients(t *testing.T) {
	u := newUpstream(t, nil)
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, scheme := range []string{"NTLM", "negotiate"} {
		w := newWorld(t, 0)
		answered := func(p, q *peer, header string) *peer {
			t.Helper()
			p.send(get(u, "/", header))
			if q == nil {
				q = u.accept()
			}
			q.readHead()
			q.send(ok)
			p.response("GET")
			return q
		}
		alice, bob := w.dial(), w.dial()
		shared := answered(alice, nil, "")
		own := answered(alice, nil, "Authorization: "+scheme+" TlRMTVNTUAAB\r\n")
		answered(alice, own, "Authorization: "+scheme+" TlRMTVNTUAAD\r\n")
		answered(alice, own, "")
		answered(bob, shared, "Authorization: Basic Ym9iOmJvYg==\r\n")
		other := answered(bob, nil, "Authorization: "+scheme+" TlRMTVNTUAAB\r\n")
		alice.CloseWrite()
		alice.expectEOF()
		own.expectEOF()
		own.Close()
		answered(bob, other, "")
	}
}
