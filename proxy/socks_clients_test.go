package proxy

import (
	"context"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/proxytest"
	"github.com/weirproxy/weir/proxy/socks5"
)

// login is a message of RFC 1929.
func login(name, password string) string {
	return "\x01" + string([]byte{byte(len(name))}) + name + string([]byte{byte(len(password))}) + password
}

// The node chooses among the methods offered, and closes where there is none.
func TestSOCKSMethods(t *testing.T) {
	users := testUsers(t)
	elsewhere := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for _, c := range []struct {
		name, offered string
		users         []User
		clients       []netip.Prefix
		chosen        string
		counted       Refusal
	}{
		{"none needed", "\x00", nil, nil, "\x05\x00", 0},
		{"none needed, both offered", "\x02\x00", nil, nil, "\x05\x00", 0},
		{"a password that is not needed", "\x02", nil, nil, "\x05\x02", 0},
		{"GSSAPI only", "\x01", nil, nil, "\x05\xff", RefusedMalformed},
		{"nothing offered", "", nil, nil, "\x05\xff", RefusedMalformed},
		{"a password needed", "\x00\x01\x02", users, nil, "\x05\x02", 0},
		{"a password needed, not offered", "\x00", users, nil, "\x05\xff", RefusedCredentials},
		{"a stranger", "\x00\x02", users, elsewhere, "\x05\x00", 0},
		{"a stranger with a password", "\x02", users, elsewhere, "\x05\xff", RefusedDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			var j journal
			w := newWorld(t, 1, jsonLog(&j), policy(func(p *Policy) {
				p.Users = c.users
				if c.clients != nil {
					p.AllowClients = c.clients
				}
			}))
			p := w.dial()
			p.send("\x05" + string([]byte{byte(len(c.offered))}) + c.offered)
			p.expect(c.chosen)
			if c.chosen == "\x05\xff" {
				p.CloseWrite()
				p.expectEOF()
				if n := w.Counters().Refusals[c.counted].Load(); n != 1 {
					t.Errorf("%d refusals as %v", n, c.counted)
				}
				lines := j.Lines(t, "request refused")
				if len(lines) != 1 || lines[0]["method"] != "SOCKS5" || lines[0]["choice"] != 255.0 || lines[0]["details"] == "" {
					t.Errorf("the log says %v", lines)
				}
			}
		})
	}
}

// Users are those of HTTP. What is wrong is answered with a status of 1, and ends the connection.
func TestSOCKSUsers(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 0, policy(func(p *Policy) { p.Users = testUsers(t) }))
	for _, c := range []struct {
		name, password string
		right          bool
	}{
		{"ada", "lovelace", true},
		{"ada", "lovelace", true},
		{"żółw", "a:b", true},
		{"ada", "love", false},
		{"ada", "love", false},
		{"bob", "lovelace", false},
		{"żółw:a", "b", false}, // in HTTP this would be żółw with the password a:b
		{"", "", false},
		{"ada", "lovelace\x00", false},
		{"ada", "\xff", false},
	} {
		p := w.dial()
		p.send("\x05\x02\x00\x02" + login(c.name, c.password) + socksAsk(u.addr) + "hello") // at once
		p.expect("\x05\x02")
		if c.right {
			p.expect("\x01\x00")
			p.opened()
			p.expect("hello")
			if list := w.Connections(""); len(list) != 1 || list[0].User != c.name {
				t.Errorf("%s: connections %+v", c.name, list)
			}
			p.Close()
			eventually(t, "the tunnel has ended", func() bool { return w.adm.inUse() == 0 })
		} else {
			p.expect("\x01\x01")
			p.CloseWrite()
			p.expectEOF()
		}
	}
	p := w.dial()
	p.send("CONNECT " + u.addr + " HTTP/1.1\r\n" + authorization("ada:lovelace") + "\r\n")
	p.expect(string(established))
	p = w.dial()
	p.send("\x05\x01\x02\x05\x03ada\x00") // not RFC 1929
	p.expect("\x05\x02\x01\x01")
	p.CloseWrite()
	p.expectEOF()
}

// Credentials are ignored where nobody asked for them, as in HTTP.
func TestSOCKSPasswordWithoutUsers(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 0)
	p := w.dial()
	p.send("\x05\x01\x02" + login("ada", "lovelace") + socksAsk(u.addr))
	p.expect("\x05\x02\x01\x00")
	p.opened()
	if list := w.Connections(""); len(list) != 1 || list[0].User != "" {
		t.Errorf("connections: %+v", list)
	}
}

// The request counts for its client and its user, as that of a CONNECT.
func TestSOCKSSubject(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 0, policy(func(p *Policy) { p.Users = testUsers(t) }))
	p := w.dial()
	p.send("CONNECT " + u.addr + " HTTP/1.1\r\n" + authorization("ada:lovelace") + "\r\n")
	p.expect(string(established))
	p = w.dial()
	p.send("\x05\x01\x02" + login("ada", "lovelace") + socksAsk(u.addr))
	p.expect("\x05\x02\x01\x00")
	p.opened()
	if all := w.adm.allBegun(); len(all) != 2 || all[0] != all[1] || all[0].User != "ada" || all[0].Client.Name != "127.0.0.1" {
		t.Errorf("the requests are %+v", all)
	}
	if taken, _ := w.adm.tokensTaken(); taken != 2 {
		t.Errorf("%d tokens were taken", taken)
	}
}

func TestSOCKSInsideTLS(t *testing.T) {
	u := newUpstream(t, echo)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 1, speakTLS(cert))
	p := w.dialTLS(cert)
	p.send(socksHello)
	p.expect(socksChosen)
	p.send(socksAsk(u.addr) + "early")
	p.expect("\x05\x00\x00\x01\x7f\x00\x00\x01")
	if _, err := io.ReadFull(p.r, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	p.expect("early")
	if list := w.Connections(""); len(list) != 1 || list[0].Kind != KindSOCKS5 || list[0].Client != p.LocalAddr().String() {
		t.Errorf("connections: %+v", list)
	}
	p.CloseWrite()
	if err := p.end(); err != nil {
		t.Errorf("the end: %v", err)
	}
}

func TestSOCKSBehindABalancer(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 0, policy(balanced), policy(func(p *Policy) { p.AllowClients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }))
	for header, allowed := range map[string]bool{
		"PROXY TCP4 192.0.2.1 192.0.2.2 258 443\r\n":    true,
		"PROXY TCP4 198.51.100.1 192.0.2.2 258 443\r\n": false,
	} {
		p := w.dial()
		p.send(header + socksHello)
		p.expect(socksChosen)
		p.send(socksAsk(u.addr))
		if !allowed {
			p.expect(socksNo(socks5.NotAllowed))
			continue
		}
		p.opened()
		if list := w.Connections(""); len(list) != 1 || list[0].Client != "192.0.2.1:258" {
			t.Errorf("connections: %+v", list)
		}
	}
	p := w.dial()
	p.send(socksHello) // without a header
	p.refused("GET", 400, "http_request_error")
}

// A client waits in the queue. One that goes away loses its place, whatever it had sent; one that
// has only ended its sending side is found to be there by the first byte of every reply.
func TestSOCKSQueue(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, early := range []string{"", "early"} {
		ask := func(p *peer) { p.send(socksHello + socksAsk(u.addr) + early) }
		chosen := socksChosen // comes with the reply
		if early == "" {
			ask = func(p *peer) { p.send(socksHello); p.expect(socksChosen); p.send(socksAsk(u.addr)) }
			chosen = ""
		}
		first := w.socks(u.addr)
		held := u.accept()
		gone := w.dial()
		ask(gone)
		eventually(t, "the client waits", func() bool { return w.adm.queued() == 1 })
		gone.Close()
		eventually(t, "it has lost its place", func() bool { return w.adm.queued() == 0 })

		p := w.dial()
		ask(p)
		eventually(t, "the client waits", func() bool { return w.adm.queued() == 1 })
		p.CloseWrite()
		if b, err := p.r.Peek(1); err != nil || b[0] != 5 {
			t.Fatalf("peeked at %q, %v", b, err)
		}
		if w.adm.queued() != 1 {
			t.Fatal("it has lost its place")
		}
		first.Close()
		held.Close()
		p.expect(chosen)
		p.opened()
		q := u.accept()
		q.expect(early)
		q.expectEOF()
		q.send("answer")
		q.Close()
		p.expect("answer")
		p.expectEOF()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
	if n := w.Counters().Refused.Load(); n != 0 {
		t.Errorf("%d refusals", n)
	}
}

// A refusal continues behind the byte that was sent ahead.
func TestSOCKSHalfClosedClientIsRefused(t *testing.T) {
	res, asked, _ := slowName(netip.Addr{})
	w := newWorld(t, 1, names(res), policy(func(p *Policy) { p.DialTimeout = 200 * time.Millisecond }))
	p := w.dial()
	p.send(socksHello + socksAsk("slow.test:443"))
	<-asked
	p.CloseWrite()
	p.expect("\x05")
	p.expect(socksChosen[1:] + socksNo(socks5.HostUnreachable))
	p.expectEOF()
}

// What is sent ahead is what comes next, also where that is the status of a password.
func TestSOCKSHalfClosedClientWithPassword(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.Users = testUsers(t) }))
	ask := func() (*peer, string) {
		p := w.dial()
		p.send("\x05\x01\x02")
		p.expect("\x05\x02")
		p.send(login("ada", "lovelace") + socksAsk(u.addr))
		return p, "\x01\x00"
	}
	first, status := ask()
	first.expect(status)
	first.opened()
	held := u.accept()
	p, status := ask()
	eventually(t, "the client waits", func() bool { return w.adm.queued() == 1 })
	p.CloseWrite()
	if b, err := p.r.Peek(1); err != nil || b[0] != status[0] {
		t.Fatalf("peeked at %q, %v", b, err)
	}
	first.Close()
	held.Close()
	p.expect(status)
	p.opened()
	u.accept().Close()
	p.expectEOF()
}

func TestSOCKSSever(t *testing.T) {
	u := newUpstream(t, nil)
	for reason, reply := range map[lease.Reason]socks5.Reply{lease.SeverFenced: socks5.GeneralFailure, lease.SeverEvicted: socks5.GeneralFailure} {
		w := newWorld(t, 1)
		p := w.socks(u.addr)
		q := u.accept()
		w.adm.slots()[0].holder.Sever(reason)
		q.expectReset()
		p.expectReset()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })

		p = w.dial()
		p.send(socksHello)
		p.expect(socksChosen)
		p.send(socksAsk(fullListener(t)))
		eventually(t, "the dial has begun", func() bool { return len(w.flows.all()) == 1 && isDialling(w.flows.all()[0]) })
		w.adm.slots()[0].holder.Sever(reason)
		p.expect(socksNo(reply))
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

// A tunnel that SOCKS5 asked for sleeps and wakes, and ends when it has been idle for too long.
func TestSOCKSTunnelSleeps(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.TunnelIdleTimeout = 200 * time.Millisecond }))
	p := w.socks(u.addr)
	q := u.accept()
	w.sleep(w.flows.all()[0])
	p.send("up")
	q.expect("up")
	q.send("down")
	p.expect("down")
	q.expectReset()
	p.expectReset()
}

// While the node drains, requests are refused and tunnels go on to their ends.
func TestSOCKSDrain(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 0)
	tunnel := w.socks(u.addr)
	greeted := w.dial()
	greeted.send(socksHello)
	greeted.expect(socksChosen)
	w.SetDraining(true)
	greeted.send(socksAsk(u.addr))
	greeted.expect(socksNo(socks5.GeneralFailure))
	p := w.dial()
	p.send(socksHello + socksAsk(u.addr))
	p.expect(socksChosen + socksNo(socks5.GeneralFailure))
	for _, p := range []*peer{greeted, p} {
		p.CloseWrite()
		p.expectEOF()
	}
	if n := w.Counters().Refusals[RefusedDraining].Load(); n != 2 {
		t.Errorf("%d refusals", n)
	}
	drained := make(chan error, 1)
	go func() { drained <- w.Drain(context.Background()) }()
	tunnel.send("still open")
	tunnel.expect("still open")
	tunnel.CloseWrite()
	tunnel.expectEOF()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// Bytes are paced in both directions, also those that came with the request.
func TestSOCKSPace(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	w.adm.pace()
	p := w.dial()
	p.send(socksHello + socksAsk(u.addr) + strings.Repeat("e", 10))
	p.expect(socksChosen)
	p.opened()
	q := u.accept()
	for _, n := range []int{4, 6} {
		w.adm.feed(limit.Upload, n)
		q.expect(strings.Repeat("e", n))
	}
	q.send("down")
	w.adm.feed(limit.Download, 4)
	p.expect("down")
}

// The time for a client's messages does not run while the node checks its password. Each round has
// a hash that takes twice as long, until the check outlasts header_timeout on this machine.
func TestSOCKSPasswordTakesLong(t *testing.T) {
	const timeout = 200 * time.Millisecond
	u := newUpstream(t, echo)
	w := newWorld(t, 0)
	for cost := 6; ; cost++ {
		hash, err := bcrypt.GenerateFromPassword([]byte("lovelace"), cost)
		if err != nil {
			t.Fatal(err)
		}
		slow := testPolicy()
		slow.Users = []User{{Name: "ada", Hash: strings.Replace(string(hash), "$2a$", "$2y$", 1)}}
		slow.HeaderTimeout = timeout
		if err := w.SetPolicy(slow); err != nil {
			t.Fatal(err)
		}
		p := w.dial()
		began := time.Now()
		p.send("\x05\x01\x02" + login("ada", "lovelace"))
		p.expect("\x05\x02\x01\x00")
		if time.Since(began) < 2*timeout {
			p.Close()
			continue
		}
		p.send(socksAsk(u.addr))
		p.opened()
		return
	}
}
