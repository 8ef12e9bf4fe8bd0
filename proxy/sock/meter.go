package sock

import (
	"errors"
	"os"
	"sync"
	"time"
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

// ErrStarved ends a read for which the socket's meter had no bytes to give. In a tunnel the
// direction sleeps then, without a goroutine. A plain message has a goroutine that waits.
var ErrStarved = errors.New("the bandwidth is used up for now")

// Take takes at most n bytes from the meter, and returns how many may be moved now.
func (s *Conn) Take(n int) int { return s.meter.Take(n) }

// EndMeter ends the meter.
func (s *Conn) EndMeter() {
	s.meter.End()
	s.meter = nil
}

// meterWait is the wait of a goroutine for a socket's meter. It waits for the socket to be ready,
// which it is not told, and is woken by a deadline that has passed; so whatever ends the connection
// ends the wait too.
type meterWait struct {
	mu      sync.Mutex
	waits   bool
	woken   bool // the meter has bytes again
	stopped bool // see StopReading
}

// Pacing is a socket as the waker of a plain message's meter.
type Pacing Conn

// Wake implements [lease.Waker].
func (s *Pacing) Wake() {
	w := &s.waiting
	w.mu.Lock()
	defer w.mu.Unlock()
	w.woken = true
	if w.waits {
		s.conn.SetReadDeadline(LongAgo)
	}
}

// awaitMeter waits until the meter has bytes again. The socket must have no read deadline.
func (s *Conn) awaitMeter() error {
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
		s.SetReadDeadline(time.Time{})
	}
	w.woken = false
	return nil
}

// AwaitsMeter reports whether a goroutine waits for the meter.
func (s *Conn) AwaitsMeter() bool {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	return s.waiting.waits
}

// StopReading makes reads of the socket, and waits for its meter, fail until ReadAgain.
func (s *Conn) StopReading() {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	s.waiting.stopped = true
	s.SetReadDeadline(LongAgo)
}

// ReadAgain ends what StopReading began.
func (s *Conn) ReadAgain() {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	s.waiting.stopped = false
	s.SetReadDeadline(time.Time{})
}

// readPaced is Read for a goroutine that waits for its meter.
func (s *Conn) readPaced(b []byte) ([]byte, int, error) {
	for {
		buf, n, err := s.Read(b)
		if err != ErrStarved {
			return buf, n, err
		}
		if err := s.awaitMeter(); err != nil {
			return b, 0, err
		}
	}
}

// Pay takes at most n of the bytes in hand that were read without the meter, and waits for them.
// It returns how many bytes may be passed on.
func (in *Reader) Pay(n int) (int, error) {
	if in.unpaid = min(in.unpaid, in.Len()); in.unpaid == 0 {
		return n, nil
	}
	n = min(n, in.unpaid)
	for {
		if k := in.Conn.meter.Take(n); k > 0 {
			in.unpaid -= k
			return k, nil
		}
		if in.Before != nil {
			if err := in.Before.BeforeRead(); err != nil {
				return 0, err
			}
		}
		if err := in.Conn.awaitMeter(); err != nil {
			return 0, err
		}
	}
}

// PayFor takes what is collected in out from the socket's meter. If it can't be had at once, it goes
// out as it comes. readErr has ended the wait, writeErr is of out.
func (s *Conn) PayFor(out *Writer) (readErr, writeErr error) {
	b := out.buf
	if s.meter == nil || len(b) == 0 {
		return nil, nil
	}
	n := s.meter.Take(len(b))
	if n == len(b) {
		return nil, nil
	}
	defer out.Release()
	for {
		if n == 0 {
			if err := s.awaitMeter(); err != nil {
				return err, nil
			}
		} else if err := out.Conn.Write(b[:n], nil, nil); err != nil {
			return nil, err
		}
		if b = b[n:]; len(b) == 0 {
			return nil, nil
		}
		n = s.meter.Take(len(b))
	}
}

// LongAgo is a deadline in the past.
var LongAgo = time.Unix(1, 0)
