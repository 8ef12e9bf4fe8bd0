package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/weirproxy/weir/proxy/proxytest"
	"github.com/weirproxy/weir/proxy/sock"
)

// speakTLS makes a world's listener use TLS.
func speakTLS(cert *tls.Certificate) option {
	return func(c *Config, _ *resolver, o *worldOptions) {
		c.ServesTLS, o.tls = true, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }}
	}
}

// tlsPeer is a client that connects to the proxy with TLS.
type tlsPeer struct {
	*tls.Conn
	t   *testing.T
	tcp *net.TCPConn
	r   *bufio.Reader
}

func (w *world) dialTLS(cert *tls.Certificate) *tlsPeer {
	w.t.Helper()
	return w.dialTLSAfter("", cert)
}

// dialTLSAfter sends bytes before TLS begins.
func (w *world) dialTLSAfter(start string, cert *tls.Certificate) *tlsPeer {
	w.t.Helper()
	p := w.dial()
	p.send(start)
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	conn := tls.Client(p.TCPConn, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", NextProtos: []string{"h2", "http/1.1"}})
	if err := conn.Handshake(); err != nil {
		w.t.Fatal(err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		w.t.Fatalf("ALPN: %q", got)
	}
	return &tlsPeer{conn, w.t, p.TCPConn, bufio.NewReader(conn)}
}

func (p *tlsPeer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.Conn, s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *tlsPeer) expect(want string) {
	p.t.Helper()
	b := make([]byte, len(want))
	n, err := io.ReadFull(p.r, b)
	if got := string(b[:n]); err != nil || got != want {
		p.t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// end reads to the end and returns its error, nil for close_notify.
func (p *tlsPeer) end() error {
	p.t.Helper()
	b, err := io.ReadAll(p.r)
	if len(b) > 0 {
		p.t.Fatalf("read %q before %v", b, err)
	}
	return err
}

func (p *tlsPeer) connect(target string) {
	p.t.Helper()
	p.send("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n")
	p.expect(string(established))
}

func (p *tlsPeer) reset() {
	p.tcp.SetLinger(0)
	p.tcp.Close()
}

func TestTLSRequests(t *testing.T) {
	u := httpUpstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Method) })
	cert := proxytest.Certificate(t)
	var j journal
	w := newWorld(t, 0, speakTLS(cert), func(_ *Config, _ *resolver, o *worldOptions) {
		o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true
	})
	p := w.dialTLS(cert)
	for range 3 {
		p.send(get(u, "/", ""))
		resp, err := http.ReadResponse(p.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "GET" {
			t.Fatalf("%s %q %v", resp.Status, body, err)
		}
	}
	eventually(t, "the lines", func() bool { return len(j.Lines(t, "request ended")) == 3 })
	if got := j.Lines(t, "request ended")[0]["client"]; got != p.LocalAddr().String() {
		t.Errorf("the log has the client at %v, not %v", got, p.LocalAddr())
	}
	p.CloseWrite()
	if err := p.end(); err != nil {
		t.Errorf("after the client's end: %v", err)
	}
	if n := w.Counters().Reused.Load(); n != 2 {
		t.Errorf("%d requests on a kept connection", n)
	}
}

// A tunnel passes both ends on, in either order, and bytes that follow the first end.
func TestTLSHalfCloses(t *testing.T) {
	u := newUpstream(t, nil)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 1, speakTLS(cert))
	for _, clientFirst := range []bool{true, false} {
		p := w.dialTLS(cert)
		p.connect(u.addr)
		q := u.accept()
		p.send("hello")
		q.expect("hello")
		if clientFirst {
			p.CloseWrite()
			q.expectEOF()
			q.send("late")
			p.expect("late")
			q.CloseWrite()
			if err := p.end(); err != nil {
				t.Fatal(err)
			}
		} else {
			q.CloseWrite()
			if err := p.end(); err != nil {
				t.Fatal(err)
			}
			p.send("late")
			q.expect("late")
			p.CloseWrite()
			q.expectEOF()
		}
		q.Close()
		p.Close()
		eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
	}
}

// A FIN without close_notify ends a client, as without TLS.
func TestTLSEndsWithoutNotice(t *testing.T) {
	u := newUpstream(t, nil)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 1, speakTLS(cert))
	p := w.dialTLS(cert)
	p.connect(u.addr)
	q := u.accept()
	p.tcp.CloseWrite()
	q.expectEOF()
	q.CloseWrite()
	q.Close()
	eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
}

func TestTLSResets(t *testing.T) {
	u := newUpstream(t, nil)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 1, speakTLS(cert))
	t.Run("by the client", func(t *testing.T) {
		p := w.dialTLS(cert)
		p.connect(u.addr)
		q := u.accept()
		p.reset()
		q.expectReset()
		eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
	})
	t.Run("by the client after its end", func(t *testing.T) {
		p := w.dialTLS(cert)
		p.connect(u.addr)
		q := u.accept()
		p.CloseWrite()
		q.expectEOF()
		p.reset()
		eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
	})
	t.Run("by the upstream", func(t *testing.T) {
		p := w.dialTLS(cert)
		p.connect(u.addr)
		u.accept().reset()
		if err := p.end(); !sock.IsReset(err) {
			t.Errorf("the client reads %v; want a reset", err)
		}
		eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
	})
	t.Run("by broken TLS", func(t *testing.T) {
		p := w.dialTLS(cert)
		p.connect(u.addr)
		q := u.accept()
		io.WriteString(p.tcp, "\x17\x03\x03\x00\x20this is no record that was sealed.")
		q.expectReset()
		eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
	})
	t.Run("of a sleeping tunnel", func(t *testing.T) {
		p := w.dialTLS(cert)
		p.connect(u.addr)
		q := u.accept()
		eventually(t, "the tunnel sleeps", func() bool {
			f := w.flows.all()[0]
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.slumber.asleep == finUp|finDown
		})
		p.reset()
		q.expectReset()
		eventually(t, "the slot is back", func() bool { return w.adm.inUse() == 0 })
	})
}

// A client that leaves while it waits for its slot frees its place.
func TestTLSClientGoesWhileQueued(t *testing.T) {
	u := newUpstream(t, nil)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 1, speakTLS(cert))
	first := w.dialTLS(cert)
	first.connect(u.addr)
	q := u.accept()
	for _, leave := range []func(*tlsPeer){func(p *tlsPeer) { p.Close() }, (*tlsPeer).reset} {
		p := w.dialTLS(cert)
		p.send("CONNECT " + u.addr + " HTTP/1.1\r\nHost: x\r\n\r\n")
		eventually(t, "it waits", func() bool { return w.adm.queued() == 1 })
		leave(p)
		eventually(t, "it has gone", func() bool { return w.adm.queued() == 0 })
	}
	first.Close()
	q.expectEOF()
}

// Bytes in flight when either side stops reading arrive later, in order.
func TestTLSBulk(t *testing.T) {
	const size = 8 << 20
	u := newUpstream(t, echo)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 1, speakTLS(cert))
	p := w.dialTLS(cert)
	p.connect(u.addr)
	data := make([]byte, size)
	rand.Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(p.Conn, bytes.NewReader(data))
		sent <- errors.Join(err, p.CloseWrite())
	}()
	sum := sha256.New()
	n, err := io.Copy(sum, p.r)
	if err := errors.Join(err, <-sent); err != nil || n != size || [32]byte(sum.Sum(nil)) != sha256.Sum256(data) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A slow client gets the whole response and its end, even if the proxy is done with the connection
// before.
func TestTLSLastBytes(t *testing.T) {
	const size = 256 << 10
	u := newUpstream(t, func(c *net.TCPConn) {
		http.ReadRequest(bufio.NewReader(c))
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		c.Write(make([]byte, size))
		c.CloseWrite()
	})
	cert := proxytest.Certificate(t)
	w := newWorld(t, 1, speakTLS(cert))
	p := w.dialTLS(cert)
	p.send("GET http://" + u.addr + "/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the proxy is done with the upstream", func() bool { return w.adm.inUse() == 0 })
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if err := p.end(); err != nil {
		t.Errorf("at the end: %v", err)
	}
}

// A client that speaks HTTP without TLS gets an explanation; others are closed, and nothing is
// kept.
func TestTLSGreetings(t *testing.T) {
	cert := proxytest.Certificate(t)
	var j journal
	w := newWorld(t, 0, speakTLS(cert), func(_ *Config, _ *resolver, o *worldOptions) {
		o.Output, o.Level, o.JSONFormat = &j, hclog.Info, true
	})
	for _, method := range []string{"GET", "CONNECT", "OPTIONS", "X"} {
		p := w.dial()
		p.send(method + " http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n")
		resp, body := p.response(method)
		if resp.StatusCode != 400 || !strings.Contains(body, "this port speaks TLS: use https:// in the proxy's URL") || !resp.Close {
			t.Errorf("%s: %s %q", method, resp.Status, body)
		}
		p.expectEOF()
	}
	if n := w.Counters().Refusals[RefusedMalformed].Load(); n != 4 {
		t.Errorf("%d refusals are counted", n)
	}
	w.dial().Close()
	w.dial().reset()
	if lines := j.Lines(t, "a client's TLS handshake failed"); len(lines) != 0 {
		t.Errorf("health checks are logged: %v", lines)
	}
	stranger := tls.Client(w.dial().TCPConn, &tls.Config{ServerName: "127.0.0.1"})
	if err := stranger.Handshake(); err == nil {
		t.Error("a client takes a certificate that it does not know")
	}
	eventually(t, "a line about the handshake", func() bool { return len(j.Lines(t, "a client's TLS handshake failed")) == 1 })
	eventually(t, "all places are free", func() bool { return len(w.places) <= 1 }) // Serve takes one ahead
}

// A client that sends nothing, or half a handshake, is closed soon.
func TestTLSHandshakeTimeout(t *testing.T) {
	w := newWorld(t, 0, speakTLS(proxytest.Certificate(t)), policy(func(p *Policy) { p.HeaderTimeout = 100 * time.Millisecond }))
	for _, start := range []string{"", "\x16\x03\x01\x01\x00"} {
		p := w.dial()
		p.send(start)
		if b, err := io.ReadAll(p.r); len(b) > 0 || err != nil && !sock.IsReset(err) {
			t.Errorf("%q: read %q, %v", start, b, err)
		}
	}
	eventually(t, "all places are free", func() bool { return len(w.places) <= 1 })
}

func TestTLSClientAddress(t *testing.T) {
	cert := proxytest.Certificate(t)
	w := newWorld(t, 0, speakTLS(cert), policy(func(p *Policy) { p.AllowClients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }))
	p := w.dialTLS(cert)
	p.send("GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, err := http.ReadResponse(p.r, nil); err != nil || resp.StatusCode != 403 {
		t.Errorf("%v %v", resp, err)
	}
}

// Closing the server ends connections in every state and waits for them; the end of newWorld checks
// for leaks.
func TestTLSClose(t *testing.T) {
	u := newUpstream(t, nil)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 0, speakTLS(cert))
	greeting := w.dial()
	idle := w.dialTLS(cert)
	tunnel := w.dialTLS(cert)
	tunnel.connect(u.addr)
	q := u.accept()
	w.Close()
	q.expectReset()
	greeting.expectReset()
	if err := tunnel.end(); !sock.IsReset(err) {
		t.Errorf("the tunnel's client reads %v", err)
	}
	if err := idle.end(); err != nil && !sock.IsReset(err) {
		t.Errorf("the idle client reads %v", err)
	}
}

// A client that does not read its last answer does not hold up the server's end.
func TestTLSCloseDespiteUnreadBytes(t *testing.T) {
	body := strings.Repeat("x", 32<<10)
	u := httpUpstream(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
	cert := proxytest.Certificate(t)
	w := newWorld(t, 0, speakTLS(cert))
	tcp := w.dial()
	tcp.SetReadBuffer(4096)
	var wire *sock.Conn
	eventually(t, "the client is there", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for n := range w.newcomers {
			wire = n.wire
		}
		return wire != nil
	})
	p := tls.Client(tcp.TCPConn, &tls.Config{InsecureSkipVerify: true})
	for exchanges := int64(1); !wire.IsStuck(); exchanges++ { // from then on answers stay between the proxy and its TLS
		if _, err := io.WriteString(p, get(u, "/", "")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "an answer", func() bool { return w.Counters().Exchanges.Load() == exchanges })
		time.Sleep(2 * time.Millisecond) // its bytes go as far as they can
	}
	if _, err := io.WriteString(p, get(u, "/", "Connection: close\r\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the proxy is done with the client", func() bool { return w.Counters().Clients.Load() == 0 })
	start := time.Now()
	w.Close()
	if d := time.Since(start); d > patience/2 {
		t.Errorf("the server took %v to end", d)
	}
}

// Draining closes idle clients with close_notify.
func TestTLSDrain(t *testing.T) {
	u := httpUpstream(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	cert := proxytest.Certificate(t)
	w := newWorld(t, 0, speakTLS(cert))
	p := w.dialTLS(cert)
	p.send(get(u, "/", ""))
	p.expect("HTTP/1.1 200 OK\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\n"), p.r)), nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	w.SetDraining(true)
	p.SetReadDeadline(time.Now().Add(patience))
	if _, err := p.Conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the idle client reads %v", err)
	}
}

// New connections get the current certificate.
func TestTLSCertificateChanges(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	first, second := proxytest.Certificate(t), proxytest.Certificate(t)
	current.Store(first)
	w := newWorld(t, 0, func(c *Config, _ *resolver, o *worldOptions) {
		c.ServesTLS, o.tls = true, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }}
	})
	u := newUpstream(t, echo)
	p := w.dialTLS(first)
	p.connect(u.addr)
	current.Store(second)
	w.dialTLS(second)
	p.send("still")
	p.expect("still")
}

// A server may have listeners with TLS and without, whose clients share its places.
func TestServeBoth(t *testing.T) {
	u := newUpstream(t, echo)
	cert := proxytest.Certificate(t)
	w := newWorld(t, 0, speakTLS(cert))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.Serve(l) }()
	plain := *w
	plain.addr = l.Addr().String()
	p, q := w.dialTLS(cert), plain.connect(u.addr)
	p.connect(u.addr)
	for _, c := range []io.ReadWriter{p.Conn, q} {
		b := make([]byte, 4)
		if _, err := io.WriteString(c, "echo"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "echo" {
			t.Errorf("%q, %v", b, err)
		}
	}
	if n := w.Counters().Clients.Load(); n != 2 {
		t.Errorf("%d clients", n)
	}
	w.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := net.Dial("tcp", plain.addr); err == nil {
		t.Error("a closed server accepts")
	}
}
