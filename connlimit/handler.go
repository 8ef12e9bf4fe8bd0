package connlimit

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Handler returns a handler that serves with next as many requests at once as Config.Requests
// allows, in all and per client, over HTTP/1 and HTTP/2. A request counts until next returns, also
// by a panic; one whose connection next has hijacked counts until both has happened, and the
// connection is closed.
//
// A request over a limit waits where Limits.Wait says so, and no longer than its client stays. Over
// HTTP/1, net/http notices that a client has gone only if the request's body is empty or has been
// read: a POST whose client has gone keeps its place in the queue, and is served.
//
// A refused request gets Config.ErrorHandler's answer. The default is 429 (503 where the server is
// at its limit in all, or the cluster can't answer), Retry-After, and a line of text.
//
// Put http.MaxBytesHandler or http.MaxBytesReader around this handler, not into it: inside, neither
// can close the connection of a request that is too large, which takes net/http's own writer.
//
// With Config.ClusterRequests each request also holds a slot in the cluster. If that is lost, the
// request's context ends with ErrLost, and a hijacked connection is closed.
func (l *Limiter) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := l.current()
		addr, then := c.client(r), c.afterRequest()
		slot, err := l.reqs.acquire(r.Context(), addr, then)
		if err == nil && then == forCluster {
			l.serveHeld(w, r, next, c, slot)
			return
		}
		if err != nil {
			c.answer(w, r, err)
			return
		}
		l.serve(w, r, next, slot, nil)
	})
}

// ErrLost is the cause with which the context of a request ends whose slot in the cluster was lost.
var ErrLost = errors.New("connlimit: the cluster's slot was lost")

// serveHeld serves r with a slot in the cluster, too.
func (l *Limiter) serveHeld(w http.ResponseWriter, r *http.Request, next http.Handler, c *Config, slot Slot) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	var taken hijack
	cc := clusterContext{r.Context(), func() { cancel(ErrLost); taken.lose() }}
	slot, err := l.hold(cc, l.reqs, c, slot, c.client(r))
	if err != nil {
		c.answer(w, r, err)
		return
	}
	l.serve(w, r.WithContext(ctx), next, slot, &taken)
}

func (l *Limiter) serve(w http.ResponseWriter, r *http.Request, next http.Handler, slot Slot, taken *hijack) {
	hijacker := hijackerOf(w)
	if hijacker == nil { // HTTP/2
		defer slot.Free()
		next.ServeHTTP(w, r)
		return
	}
	if taken == nil {
		taken = new(hijack)
	}
	taken.slot, taken.hijacker = slot, hijacker
	defer taken.handled()
	next.ServeHTTP(wrapWriter(w, taken), r)
}

// A hijack frees the slot of a request once the handler has returned, and the connection, if it was
// hijacked, is closed.
type hijack struct {
	hijacker http.Hijacker
	slot     Slot
	mu       sync.Mutex
	conn     *Conn // nil: not hijacked
	returned bool
	closed   bool
	lost     bool
}

// lose closes the connection whose slot was lost.
func (h *hijack) lose() {
	h.mu.Lock()
	h.lost = true
	conn := h.conn
	h.mu.Unlock()
	if conn != nil {
		abort(conn)
	}
}

func (h *hijack) handled() {
	h.mu.Lock()
	h.returned = true
	done := h.conn == nil || h.closed
	h.mu.Unlock()
	if done {
		h.slot.Free()
	}
}

func (h *hijack) end() {
	h.mu.Lock()
	h.closed = true
	done := h.returned
	h.mu.Unlock()
	if done {
		h.slot.Free()
	}
}

// answer refuses r.
func (c *Config) answer(w http.ResponseWriter, r *http.Request, err error) {
	if after, ok := retryAfter(c, err); ok {
		w.Header().Set("Retry-After", after)
	}
	if c.ErrorHandler != nil {
		c.ErrorHandler(w, r, err)
		return
	}
	http.Error(w, reason(err), c.status(err))
}

func (c *Config) status(err error) int {
	if c.Status != 0 {
		return c.Status
	}
	if e := (*Error)(nil); errors.As(err, &e) && e.Scope != ScopeTotal {
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

// reason tells the client what it may know: not how busy others are.
func reason(err error) string {
	e := (*Error)(nil)
	switch {
	case !errors.As(err, &e):
		return "The server can't take this request now. Try again later."
	case e.Blocked():
		return "The server takes no " + e.Kind + " from you: the limit is 0."
	case e.Scope == ScopeCluster: // which may be the client's own, or one that all share
		return "Too many " + e.Kind + " are open at once. Try again later."
	case e.Scope == ScopeTotal:
		return "The server has too many " + e.Kind + " at once. Try again later."
	}
	return "You have too many " + e.Kind + " open at once: the limit is " + strconv.Itoa(e.Limit) + ". Close some, or try again later."
}

// retryAfter returns the header's value, in seconds.
func retryAfter(c *Config, err error) (string, bool) {
	after := c.RetryAfter
	if e := (*Error)(nil); errors.As(err, &e) {
		after, _ = e.RetryAfter()
	} else if after == 0 {
		after = DefaultRetryAfter
	}
	if after <= 0 {
		return "", false
	}
	return strconv.FormatFloat(math.Ceil(after.Seconds()), 'f', 0, 64), true
}

// AnswerHTTP is a Config.Answer for servers of HTTP/1 without Guard: it waits for the request's
// head and refuses it as Handler would by default. It says nothing over TLS where HTTP/2 was agreed
// on.
func AnswerHTTP(conn net.Conn, err error) {
	// Of a head only the end counts. Its first byte makes a TLS connection shake hands.
	head, buffer := 0, make([]byte, 4096)
	for last := ""; head < 64<<10; {
		n, readErr := conn.Read(buffer)
		if readErr != nil {
			return
		}
		head += n
		if last += string(buffer[:n]); headEnds(last) {
			break
		}
		last = last[max(0, len(last)-3):]
	}
	if t, ok := conn.(tlsConn); ok && t.ConnectionState().NegotiatedProtocol == "h2" {
		return
	}
	c := &Config{}
	text := reason(err) + "\n"
	status := c.status(err)
	answer := "HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n" +
		"Date: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n" +
		"Content-Length: " + strconv.Itoa(len(text)) + "\r\nConnection: close\r\n"
	if after, ok := retryAfter(c, err); ok {
		answer += "Retry-After: " + after + "\r\n"
	}
	io.WriteString(conn, answer+"\r\n"+text)
}
