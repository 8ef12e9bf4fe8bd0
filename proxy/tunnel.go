package proxy

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/weirproxy/weir/proxy/sock"
)

// tunnel starts to relay between c and the upstream, for the request r. When both directions have
// ended, it finishes the flow and closes done, or, without done, ends c as well. Bytes that were
// read behind the heads go first. Slot and claims must guard both sockets already. former is of the
// client's plain requests; nil: none. The two goroutines start with the smallest stacks and end
// while the tunnel sleeps; the caller's goroutine, whose stack has grown, is free for another
// client.
func (f *flow) tunnel(c *conn, kind Kind, r *request, done chan struct{}, former *pacing) {
	c.sock.SetTunnel(f)
	f.upstream.SetTunnel(f)
	f.pace(c, former)
	f.kind.Store(uint32(kind))
	if f.endCause() != nil { // as an exchange: the client was left to its owner, which is now the tunnel
		go f.reset(c)
	}
	f.watchIdle(f.srv.policy.Load().TunnelIdleTimeout)

	f.done, f.request, f.opening = done, r, f.srv.newOpening()
	f.pumps.Store(2)
	f.srv.flows.markAwake(f)
	go f.pumpDown(c)
	go f.pumpUp(c)
}

func (f *flow) pumpUp(c *conn) {
	if f.pump(f.upstream, c.sock, &c.in, &f.in, finUp) {
		f.pumped(c)
	}
}

func (f *flow) pumpDown(c *conn) {
	if f.pump(c.sock, f.upstream, &f.reader, &f.out, finDown) {
		f.pumped(c)
	}
}

// pumped is called at the end of each direction; the second call ends the tunnel.
func (f *flow) pumped(c *conn) {
	if f.pumps.Add(-1) > 0 {
		return
	}
	f.endTunnel(c)
	if f.done != nil {
		close(f.done)
		return
	}
	f.srv.left(c)
}

// pump relays from src to dst until src's FIN, which it passes on. Small pieces are copied, and a
// buffer is held only between a read and its write; full buffers switch to splicing. over is false
// if the direction went to sleep, for want of bytes or because the bandwidth is used up.
//
// The frames of pump and its callees fit into a goroutine's smallest stack. A larger frame means
// copying the stack of each tunnel, which costs 3 % of a short one; TestStackOfATunnel checks it.
func (f *flow) pump(dst, src *sock.Conn, early *sock.Reader, moved *atomic.Uint64, fin uint32) (over bool) {
	var readErr, writeErr error
	for readErr == nil && writeErr == nil {
		var buf []byte
		var n int
		if early.Len() > 0 {
			n, readErr, writeErr = f.pumpEarly(dst, src, early, fin)
			moved.Add(uint64(n))
		} else if buf, n, readErr = src.Read(nil); readErr == nil {
			if readErr = f.checkOpening(buf[:n], fin); readErr == nil {
				writeErr = dst.Write(buf[:n], nil, nil)
			}
			src.Recycle(buf)
			if readErr == nil && writeErr == nil {
				moved.Add(uint64(n))
				if n == sock.BufferSize { // longer than an opening
					readErr, writeErr = sock.Splice(dst, src, &f.srv.pipes, moved)
				}
			}
		}
		if readErr != nil && isPause(readErr) {
			if f.sleep(src, fin, readErr == sock.ErrStarved) {
				return false
			}
			readErr = nil
		}
	}
	f.pumpEnded(dst, readErr, writeErr, fin)
	return true
}

// isPause reports whether the direction has nothing to do for a while.
func isPause(err error) bool {
	return err == sock.ErrStarved || errors.Is(err, os.ErrDeadlineExceeded)
}

// checkOpening checks the upstream's first bytes. A client may begin with anything.
func (f *flow) checkOpening(b []byte, fin uint32) error {
	if fin == finUp {
		return nil
	}
	return f.opening.check(b)
}

// pumpEnded forwards a FIN, or ends the tunnel after an error.
func (f *flow) pumpEnded(dst *sock.Conn, readErr, writeErr error, fin uint32) {
	if readErr == io.EOF {
		writeErr = f.passOn(dst, fin)
		readErr = nil
	}
	read, write := errClientReset, errUpstreamReset
	if fin == finDown {
		read, write = write, read
	}
	switch {
	case readErr == errNodeGreeted, readErr == errProxyGreeted:
		f.cutNested(readErr)
	case readErr != nil:
		f.pumpFailed(readErr, read, 0)
	case writeErr != nil:
		f.pumpFailed(writeErr, write, fin)
	}
}

// cutNested ends a tunnel that leads to a node of this cluster.
func (f *flow) cutNested(cause error) {
	f.mu.Lock()
	c, ended := f.client, f.cause.Load() != nil
	f.mu.Unlock()
	if c != nil && !ended {
		r := &cutNode
		if cause == errProxyGreeted {
			r = &cutNested
		}
		c.srv.counters.refused(r)
		c.logRefusal("tunnel cut", r)
	}
	f.abort(cause)
}

// passOn forwards a FIN.
func (f *flow) passOn(dst *sock.Conn, fin uint32) error {
	if before := f.fins.Or(fin); fin == finDown && before&finUp != 0 {
		return nil // both have ended: endTunnel closes the client after the slot is free
	}
	f.halfClosed()
	return dst.CloseWrite()
}

// pumpFailed ends the tunnel after an error; cause names the side at fault. An upstream that takes
// no more bytes may have sent some before; those are relayed first. An error of this machine, such
// as a want of memory, is not the upstream's reset, after which its slot is free at once.
func (f *flow) pumpFailed(err, cause error, fin uint32) {
	switch {
	case errors.Is(err, sock.ErrNotLive):
		f.abort(errFenced)
	case fin == finUp && sock.IsReset(err):
		f.upstreamHungUp(sock.HangupReset)
	case cause == errUpstreamReset && !sock.IsReset(err):
		f.abort(errRelay)
	default:
		f.abort(cause)
	}
}

// endTunnel closes both sides: after two FINs once the upstream has acknowledged ours, otherwise at
// once.
func (f *flow) endTunnel(c *conn) {
	f.mu.Lock()
	if f.cause.Load() == nil && f.fins.Load() != finUp|finDown {
		f.endFor(errUpstreamReset)
	}
	cause := f.endCause()
	if f.phase == phaseBusy {
		f.phase = phaseEnding
	}
	f.stall.stop()
	toldToSleep := f.toldToSleep
	f.mu.Unlock()
	f.unpace(c)
	if toldToSleep {
		f.upstream.SetReadDeadline(time.Time{})
	}

	switch {
	case cause == nil && f.upstream.AwaitClosed(f.srv.policy.Load().HalfCloseTimeout):
		f.finish(endClean)
		c.sock.Close()
	case cause == errClientReset && f.fins.Load()&finDown != 0 && f.upstream.AwaitClosed(lingerTimeout):
		f.finish(endClean)
	case cause == errUpstreamReset:
		f.finish(endUpstreamReset)
		c.sock.Reset()
	default:
		f.resetUpstream()
		c.sock.Reset()
		f.finish(endReset)
	}
	f.logTunnel(c, time.Now())
}
