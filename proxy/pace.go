package proxy

import (
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/sock"
)

// uploading and downloading are a tunnel's flow as the waker of one direction's meter.
type (
	uploading   flow
	downloading flow
)

// Wake implements [lease.Waker].
func (f *uploading) Wake() { (*flow)(f).fed(finUp) }

// Wake implements [lease.Waker].
func (f *downloading) Wake() { (*flow)(f).fed(finDown) }

// pace begins to pace a tunnel. The bytes of the client are the upload.
func (f *flow) pace(c *conn) {
	c.sock.SetMeter(f.srv.admitter.Meter(&c.subject, limit.Upload, (*uploading)(f), nil))
	f.upstream.SetMeter(f.srv.admitter.Meter(&c.subject, limit.Download, (*downloading)(f), nil))
}

// unpace ends what pace began, after both directions have.
func (f *flow) unpace(c *conn) {
	for _, s := range [...]*sock.Conn{c.sock, f.upstream} {
		s.EndMeter()
	}
}

// starve puts a direction to sleep until its meter has bytes again; false means that it has some
// already. After true, the pump must return at once: the direction may already run in another
// goroutine. Meanwhile nothing reads the source, whose end must be noticed.
func (f *flow) starve(fin uint32) bool {
	f.Blocked()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phase == phaseBusy && f.cause == nil && f.slumber.starve(fin)
}

// fed wakes a direction whose meter has bytes again. It doesn't block.
func (f *flow) fed(fin uint32) {
	f.mu.Lock()
	wake := f.slumber.fed(fin)
	f.mu.Unlock()
	if wake {
		f.wake(fin)
	}
}

// pumpEarly relays bytes that were read together with a head, as many as the meter allows.
func (f *flow) pumpEarly(dst, src *sock.Conn, early *sock.Reader, fin uint32) (n int, readErr, writeErr error) {
	b := early.Bytes()
	if n = src.Take(len(b)); n == 0 {
		if f.endCause() != nil {
			early.Skip(len(b)) // the read that is next finds the socket closed
			return 0, nil, nil
		}
		return 0, sock.ErrStarved, nil
	}
	if err := f.checkOpening(b[:n], fin); err != nil {
		return 0, err, nil
	}
	if err := dst.Write(b[:n], nil, nil); err != nil {
		return 0, nil, err
	}
	early.Skip(n)
	return n, nil, nil
}

// paced is the meter of one direction of plain messages: of those from one client with one user to
// one target. It is kept from one message to the next.
type paced struct {
	meter  sock.Meter // nil: none
	ended  sock.Meter // whose memory the next one uses; nil: none
	client *conn
	user   string
}

// of returns the meter for the current request of c, whose bytes are read from s.
func (p *paced) of(c *conn, r limit.Resource, s *sock.Conn) sock.Meter {
	if p.meter == nil || p.client != c || p.user != c.subject.User {
		p.end()
		m := c.srv.admitter.Meter(&c.subject, r, (*sock.Pacing)(s), p.ended)
		*p = paced{meter: m, client: c, user: c.subject.User}
	}
	return p.meter
}

// end ends the meter. It must be called after a message that was given up, which may have waited.
func (p *paced) end() {
	if p.meter != nil {
		p.meter.End()
		*p = paced{ended: p.meter}
	}
}

// prepaid takes n bytes, if all of them may be moved at once.
func prepaid(m sock.Meter, n int64) bool {
	if m == nil {
		return true
	}
	k := m.Take(int(n))
	if int64(k) < n {
		m.Put(k)
		return false
	}
	return true
}
