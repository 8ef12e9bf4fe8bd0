package clienttls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/proxy/proxytest"
	"github.com/weirproxy/weir/proxy/sock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for an event that must happen.
const patience = 10 * time.Second

// world is a Terminator and what it needs.
type world struct {
	*Terminator
	t       *testing.T
	buffers sock.Buffers
	roots   *x509.CertPool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cert := proxytest.Certificate(t)
	hangups, err := sock.NewHangups()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hangups.Close)
	w := &world{t: t, roots: x509.NewCertPool()}
	w.roots.AddCert(cert.Leaf)
	w.Terminator = New(&tls.Config{
		Certificates: []tls.Certificate{*cert},
		NextProtos:   []string{"h2"}, // not what is spoken inside
	}, &w.buffers, hangups)
	return w
}

// accepted returns both ends of a TCP connection: the client's, and the server's to read.
func (w *world) accepted() (client *net.TCPConn, wire *sock.Reader, addr netip.AddrPort) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	s, err := l.Accept()
	if err != nil {
		w.t.Fatal(err)
	}
	wire = &sock.Reader{Conn: proxytest.Sock(w.t, s.(*net.TCPConn), &w.buffers)}
	return c.(*net.TCPConn), wire, c.LocalAddr().(*net.TCPAddr).AddrPort()
}

// peer is a client whose handshake is complete.
type peer struct {
	*tls.Conn
	tcp    *net.TCPConn
	server *Conn
	socket *sock.Reader     // of the server's Socket
	hungUp chan sock.Hangup // what Begin's hungUp was called with
	ended  chan struct{}    // Begin's ended was called
}

// connect makes a client whose bytes are carried.
func (w *world) connect() *peer {
	w.t.Helper()
	tcp, wire, addr := w.accepted()
	p := &peer{tcp: tcp, hungUp: make(chan sock.Hangup, 16), ended: make(chan struct{})}
	p.Conn = tls.Client(tcp, &tls.Config{RootCAs: w.roots, ServerName: "127.0.0.1", NextProtos: []string{"h2", "http/1.1"}})
	done := make(chan error, 1)
	go func() { done <- p.Handshake() }()
	var err error
	if p.server, err = w.Handshake(wire, addr, time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	if err := <-done; err != nil {
		w.t.Fatal(err)
	}
	if got := p.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		w.t.Errorf("ALPN: %q", got)
	}
	p.socket = &sock.Reader{Conn: p.server.Socket()}
	p.server.Begin(func(kind sock.Hangup) { p.hungUp <- kind }, func() { close(p.ended) })
	go p.server.Carry()
	w.t.Cleanup(func() {
		p.Close()
		p.socket.Release()
		p.socket.Conn.Close()
		w.await("the end", p.ended)
	})
	return p
}

// await waits until the channel is closed.
func (w *world) await(what string, c <-chan struct{}) {
	w.t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		w.t.Errorf("not within %v: %s", patience, what)
	}
}

// read reads n bytes that the client has sent.
func (p *peer) read(n int) (string, error) {
	for p.socket.Len() < n {
		if err := p.socket.Fill(); err != nil {
			return string(p.socket.Bytes()), err
		}
	}
	s := string(p.socket.Bytes()[:n])
	p.socket.Skip(n)
	return s, nil
}

// What either side sends arrives, and its end behind it, while the other direction goes on.
func TestCarries(t *testing.T) {
	w := newWorld(t)
	p := w.connect()
	if _, err := io.WriteString(p, "hello"); err != nil {
		t.Fatal(err)
	}
	if got, err := p.read(5); got != "hello" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	if err := p.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := p.read(1); err != io.EOF {
		t.Fatalf("read %q, %v behind the client's end", got, err)
	}
	if err := p.socket.Conn.Write([]byte("late"), nil, nil); err != nil {
		t.Fatal(err)
	}
	p.socket.Conn.Close()
	if got, err := io.ReadAll(p); string(got) != "late" || err != nil { // close_notify, no bare FIN
		t.Errorf("the client has read %q, %v", got, err)
	}
	w.await("everything is closed", p.ended)
}

// A reset is one on the other side too, and is reported where no read can find it.
func TestResets(t *testing.T) {
	w := newWorld(t)
	t.Run("by the client", func(t *testing.T) {
		p := w.connect()
		p.tcp.SetLinger(0)
		p.tcp.Close()
		if got, err := p.read(1); err != unix.ECONNRESET || !p.server.Broken() {
			t.Errorf("read %q, %v", got, err)
		}
		if kind := <-p.hungUp; kind != sock.HangupReset {
			t.Errorf("reported as %v", kind)
		}
	})
	t.Run("by broken TLS", func(t *testing.T) {
		p := w.connect()
		io.WriteString(p.tcp, "\x17\x03\x03\x00\x20this is no record that was sealed.")
		if got, err := p.read(1); err != unix.ECONNRESET || !p.server.Broken() {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("of the socket", func(t *testing.T) {
		p := w.connect()
		p.socket.Conn.Reset()
		if n, err := p.Read(make([]byte, 1)); !sock.IsReset(err) {
			t.Errorf("the client reads %d bytes, %v", n, err)
		}
		w.await("everything is closed", p.ended)
	})
}

// What is no TLS has an error of its own, before anything has been answered.
func TestNotTLS(t *testing.T) {
	w := newWorld(t)
	client, wire, addr := w.accepted()
	if _, err := io.WriteString(client, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_, err := w.Handshake(wire, addr, time.Now().Add(patience))
	var notTLS *NotTLSError
	if !errors.As(err, &notTLS) || string(notTLS.Start[:]) != "GET /" {
		t.Fatalf("%v", err)
	}
	if err := wire.Conn.Write([]byte("plain"), nil, nil); err != nil {
		t.Fatal(err)
	}
	wire.Conn.CloseWrite()
	if got, err := io.ReadAll(client); string(got) != "plain" || err != nil {
		t.Errorf("the client has read %q, %v", got, err)
	}
}

// A handshake that does not go on ends at its deadline; one whose client is gone, at once.
func TestUnfinishedHandshakes(t *testing.T) {
	w := newWorld(t)
	client, wire, addr := w.accepted()
	if _, err := io.WriteString(client, "\x16\x03\x01\x01\x00"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Handshake(wire, addr, time.Now().Add(50*time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at the deadline: %v", err)
	}
	client, wire, addr = w.accepted()
	client.Close()
	if _, err := w.Handshake(wire, addr, time.Now().Add(patience)); err != io.EOF {
		t.Errorf("without a client: %v", err)
	}
}
