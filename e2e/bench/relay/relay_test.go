package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startRelay serves until the test ends; its upstream connections are closed then too.
func startRelay(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := relay{idle: map[string][]*net.TCPConn{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.serve(ln); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, list := range r.idle {
			for _, up := range list {
				_ = up.Close()
			}
		}
	})
	return ln.Addr().String()
}

// startUpstream answers every request with its path, repeated n times.
func startUpstream(t *testing.T, n int) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := strings.Repeat(req.URL.Path, n)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = io.WriteString(w, body)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return ln.Addr().String()
}

func dial(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, bufio.NewReader(c)
}

// get sends one request and checks the answer's body.
func get(t *testing.T, c net.Conn, r *bufio.Reader, url, want string) {
	t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", url); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || string(body) != want {
		t.Fatalf("GET %s: %d, %d bytes, %v; want %d bytes", url, resp.StatusCode, len(body), err, len(want))
	}
}

func TestTunnel(t *testing.T) {
	up := startUpstream(t, 1)
	c, r := dial(t, startRelay(t))
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", up, up); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("CONNECT: %v, %v", resp, err)
	}
	get(t, c, r, "/in/the/tunnel", "/in/the/tunnel")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("after the FIN: %q, %v; want the upstream's end", rest, err)
	}
}

func TestForwardOverKeptConnections(t *testing.T) {
	for _, n := range []int{1, 10_000} { // within one read, and beyond the buffer
		up := startUpstream(t, n)
		c, r := dial(t, startRelay(t))
		for _, path := range []string{"/a", "/bc"} {
			get(t, c, r, "http://"+up+path, strings.Repeat(path, n))
		}
	}
}

func TestWhatCanNotBeRelayedEndsTheConnection(t *testing.T) {
	proxy := startRelay(t)
	for _, request := range []string{"GET / HTTP/1.1\r\n\r\n", "GET http://nopath HTTP/1.1\r\n\r\n", "CONNECT\r\n\r\n", strings.Repeat("x", headSize)} {
		c, r := dial(t, proxy)
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if answer, _ := io.ReadAll(r); len(answer) > 0 {
			t.Errorf("%.20q is answered with %q; want the end", request, answer)
		}
	}
}

// TestTunnelsAtOnce: heads in pooled buffers must not mix.
func TestTunnelsAtOnce(t *testing.T) {
	const clients, times = 16, 20
	ups := []string{startUpstream(t, 1), startUpstream(t, 2)}
	proxy := startRelay(t)
	var wg sync.WaitGroup
	for i := range clients {
		up, want := ups[i%2], strings.Repeat("/x", i%2+1)
		wg.Go(func() {
			for range times {
				if got, err := throughTunnel(proxy, up); err != nil || got != want {
					t.Errorf("through the tunnel to %s: %q, %v; want %q", up, got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// throughTunnel opens a tunnel, asks for /x in it, and returns the answer's body.
func throughTunnel(proxy, up string) (string, error) {
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\n\r\n", up); err != nil {
		return "", err
	}
	if _, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect}); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
