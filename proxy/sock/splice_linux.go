//go:build !portable

package sock

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is the capacity of a pipe, and the most that one call moves. An unprivileged process
	// may have MaxPipes of this size (pipe-max-size, pipe-user-pages-soft).
	pipeSize = 1 << 20
	MaxPipes = 64
	// bulkPiece is the smallest piece worth a pipe; smaller ones are copied.
	bulkPiece = 16 << 10
)

// pipe carries bytes from one socket to another without copying them.
type pipe struct{ r, w int }

// Pipes holds empty pipes between uses, and bounds their number.
type Pipes struct {
	mu   sync.Mutex
	made int
	free []*pipe
}

// get returns an empty pipe, or nil if all are in use or the process has no descriptor left.
func (p *Pipes) get() *pipe {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		pp := p.free[n-1]
		p.free = p.free[:n-1]
		return pp
	}
	if p.made >= MaxPipes {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize) // a smaller pipe works too
	p.made++
	return &pipe{fds[0], fds[1]}
}

// put takes back an empty pipe.
func (p *Pipes) put(pp *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, pp)
}

// drop closes a pipe that still holds bytes.
func (p *Pipes) drop(pp *pipe) {
	unix.Close(pp.r)
	unix.Close(pp.w)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made--
}

// Close closes the pipes that are not in use.
func (p *Pipes) Close() {
	p.mu.Lock()
	free := p.free
	p.free = nil
	p.mu.Unlock()
	for _, pp := range free {
		p.drop(pp)
	}
}

// splicing moves bytes from one socket to another in the kernel. It keeps the rules of sock: wait
// for readiness, check the slot, then make one non-blocking call.
type splicing struct {
	src, dst *Conn
	pipes    *Pipes
	pipe     *pipe // nil while the source has nothing, and if none is available
	n        int   // bytes in the pipe
	err      error // of the call under way
}

// Splice relays from src to dst as long as the pieces are large enough. If both errors are nil, the
// caller goes on by copying.
func Splice(dst, src *Conn, pipes *Pipes, moved *atomic.Uint64) (readErr, writeErr error) {
	s := &splicing{src: src, dst: dst, pipes: pipes}
	fill, drain := s.fill, s.drain // a method value is an allocation
	defer s.release()
	for {
		if err := src.raw.Read(fill); err != nil || s.err != nil {
			return firstError(s.err, err), nil
		}
		n := s.n
		if n > 0 {
			if err := dst.raw.Write(drain); err != nil || s.err != nil {
				return nil, firstError(s.err, err)
			}
			moved.Add(uint64(n))
		}
		if n < bulkPiece {
			return nil, nil
		}
	}
}

// fill fills the pipe from the source, with at most what the source's meter gives; false means that
// there is nothing to read yet. No pipe is held during that wait.
func (s *splicing) fill(fd uintptr) bool {
	if s.src.slot != nil && (!s.src.slot.Live() || s.src.claims != nil && !s.src.claims.Live()) {
		s.err = ErrNotLive
		return true
	}
	if s.pipe == nil {
		if s.pipe = s.pipes.get(); s.pipe == nil {
			return true
		}
	}
	most := pipeSize
	if s.src.meter != nil {
		if most = s.src.meter.Take(most); most == 0 {
			s.err = ErrStarved
			return true
		}
	}
	for {
		n, err := unix.Splice(int(fd), nil, s.pipe.w, nil, most, unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if s.src.meter != nil {
			s.src.meter.Put(most - max(int(n), 0))
		}
		switch {
		case err == unix.EAGAIN:
			s.release()
			return false
		case err != nil:
			s.err = err
		case n == 0:
			s.err = s.src.end()
		default:
			s.n = int(n)
		}
		return true
	}
}

// drain empties the pipe into the destination; false means that the peer's window is full.
func (s *splicing) drain(fd uintptr) bool {
	for s.n > 0 {
		if s.dst.slot != nil && (!s.dst.slot.Live() || s.dst.claims != nil && !s.dst.claims.Live()) {
			s.err = ErrNotLive
			return true
		}
		s.dst.pushSmall(fd)
		n, err := unix.Splice(s.pipe.r, nil, int(fd), nil, s.n, unix.SPLICE_F_NONBLOCK)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			s.dst.writeBlocked()
			return false
		case err != nil:
			s.err = err
			return true
		default:
			s.n -= int(n)
		}
	}
	return true
}

// release gives the pipe back.
func (s *splicing) release() {
	switch {
	case s.pipe == nil:
	case s.n > 0:
		s.pipes.drop(s.pipe)
	default:
		s.pipes.put(s.pipe)
	}
	s.pipe = nil
}

// firstError returns a, or b if a is nil.
func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Counts returns how many pipes there are, and how many of them are not in use.
func (p *Pipes) Counts() (made, free int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made, len(p.free)
}

// Exhaust makes the pool hand out no new pipe from now on. It is for tests.
func (p *Pipes) Exhaust() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made = MaxPipes
}
