package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/http1"
)

// httpForm is a reason in HTTP's terms.
type httpForm struct {
	status int    // 0: [Policy].RejectStatus
	code   string // Proxy-Status's error (RFC 9209 §2.3)
}

// codeLimit is the error of every refusal for the sake of a limit.
const codeLimit = "connection_limit_reached"

var httpForms = [reasonCount]httpForm{
	reasonInternal:     {http.StatusServiceUnavailable, "proxy_internal_error"},
	reasonExhausted:    {http.StatusServiceUnavailable, "proxy_internal_error"},
	reasonNoLease:      {http.StatusServiceUnavailable, "proxy_internal_error"},
	reasonDraining:     {http.StatusServiceUnavailable, "proxy_internal_error"},
	reasonOverLimit:    {0, codeLimit},
	reasonQueueFull:    {0, codeLimit},
	reasonQueueTimeout: {0, codeLimit},
	reasonBlocked:      {0, codeLimit},
	reasonClosed:       {http.StatusBadGateway, "connection_terminated"},

	reasonClientDenied:  {http.StatusForbidden, "http_request_denied"},
	reasonCredentials:   {http.StatusProxyAuthRequired, "http_request_denied"},
	reasonGuessing:      {http.StatusTooManyRequests, "http_request_denied"},
	reasonUnchecked:     {http.StatusServiceUnavailable, "proxy_internal_error"},
	reasonMalformed:     {http.StatusBadRequest, "http_request_error"},
	reasonProtocol:      {http.StatusBadRequest, "http_request_error"},
	reasonCommand:       {http.StatusBadRequest, "http_request_error"},
	reasonAddressType:   {http.StatusBadRequest, "http_request_error"},
	reasonAddress:       {http.StatusBadGateway, "destination_ip_prohibited"},
	reasonHeadTimeout:   {http.StatusRequestTimeout, "http_request_error"},
	reasonHeadTooLarge:  {http.StatusRequestHeaderFieldsTooLarge, "http_request_error"},
	reasonClientStalled: {http.StatusRequestTimeout, "http_request_error"},

	reasonProhibited:         {http.StatusBadGateway, "destination_ip_prohibited"},
	reasonLoop:               {http.StatusBadGateway, "proxy_loop_detected"},
	reasonNode:               {http.StatusBadGateway, "node_detected"},
	reasonDNS:                {http.StatusBadGateway, "dns_error"},
	reasonDNSTimeout:         {http.StatusGatewayTimeout, "dns_timeout"},
	reasonConnectionRefused:  {http.StatusBadGateway, "connection_refused"},
	reasonConnectionTimeout:  {http.StatusGatewayTimeout, "connection_timeout"},
	reasonConnectionBroken:   {http.StatusBadGateway, "connection_terminated"},
	reasonUnroutable:         {http.StatusBadGateway, "destination_ip_unroutable"},
	reasonUnavailable:        {http.StatusBadGateway, "destination_unavailable"},
	reasonNoResponse:         {http.StatusGatewayTimeout, "http_response_timeout"},
	reasonWriteTimeout:       {http.StatusGatewayTimeout, "connection_write_timeout"},
	reasonBadResponse:        {http.StatusBadGateway, "http_protocol_error"},
	reasonResponseHeadTooBig: {http.StatusBadGateway, "http_response_header_section_size"},
}

// status is the refusal's status code; rejectStatus is the one for limits.
func (r *refusal) status(rejectStatus int) int {
	if status := httpForms[r.reason].status; status != 0 {
		return status
	}
	return rejectStatus
}

func (r *refusal) code() string { return httpForms[r.reason].code }

// challenge is the extra field of a 407 (RFC 9110 §11.7.1, RFC 7617 §2.1).
const challenge = "Proxy-Authenticate: Basic realm=\"weir\", charset=\"UTF-8\"\r\n"

// usage ends the text of every 400. Most of them go to clients that take the proxy for a server.
const usage = `This is a forward proxy: set HTTP_PROXY and HTTPS_PROXY to its address, ` +
	`or send "CONNECT host:port HTTP/1.1" or "GET http://host/path HTTP/1.1".`

// render appends the refusal as an HTTP answer with the given status. target is the request's; loop
// is a whole field, or nil; keep says whether the client's connection goes on; the answer to a HEAD
// request has no body.
func (r *refusal) render(dst []byte, status int, loop []byte, node string, target limit.Target, keep http1.KeepAlive, head bool) []byte {
	body := r.text()
	dst = append(dst, http1.StatusPrefix...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = r.appendPhrase(dst, status, target)
	dst = append(dst, "\r\n"...)
	dst = append(dst, loop...)
	dst = append(dst, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\nCache-Control: no-store\r\nProxy-Status: "...)
	dst = append(dst, node...)
	dst = append(dst, "; error="...)
	dst = append(dst, r.code()...)
	dst = append(dst, "; details="...)
	dst = http1.AppendString(dst, r.details)
	if r.retryAfter > 0 {
		dst = append(dst, "\r\nRetry-After: "...)
		dst = strconv.AppendInt(dst, int64((r.retryAfter+time.Second-1)/time.Second), 10)
	}
	dst = append(dst, "\r\n"...)
	if status == http.StatusProxyAuthRequired {
		dst = append(dst, challenge...)
	}
	dst = keep.Append(dst)
	dst = append(dst, "\r\n"...)
	if head {
		return dst
	}
	return append(dst, body...)
}

// text returns the body, one line.
func (r *refusal) text() string {
	if r.reason == reasonMalformed {
		return r.code() + ": " + r.details + ". " + usage + "\n"
	}
	return r.code() + ": " + r.details + "\n"
}
