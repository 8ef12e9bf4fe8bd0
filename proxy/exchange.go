package proxy

import (
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/sock"
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
	idle      *idleList    // the kept connections to it; nil before the first

	// authenticates says that the client has authenticated connections, not only requests, as NTLM
	// does: those that carry its requests carry no others.
	authenticates bool

	keep    http1.KeepAlive // what the client asked for
	upgrade bool            // the client asked for another protocol
	head    []byte          // of the request, as sent to the upstream
	body    http1.Body

	request *request
	pacing  pacing
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
	paid     paidMeter     // of the second goroutine
	informed bool          // the client has been sent a 1xx
	asking   sock.Asking
	vigil    vigil
}

func newExchange(h *httpClient) *exchange {
	x := &exchange{c: h.conn, http: h, request: new(request)}
	x.vigil.timer = time.AfterFunc(time.Hour, x.look)
	x.vigil.timer.Stop()
	return x
}

// end releases what is kept from one request to the next.
func (x *exchange) end() {
	x.vigil.timer.Stop()
	x.pacing.end()
	if x.authenticates {
		x.c.srv.idle.retire(x.c)
	}
	if x.idle != nil {
		x.c.srv.idle.leave(x.idle)
	}
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
		reused := x.flow.plain.reused // read it now: later the flow may be another client's
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
		x.c.srv.buffers.Put(x.head)
		x.head = nil
		x.vigil.end()
	}
}

// release ends the request: what it holds beside the upstream connection goes back. Neither of the
// two goroutines may use the connections for it any more.
func (x *exchange) release() {
	x.c.sock.Guard(nil, nil)
	x.c.use(nil)
	r := x.request
	if r.flow == nil { // it has ended: only this goroutine changes it
		return
	}
	if r.end() {
		r.waited, r.tokenWait, r.taken = 0, 0, false
	} else {
		x.request = new(request)
	}
}

// refuse answers in place of the upstream. Without a refusal, the client has gone.
func (x *exchange) refuse(r *refusal) bool {
	x.release()
	if r == nil {
		x.c.sock.Reset()
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
	c.sock.Guard(f.slot, f.claims)
	f.upstream.Guard(f.slot, f.claims)
	c.sock.Stall, f.upstream.Stall = 0, 0 // the vigil bounds both
	if !x.read.Load() {
		x.read.Store(true)
	}

	switch {
	case !f.plain.reused || !x.body.Done: // [exchange.reuse] has looked, if it has content
		x.send()
	case prepaid(x.uploadMeter(), len(x.head)):
		if err := x.ask(); err != nil {
			return x.failed(err)
		}
	case !f.upstream.Quiet():
		x.sent = false
	default:
		x.send()
	}
	if !x.sent {
		f.closeNow() // its slot is needed for the next attempt
		return true, false
	}
	for {
		b, err := http1.ReadHead(&f.reader)
		if err == nil {
			err = f.plain.head.ParseResponse(b)
		}
		if err == nil && f.plain.reused && x.unbegun() {
			err = errUnasked
		}
		if err != nil {
			return x.failed(err)
		}
		switch status := f.plain.head.Status; {
		case status == http.StatusSwitchingProtocols:
			return false, x.switchProtocols(len(b))
		case status == http.StatusRequestTimeout && f.plain.reused && !x.informed && x.repeatable():
			// The 408 was on its way before the request: the connection had been idle for too long
			// (RFC 9110 §15.5.9).
			f.closeNow() // its slot is needed for the next attempt
			return true, false
		case status >= 200:
			return false, x.respond(len(b))
		}
		f.plain.spoilt = f.plain.spoilt || f.plain.head.AnnouncesContent()
		if err := x.inform(len(b)); err != nil {
			x.drop(undelivered(err)) // the client's error says nothing about the upstream
			return false, false
		}
	}
}

// ask sends a request without content on a kept-alive connection, and reads the first bytes that
// come. It sets x.sent to false if the connection has become useless.
func (x *exchange) ask() error {
	f := x.flow
	buf, n, asked, readErr, writeErr := x.asking.Ask(f.upstream, x.head)
	switch {
	case asked && readErr == nil:
		f.reader.Take(buf, n)
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
	f.plain.writer.Set(append(f.plain.writer.Writable(), x.head...))
	meter := x.uploadMeter()
	if x.body.Buffered() && prepaid(meter, len(x.head)+int(x.body.Left)) {
		x.copyBody(nil)
		return
	}
	x.done = make(chan struct{})
	x.paid.Meter = meter
	x.paid.some.Store(meter == nil)
	if meter != nil {
		meter = &x.paid
	}
	x.read.Store(x.body.Done)
	x.body.Complete = &x.read
	x.c.untimed()
	go func() {
		defer close(x.done)
		x.copyBody(meter)
		if x.readErr != nil {
			f.resetUpstream() // half a request must not look like a whole one
		}
	}()
}

// unbegun reports whether the request still waits for its first byte of bandwidth: the upstream has
// seen nothing of it, and its content has not been read.
func (x *exchange) unbegun() bool { return x.done != nil && !x.paid.some.Load() }

// uploadMeter is what paces the request; nil: nothing does.
func (x *exchange) uploadMeter() sock.Meter {
	return x.pacing.upload.of(x.c, limit.Upload, x.c.sock, !x.body.Done)
}

// downloadMeter is what paces a response, with content or without; nil: nothing does.
func (x *exchange) downloadMeter(content bool) sock.Meter {
	return x.pacing.download.of(x.c, limit.Download, x.flow.upstream, content)
}

func (x *exchange) copyBody(meter sock.Meter) {
	f := x.flow
	in := &x.c.in
	in.Begin(&f.plain.writer, meter)
	if x.readErr, x.writeErr = x.c.sock.PayFor(&f.plain.writer); x.readErr == nil && x.writeErr == nil {
		x.readErr, x.writeErr = x.body.CopyTo(&f.plain.writer, x.body.Framing == http1.FramedChunked, &f.in)
	}
	in.End()
	if x.readErr == nil && x.writeErr == nil {
		x.writeErr = f.plain.writer.Flush()
	}
	if x.readErr != nil || x.writeErr != nil {
		x.pacing.upload.end()
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
		x.c.sock.StopReading()
		<-x.done
		x.c.clock = clockNone
		x.c.sock.ReadAgain()
		return false
	}
	return x.readErr == nil && x.writeErr == nil
}

// isSent reports whether the request has been sent, or no more of it will be.
func (x *exchange) isSent() bool {
	select {
	case <-x.done:
		return true
	default:
		return x.done == nil
	}
}

// ended reports whether the second goroutine has ended, or ends within sendGrace.
func (x *exchange) ended() bool {
	if x.isSent() {
		return true
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
	if x.keep.Minor == 0 {
		f.reader.Skip(headLen)
		return nil
	}
	x.informed = true
	x.http.out.Set(c.unsent(f.plain.head.AppendResponse(x.http.out.Writable(), false, -1, x.keep, c.srv.via())))
	f.reader.Skip(headLen)
	return x.payForHead()
}

// payForHead sends a response that has no content, as it may be sent.
func (x *exchange) payForHead() error {
	f := x.flow
	f.reader.Begin(&x.http.out, x.downloadMeter(false))
	readErr, writeErr := f.upstream.PayFor(&x.http.out)
	f.reader.End()
	switch {
	case readErr != nil:
		writeErr = errUpstreamReset
	case writeErr == nil:
		return x.http.out.Flush()
	}
	x.pacing.download.end()
	return writeErr
}

// respond relays the final response, and parks or ends the flow.
func (x *exchange) respond(headLen int) bool {
	c, f := x.c, x.flow
	h := &f.plain.head
	keep := x.keep
	reuse := h.Persists() && !f.plain.spoilt && (h.Status != http.StatusNoContent || !h.AnnouncesContent())
	if !x.received() || c.srv.draining.Load() {
		keep.On = false // the client may be sending content that nothing will read
	}
	content := http1.ResponseBody(&f.reader, h, c.method)
	unframed := content.Framing == http1.FramedChunked || content.Framing == http1.FramedClose
	chunked := unframed && keep.Minor > 0
	if unframed && keep.Minor == 0 {
		keep.On = false // the end of the connection is the end of the body
	}
	length := h.Length
	if h.Status == http.StatusNoContent {
		length = -1 // RFC 9110 §8.6
	}
	x.http.out.Set(c.unsent(h.AppendResponse(x.http.out.Writable(), chunked, length, keep, c.srv.via())))
	f.reader.Skip(headLen)
	f.reader.Begin(&x.http.out, x.downloadMeter(!content.Done))
	readErr, writeErr := f.upstream.PayFor(&x.http.out)
	if readErr == nil && writeErr == nil {
		readErr, writeErr = content.CopyTo(&x.http.out, chunked, &f.out)
	}
	f.reader.End()
	if readErr != nil || writeErr != nil {
		x.pacing.download.end()
	} else if !x.isSent() { // what is left to do may take a while
		writeErr = x.http.out.Flush()
	}
	switch {
	case writeErr != nil:
		x.drop(undelivered(writeErr))
		return false
	case errors.Is(readErr, sock.ErrNotLive):
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
	f.upstream.Guard(f.slot, nil)
	x.release()
	h.Clear() // a kept connection keeps no bytes of it
	switch {
	case !sent:
		f.finish(endReset)
		keep.On = keep.On && received
	case !reuse || content.Framing == http1.FramedClose || f.reader.Len() > 0 || !f.park(x.over):
		f.closeSoon()
	}
	// Now that its limits have room again, the client gets the end of the response, and may ask for
	// more, over this connection or another.
	c.sock.Stall = c.srv.policy.Load().ResponseTimeout
	if err := x.http.out.Flush(); err != nil {
		c.sock.Reset()
		return false
	}
	if !keep.On {
		c.linger(!received)
	}
	return keep.On
}

// switchProtocols forwards a 101 and relays the new protocol (RFC 9110 §7.8).
func (x *exchange) switchProtocols(headLen int) bool {
	c, f := x.c, x.flow
	if why := f.plain.head.BadSwitch(x.stopSending(), x.upgrade); why != "" {
		f.finish(endReset)
		return x.refuse(badResponse(why))
	}
	x.http.out.Set(c.unsent(f.plain.head.AppendResponse(x.http.out.Writable(), false, -1, x.keep, c.srv.via())))
	f.reader.Skip(headLen)
	if err := x.payForHead(); err != nil {
		x.drop(undelivered(err))
		return false
	}
	c.srv.counters.Tunnels.Add(1)
	x.settle() // a tunnel may be long and quiet
	f.plain.head.Clear()
	x.http.head.Clear()
	c.untimed()
	done := make(chan struct{})
	f.tunnel(c, KindUpgrade, x.request, done, &x.pacing)
	<-done
	return false
}
