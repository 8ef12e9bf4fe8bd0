package proxy

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

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
		users = append(users, User{Name: u[0], Hash: strings.Replace(string(hash), "$2a$", "$2y$", 1)})
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
		"Proxy-Authorization: Basic " + strings.Repeat("YWRh", 1<<10/4) + "\r\n",
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

// New users count from the next request on. Tunnels go on.
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
	set(users)
	other.send(head + authorization("żółw:a:b") + "\r\n")
	other.expect(string(established))
	again := w.dial()
	again.send(head + authorization("ada:lovelace") + "\r\n")
	again.expect(string(established))
	set(users[1:])
	gone := w.dial()
	gone.send(head + authorization("ada:lovelace") + "\r\n")
	gone.challenged("CONNECT")
	set([]User{{Name: "ada", Hash: users[1].Hash}}) // another password
	gone.send(head + authorization("ada:lovelace") + "\r\n")
	gone.challenged("CONNECT")
	gone.send(head + authorization("ada:a:b") + "\r\n")
	gone.expect(string(established))
	ada.send("still")
	ada.expect("still")
	set(nil)
	w.connect(u.addr)
}
