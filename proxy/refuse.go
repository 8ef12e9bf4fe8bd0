package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"

	"github.com/weirproxy/weir/lease"
	"golang.org/x/sys/unix"
)

// refusal is an answer that the proxy gives itself: a status, and why (RFC 9209).
type refusal struct {
	status  int
	code    string // RFC 9209 §2.3: the error's type
	details string // one line, printable ASCII, nothing about other users of the host
	retry   bool   // with Retry-After
}

// usage ends the text of every 400: most come from a client that takes the proxy for a server.
const usage = `This is a forward proxy: set HTTP_PROXY and HTTPS_PROXY to its address, ` +
	`or send "CONNECT host:port HTTP/1.1" or "GET http://host/path HTTP/1.1".`

// Errors that a flow may end with before it has an upstream connection.
var (
	errClientGone = errors.New("the client went away")
	errProhibited = errors.New("the destination's address is not allowed")
	errLoop       = errors.New("the destination is a proxy port of this cluster")
	errSevered    = errors.New("the slot was withdrawn")
	errFenced     = errors.New("the node can't prove its session any more")
	errEvicted    = errors.New("the limit was lowered and its connections evicted")
	errClosed     = errors.New("closed by an operator")
	errShutdown   = errors.New("the proxy was stopped")
)

func badRequest(details string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "http_request_error", details: details}
}

// The refusals that depend on nothing.
var (
	refuseDraining = refusal{http.StatusServiceUnavailable, "proxy_internal_error", "draining", true}
	refuseNoLease  = refusal{http.StatusServiceUnavailable, "proxy_internal_error", "no lease", true}
	refuseClient   = refusal{http.StatusForbidden, "http_request_denied", "client address not allowed", false}
	refuseLoop     = refusal{http.StatusBadGateway, "proxy_loop_detected", "the request came through this node already", false}
	refuseNested   = refusal{http.StatusBadGateway, "proxy_loop_detected", "the destination is a proxy of this cluster", false}
	refuseTimeout  = refusal{http.StatusRequestTimeout, "http_request_error", "the request head took too long", false}
	refuseTooLarge = refusal{http.StatusRequestHeaderFieldsTooLarge, "http_request_error", "the request head is longer than 64 KiB", false}
	refuseBroken   = refusal{http.StatusBadGateway, "connection_terminated", "the upstream ended the connection before it answered", false}
)

// What a plain exchange that was given up is answered, where no answer has begun.
var (
	refuseClosed = refusal{status: http.StatusBadGateway, code: "connection_terminated",
		details: "an operator closed the connection"}
	refuseStalled = refusal{status: http.StatusRequestTimeout, code: "http_request_error",
		details: "the client stalled: it stopped sending the request's content"}
	refuseNoResponse = refusal{status: http.StatusGatewayTimeout, code: "http_response_timeout",
		details: "the upstream stalled: it did not answer in time"}
	refuseWriteTimeout = refusal{status: http.StatusGatewayTimeout, code: "connection_write_timeout",
		details: "the upstream stalled: it stopped taking the request"}
)

// Reasons to cut a tunnel that was answered 200 before: nobody is sent these.
var (
	cutNode   = refusal{code: "node_detected", details: "the upstream answered as a node's own port"}
	cutNested = refusal{code: refuseNested.code, details: "the upstream answered as a proxy of this cluster"}
)

// codeLimit is the error of every refusal for the sake of a limit.
const codeLimit = "connection_limit_reached"

// What is said of a limit, and of a queue that did not help.
const (
	detailsOverLimit    = "the host is at its connection limit"
	detailsQueueFull    = "the host is at its connection limit, and the queue is full"
	detailsQueueTimeout = "the host is at its connection limit, and no slot came free within the queue's timeout"
	// detailsBlocked is for a limit of 0, which no waiting helps against.
	detailsBlocked = "blocked"
)

// refuseAdmission maps an error of Acquire.
func refuseAdmission(err error, rejectStatus int) *refusal {
	limit := func(details string) *refusal {
		return &refusal{rejectStatus, codeLimit, details, true}
	}
	switch {
	case errors.Is(err, lease.ErrNoLease), errors.Is(err, errFenced):
		return &refuseNoLease
	case errors.Is(err, lease.ErrDraining), errors.Is(err, errShutdown):
		return &refuseDraining
	case errors.Is(err, lease.ErrQueueFull):
		return limit(detailsQueueFull)
	case errors.Is(err, lease.ErrQueueTimeout):
		return limit(detailsQueueTimeout)
	case errors.Is(err, lease.ErrOverLimit), errors.Is(err, errEvicted):
		return limit(detailsOverLimit)
	case errors.Is(err, errClosed):
		return &refusal{http.StatusBadGateway, "connection_terminated", errClosed.Error() + " of the proxy", false}
	}
	return &refusal{http.StatusServiceUnavailable, "proxy_internal_error", "the connection could not be admitted", true}
}

// refuseBlocked is for a limit of 0.
func refuseBlocked(rejectStatus int) *refusal {
	return &refusal{rejectStatus, codeLimit, detailsBlocked, false}
}

// refuseDial maps an error of resolving or connecting.
func refuseDial(err error) *refusal {
	bad := func(code, details string) *refusal {
		return &refusal{http.StatusBadGateway, code, details, false}
	}
	late := func(code, details string) *refusal {
		return &refusal{http.StatusGatewayTimeout, code, details, false}
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, errProhibited):
		return bad("destination_ip_prohibited", "the destination's address is not allowed")
	case errors.Is(err, errLoop):
		return &refuseNested
	case errors.As(err, &dns) && dns.IsNotFound:
		return bad("dns_error", "no such host")
	case errors.As(err, &dns) && dns.IsTimeout:
		return late("dns_timeout", "the name could not be resolved in time")
	case errors.As(err, &dns):
		return bad("dns_error", "the name could not be resolved")
	case errors.Is(err, unix.ECONNREFUSED):
		return bad("connection_refused", "the destination refused the connection")
	case isTimeout(err):
		return late("connection_timeout", "the destination did not answer in time")
	case isReset(err):
		return bad("connection_terminated", "the destination ended the connection")
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL):
		return bad("destination_ip_unroutable", "there is no route to the destination")
	case isExhausted(err):
		return refuseExhausted(exhausted(err))
	}
	return bad("destination_unavailable", "the destination could not be connected to")
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, unix.ETIMEDOUT) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

// render appends the whole answer, with loop, a whole field or nil, in front of the others. keep
// says whether the client's connection goes on; a HEAD request gets no body.
func (r *refusal) render(dst, loop []byte, node string, g grounds, keep keepAlive, head bool) []byte {
	body := r.text()
	dst = append(dst, statusPrefix...)
	dst = strconv.AppendInt(dst, int64(r.status), 10)
	dst = append(dst, ' ')
	dst = r.appendPhrase(dst, g)
	dst = append(dst, "\r\n"...)
	dst = append(dst, loop...)
	dst = append(dst, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\nCache-Control: no-store\r\nProxy-Status: "...)
	dst = append(dst, node...)
	dst = append(dst, "; error="...)
	dst = append(dst, r.code...)
	dst = append(dst, "; details="...)
	dst = appendString(dst, r.details)
	if r.retry {
		dst = append(dst, "\r\nRetry-After: "...)
		dst = strconv.AppendInt(dst, retryAfterSeconds, 10)
	}
	dst = append(dst, "\r\n"...)
	if r.status == http.StatusProxyAuthRequired {
		dst = append(dst, challenge...)
	}
	dst = keep.render(dst)
	dst = append(dst, "\r\n"...)
	if head {
		return dst
	}
	return append(dst, body...)
}

// text is the body: one line.
func (r *refusal) text() string {
	if r.status == http.StatusBadRequest {
		return r.code + ": " + r.details + ". " + usage + "\n"
	}
	return r.code + ": " + r.details + "\n"
}

// appendString appends s as a structured field's string (RFC 8941 §3.3.3); what can't be in one
// becomes '?'.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < 0x20 || c > 0x7e:
			dst = append(dst, '?')
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// statusName is the node's name as Proxy-Status has it: a token where it is one, else a string.
func statusName(node string) string {
	token := node != "" && (isAlpha(node[0]) || node[0] == '*')
	for i := range len(node) {
		token = token && (isTokenChar(node[i]) || node[i] == ':' || node[i] == '/')
	}
	if token {
		return node
	}
	return string(appendString(nil, node))
}
