package proxy

import (
	"time"

	"github.com/weirproxy/weir/proxy/http1"
	"github.com/weirproxy/weir/proxy/resolve"
)

// connect makes x.flow a connection to the target that the request may use: a kept-alive one,
// unless fresh, or a new one.
func (x *exchange) connect(fresh bool) (ok bool, _ *refusal) {
	c, f := x.c, x.spare
	if f == nil {
		f = &flow{srv: c.srv, client: c, head: new(http1.Head)}
		f.kind.Store(uint32(KindHTTP))
	}
	f.target, f.owner = c.subject.Host, c.owner()
	x.flow, x.spare = f, nil
	c.use(f)
	x.request.serve(f)
	if !f.admitting() {
		return false, f.refuseCause(f.endCause())
	}
	ok, refusal := x.admit(f, fresh)
	f.waited()
	if x.flow != f && f.endCause() == nil {
		x.spare = f // most requests meet a kept-alive connection: for these no memory is needed
	}
	return ok, refusal
}

// admit resolves the target's name, begins the request, and takes a kept-alive connection into use,
// unless fresh, or opens f. Nothing is held while the name is resolved, which takes place only if a
// connection has to be opened.
func (x *exchange) admit(f *flow, fresh bool) (ok bool, _ *refusal) {
	r, idle := x.request, &f.srv.idle
	private := f.srv.policy.Load().PrivateConnections
	var addrs resolve.Addrs
	for resolved := false; ; {
		if !resolved && (fresh || !idle.has(f.target, f.owner, private)) {
			var err error
			if addrs, err = f.resolve(r); err != nil {
				return false, f.unreachable(err, endUnused)
			}
			resolved = true
		}
		if r.claims == nil {
			if err := r.begin(f); err != nil {
				return false, f.unadmitted(err, endUnused)
			}
			if r.waited > 0 {
				x.begun = time.Now()
			}
		}
		if !fresh {
			reused, err := x.reuse(f, private)
			if err != nil {
				return false, f.unadmitted(err, endUnused)
			}
			if reused {
				return true, nil
			}
		}
		if resolved {
			ok, refusal := f.connectFor(r, addrs)
			x.begun = time.Now()
			return ok, refusal
		}
	}
}

// reuse makes x.flow a kept-alive connection; false means that there is none. The wait for the
// request's token is in f, the flow of its admission. If there is an error, the connection is kept.
func (x *exchange) reuse(f *flow, private bool) (ok bool, _ error) {
	c, r := x.c, x.request
	for {
		kept := f.srv.idle.take(f.target, f.owner, private)
		if kept == nil {
			return false, nil
		}
		if !kept.unpark(x.repeatable(), x.begun) {
			continue
		}
		if err := r.take(f); err != nil {
			kept.parkAgain()
			return false, err
		}
		if r.tokenWait > 0 {
			x.begun = time.Now()
		}
		switch {
		case !kept.occupy(c):
			kept.finish(endReset)
		case kept.idleTooLong(x.repeatable(), x.begun), !x.body.Done && !kept.upstream.quiet():
			kept.closeNow() // its slot is needed for the next attempt
		default:
			x.flow = kept
			r.serve(kept)
			c.use(kept)
			return true, nil
		}
	}
}

// asking sends a request over a kept-alive connection.
//
// Waiting for a response needs one read that finds nothing. Doing it before the write detects a
// closed or misbehaving upstream without an extra system call.
type asking struct {
	sock    *sock
	asked   bool // the connection was silent, so the request was written as far as the window allowed
	blocked bool // the window allowed only a part
	try     func(fd uintptr) bool
}

// ask writes a request to s and reads the first bytes of the answer into a pooled buffer, which
// belongs to the caller if err is nil. asked is false if the connection is useless; then nothing
// was written. n is 0, without an error, if no byte of the answer has come yet.
func (a *asking) ask(s *sock, request []byte) (buf []byte, n int, asked bool, readErr, writeErr error) {
	if a.try == nil {
		a.try = a.tryAsk
	}
	w := &s.writing
	w.parts, w.err = [3][]byte{request}, nil
	a.sock, a.asked, a.blocked = s, false, false
	buf, n, readErr = s.readBy(nil, a.try)
	rest, writeErr := w.parts[0], w.err
	w.parts = [3][]byte{}
	if !a.asked {
		if readErr == nil {
			s.pool.put(buf)
		}
		return nil, 0, false, nil, nil
	}
	if a.blocked {
		writeErr = s.write(rest, nil, nil)
	}
	return buf, n, true, readErr, writeErr
}

// tryAsk reads, and writes the request after the first read, which must find nothing; false means
// that no answer has come yet.
func (a *asking) tryAsk(fd uintptr) bool {
	s := a.sock
	if done := s.tryRead(fd); done || a.asked {
		return done
	}
	a.asked = true
	a.blocked = !s.tryWrite(fd)
	return a.blocked || s.writing.err != nil
}
