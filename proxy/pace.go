package proxy

import (
	"sync/atomic"

	"github.com/weirproxy/weir/lease"
	"github.com/weirproxy/weir/limit"
	"github.com/weirproxy/weir/proxy/sock"
)

// Each direction has a meter. A read first takes bytes from it, reads at most so many, and puts
// back the rest, so an idle connection holds none. If there are none, the direction of a tunnel
// sleeps until the meter wakes it; for a plain message, the goroutine that it has anyway waits. A
// paced flow is alive: none of the timeouts for idle, half-closed or stalled connections ends it.
//
// The meter is asked before the kernel, because asking the kernel first would cost a system call
// for each read. So a direction without bytes may wait for its meter once. While it does, its FIN
// is not passed on; a reset is noticed at once.

// uploading and downloading are a tunnel's flow as the waker of one direction's meter, and as that
// meter while no limit caps the direction: most tunnels need none, and cost no memory for one.
type (
	uploading   flow
	downloading flow
)

// Wake implements [lease.Waker].
func (f *uploading) Wake() { (*flow)(f).fed(finUp) }

// Wake implements [lease.Waker].
func (f *downloading) Wake() { (*flow)(f).fed(finDown) }

// Take implements [sock.Meter]. The first limit puts a meter in place of f.
func (f *uploading) Take(n int) int {
	if !f.srv.admitter.Paces(limit.Upload) {
		return n
	}
	c := (*flow)(f).tunnelled()
	c.sock.SetMeter(f.srv.admitter.Meter(&c.subject, limit.Upload, f, nil))
	return c.sock.Take(n)
}

// Take implements [sock.Meter], as of uploading.
func (f *downloading) Take(n int) int {
	if !f.srv.admitter.Paces(limit.Download) {
		return n
	}
	c := (*flow)(f).tunnelled()
	f.upstream.SetMeter(f.srv.admitter.Meter(&c.subject, limit.Download, f, nil))
	return f.upstream.Take(n)
}

// Put implements [sock.Meter].
func (*uploading) Put(int) {}

// Put implements [sock.Meter].
func (*downloading) Put(int) {}

// End implements [sock.Meter].
func (*uploading) End() {}

// End implements [sock.Meter].
func (*downloading) End() {}

// tunnelled returns the client whose tunnel the flow is. Its pumps must run.
func (f *flow) tunnelled() *conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.client
}

// pace begins to pace a tunnel. The bytes of the client are the upload. former is of the client's
// plain requests; nil: none.
func (f *flow) pace(c *conn, former *pacing) {
	upload, download := former.handOver()
	c.sock.SetMeter(f.meter(c, limit.Upload, (*uploading)(f), upload))
	f.upstream.SetMeter(f.meter(c, limit.Download, (*downloading)(f), download))
}

// standIn is uploading or downloading.
type standIn interface {
	lease.Waker
	sock.Meter
}

// meter returns a tunnel's meter of one direction: s, while there is neither a limit nor a former
// meter.
func (f *flow) meter(c *conn, r limit.Resource, s standIn, former sock.Meter) sock.Meter {
	if former == nil && !f.srv.admitter.Paces(r) {
		return s
	}
	return f.srv.admitter.Meter(&c.subject, r, s, former)
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
	return f.phase == phaseBusy && f.cause.Load() == nil && f.slumber.starve(fin)
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

// pacing is what paces a client's plain messages, in each direction. It belongs to the client's
// connection: what that has taken of its own bandwidth stays taken, whatever target, user and
// upstream connection the next request has, and if a tunnel comes after it.
type pacing struct{ upload, download paced }

// end ends both directions. It must be called before the target changes.
func (p *pacing) end() {
	p.upload.end()
	p.download.end()
}

// handOver ends both directions for good. It returns the meters with which a tunnel goes on; nil
// where there were none.
func (p *pacing) handOver() (upload, download sock.Meter) {
	if p == nil {
		return nil, nil
	}
	p.end()
	upload, download = p.upload.ended, p.download.ended
	p.upload.ended, p.download.ended = nil, nil
	return upload, download
}

// paced is the meter of one direction of plain messages: of those with one user to one target. It
// is kept from one message to the next.
type paced struct {
	meter sock.Meter // nil: none
	ended sock.Meter // with which the next goes on; nil: none
	user  string
	from  atomic.Pointer[sock.Conn] // which the bytes are read from
}

// Wake implements [lease.Waker].
func (p *paced) Wake() { (*sock.Pacing)(p.from.Load()).Wake() }

// of returns the meter for the current request of c, whose bytes are read from s. A message without
// content is over in a moment: it has none, but for a client that has one, while no limit caps the
// direction.
func (p *paced) of(c *conn, r limit.Resource, s *sock.Conn, content bool) sock.Meter {
	if p.meter == nil && !content && !c.srv.admitter.Paces(r) {
		return nil
	}
	if p.from.Load() != s {
		p.from.Store(s)
	}
	if p.meter == nil || p.user != c.subject.User {
		p.end()
		p.meter, p.ended, p.user = c.srv.admitter.Meter(&c.subject, r, p, p.ended), nil, c.subject.User
	}
	return p.meter
}

// end ends the meter. It must be called after a message that was given up, which may have waited.
func (p *paced) end() {
	if p.meter != nil {
		p.meter.End()
		p.meter, p.ended = nil, p.meter
	}
}

// paidMeter is a meter that notes whether it has given something.
type paidMeter struct {
	sock.Meter
	some atomic.Bool
}

// Take implements [sock.Meter].
func (m *paidMeter) Take(n int) int {
	k := m.Meter.Take(n)
	if k > 0 && !m.some.Load() {
		m.some.Store(true)
	}
	return k
}

// prepaid takes n bytes, if all of them may be moved at once.
func prepaid(m sock.Meter, n int) bool {
	if m == nil {
		return true
	}
	k := m.Take(n)
	if k < n {
		m.Put(k)
		return false
	}
	return true
}
