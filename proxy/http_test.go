package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/proxy/http1"
)

// get returns a plain GET for a path of an upstream.
func get(u *upstream, path, fields string) string {
	return "GET http://" + u.addr + path + " HTTP/1.1\r\nHost: ignored\r\n" + fields + "\r\n"
}

// readHead reads a request head at the upstream.
func (p *peer) readHead() string {
	p.t.Helper()
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n\r\n") {
		line, err := p.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			p.t.Fatalf("head %q: %v", b.String(), err)
		}
	}
	return b.String()
}

func TestPlainRewritesHeads(t *testing.T) {
	u := newUpstream(t, nil)
	cases := []struct{ name, send, upstreamSees, answer, clientSees string }{
		{
			"hop-by-hop fields",
			"GET http://UP/a?b=c%20d HTTP/1.1\r\nHost: elsewhere\r\nConnection: close, X-Private\r\nx-private: 1\r\nKeep-Alive: timeout=5\r\n" +
				"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: gzip, trailers\r\nUpgrade: foo\r\nAccept: */*\r\nVia: 1.0 fred\r\n\r\n",
			"GET /a?b=c%20d HTTP/1.1\r\nHost: UP\r\nAccept: */*\r\nVia: 1.0 fred\r\nTE: trailers\r\nConnection: TE\r\nVia: 1.1 n1\r\n\r\n",
			"HTTP/1.1 200 Fine\r\nConnection: X-Secret\r\nX-Secret: 1\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nContent-Length: 2\r\nServer: s\r\n\r\nok",
			"HTTP/1.1 200 Fine\r\nServer: s\r\nContent-Length: 2\r\nConnection: close\r\nVia: 1.1 n1\r\n\r\nok",
		},
		{
			"no path", "OPTIONS http://UP HTTP/1.1\r\nHost: x\r\nMax-Forwards: 5\r\n\r\n",
			"OPTIONS * HTTP/1.1\r\nHost: UP\r\nMax-Forwards: 4\r\nVia: 1.1 n1\r\n\r\n",
			"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
			"HTTP/1.1 204 No Content\r\nVia: 1.1 n1\r\n\r\n",
		},
		{
			"query alone, HTTP/1.0", "GET HTTP://UP?q HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n",
			"GET /?q HTTP/1.1\r\nHost: UP\r\nVia: 1.0 n1\r\n\r\n",
			"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\nVia: 1.0 n1\r\n\r\n",
		},
		{
			"HEAD", "HEAD http://UP/ HTTP/1.1\r\nHost: x\r\n\r\n",
			"HEAD / HTTP/1.1\r\nHost: UP\r\nVia: 1.1 n1\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nVia: 1.1 n1\r\n\r\n",
		},
		{
			"304", "GET http://UP/ HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: UP\r\nVia: 1.1 n1\r\n\r\n",
			"HTTP/1.1 304\r\nContent-Length: 1234\r\nETag: x\r\n\r\n",
			"HTTP/1.1 304 \r\nETag: x\r\nContent-Length: 1234\r\nVia: 1.1 n1\r\n\r\n",
		},
		{
			"body with Content-Length, in one packet", "PUT http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
			"PUT / HTTP/1.1\r\nHost: UP\r\nContent-Length: 4\r\nVia: 1.1 n1\r\n\r\nbody",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3;ext=1\r\nabc\r\n0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\nVia: 1.1 n1\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
		},
		{
			"chunked body with trailers", "POST http://UP/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n04 ; x=y\r\nbody\r\n000\r\nX-T: 1\r\nHost: evil\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: UP\r\nTransfer-Encoding: chunked\r\nVia: 1.1 n1\r\n\r\n4\r\nbody\r\n0\r\nX-T: 1\r\n\r\n",
			"HTTP/1.1 200 OK\r\n\r\nuntil the end",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nVia: 1.1 n1\r\n\r\nd\r\nuntil the end\r\n0\r\n\r\n",
		},
		{
			"what a recipient may read", "GET ws://UP/x HTTP/1.1\nHost: x\nConnection: upgrade,,\r\nConnection: , X-Y\nUpgrade: a\nX-Y: 1\nUpgrade: b/1\n\n",
			"GET /x HTTP/1.1\r\nHost: UP\r\nConnection: upgrade\r\nUpgrade: a, b/1\r\nVia: 1.1 n1\r\n\r\n",
			"HTTP/1.1 200 OK\nServer \t: a\n b\r\n\tc\r\nContent-Length : 2, 2\nConnection: X-Z\nX-Z : 1\n\nok",
			"HTTP/1.1 200 OK\r\nServer: a  b  \tc\r\nContent-Length: 2\r\nVia: 1.1 n1\r\n\r\nok",
		},
		{
			"one length, twice", "PUT ws://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 4\r\nExpect: x, 100-continue\r\n\r\nbody",
			"PUT / HTTP/1.1\r\nHost: UP\r\nExpect: x, 100-continue\r\nContent-Length: 4\r\nVia: 1.1 n1\r\n\r\nbody",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nVia: 1.1 n1\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		},
		{
			"until the end, to HTTP/1.0", "GET http://UP/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: UP\r\nVia: 1.0 n1\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nConnection: close\r\nVia: 1.1 n1\r\n\r\nabc",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1)
			p := w.dial()
			here := strings.NewReplacer("UP", u.addr).Replace
			p.send(here(c.send))
			q := u.accept()
			q.expect(here(c.upstreamSees))
			q.send(c.answer)
			q.CloseWrite()
			p.expect(c.clientSees)
			p.Close()
			q.expectEOF()
			eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
		})
	}
}

func TestStalledWriteEnds(t *testing.T) {
	u := newUpstream(t, nil)
	conn, err := net.Dial("tcp", u.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := sockOf(t, conn)
	s.Stall = 50 * time.Millisecond
	if err := s.Write(make([]byte, 64<<20), nil, nil); !isTimeout(err) {
		t.Fatalf("a write that nobody reads: %v", err)
	}
}

func TestExpectContinue(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	request := "POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	p := w.dial()
	p.send(request)
	q := u.accept()
	if head := q.readHead(); !strings.Contains(head, "Expect: 100-continue\r\n") {
		t.Fatalf("the upstream sees %q", head)
	}
	q.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
	p.expect("HTTP/1.1 103 Early Hints\r\nLink: x\r\nVia: 1.1 n1\r\n\r\nHTTP/1.1 100 Continue\r\nVia: 1.1 n1\r\n\r\n")
	p.send("body")
	q.expect("body")
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if resp, _ := p.response("POST"); resp.Close {
		t.Error("the connection is closed after a whole exchange")
	}

	// With a final answer instead, the client keeps its body, and the connection ends.
	p.send(request)
	q.readHead()
	q.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
	if resp, body := p.response("POST"); resp.StatusCode != 417 || body != "no" || !resp.Close {
		t.Errorf("%s %q, close %t", resp.Status, body, resp.Close)
	}
	p.expectEOF()
	q.expectReset()
}

// An answer that comes before the end of the body reaches the client, and both go on for as long as
// they want.
func TestEarlyResponse(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	p.send("POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
	q := u.accept()
	q.readHead()
	q.expect("1\r\na\r\n")
	q.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
	p.expect("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nVia: 1.1 n1\r\n\r\n2\r\nok\r\n")
	p.send("1\r\nb\r\n")
	q.expect("1\r\nb\r\n")
	p.send("0\r\n\r\n")
	q.expect("0\r\n\r\n")
	q.send("0\r\n\r\n")
	p.expect("0\r\n\r\n")
	p.expectEOF()
}

// An upstream refuses a large body and closes; its answer must not be lost.
func TestEarlyRefusalOfALargeBody(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	p.send("PUT http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
	go io.Copy(p.TCPConn, zeros{})
	q := u.accept()
	q.readHead()
	q.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
	if resp, body := p.response("PUT"); resp.StatusCode != 413 || body != "big" {
		t.Errorf("%s %q", resp.Status, body)
	}
	p.Close()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

func TestUpgrade(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	p.send(get(u, "/ws", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"))
	q := u.accept()
	if head := q.readHead(); !strings.Contains(head, "Connection: upgrade\r\nUpgrade: websocket\r\n") {
		t.Fatalf("the upstream sees %q", head)
	}
	q.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframe 1")
	p.expect("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nVia: 1.1 n1\r\n\r\nframe 1")
	p.send("frame 2")
	q.expect("frame 2")
	if c := w.Connections(""); len(c) != 1 || c[0].Kind != KindUpgrade {
		t.Errorf("connections: %+v", c)
	}
	p.CloseWrite()
	q.expectEOF()
	q.send("frame 3")
	q.Close()
	p.expect("frame 3")
	p.expectEOF()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })

	// A declined upgrade is an ordinary response.
	p = w.dial()
	p.send(get(u, "/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n"))
	q = u.accept()
	q.readHead()
	q.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
	if resp, _ := p.response("GET"); resp.StatusCode != 426 || resp.Close {
		t.Errorf("%s, close %t", resp.Status, resp.Close)
	}
}

func TestVia(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	for _, via := range []string{"1.1 n1", "1.0 fred, 1.1 N1 (weir)", "HTTP/1.1  n1"} {
		p.send(get(u, "/", "Via: "+via+"\r\n"))
		p.refused("GET", 502, "proxy_loop_detected")
	}
	p.send("CONNECT " + u.addr + " HTTP/1.1\r\nHost: x\r\nVia: 1.1 a\r\nVia: 1.1 n1\r\n\r\n")
	p.refused("CONNECT", 502, "proxy_loop_detected")

	// A node of another cluster has the same name, and another pseudonym.
	w.SetPseudonym("n1-c0ffee")
	p = w.dial()
	p.send(get(u, "/", "Via: 1.1 n1\r\nVia: 1.1 n1-decaf\r\n"))
	q := u.accept()
	if got := q.readHead(); !strings.HasSuffix(got, "Via: 1.1 n1\r\nVia: 1.1 n1-decaf\r\nVia: 1.1 n1-c0ffee\r\n\r\n") {
		t.Errorf("the upstream sees %q", got)
	}
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if resp, _ := p.response("GET"); resp.Header.Get("Via") != "1.1 n1-c0ffee" {
		t.Errorf("Via %q", resp.Header.Values("Via"))
	}

	// Through the proxy to itself: the second pass finds the first one's entry.
	p = w.dial()
	p.send("GET http://" + w.addr + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
	p.refused("GET", 502, "proxy_loop_detected")
}

func TestClientThatLeavesDuringAnExchange(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.HalfCloseTimeout = 100 * time.Millisecond }))
	for _, leave := range []func(*peer){(*peer).reset, func(p *peer) { p.Close() }} {
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		leave(p)
		q.expectReset()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
	// A client that has only ended its sending side gets its answer.
	p := w.dial()
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	p.CloseWrite()
	q.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	if _, body := p.response("GET"); body != "ok" {
		t.Errorf("got %q", body)
	}
}

func TestSeverDuringAnExchange(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	p := w.dial()
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	w.adm.slots()[0].holder.Sever(lease.SeverFenced)
	q.expectReset()
	p.expectReset()
	eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
}

// A response in progress when the lease runs out is reset, with or without a fence, even if its
// framing would reveal the loss.
func TestNoResponseIsRelayedPastTheDeadline(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, framing := range []string{"Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n", ""} {
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\n" + framing + "\r\n5\r\nbegun\r\n")
		p.readHead()
		w.adm.slots()[0].live.Store(false)
		q.send("5\r\nlater\r\n")
		q.expectReset()
		p.expectReset()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}

// Go's own client and server, with bodies both ways, under a limit.
func TestPlainUnderLoad(t *testing.T) {
	const limit = 3
	u := httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.ContentLength < 0 {
			w.(http.Flusher).Flush()
		}
		w.Write(b)
	})
	w := newWorld(t, limit)
	proxyURL, _ := url.Parse("http://" + w.addr)
	tr := &http.Transport{Proxy: http.ProxyURL(proxyURL), MaxIdleConnsPerHost: 16}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: patience}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 20 {
				want := bytes.Repeat([]byte{byte('a' + i)}, 1<<(j%18))
				var body io.Reader = bytes.NewReader(want)
				if j%2 == 0 {
					body = io.MultiReader(body) // hides the length: chunked
				}
				resp, err := client.Post("http://"+u.addr+"/", "", body)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes came back as %d: %v", len(want), len(got), err)
				}
			}
		})
	}
	wg.Wait()
	if peak := u.peak.Load(); peak > limit {
		t.Errorf("the upstream saw %d connections at once", peak)
	}
}

// Clients in common use.
func TestRealClients(t *testing.T) {
	plain := httpUpstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "plain ", r.Header.Get("Via")) })
	tls := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "tunnel") }))
	defer tls.Close()
	w := newWorld(t, 1)
	python := `import ssl, sys, urllib.request as u
h = u.ProxyHandler({"http": sys.argv[1], "https": sys.argv[1]})
o = u.build_opener(h, u.HTTPSHandler(context=ssl._create_unverified_context()))
print(o.open(sys.argv[2]).read().decode(), end="")`
	for _, c := range []struct{ name, url, want string }{
		{"plain", "http://" + plain.addr + "/", "plain 1.1 n1"},
		{"tunnel", tls.URL, "tunnel"},
	} {
		proxy := "http://" + w.addr
		for _, args := range [][]string{
			{"curl", "-sSk", "--noproxy", "", "-x", proxy, c.url},
			{"python3", "-c", python, proxy, c.url},
		} {
			t.Run(args[0]+" "+c.name, func(t *testing.T) {
				if _, err := exec.LookPath(args[0]); err != nil {
					t.Skipf("the machine has no %s: install it to run this", args[0])
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
				if err != nil || string(out) != c.want {
					t.Fatalf("%v: %q, %v", args, out, err)
				}
			})
		}
	}
}

func TestValidatePolicy(t *testing.T) {
	bad := Policy{RejectStatus: 200, TunnelIdleTimeout: -1}
	err := bad.Validate()
	for _, name := range []string{"reject_status", "dial_timeout", "header_timeout", "half_close_timeout", "tunnel_idle_timeout"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v doesn't name %s", err, name)
		}
	}
	good := testPolicy()
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	got := [][2]string{}
	for _, n := range []string{"a", "node-1.example", "1a", "Büro", `q"\`} {
		got = append(got, [2]string{http1.StatusName(n), Pseudonym(n)})
	}
	want := [][2]string{{"a", "a"}, {"node-1.example", "node-1.example"}, {`"1a"`, "1a"}, {`"B??ro"`, "B-ro"}, {`"q\"\\"`, "q--"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestMaxClientsWaitInTheBacklog(t *testing.T) {
	w := newWorld(t, 0, func(c *Config, _ *resolver, _ *worldOptions) { c.MaxClients = 1 })
	first := w.dial()
	eventually(t, "the first client is in", func() bool { return w.Counters().Clients.Load() == 1 })
	second := w.dial()
	second.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := second.r.ReadByte(); !isTimeout(err) {
		t.Fatalf("the second client was served: %v", err)
	}
	second.SetReadDeadline(time.Now().Add(patience))
	first.Close()
	second.refused("GET", 400, "http_request_error")
}
