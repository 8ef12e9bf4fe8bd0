package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
)

// Claims are the slots that one request in hand holds of the limits on connections of scope total,
// client and user. Most requests are under none; their claims are empty, but not nil.
type Claims interface {
	// End gives everything back; further calls do nothing.
	End()
	// HalfClosed and Lasts are those of [Slot].
	HalfClosed()
	Lasts()
	// Live reports whether another byte may be read or written.
	Live() bool
	// Limited reports whether the request counts against one of the limits.
	Limited() bool
	// Held reports whether the request holds, or has held, a slot, whatever has become of its limit.
	// Then a Sever may still be on its way, also after End.
	Held() bool
	// Waited is how long Begin waited.
	Waited() time.Duration
}

// request is one request in hand, and the [lease.Holder] of its claims: a tunnel from its CONNECT
// to its end, or a plain request to the end of its response. The upstream connection's slot belongs
// to the flow, which may outlive the request, and may have carried others before.
type request struct {
	// Used by the owner of the request only.
	claims    Claims        // nil: none
	ended     Claims        // of the request before this one, to be used again; nil: none
	waited    time.Duration // for the claims and for slots
	tokenWait time.Duration
	taken     bool // its token has been taken: the request has begun

	severed lease.Reason // guarded by mu; 0: the claims were not severed
	mu      sync.Mutex
	flow    *flow // that serves the request, or that waits for what the request needs; nil: none
}

// Sever implements [lease.Holder]. Idle connections have no claims, so these are never wanted.
func (r *request) Sever(why lease.Reason) {
	if why == lease.SeverWanted {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.severed == 0 {
		r.severed = why
	}
	r.abort() // with mu held: the request lets go of a flow before another may have it
}

// abort ends the flow of a request whose claims were severed. The caller holds mu.
func (r *request) abort() {
	switch {
	case r.flow == nil:
	case r.severed == lease.SeverEvicted:
		r.flow.abort(errRequestEvicted)
	default:
		r.flow.abort(errFenced)
	}
}

// serve makes f the flow that ends if the claims are severed, in place of another.
func (r *request) serve(f *flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.letGo()
	r.flow = f
	f.setClaims(r.claims)
	if r.severed != 0 {
		r.abort()
	}
}

// letGo ends the tie to the flow. The caller holds mu.
func (r *request) letGo() {
	if r.flow != nil {
		r.flow.setClaims(nil)
		r.flow = nil
	}
}

// begin waits for the claims, for as long as the limits' queues allow, unless the node drains. f
// must serve the request, and be in its admission. It gets the claims once it is to connect: most
// plain requests meet another flow, which is kept.
func (r *request) begin(f *flow) error {
	if f.srv.draining.Load() { // since its name was looked up
		return lease.ErrDraining
	}
	claims, err := f.srv.admitter.Begin((*waiting)(f), &f.client.subject, r, r.ended)
	if err != nil {
		return err
	}
	r.ended = nil
	r.claims, r.waited = claims, r.waited+claims.Waited()
	return nil
}

// take takes the request's token of each limit on requests, and waits for them as long as the
// limits' queues allow. It takes them once, however often the request is sent. f is as for begin.
func (r *request) take(f *flow) error {
	if r.taken {
		return nil
	}
	f.waited()
	err := f.srv.admitter.Take((*waiting)(f), &f.client.subject, r.waited)
	r.taken, r.tokenWait = err == nil, f.waitedFor()
	return err
}

// giveBack gives the claims back, before a wait in which nothing may be held.
func (r *request) giveBack() {
	if r.claims == nil {
		return
	}
	r.mu.Lock()
	if r.flow != nil {
		r.flow.setClaims(nil)
	}
	r.mu.Unlock()
	r.claims.End()
	r.claims = nil
}

// end ends the request: the claims go back. Nothing may be read or written for it any more. again
// says that r can be another request: no Sever of this one's claims can be under way. A second call
// does nothing.
func (r *request) end() (again bool) {
	claims := r.claims
	r.mu.Lock()
	r.letGo()
	again = r.severed == 0
	r.mu.Unlock()
	if claims == nil {
		return again
	}
	claims.End()
	r.claims = nil
	if claims.Held() { // asked now: a limit that is set later counts what is in hand
		return false
	}
	if again {
		r.ended = claims
	}
	return again
}

// setClaims makes the claims those that the flow's connection needs beside its slot.
func (f *flow) setClaims(claims Claims) {
	if claims == f.claims { // only the owner of the request changes them
		return
	}
	f.mu.Lock()
	f.claims = claims
	f.mu.Unlock()
}

// clientNames remembers the clients seen lately, so that most connections need no memory for their
// client's name.
type clientNames struct {
	recent [64]atomic.Pointer[limit.Client]
}

// client returns the client at an address.
func (n *clientNames) client(a netip.Addr) limit.Client {
	a = a.Unmap()
	b := a.As16()
	place := &n.recent[(b[15]^b[14]*31^b[7]*17)%byte(len(n.recent))]
	known := place.Load()
	if known != nil && known.Addr == a {
		return *known
	}
	c := limit.ClientOf(a)
	place.Store(&c)
	return c
}
