package connlimit

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
)

type tlsConn interface{ ConnectionState() tls.ConnectionState }

// headEnds reports whether the blank line that ends a request's head is in s.
func headEnds(s string) bool { return strings.Contains(s, "\r\n\r\n") || strings.Contains(s, "\n\n") }

// hijackerOf finds who can hijack the connection, as [http.ResponseController] does: perhaps behind
// the writers of other middleware. nil: nobody can.
func hijackerOf(w http.ResponseWriter) http.Hijacker {
	for range 16 {
		switch t := w.(type) {
		case http.Hijacker:
			return t
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return nil
		}
	}
	return nil
}

// Hijack hijacks the connection and has it counted until it is closed.
func (h *hijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := h.hijacker.Hijack()
	if err != nil {
		return conn, rw, err
	}
	counted := &Conn{Conn: conn, free: h.end}
	h.mu.Lock()
	h.conn = counted
	lost := h.lost
	h.mu.Unlock()
	if lost {
		abort(counted)
	}
	return counted, rw, nil
}

// writer is what a handler gets in place of net/http's own writer, with all that this one exports.
// http.MaxBytesReader calls an unexported method to close the connection: no wrapper can have that.
type writer struct {
	fullWriter
	hijack *hijack
}

type fullWriter interface {
	http.ResponseWriter
	http.Flusher
	io.ReaderFrom
	io.StringWriter
}

// closeNotifier is http.CloseNotifier, which is deprecated: frameworks still panic without it.
type closeNotifier interface{ CloseNotify() <-chan bool }

// notifyWriter is a writer that says when its client is gone, as that of net/http for HTTP/1 does.
type notifyWriter struct {
	writer
	closeNotifier
}

func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack.Hijack() }
func (w *writer) Unwrap() http.ResponseWriter                  { return w.fullWriter }

// FlushError is Flush for http.ResponseController, which would lose the error of a writer that has
// Flush alone.
func (w *writer) FlushError() error { return http.NewResponseController(w.fullWriter).Flush() }

// plainWriter is what it gets in place of a writer that can do less.
type plainWriter struct {
	http.ResponseWriter
	hijack *hijack
}

func (w *plainWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack.Hijack() }
func (w *plainWriter) Unwrap() http.ResponseWriter                  { return w.ResponseWriter }

// flushWriter is a plainWriter that can flush.
type flushWriter struct {
	plainWriter
	http.Flusher
}

// FlushError is Flush, as that of writer is.
func (w *flushWriter) FlushError() error { return http.NewResponseController(w.ResponseWriter).Flush() }

func wrapWriter(w http.ResponseWriter, h *hijack) http.ResponseWriter {
	if full, ok := w.(fullWriter); ok {
		if notifier, ok := w.(closeNotifier); ok {
			return &notifyWriter{writer{full, h}, notifier}
		}
		return &writer{full, h}
	}
	if f, ok := w.(http.Flusher); ok {
		return &flushWriter{plainWriter{w, h}, f}
	}
	return &plainWriter{w, h}
}
