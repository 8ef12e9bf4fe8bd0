package proxy

import (
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/limit"
)

// exchange is one plain request and its response.
//
// The client's goroutine sends the head, and the body if all of it is in hand. A longer body is
// sent by a second goroutine, because the response may come before its end. The exchange always
// waits for the second goroutine before it gives up the connections.
//
// A client has one exchange, which is reused for each request.
type exchange struct {
	c         *conn
	http      *httpClient  // used by the client's goroutine only
	authority []byte       // of the last request
	host      []byte       // the Host that the upstream gets for it
	target    limit.Target // for it

	keep    keepAlive // what the client asked for
	upgrade bool      // the client asked for another protocol
	head    []byte    // of the request, as sent to the upstream
	body    body

	request *request
	upload  paced
	spare   *flow // for the next admission; nil: one must be made
	flow    *flow
	begun   time.Time // once there was a connection
	over    time.Time
	in      uint64 // the flow's counts when the exchange began
	out     uint64
	sent    bool // at least a part of the request

	done     chan struct{} // closed at the second goroutine's end; nil without one
	read     atomic.Bool   // the whole request has been read; set before its last byte is sent
	readErr  error         // of reading the request's body, once done
	writeErr error         // of sending the request, once done
	informed bool          // the client has been sent a 1xx
	asking   asking
	vigil    vigil
}

func newExchange(h *httpClient) *exchange {
	x := &exchange{c: h.conn, http: h, request: new(request)}
	x.vigil.timer = time.AfterFunc(time.Hour, x.look)
	x.vigil.timer.Stop()
	return x
}

// run answers the request; false ends the client's connection. A request that meets a kept-alive
// connection which the upstream is just closing is repeated, once, on a fresh one.
func (x *exchange) run() (keep bool) {
	x.informed, x.begun = false, time.Now()
	x.beginVigil()
	keep = x.attempt()
	x.settle()
	x.release()
	return keep
}

func (x *exchange) attempt() (keep bool) {
	counters := &x.c.srv.counters
	for fresh := false; ; {
		ok, refusal := x.connect(fresh)
		if !ok {
			return x.refuse(refusal)
		}
		reused := x.flow.reused // read it now: later the flow may be another client's
		again, keep := x.once()
		if reused && x.sent {
			counters.Reused.Add(1)
		}
		if !again {
			return keep
		}
		if fresh = x.sent; x.sent {
			counters.Retries.Add(1)
		}
	}
}

// settle releases the head's buffer and ends the vigil.
func (x *exchange) settle() {
	if x.head != nil {
		x.c.srv.buffers.put(x.head)
		x.head = nil
		x.vigil.end()
	}
}

// release ends the request: what it holds beside the upstream connection goes back. Neither of the
// two goroutines may use the connections for it any more.
func (x *exchange) release() {
	x.c.sock.guard(nil, nil)
	x.c.use(nil)
	if r := x.request; r.end() {
		r.waited, r.tokenWait, r.taken = 0, 0, false
	} else {
		x.request = new(request)
	}
}

// refuse answers in place of the upstream. Without a refusal, the client has gone.
func (x *exchange) refuse(r *refusal) bool {
	x.release()
	if r == nil {
		x.c.sock.reset()
		return false
	}
	return x.http.respond(r, x.keep)
}

// once sends the request on x.flow and relays the response. again says that the request must be
// repeated; otherwise keep says whether the client's connection goes on. Afterwards x.flow is
// parked or finished, or will be without the caller.
func (x *exchange) once() (again, keep bool) {
	c, f := x.c, x.flow
	x.in, x.out = f.in.Load(), f.out.Load()
	x.done, x.readErr, x.writeErr, x.sent = nil, nil, nil, true
	c.sock.guard(f.slot, f.claims)
	f.upstream.guard(f.slot, f.claims)
	c.sock.stall, f.upstream.stall = 0, 0 // the vigil bounds both
	if !x.read.Load() {
		x.read.Store(true)
	}

	if !f.reused || !x.body.done {
		x.send()
	} else if err := x.ask(); err != nil {
		return x.failed(err)
	}
	if !x.sent {
		f.closeNow() // its slot is needed for the next attempt
		return true, false
	}
	for {
		b, err := f.reader.head()
		if err == nil {
			err = f.head.parseResponse(b)
		}
		if err != nil {
			return x.failed(err)
		}
		switch status := f.head.status; {
		case status == http.StatusSwitchingProtocols:
			return false, x.switchProtocols(len(b))
		case status == http.StatusRequestTimeout && f.reused && !x.informed && x.repeatable():
			// The 408 was on its way before the request: the connection had been idle for too long
			// (RFC 9110 §15.5.9).
			f.closeNow() // its slot is needed for the next attempt
			return true, false
		case status >= 200:
			return false, x.respond(len(b))
		}
		f.spoilt = f.spoilt || f.head.announcesContent()
		if err := x.inform(len(b)); err != nil {
			return x.failed(err)
		}
	}
}

// ask sends a request without content on a kept-alive connection, and reads the first bytes that
// come. It sets x.sent to false if the connection has become useless.
func (x *exchange) ask() error {
	f := x.flow
	buf, n, asked, readErr, writeErr := x.asking.ask(f.upstream, x.head)
	switch {
	case asked && readErr == nil:
		f.reader.take(buf, n)
		x.writeErr = writeErr
	case asked:
		return readErr
	case f.endCause() != nil:
		return net.ErrClosed // ended by force; the connection itself may be good
	default:
		x.sent = false
	}
	return nil
}

// send sends the request. Its errors are considered only if no response comes: an upstream may
// answer and close without reading the whole request.
func (x *exchange) send() {
	f := x.flow
	f.writer.set(append(f.writer.writable(), x.head...))
	var meter Meter
	if !x.body.done {
		meter = x.upload.of(x.c, limit.Upload, x.c.sock)
	}
	if x.body.buffered() && prepaid(meter, x.body.left) {
		x.copyBody(nil)
		return
	}
	x.done = make(chan struct{})
	x.read.Store(false)
	x.body.complete = &x.read
	x.c.untimed()
	go func() {
		defer close(x.done)
		x.copyBody(meter)
		if x.readErr != nil {
			f.resetUpstream() // half a request must not look like a whole one
		}
	}()
}

func (x *exchange) copyBody(meter Meter) {
	f := x.flow
	x.readErr, x.writeErr = x.body.copyTo(&f.writer, x.body.framing == framedChunked, &f.in, meter)
	if x.readErr != nil || x.writeErr != nil {
		x.upload.end()
	}
}

// received reports whether the client has sent the whole request.
func (x *exchange) received() bool { return x.read.Load() }

// stopSending stops the second goroutine, waits for it, and reports whether the whole request was
// sent. If the last byte has been read, the goroutine gets a moment to write it: the upstream may
// have answered early.
func (x *exchange) stopSending() (sent bool) {
	if x.done == nil {
		return x.readErr == nil && x.writeErr == nil
	}
	if !x.ended() {
		x.flow.resetUpstream()
		x.c.sock.stopReading()
		<-x.done
		x.c.clock = clockNone
		x.c.sock.readAgain()
		return false
	}
	return x.readErr == nil && x.writeErr == nil
}

// ended reports whether the second goroutine has ended, or ends within sendGrace.
func (x *exchange) ended() bool {
	select {
	case <-x.done:
		return true
	default:
	}
	if !x.read.Load() {
		return false
	}
	timer := time.NewTimer(sendGrace)
	defer timer.Stop()
	select {
	case <-x.done:
		return true
	case <-timer.C:
		return false
	}
}

// inform forwards an interim response. HTTP/1.0 has none (RFC 9110 §15.2).
func (x *exchange) inform(headLen int) error {
	c, f := x.c, x.flow
	if x.keep.minor == 0 {
		f.reader.skip(headLen)
		return nil
	}
	x.informed = true
	x.http.out.set(c.unsent(f.head.appendResponse(x.http.out.writable(), false, -1, x.keep, c.srv.via())))
	f.reader.skip(headLen)
	return x.http.out.flush()
}

// respond relays the final response, and parks or ends the flow.
func (x *exchange) respond(headLen int) bool {
	c, f := x.c, x.flow
	h := f.head
	keep := x.keep
	reuse := h.persists() && !f.spoilt && (h.status != http.StatusNoContent || !h.announcesContent())
	if !x.received() || c.srv.draining.Load() {
		keep.on = false // the client may be sending content that nothing will read
	}
	content := responseBody(&f.reader, h, c.method)
	unframed := content.framing == framedChunked || content.framing == framedClose
	chunked := unframed && keep.minor > 0
	if unframed && keep.minor == 0 {
		keep.on = false // the end of the connection is the end of the body
	}
	length := h.length
	if h.status == http.StatusNoContent {
		length = -1 // RFC 9110 §8.6
	}
	x.http.out.set(c.unsent(h.appendResponse(x.http.out.writable(), chunked, length, keep, c.srv.via())))
	f.reader.skip(headLen)
	var meter Meter
	if !content.done {
		meter = f.download.of(c, limit.Download, f.upstream)
	}
	readErr, writeErr := content.copyTo(&x.http.out, chunked, &f.out, meter)
	if readErr != nil || writeErr != nil {
		f.download.end()
	}
	switch {
	case writeErr != nil:
		x.drop(errClientReset)
		return false
	case errors.Is(readErr, errNotLive):
		x.drop(errFenced) // what was read before is dropped too
		return false
	case readErr != nil:
		x.truncate(chunked || length >= 0)
		return false
	}
	received, sent := x.received(), x.stopSending()
	c.srv.counters.Exchanges.Add(1)
	x.log() // before the flow is given up
	c.idleFrom = x.over
	f.upstream.guard(f.slot, nil)
	x.release()
	switch {
	case !sent:
		f.finish(endReset)
		keep.on = keep.on && received
	case !reuse || content.framing == framedClose || f.reader.len() > 0 || !f.park(x.over):
		f.closeSoon()
	}
	if !keep.on {
		c.linger(!received)
	}
	return keep.on
}

// drop ends an exchange whose response can't be delivered.
func (x *exchange) drop(cause error) {
	x.flow.abort(cause)
	x.stopSending()
	x.c.sock.reset()
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
	c.sock.stall = stallTimeout
	if x.http.out.flush() == nil {
		c.linger(!x.received())
	}
}

// failed ends an exchange without a response.
func (x *exchange) failed(err error) (again, keep bool) {
	c, f := x.c, x.flow
	x.stopSending()
	cause := f.endCause()
	// On a reused connection, the upstream either closed it before it saw the request, or sent
	// something that is no answer to it. The request may be repeated if it is idempotent (RFC 9110
	// §9.2.2).
	var syntax syntaxError
	broken := !errors.As(err, &syntax) && err != errTooLong
	again = cause == nil && f.reused && !x.informed && x.repeatable()
	switch {
	case broken && isReset(err):
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
		c.sock.reset()
		return false, false
	}
	return false, x.refuse(r)
}

// reason maps the failure to a refusal; nil if the client has gone or was cut off on purpose.
func (x *exchange) reason(err, cause error) *refusal {
	var syntax syntaxError
	switch {
	case cause == errClosed:
		return &refuseClosed
	case cause == errClientStalled:
		return &refuseStalled
	case cause == errUpstreamStalled && !x.received():
		return &refuseUnwritable
	case cause == errUpstreamStalled:
		return &refuseNoResponse
	case cause != nil, errors.Is(err, errNotLive):
		return nil
	case errors.As(x.readErr, &syntax):
		return badRequest(string(syntax))
	case x.readErr != nil:
		return nil
	case errors.As(err, &syntax):
		return badResponse("the upstream's answer: " + string(syntax))
	case err == errTooLong:
		return &refuseLongHead
	}
	return &refuseBroken
}

// repeatable reports whether the request can be sent twice: it is idempotent (RFC 9110 §9.2.2) and
// has no content, so all of it is still in hand.
func (x *exchange) repeatable() bool {
	if x.body.framing != framedNone {
		return false
	}
	switch x.c.method {
	case "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// switchProtocols forwards a 101 and relays the new protocol (RFC 9110 §7.8).
func (x *exchange) switchProtocols(headLen int) bool {
	c, f := x.c, x.flow
	if why := f.head.badSwitch(x.stopSending(), x.upgrade); why != "" {
		f.finish(endReset)
		return x.refuse(badResponse(why))
	}
	x.http.out.set(c.unsent(f.head.appendResponse(x.http.out.writable(), false, -1, x.keep, c.srv.via())))
	f.reader.skip(headLen)
	c.srv.counters.Tunnels.Add(1)
	if x.http.out.flush() != nil {
		f.abort(errClientReset)
	}
	x.settle() // a tunnel may be long and quiet
	c.untimed()
	done := make(chan struct{})
	f.tunnel(c, KindUpgrade, x.request, done)
	<-done
	return false
}
