package proxy

import (
	"time"

	"github.com/weirproxy/weir/proxy/resolve"
)

// A request that meets a kept connection waits for its token with the connection unparked, and
// parks it again if the token does not come.
//
// A kept-alive upstream connection is reused for its target (host and port) within 30 s, the most
// recently used first; at most 32 are kept per target and 1024 in all. A request without content
// and with an idempotent method is repeated once, on a fresh connection, if a kept-alive one ends
// without an answer, answers 408, or sends something that is no response. Other requests use no
// connection that has been idle for more than 2 s. A connection is not kept after a response that
// announces content where none is allowed.
//
// Before a request without content is written to a kept-alive connection, one read is tried. It
// finds an upstream that has closed, or has sent something unasked, without an extra system call;
// then another connection is used. So it is where something comes while the request waits for its
// first byte of bandwidth. A whole unasked response that crosses with the request can't be told
// from its answer. If one client of an upstream could do that to another, share_kept_connections =
// false separates them, at the cost of a connection for each.

// connect makes x.flow a connection to the target that the request may use: a kept-alive one,
// unless fresh, or a new one.
func (x *exchange) connect(fresh bool) (ok bool, _ *refusal) {
	c, f := x.c, x.spare
	if f == nil {
		f = &flow{srv: c.srv, client: c, plain: new(exchanges)}
		f.kind.Store(uint32(KindHTTP))
	}
	f.target, f.plain.list, f.plain.owner, f.lookupTime = c.subject.Host, x.idle, x.owner(), 0
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

// owner is that of the request.
func (x *exchange) owner() owner {
	o := owner{addr: x.c.addr.Addr(), user: x.c.subject.User}
	if x.authenticates {
		o.client = x.c
	}
	return o
}

// admit resolves the target's name, begins the request, and takes a kept-alive connection into use,
// unless fresh, or opens f. Nothing is held while the name is resolved, which takes place only if a
// connection has to be opened.
func (x *exchange) admit(f *flow, fresh bool) (ok bool, _ *refusal) {
	r, idle := x.request, &f.srv.idle
	private := f.srv.policy.Load().PrivateConnections
	var addrs resolve.Addrs
	for resolved := false; ; {
		if !resolved && (fresh || !idle.has(x.idle, f.plain.owner, private)) {
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
		kept := f.srv.idle.take(x.idle, f.plain.owner, private)
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
		case kept.idleTooLong(x.repeatable(), x.begun), !x.body.Done && !kept.upstream.Quiet():
			kept.closeNow() // its slot is needed for the next attempt
		case !kept.occupy(c, r.claims):
			kept.finish(endReset)
		default:
			x.flow = kept
			r.serve(kept)
			c.use(kept)
			return true, nil
		}
	}
}
