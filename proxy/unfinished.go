package proxy

import (
	"errors"

	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/sock"
)

// Exchanges that come to no whole response.

// undelivered returns why an answer could not be written to the client.
func undelivered(err error) error {
	switch {
	case errors.Is(err, sock.ErrNotLive):
		return errFenced
	case err == errUpstreamReset:
		return err
	}
	return errClientReset
}

// drop ends an exchange whose response can't be delivered.
func (x *exchange) drop(cause error) {
	x.flow.abort(cause)
	x.stopSending()
	x.c.sock.Reset()
	x.log()
	x.flow.finish(endReset)
}

// truncate ends an exchange whose upstream broke off its response. framed says that the client can
// detect the loss by the framing; if not, it gets a reset.
func (x *exchange) truncate(framed bool) {
	c := x.c
	if cause := x.flow.endCause(); cause != nil || !framed {
		x.drop(errMessage)
		return
	}
	x.flow.fail(errMessage)
	x.stopSending()
	x.log()
	x.flow.finish(endReset)
	x.release()
	c.sock.Stall = stallTimeout
	if x.http.out.Flush() == nil {
		c.linger(!x.received())
	}
}

// failed ends an exchange without a response. err is of the upstream's connection, never of the
// client's: an upstream that has reset needs no time to see the end.
func (x *exchange) failed(err error) (again, keep bool) {
	c, f := x.c, x.flow
	x.stopSending()
	cause := f.endCause()
	// On a reused connection, the upstream either closed it before it saw the request, or sent
	// something that is no answer to it. The request may be repeated if it is idempotent (RFC 9110
	// §9.2.2), or was never begun.
	again = cause == nil && f.plain.reused && !x.informed && (x.repeatable() || x.unbegun())
	switch {
	case sock.IsReset(err):
		f.finish(endUpstreamReset)
	case again:
		f.closeNow() // its slot is needed for the next attempt
	default:
		f.finish(endReset)
	}
	if again {
		return true, false
	}
	r := x.reason(err, cause)
	if r == nil {
		c.sock.Reset()
		return false, false
	}
	return false, x.refuse(r)
}

// reason maps the failure to a refusal; nil if the client has gone or was cut off on purpose.
func (x *exchange) reason(err, cause error) *refusal {
	var syntax http1.SyntaxError
	switch {
	case cause == errClosed:
		return &refuseClosed
	case cause == errClientStalled:
		return &refuseStalled
	case cause == errUpstreamStalled && !x.received():
		return &refuseUnwritable
	case cause == errUpstreamStalled:
		return &refuseNoResponse
	case cause != nil, errors.Is(err, sock.ErrNotLive):
		return nil
	case errors.As(x.readErr, &syntax):
		return badRequest(string(syntax))
	case x.readErr != nil:
		return nil
	case errors.As(err, &syntax):
		return badResponse("the upstream's answer: " + string(syntax))
	case err == http1.ErrTooLong:
		return &refuseLongHead
	case err == http1.ErrTooMany:
		return &refuseManyFields
	}
	return &refuseBroken
}

// repeatable reports whether the request can be sent twice: it is idempotent (RFC 9110 §9.2.2) and
// has no content, so all of it is still in hand.
func (x *exchange) repeatable() bool {
	if x.body.Framing != http1.FramedNone {
		return false
	}
	switch x.c.method {
	case "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE":
		return true
	}
	return false
}
