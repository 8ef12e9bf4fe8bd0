package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func FuzzReadPreface(f *testing.F) {
	for _, p := range []preface{{kind: kindRaft, target: "a.0123456789abcdef"}, {kind: kindGRPC}, {kind: kindHTTP}} {
		b, err := p.append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(b, "what follows"...))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{0x16, 3, 1, 0, 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		p, err := readPreface(r)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
			return
		}
		again, err := p.append(nil)
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Fatalf("%q was read as %+v, which is written %q, %v", b, p, again, err)
		}
		if r.Len() != len(b)-len(again) {
			t.Errorf("reading took %d bytes of a preface of %d", len(b)-r.Len(), len(again))
		}
	})
}

func newTestMux(t *testing.T, id string) *mux {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := newMux(hclog.NewNullLogger(), l, l.Addr().String(), id)
	m.start()
	t.Cleanup(m.close)
	return m
}

func TestMuxSeparatesKindsAndServers(t *testing.T) {
	t.Parallel()
	m, from := newTestMux(t, "a.1"), newTestMux(t, "b.2")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, k := range []kind{kindRaft, kindGRPC, kindHTTP} {
		for _, dialler := range []*mux{from, m} { // m dials itself
			conn, err := dialler.dial(ctxWithin(t, dialler == m, m, k), m.self, k, "a.1")
			if err != nil {
				t.Fatalf("kind %d: %v", k, err)
			}
			if dialler == m {
				continue // ctxWithin has accepted it
			}
			got, err := m.sub(k).Accept()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4)
			if _, err := io.ReadFull(got, b); err != nil || string(b) != "ping" {
				t.Errorf("kind %d carries %q, %v", k, b, err)
			}
		}
	}
	conn, err := from.dial(ctx, m.self, kindRaft, "a.former")
	if err != nil {
		t.Fatal(err)
	}
	must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Errorf("a connection for a former server was not closed: %v", err)
	}
}

// ctxWithin accepts beside a dial that blocks until somebody does.
func ctxWithin(t *testing.T, accept bool, m *mux, k kind) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	if accept {
		go func() { _, _ = m.sub(k).Accept() }()
	}
	return ctx
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestMuxClosesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	m := newTestMux(t, "a.1")
	for _, hello := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x00\xc8\x01", "weir\x02\x01\x00", "weir\x01\x09\x00"} {
		conn, err := net.Dial("tcp", m.self)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(hello)); err != nil {
			t.Fatal(err)
		}
		must(t, conn.SetReadDeadline(time.Now().Add(3*time.Second)))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
			t.Errorf("%q: not closed: %v", hello, err)
		}
		_ = conn.Close()
	}
	m.close()
	if _, err := m.dial(t.Context(), m.self, kindHTTP, ""); err == nil {
		t.Error("a closed mux dials")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.conns) != 0 {
		t.Errorf("%d connections are left", len(m.conns))
	}
}
