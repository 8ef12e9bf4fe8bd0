package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
)

// headSize bounds a head, a request's or a response's.
const headSize = 4 << 10

var errMalformed = errors.New("malformed head")

// relay is the proxy.
type relay struct {
	buffers sync.Pool

	mu   sync.Mutex
	idle map[string][]*net.TCPConn // upstream connections for plain requests, by host:port
}

// serve takes clients until the listener closes.
func (r *relay) serve(ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go r.client(c.(*net.TCPConn))
	}
}

func (r *relay) get() *[headSize]byte {
	if b, ok := r.buffers.Get().(*[headSize]byte); ok {
		return b
	}
	return new([headSize]byte)
}

// client answers one connection's requests, one at a time. Whatever goes wrong ends it.
func (r *relay) client(c *net.TCPConn) {
	defer func() { _ = c.Close() }()
	buf := r.get()
	for {
		n, head, err := readHead(c, buf[:])
		if err != nil {
			break
		}
		if target, ok := connectTarget(buf[:head]); ok && n == head {
			addr := string(target) // the buffer is another client's from now on
			r.buffers.Put(buf)
			tunnel(c, addr)
			return
		}
		if r.forward(c, buf, n) != nil {
			break
		}
	}
	r.buffers.Put(buf)
}

// readHead reads until a head is complete: its length is head, and n is that of all that came.
func readHead(c *net.TCPConn, buf []byte) (n, head int, err error) {
	for n < len(buf) {
		m, err := c.Read(buf[n:])
		if err != nil {
			return n, 0, err
		}
		n += m
		if i := bytes.Index(buf[:n], []byte("\r\n\r\n")); i >= 0 {
			return n, i + 4, nil
		}
	}
	return n, 0, errMalformed
}

// connectTarget finds host:port in "CONNECT host:port HTTP/1.1".
func connectTarget(head []byte) (target []byte, ok bool) {
	rest, ok := bytes.CutPrefix(head, []byte("CONNECT "))
	if !ok {
		return nil, false
	}
	target, _, ok = bytes.Cut(rest, []byte(" "))
	return target, ok
}

// tunnel relays between c and target until both have ended.
func tunnel(c *net.TCPConn, target string) {
	conn, err := net.Dial("tcp", target)
	if err != nil {
		_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	up := conn.(*net.TCPConn)
	defer func() { _ = up.Close() }()
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(c, up)
		_ = c.CloseWrite()
	}()
	_, _ = io.Copy(up, c)
	_ = up.CloseWrite()
	<-done
}

// forward sends the request of n bytes in buf to its upstream and relays the answer.
func (r *relay) forward(c *net.TCPConn, buf *[headSize]byte, n int) error {
	target, path, ok := absoluteForm(buf[:n])
	if !ok {
		return errMalformed
	}
	addr := string(target)
	up, err := r.take(addr)
	if err != nil {
		return err
	}
	// "GET " moves up to the path, over the scheme and the host, so that one write sends the origin
	// form.
	request := buf[path-len("GET ") : n]
	copy(request, "GET ")
	if _, err = up.Write(request); err == nil {
		err = answer(c, up, buf[:])
	}
	if err != nil {
		_ = up.Close()
		return err
	}
	r.put(addr, up)
	return nil
}

// absoluteForm finds host:port, and where the path begins, in "GET http://host:port/path HTTP/1.1".
func absoluteForm(head []byte) (target []byte, path int, ok bool) {
	const scheme = "GET http://"
	if !bytes.HasPrefix(head, []byte(scheme)) {
		return nil, 0, false
	}
	slash := bytes.IndexByte(head[len(scheme):], '/')
	if slash < 0 {
		return nil, 0, false
	}
	path = len(scheme) + slash
	return head[len(scheme):path], path, true
}

// answer relays one response: the head with what came behind it, and the rest of Content-Length
// bytes.
func answer(c, up *net.TCPConn, buf []byte) error {
	n, head, err := readHead(up, buf)
	if err != nil {
		return err
	}
	length, ok := contentLength(buf[:head])
	if !ok {
		return errMalformed
	}
	if _, err := c.Write(buf[:n]); err != nil {
		return err
	}
	for left := length - (n - head); left > 0; left -= n {
		if n, err = up.Read(buf); err != nil {
			return err
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// contentLength finds the field as its usual spelling has it.
func contentLength(head []byte) (length int, ok bool) {
	_, rest, ok := bytes.Cut(head, []byte("\r\nContent-Length: "))
	if !ok {
		return 0, false
	}
	digits, _, _ := bytes.Cut(rest, []byte("\r\n"))
	length, err := strconv.Atoi(string(digits))
	return length, err == nil && length >= 0
}

// take finds a kept connection or dials one.
func (r *relay) take(addr string) (*net.TCPConn, error) {
	r.mu.Lock()
	if list := r.idle[addr]; len(list) > 0 {
		up := list[len(list)-1]
		r.idle[addr] = list[:len(list)-1]
		r.mu.Unlock()
		return up, nil
	}
	r.mu.Unlock()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func (r *relay) put(addr string, up *net.TCPConn) {
	r.mu.Lock()
	r.idle[addr] = append(r.idle[addr], up)
	r.mu.Unlock()
}
