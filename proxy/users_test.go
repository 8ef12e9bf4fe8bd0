package proxy

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// testUsers has ada, whose password is lovelace, and żółw, whose password has a colon.
func testUsers(t testing.TB) []User {
	t.Helper()
	var users []User
	for _, u := range [][2]string{{"ada", "lovelace"}, {"żółw", "a:b"}} {
		hash, err := bcrypt.GenerateFromPassword([]byte(u[1]), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		users = append(users, User{u[0], strings.Replace(string(hash), "$2a$", "$2y$", 1)})
	}
	return users
}

func basic(userPass string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(userPass))
}

func authorization(userPass string) string {
	return "Proxy-Authorization: " + basic(userPass) + "\r\n"
}

// challenged checks a 407.
func (p *peer) challenged(method string) {
	p.t.Helper()
	resp := p.refused(method, 407, "http_request_denied")
	if got := resp.Header.Get("Proxy-Authenticate"); got != `Basic realm="weir", charset="UTF-8"` {
		p.t.Fatalf("Proxy-Authenticate: %s", got)
	}
	if resp.Close {
		p.t.Fatal("the connection is to be closed")
	}
}

func TestUsers(t *testing.T) {
	seen := make(chan http.Header, 1)
	u := httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		fmt.Fprint(w, "ok")
	})
	w := newWorld(t, 0, policy(func(p *Policy) { p.Users = testUsers(t) }))
	p := w.dial()
	for _, wrong := range []string{
		"", authorization("ada:love"), authorization("ada"), authorization("ada:"), authorization("bob:lovelace"), authorization(":"),
		authorization("ADA:lovelace"), authorization("ada:lovelace\x00"), authorization("ada:lovelace\n"),
		authorization("ada:lovelace") + authorization("ada:lovelace"),
		"Proxy-Authorization: Bearer " + base64.StdEncoding.EncodeToString([]byte("ada:lovelace")) + "\r\n",
		"Proxy-Authorization: Basic\r\n", "Proxy-Authorization: Basic ada:lovelace\r\n",
		"Proxy-Authorization: Basic " + strings.Repeat("YWRh", maxCredentials/4) + "\r\n",
		"Authorization: " + basic("ada:lovelace") + "\r\n",
	} {
		p.send(get(u, "/", wrong))
		p.challenged("GET")
	}
	for _, right := range []string{
		authorization("ada:lovelace"), authorization("żółw:a:b"), strings.Replace(authorization("ada:lovelace"), "Basic ", "bAsIC   ", 1),
		authorization("ada:lovelace") + "Connection: proxy-authorization\r\n",
	} {
		p.send(get(u, "/", right))
		if resp, body := p.response("GET"); resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("%q: %s %q", right, resp.Status, body)
		}
		if h := <-seen; h.Get("Proxy-Authorization") != "" {
			t.Fatalf("the upstream got %v", h)
		}
	}
}

// A CONNECT without credentials can be repeated on the same connection, unless bytes for the tunnel
// have come: they would be read as a request.
func TestUsersOfTunnels(t *testing.T) {
	u := newUpstream(t, echo)
	w := newWorld(t, 0, policy(func(p *Policy) { p.Users = testUsers(t) }))
	p := w.dial()
	head := "CONNECT " + u.addr + " HTTP/1.1\r\nHost: " + u.addr + "\r\n"
	p.send(head + "\r\n")
	p.challenged("CONNECT")
	p.send(head + authorization("ada:wrong") + "\r\n")
	p.challenged("CONNECT")
	p.send(head + authorization("ada:lovelace") + "\r\n")
	p.expect(string(established))
	p.send("hello")
	p.expect("hello")
	list := w.Connections("")
	if len(list) != 1 || list[0].User != "ada" {
		t.Errorf("connections: %+v", list)
	}

	p = w.dial()
	p.send(head + "\r\nGET http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\n" + authorization("ada:lovelace") + "\r\n")
	p.refused("CONNECT", 407, "http_request_denied")
	p.expectEOF()
}

func TestClientAddressComesBeforeUsers(t *testing.T) {
	w := newWorld(t, 0, policy(func(p *Policy) {
		p.Users, p.AllowClients = testUsers(t), []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	}))
	for _, fields := range []string{"", authorization("ada:lovelace")} {
		p := w.dial()
		p.send("GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n")
		p.refused("GET", 403, "http_request_denied")
	}
}

// A loop is reported as one, even though credentials end at the first hop.
func TestLoopComesBeforeUsers(t *testing.T) {
	w := newWorld(t, 0, policy(func(p *Policy) { p.Users = testUsers(t) }))
	p := w.dial()
	p.send("GET http://" + w.addr + "/ HTTP/1.1\r\nHost: x\r\n" + authorization("ada:lovelace") + "\r\n")
	p.refused("GET", 502, "proxy_loop_detected")
}

// New users count from the next request on. Tunnels go on, and credentials of unchanged users stay
// remembered.
func TestUsersChange(t *testing.T) {
	u := newUpstream(t, echo)
	users := testUsers(t)
	w := newWorld(t, 0, policy(func(p *Policy) { p.Users = users[:1] }))
	head := "CONNECT " + u.addr + " HTTP/1.1\r\nHost: " + u.addr + "\r\n"
	ada := w.dial()
	ada.send(head + authorization("ada:lovelace") + "\r\n")
	ada.expect(string(established))
	other := w.dial()
	other.send(head + authorization("żółw:a:b") + "\r\n")
	other.challenged("CONNECT")

	p := *w.policy.Load()
	set := func(users []User) {
		p.Users = users
		if err := w.SetPolicy(p); err != nil {
			t.Fatal(err)
		}
	}
	remembered := func() int {
		r := w.policy.Load().roster
		r.mu.RLock()
		defer r.mu.RUnlock()
		return len(r.good)
	}
	set(users)
	if n := remembered(); n != 1 {
		t.Errorf("%d users are remembered; want the one that was there before", n)
	}
	other.send(head + authorization("żółw:a:b") + "\r\n")
	other.expect(string(established))
	again := w.dial()
	again.send(head + authorization("ada:lovelace") + "\r\n")
	again.expect(string(established))
	set(users[1:])
	if n := remembered(); n != 1 {
		t.Errorf("%d users are remembered; want the one that is left", n)
	}
	gone := w.dial()
	gone.send(head + authorization("ada:lovelace") + "\r\n")
	gone.challenged("CONNECT")
	set([]User{{"ada", users[1].Hash}}) // another password
	gone.send(head + authorization("ada:lovelace") + "\r\n")
	gone.challenged("CONNECT")
	gone.send(head + authorization("ada:a:b") + "\r\n")
	gone.expect(string(established))
	ada.send("still")
	ada.expect("still")
	set(nil)
	w.connect(u.addr)
}

// testGate counts its checks, each of which takes a second. Every user's password is "right".
func testGate() (g *gate, compared *atomic.Int64) {
	compared = new(atomic.Int64)
	g = newGate()
	g.turns = make(chan struct{}, 2)
	g.compare = func(hash, password []byte) error {
		compared.Add(1)
		time.Sleep(time.Second) // virtual
		if string(password) == "right" {
			return nil
		}
		return errors.New("wrong")
	}
	return g, compared
}

func headWith(userPass string) *head {
	return &head{authorizations: 1, authorization: []byte(basic(userPass))}
}

var testAddr = netip.MustParseAddr("192.0.2.1")

func TestEqualCredentialsShareOneCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, compared := testGate()
		r := newRoster([]User{{Name: "ada"}}, nil)
		begun := time.Now()
		for _, userPass := range []string{"ada:right", "ada:wrong"} {
			var wg sync.WaitGroup
			for range 500 {
				wg.Go(func() {
					name, refusal := g.user(t.Context(), r, headWith(userPass), testAddr)
					if (userPass == "ada:right") != (refusal == nil) || (refusal == nil) != (name == "ada") {
						t.Errorf("%s: %q, %v", userPass, name, refusal)
					}
				})
			}
			wg.Wait()
		}
		if n, took := compared.Load(), time.Since(begun); n != 2 || took != 2*time.Second {
			t.Errorf("%d checks in %v; want 2 in 2s", n, took)
		}
		if _, refusal := g.user(t.Context(), r, headWith("ada:wrong"), testAddr); refusal != &refuseCredentials || compared.Load() != 2 {
			t.Errorf("a wrong password is not remembered: %v", refusal)
		}
	})
}

// A guessing address gets a burst of checks, and then one every few seconds. Remembered users and
// other addresses are not affected.
func TestGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, compared := testGate()
		r := newRoster([]User{{Name: "ada"}, {Name: "bob"}}, nil)
		ask := func(userPass string, from netip.Addr) *refusal {
			_, refusal := g.user(t.Context(), r, headWith(userPass), from)
			return refusal
		}
		if ask("ada:right", testAddr) != nil {
			t.Fatal("a right password is refused")
		}
		n, refused := 0, 0
		for begun := time.Now(); time.Since(begun) < 10*time.Minute; n++ {
			switch ask(fmt.Sprintf("ada:%d", n), testAddr) {
			case &refuseCredentials:
			case &refuseGuessing:
				refused++
				time.Sleep(100 * time.Millisecond)
			default:
				t.Fatal("another answer")
			}
		}
		checks := int(compared.Load()) - 1
		if most := failureBurst + int(10*time.Minute/failureEvery) + 1; checks > most || checks < most/2 || refused == 0 {
			t.Errorf("%d guesses were checked, %d refused, of %d; want about %d", checks, refused, n, most)
		}
		if ask("bob:right", testAddr) != &refuseGuessing {
			t.Error("what is not known from this address is checked all the same")
		}
		if ask("ada:right", testAddr) != nil || ask("bob:right", netip.MustParseAddr("192.0.2.2")) != nil {
			t.Error("others suffer")
		}
		time.Sleep(time.Minute)
		if ask("ada:never", testAddr) != &refuseCredentials {
			t.Error("failures are not forgotten")
		}
	})
}

// Running and waiting checks are bounded; a request that waits in vain is asked to try again.
func TestChecksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, compared := testGate()
		r := newRoster([]User{{Name: "ada"}}, nil)
		var wg sync.WaitGroup
		var unchecked atomic.Int64
		begun := time.Now()
		for i := range 2 * maxChecking {
			from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			wg.Go(func() {
				_, refusal := g.user(t.Context(), r, headWith(fmt.Sprintf("ada:%d", i)), from)
				if refusal == &refuseUnchecked {
					unchecked.Add(1)
				} else if refusal != &refuseCredentials {
					t.Errorf("refused with %v", refusal)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begun); took > checkPatience+time.Second {
			t.Errorf("took %v", took)
		}
		if n := compared.Load(); n > 2*int64(checkPatience/time.Second)+2 || n+unchecked.Load() != 2*maxChecking {
			t.Errorf("%d checks, %d refused without one", n, unchecked.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 4 {
			wg.Go(func() { g.user(ctx, r, headWith(fmt.Sprintf("ada:late%d", i)), testAddr) })
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		if g.waiting.Load() != 0 || len(g.turns) != 0 || len(r.checking) != 0 {
			t.Errorf("left over: %d waiting, %d turns, %d checks", g.waiting.Load(), len(g.turns), len(r.checking))
		}
	})
}

// An unknown name is compared with some user's hash, always the same one, so it takes as long.
func TestUnknownUsersTakeAsLong(t *testing.T) {
	g := newGate()
	var hashes []string
	g.compare = func(hash, _ []byte) error {
		hashes = append(hashes, string(hash))
		return nil // even if it matches
	}
	r := newRoster([]User{{"ada", "h1"}, {"bob", "h2"}}, nil)
	for i := range 4 {
		if _, refusal := g.user(t.Context(), r, headWith(fmt.Sprintf("carol:%d", i)), testAddr); refusal != &refuseCredentials {
			t.Fatalf("an unknown user is answered %v", refusal)
		}
	}
	for _, h := range hashes {
		if len(hashes) != 4 || h != hashes[0] || h != "h1" && h != "h2" {
			t.Fatalf("compared with %q", hashes)
		}
	}
}

func TestMemoriesAreBounded(t *testing.T) {
	known := map[mark]string{}
	for i := range 100 {
		makeRoom(known, 10)
		known[mark{byte(i)}] = "x"
	}
	if len(known) != 10 {
		t.Errorf("%d are remembered", len(known))
	}
	var f failures
	now := time.Unix(1000, 0)
	for i := range maxFailing + 100 {
		f.note(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if n := len(f.byAddr); n > maxFailing {
		t.Errorf("%d addresses are remembered", n)
	}
	f = failures{}
	for i := range failureBurst {
		if f.tooMany(netip.MustParseAddr("2001:db8::1"), now) {
			t.Fatalf("too many after %d", i)
		}
		f.note(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+2)), now)
	}
	if !f.tooMany(netip.MustParseAddr("2001:db8::ffff%eth0"), now) || f.tooMany(netip.MustParseAddr("2001:db8:0:1::1"), now) {
		t.Error("a /64 is one client")
	}
	if f.tooMany(netip.MustParseAddr("2001:db8::1"), now.Add(failureEvery)) {
		t.Error("nothing is forgotten")
	}
}
