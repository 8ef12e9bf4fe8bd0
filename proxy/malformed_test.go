package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/sock"
)

func TestMalformedRequests(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1, policy(func(p *Policy) { p.HeaderTimeout = time.Second }))
	for _, request := range []string{
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET https://UP/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET ftp://UP/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET UP HTTP/1.1\r\nHost: x\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://user@UP/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http:///path HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://UP/#frag HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://a b/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://UP/ HTTP/1.1\n\n",
		"GET wss://UP/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\n Host: x\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\nHost: x y\r\n\r\n",
		"GET http://UP/ HTTP/1.1\r\nHost: b\xfccher.test\r\n\r\n",
		"GET http://b\xfccher.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET  http://UP/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://UP/ HTTP/1.2\r\nHost: x\r\n\r\n",
		"GET http://UP/\r\nHost: x\r\n\r\n",
		"G(T http://UP/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"POST http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"POST http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n",
		"POST http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n",
		"POST http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"POST http://UP/ HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n",
		"POST http://UP/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"POST http://UP/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"POST http://UP/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
		"POST http://UP/ HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"CONNECT UP HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"CONNECT UP HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
		"CONNECT 127.0.0.1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT http://UP/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT host:99999 HTTP/1.1\r\nHost: x\r\n\r\n",
		"TRACE http://UP/ HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n\r\n",
	} {
		p := w.dial()
		p.send(strings.ReplaceAll(request, "UP", u.addr))
		resp, body := p.response("GET")
		if resp.StatusCode != 400 || !strings.Contains(resp.Header.Get("Proxy-Status"), "error=http_request_error") ||
			!strings.Contains(body, "HTTPS_PROXY") {
			t.Errorf("%q: %s, %v, %q", request, resp.Status, resp.Header, body)
		}
		p.Close()
	}
	if n := u.all.Load(); n != 0 {
		t.Errorf("%d connections reached the upstream", n)
	}
}

// What is wrong with a URL's host or port is named, as it is for a CONNECT.
func TestMalformedAuthoritySaysWhy(t *testing.T) {
	w := newWorld(t, 1)
	for authority, why := range map[string]string{
		"a.test:0": "ports start at 1", "a.test:65536": "is above 65535", "[fe80::1%25eth0]": "has a zone",
		"a..test": "has an empty label", "::1": "write IPv6 in brackets", "": "it is empty",
	} {
		for method, request := range map[string]string{
			"GET":     "GET http://" + authority + "/ HTTP/1.1\r\nHost: x\r\n\r\n",
			"CONNECT": "CONNECT " + authority + " HTTP/1.1\r\nHost: x\r\n\r\n",
		} {
			if authority == "" && method == "CONNECT" {
				continue // no target at all
			}
			p := w.dial()
			p.send(request)
			resp := p.refused(method, 400, "http_request_error")
			if got := resp.Header.Get("Proxy-Status"); !strings.Contains(got, why) {
				t.Errorf("%s %q: %s, want %q", method, authority, got, why)
			}
		}
	}
}

// Clients that don't know IDNA send a name as they got it. Its ASCII form is counted and forwarded.
func TestNamesInUTF8(t *testing.T) {
	u := newUpstream(t, nil)
	_, port, err := net.SplitHostPort(u.addr)
	if err != nil {
		t.Fatal(err)
	}
	local := func(_ *Config, r *resolver, _ *worldOptions) {
		*r = resolver{"xn--bcher-kva.test": []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	}
	for written, ascii := range map[string]string{"Bücher.test": "xn--bcher-kva.test", "１２７.0.0.1": "127.0.0.1"} {
		w := newWorld(t, 2, local)
		p := w.dial()
		p.send("GET http://" + written + ":" + port + "/ü HTTP/1.1\r\nHost: " + written + ":" + port + "\r\n\r\n")
		q := u.accept()
		if head, want := q.readHead(), "GET /ü HTTP/1.1\r\nHost: "+ascii+":"+port+"\r\nVia: 1.1 n1\r\n\r\n"; head != want {
			t.Errorf("%s: the upstream is sent %q, not %q", written, head, want)
		}
		q.send("HTTP/1.1 204 No Content\r\n\r\n")
		p.response("GET")
		c := w.dial()
		c.send("CONNECT " + written + ":" + port + " HTTP/1.1\r\nHost: " + written + ":" + port + "\r\n\r\n")
		c.expect("HTTP/1.1 200 Connection established\r\n\r\n")
		u.accept()
		for _, conn := range w.Connections("") {
			if conn.Host != ascii {
				t.Errorf("%s: counted as %s", written, conn.Host)
			}
		}
	}
	for target, want := range map[string]string{"bücher.test": "xn--bcher-kva.test", "bücher.test:80": "xn--bcher-kva.test", "bücher.test:81": "xn--bcher-kva.test:81", "A.test:080": "A.test:080"} {
		parsed, err := limit.ParseTarget(target, 80)
		if got := string(hostField([]byte(target), parsed)); err != nil || got != want {
			t.Errorf("Host of %s: %s, %v; want %s", target, got, err, want)
		}
	}
}

func TestMalformedBodies(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, chunks := range []string{
		"4\r\nbodyX\r\n0\r\n\r\n", "4\nbody\r\n0\r\n\r\n", "x\r\n", "-1\r\n", "0x4\r\nbody\r\n", "\r\n", "4 4\r\nbody\r\n",
		"1000000000000000\r\n", "4\r\nbody\r\n0\r\nbad trailer\r\n\r\n", "4\r\nbody\r\n0\r\n folded: x\r\n\r\n",
		"4;" + strings.Repeat("x", http1.MaxChunkLine) + "\r\nbody\r\n0\r\n\r\n",
		"0\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 20) + "\r\n",
	} {
		p := w.dial()
		p.send("POST http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
		q := u.accept()
		p.refused("POST", 400, "http_request_error")
		if b, err := io.ReadAll(q.r); !sock.IsReset(err) || strings.HasSuffix(string(b), "\r\n0\r\n\r\n") {
			t.Errorf("%q: the upstream read %q, %v", chunks, b, err)
		}
		q.Close()
		p.Close()
	}
}

func TestMalformedResponses(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, c := range []struct{ answer, code string }{
		{"SSH-2.0-OpenSSH\r\n\r\n", "http_protocol_error"},
		{"HTTP/1.1 20 OK\r\n\r\n", "http_protocol_error"},
		{"HTTP/1.1 099 OK\r\n\r\n", "http_protocol_error"},
		{"HTTP/2.0 200 OK\r\n\r\n", "http_protocol_error"},
		{"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n", "http_protocol_error"},
		{"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", "http_protocol_error"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "http_protocol_error"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "http_protocol_error"},
		{"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "http_protocol_error"},
		{"HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 70), "http_response_header_section_size"},
		{"HTTP/1.1 200", "connection_terminated"},
		{"", "connection_terminated"},
	} {
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		q.send(c.answer)
		q.CloseWrite()
		p.refused("GET", 502, c.code)
		q.Close()
		p.Close()
	}
}

// The refusal names the field, also of a response.
func TestRefusedFieldsAreNamed(t *testing.T) {
	u := newUpstream(t, nil)
	var j journal
	w := newWorld(t, 1, func(_ *Config, _ *resolver, o *worldOptions) { o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true })
	p := w.dial()
	p.send(get(u, "/", ""))
	q := u.accept()
	q.readHead()
	q.send("HTTP/1.1 200 OK\r\nX-Bad: a\x01b\r\n\r\n")
	resp := p.refused("GET", 502, "http_protocol_error")
	if got := resp.Header.Get("Proxy-Status"); !strings.Contains(got, `in the header field \"X-Bad\"`) {
		t.Errorf("Proxy-Status %s", got)
	}
	line := j.Lines(t, "request refused")
	if len(line) != 1 || !strings.HasSuffix(fmt.Sprint(line[0]["details"]), `in the header field "X-Bad"`) {
		t.Errorf("the log says %v", line)
	}
}

// An upstream must say to which protocol it switches; the refusal names the missing field.
func TestBadSwitch(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	const asks = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
	for _, c := range []struct{ fields, answer, want string }{
		{"", "HTTP/1.1 101 X\r\n" + asks + "\r\n", "without being asked to"},
		{asks, "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", `no \"Connection: upgrade\"`},
		{asks, "HTTP/1.1 101 X\r\nConnection: upgrade\r\n\r\n", "no Upgrade field"},
		{asks, "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n", "no Upgrade field"},
		{asks, "HTTP/1.0 101 X\r\n" + asks + "\r\n", "HTTP/1.0"},
	} {
		p := w.dial()
		p.send(get(u, "/", c.fields))
		q := u.accept()
		q.readHead()
		q.send(c.answer)
		resp := p.refused("GET", 502, "http_protocol_error")
		if got := resp.Header.Get("Proxy-Status"); !strings.Contains(got, c.want) {
			t.Errorf("%q: %s, want %s", c.answer, got, c.want)
		}
		q.Close()
		p.Close()
	}
}

// A response that breaks off must not look complete.
func TestTruncatedResponses(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for name, c := range map[string]struct{ request, answer string }{
		"length":            {get(u, "/", ""), "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"},
		"chunk":             {get(u, "/", ""), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf"},
		"chunk to HTTP/1.0": {"GET http://" + u.addr + "/ HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf"},
	} {
		t.Run(name, func(t *testing.T) {
			p := w.dial()
			p.send(c.request)
			q := u.accept()
			q.readHead()
			q.send(c.answer)
			q.Close()
			resp, err := http.ReadResponse(p.r, nil)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			if err == nil {
				t.Fatal("half a body was taken for a whole one")
			}
		})
	}
}

func TestHeadLimits(t *testing.T) {
	u := httpUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, len(r.Header.Get("A")))
	})
	w := newWorld(t, 0, policy(func(p *Policy) { p.HeaderTimeout = 200 * time.Millisecond }))
	request := func(size int) string {
		rest := get(u, "/", "A: \r\n")
		return get(u, "/", "A: "+strings.Repeat("a", size-len(rest))+"\r\n")
	}
	p := w.dial()
	p.send(request(http1.MaxHead))
	if resp, body := p.response("GET"); resp.StatusCode != 200 || len(body) != 5 {
		t.Errorf("a head of 64 KiB: %s %q", resp.Status, body)
	}
	p.send(request(http1.MaxHead + 1))
	p.refused("GET", 431, "http_request_error")

	p = w.dial()
	fields := func(n int) string { return get(u, "/", strings.Repeat("A:\r\n", n-1)) }
	p.send(fields(http1.MaxFields))
	if resp, _ := p.response("GET"); resp.StatusCode != 200 {
		t.Errorf("a head of %d fields: %s", http1.MaxFields, resp.Status)
	}
	p.send(fields(http1.MaxFields + 1))
	p.refused("GET", 431, "http_request_error")

	p = w.dial()
	start := time.Now()
	p.send("GET http://x/ HTTP/1.1\r\n")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // a byte now and then doesn't help
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.Write([]byte("A"))
			case <-stop:
				return
			}
		}
	})
	p.refused("GET", 408, "http_request_error")
	close(stop)
	wg.Wait()
	if d := time.Since(start); d < 200*time.Millisecond || d > 2*time.Second {
		t.Errorf("408 after %v", d)
	}
	w.dial().expectEOF() // a client that says nothing is closed without a word

	// The second head has its time too.
	p = w.dial()
	p.send(get(u, "/", ""))
	p.response("GET")
	p.send("GET")
	p.refused("GET", 408, "http_request_error")
}

func TestResponseHeadLimits(t *testing.T) {
	u := newUpstream(t, nil)
	w := newWorld(t, 1)
	for _, answer := range []string{
		"A: " + strings.Repeat("a", http1.MaxHead),
		strings.Repeat("A:\r\n", http1.MaxFields+1),
		"Connection: " + strings.Repeat("a,", http1.MaxNominated+1),
	} {
		p := w.dial()
		p.send(get(u, "/", ""))
		q := u.accept()
		q.readHead()
		q.send("HTTP/1.1 200 OK\r\n" + answer + "\r\n\r\n")
		p.refused("GET", 502, "http_response_header_section_size")
		q.Close()
		eventually(t, "the slot is released", func() bool { return w.adm.inUse() == 0 })
	}
}
