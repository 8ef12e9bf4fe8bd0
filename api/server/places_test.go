package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/api"
)

// sourceConn is a connection from an address, which notes that it was closed.
type sourceConn struct {
	net.Conn
	from   string
	closed bool
}

func (c *sourceConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(c.from), Port: 9} }
func (c *sourceConn) Close() error         { c.closed = true; return nil }

// TestPlaces opens connections, written as their addresses, some of them with a request under way
// ("+"), and says which are closed to make room. The bounds are six in all and four for each
// address.
func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		name   string
		open   string // in their order
		closed string // the numbers, from 1, of those that give way or are turned away
	}{
		{"room for all", "1 1 1 2 2 2", ""},
		{"the fifth of an address takes its oldest's place", "1 1 1 1 1 2", "1"},
		{"a busy one keeps its place", "1+ 1 1 1 1", "2"},
		{"all of the address are busy", "1+ 1+ 1+ 1+ 1 2", "5"},
		{"the address that has the most gives way", "1 1 1 2 2 3 4", "1"},
		{"the busiest has only busy ones", "1+ 1+ 1+ 2 2 3 4", "4"},
		{"nobody gives way", "1+ 1+ 1+ 2+ 2+ 3+ 4 5", "7 8"},
		{"a flood of one address costs nobody else's", "2 3 1 1 1 1 1 1 1 1 1", "3 4 5 6 7"},
		{"IPv4 in its IPv6 form is the same address", "127.0.0.1 ::ffff:127.0.0.1 127.0.0.1 ::ffff:127.0.0.1 127.0.0.1", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlaces(6, 4, hclog.NewNullLogger())
			var conns []*sourceConn
			var want []string
			for _, word := range strings.Fields(c.open) {
				from, busy := strings.CutSuffix(word, "+")
				if len(from) == 1 {
					from = "10.0.0." + from
				}
				conn := &sourceConn{from: from}
				conns = append(conns, conn)
				placed, ok := p.take(conn, time.Now())
				if !ok {
					conn.closed = true // the listener does it
					continue
				}
				if busy {
					p.noteState(&problemConn{Conn: placed}, http.StateActive)
				}
			}
			for i, conn := range conns {
				if conn.closed {
					want = append(want, fmt.Sprint(i+1))
				}
			}
			if got := strings.Join(want, " "); got != c.closed {
				t.Errorf("closed are %q, want %q", got, c.closed)
			}
		})
	}
}

// TestPlacesAreGivenBack: closing twice frees one place, and nothing is kept of addresses that are
// gone.
func TestPlacesAreGivenBack(t *testing.T) {
	p := newPlaces(2, 2, hclog.NewNullLogger())
	for range 100 {
		a, _ := p.take(&sourceConn{from: "10.0.0.1"}, time.Now())
		b, ok := p.take(&sourceConn{from: "10.0.0.2"}, time.Now())
		if !ok {
			t.Fatal("a place was not given back")
		}
		for _, c := range []*placedConn{a, b, a} {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if p.count != 0 || len(p.of) != 0 {
		t.Errorf("%d places are taken, %d addresses are known", p.count, len(p.of))
	}
}

// TestIdleConnectionsDontShutTheAPI: a stranger's idle connections are bounded, cost one log line,
// and leave the API to those that ask, from other addresses and from its own.
func TestIdleConnectionsDontShutTheAPI(t *testing.T) {
	b := newBench(t, Config{Token: "secret"}, "a")
	server := b.nodes["a"].server
	var mu sync.Mutex
	var logged bytes.Buffer
	server.conns.log = hclog.New(&hclog.LoggerOptions{Output: &logged, Mutex: &mu})
	addr := b.nodes["a"].listen(t)
	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ask := func(from string) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			return dial(from), nil
		}}}
		res, err := client.Get("http://" + addr + api.PathReadyz)
		if err != nil {
			t.Fatalf("from %s: %v", from, err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 200 {
			t.Errorf("from %s: %s", from, res.Status)
		}
	}
	for range 3 * maxConns {
		dial("127.0.0.1")
	}
	ask("127.0.0.1")
	ask("127.0.0.2")
	server.conns.mu.Lock()
	count := server.conns.count
	server.conns.mu.Unlock()
	if count > maxConns {
		t.Errorf("%d connections are open, want at most %d", count, maxConns)
	}
	mu.Lock()
	defer mu.Unlock()
	if lines := strings.Count(logged.String(), "\n"); lines != 1 {
		t.Errorf("%d lines about %d connections, want one:\n%s", lines, 3*maxConns, logged.String())
	}
}

// TestMissingBodiesDontShutTheAPI: whoever announces a body and does not send it is answered at
// once, where the body is not needed for the answer, and then gives way to others.
func TestMissingBodiesDontShutTheAPI(t *testing.T) {
	b := newBench(t, Config{Token: "secret"}, "a")
	addr := b.nodes["a"].listen(t)
	ask := func(request string) *http.Response {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(requestTimeout / 2))
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		return readAnswer(t, bufio.NewReader(c))
	}
	for i := range maxConns {
		c := []struct {
			request string
			status  int
		}{
			{"PUT /v1/limits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n", 401},
			{"PUT /v1/limits HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", 401},
			{"PUT /v1/limits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n", 401},
			{"POST /v1/leave HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 10\r\n\r\n", 403},
			{"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n", 200},
			{"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n", 405},
			{"GET /ui/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n", 200},
		}[i%7]
		if got := ask(c.request); got.StatusCode != c.status || !got.Close {
			t.Fatalf("request %d, %q: %s, the connection closes: %v; want %d, and that it does", i, c.request, got.Status, got.Close, c.status)
		}
	}
}

// TestBodiesKeepTheConnection: a request whose body was read is not its connection's last.
func TestBodiesKeepTheConnection(t *testing.T) {
	b := newBench(t, Config{Token: "secret"}, "a")
	c, err := net.Dial("tcp", b.nodes["a"].listen(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for range 3 {
		if _, err := io.WriteString(c, "POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
			t.Fatal(err)
		}
		if got := readAnswer(t, r); got.StatusCode != 200 || got.Close {
			t.Fatalf("%s, the connection closes: %v", got.Status, got.Close)
		}
	}
}
