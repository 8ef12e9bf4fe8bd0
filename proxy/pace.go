package proxy

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/weirproxy/weir/limit"
)

// Meter paces the bytes of one connection in one direction. Bytes are taken before they are read,
// and those that were not there to be read are put back, so an idle connection holds none.
type Meter interface {
	// Take returns how many of at most n bytes may be moved now. 0 is none; then the waker is woken
	// once, when it is worth to try again.
	Take(n int) int
	// Put gives back bytes that were taken and not moved.
	Put(n int)
	// End gives up a wait; nothing is woken afterwards.
	End()
}

// errStarved ends a read for which the socket's meter had no bytes to give. In a tunnel the
// direction sleeps then, without a goroutine. A plain message has a goroutine that waits.
var errStarved = errors.New("the bandwidth is used up for now")

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
	c.sock.meter = f.srv.admitter.Meter(&c.subject, limit.Upload, (*uploading)(f))
	f.upstream.meter = f.srv.admitter.Meter(&c.subject, limit.Download, (*downloading)(f))
}

// unpace ends what pace began, after both directions have.
func (f *flow) unpace(c *conn) {
	for _, s := range [...]*sock{c.sock, f.upstream} {
		s.meter.End()
		s.meter = nil
	}
}

// starve puts a direction to sleep until its meter has bytes again; false means that it has some
// already. After true, the pump must return at once: the direction may already run in another
// goroutine. Meanwhile nothing reads the source, whose end must be noticed.
func (f *flow) starve(fin uint32) bool {
	f.blocked()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fedEarly&fin != 0 || f.phase != phaseBusy || f.cause != nil {
		f.fedEarly &^= fin
		return false
	}
	f.asleep |= fin
	f.starved |= fin
	return true
}

// fed wakes a direction whose meter has bytes again. It doesn't block.
func (f *flow) fed(fin uint32) {
	f.mu.Lock()
	starved := f.starved&fin != 0
	if !starved {
		f.fedEarly |= fin // it is about to sleep
	}
	f.mu.Unlock()
	if starved {
		f.wake(fin)
	}
}

// pumpEarly relays bytes that were read together with a head, as many as the meter allows.
func (f *flow) pumpEarly(dst, src *sock, early *inbuf, fin uint32) (n int, readErr, writeErr error) {
	b := early.Bytes()
	if n = src.meter.Take(len(b)); n == 0 {
		if f.endCause() != nil {
			early.Skip(len(b)) // the read that is next finds the socket closed
			return 0, nil, nil
		}
		return 0, errStarved, nil
	}
	if err := f.checkOpening(b[:n], fin); err != nil {
		return 0, err, nil
	}
	if err := dst.write(b[:n], nil, nil); err != nil {
		return 0, nil, err
	}
	early.Skip(n)
	return n, nil, nil
}

// paced is the meter of one direction of plain messages: of those from one client with one user to
// one target. It is kept from one message to the next.
type paced struct {
	meter  Meter // nil: none
	client *conn
	user   string
}

// of returns the meter for the current request of c, whose bytes are read from s.
func (p *paced) of(c *conn, r limit.Resource, s *sock) Meter {
	if p.meter == nil || p.client != c || p.user != c.subject.User {
		p.end()
		*p = paced{c.srv.admitter.Meter(&c.subject, r, (*pacing)(s)), c, c.subject.User}
	}
	return p.meter
}

// end ends the meter. It must be called after a message that was given up, which may have waited.
func (p *paced) end() {
	if p.meter != nil {
		p.meter.End()
		*p = paced{}
	}
}

// meterWait is the wait of a goroutine for a socket's meter. It waits for the socket to be ready,
// which it is not told, and is woken by a deadline that has passed; so whatever ends the connection
// ends the wait too.
type meterWait struct {
	mu      sync.Mutex
	waits   bool
	woken   bool // the meter has bytes again
	stopped bool // see stopReading
}

// pacing is a socket as the waker of a plain message's meter.
type pacing sock

// Wake implements [lease.Waker].
func (s *pacing) Wake() {
	w := &s.waiting
	w.mu.Lock()
	defer w.mu.Unlock()
	w.woken = true
	if w.waits {
		s.conn.SetReadDeadline(longAgo)
	}
}

// awaitMeter waits until the meter has bytes again. The socket must have no read deadline.
func (s *sock) awaitMeter() error {
	w := &s.waiting
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.woken {
		w.waits = true
		w.mu.Unlock()
		err := s.raw.Read(func(uintptr) bool { return false })
		w.mu.Lock()
		w.waits = false
		if !w.woken || w.stopped || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		s.conn.SetReadDeadline(time.Time{})
	}
	w.woken = false
	return nil
}

// awaitsMeter reports whether a goroutine waits for the meter.
func (s *sock) awaitsMeter() bool {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	return s.waiting.waits
}

// stopReading makes reads of the socket, and waits for its meter, fail until readAgain.
func (s *sock) stopReading() {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	s.waiting.stopped = true
	s.conn.SetReadDeadline(longAgo)
}

func (s *sock) readAgain() {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	s.waiting.stopped = false
	s.conn.SetReadDeadline(time.Time{})
}

// readPaced is read for a goroutine that waits for its meter.
func (s *sock) readPaced(b []byte) ([]byte, int, error) {
	for {
		buf, n, err := s.read(b)
		if err != errStarved {
			return buf, n, err
		}
		if err := s.awaitMeter(); err != nil {
			return b, 0, err
		}
	}
}

// pay takes at most n of the bytes in hand that were read without the meter, and waits for them.
// It returns how many bytes may be passed on.
func (in *inbuf) Pay(n int) (int, error) {
	if in.unpaid = min(in.unpaid, in.Len()); in.unpaid == 0 {
		return n, nil
	}
	n = min(n, in.unpaid)
	for {
		if k := in.sock.meter.Take(n); k > 0 {
			in.unpaid -= k
			return k, nil
		}
		if in.before != nil {
			if err := in.before.beforeRead(); err != nil {
				return 0, err
			}
		}
		if err := in.sock.awaitMeter(); err != nil {
			return 0, err
		}
	}
}

// prepaid takes n bytes, if all of them may be moved at once.
func prepaid(m Meter, n int64) bool {
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
