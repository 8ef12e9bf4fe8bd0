package proxy

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// tunnel relays between c and the upstream until both have ended, and finishes the flow. Bytes
// that were read behind the heads go first. It takes one goroutine beside the caller's, and no buffer
// while nothing flows.
func (f *flow) tunnel(c *client, kind Kind) {
	f.kind.Store(uint32(kind))
	down, up := c.sock, f.upstream
	down.slot, down.stall, up.stall = f.slot, 0, 0
	watch := func() { f.watchPeers(c) }
	down.blocked, up.blocked = watch, watch
	f.watchIdle(f.srv.policy.Load().TunnelIdleTimeout)

	f.pumps.Add(1)
	go func() {
		defer f.pumps.Done()
		f.pump(down, up, &f.reader, &f.out, finDown)
	}()
	f.pump(up, down, &c.in, &f.in, finUp)
	f.pumps.Wait()
	f.endTunnel(c)
}

// pump copies from src to dst until src's FIN, which it passes on.
func (f *flow) pump(dst, src *sock, early *inbuf, moved *atomic.Uint64, fin uint32) {
	read, write := errClientReset, errUpstreamReset
	if fin == finDown {
		read, write = write, read
	}
	if b := early.bytes(); len(b) > 0 {
		n := len(b)
		err := dst.write(b, nil, nil)
		early.skip(n)
		if err != nil {
			f.pumpFailed(err, write, fin)
			return
		}
		moved.Add(uint64(n))
	}
	for {
		buf, n, err := src.read(nil)
		if err == io.EOF {
			if before := f.fins.Or(fin); fin == finDown && before&finUp != 0 {
				return // both have ended: the client sees it once the slot is free
			}
			f.halfClosed()
			if err := dst.closeWrite(); err != nil {
				f.pumpFailed(err, write, fin)
			}
			return
		}
		if err != nil {
			f.pumpFailed(err, read, 0)
			return
		}
		err = dst.write(buf[:n], nil, nil)
		src.pool.put(buf)
		if err != nil {
			f.pumpFailed(err, write, fin)
			return
		}
		moved.Add(uint64(n))
	}
}

// pumpFailed ends the tunnel after an error; cause is whose it is. An upstream that takes no more
// bytes may have sent some before: they are relayed first.
func (f *flow) pumpFailed(err, cause error, fin uint32) {
	switch {
	case errors.Is(err, errNotLive):
		f.abort(errFenced)
	case fin == finUp && isReset(err):
		f.upstreamHungUp(hangupReset)
	default:
		f.abort(cause)
	}
}

// endTunnel closes both sides: after two FINs once the upstream has acknowledged ours, else at once.
func (f *flow) endTunnel(c *client) {
	f.mu.Lock()
	if f.cause == nil && f.fins.Load() != finUp|finDown {
		f.cause = errUpstreamReset
	}
	cause := f.cause
	if f.phase == phaseBusy {
		f.phase = phaseEnding
	}
	f.stall.stop()
	f.mu.Unlock()

	switch {
	case cause == nil && f.upstream.awaitClosed(f.srv.policy.Load().HalfCloseTimeout):
		f.finish(endClean)
		c.sock.close()
	case cause == errClientReset && f.fins.Load()&finDown != 0 && f.upstream.awaitClosed(lingerTimeout):
		f.finish(endClean)
	case cause == errUpstreamReset:
		f.finish(endUpstreamReset)
		c.sock.reset()
	default:
		f.resetUpstream()
		c.sock.reset()
		f.finish(endReset)
	}
	f.logTunnel(c, time.Now())
}

// logTunnel writes the canonical line of a tunnel that is over.
func (f *flow) logTunnel(c *client, now time.Time) {
	in, out := f.in.Load(), f.out.Load()
	f.srv.counters.BytesIn.Add(int64(in))
	f.srv.counters.BytesOut.Add(int64(out))
	if !f.srv.lines.wanted() {
		return
	}
	l := f.srv.lines.begin(now, "tunnel ended")
	l.text("kind", Kind(f.kind.Load()).String())
	l.addr("client", c.addr)
	l.text("host", f.target.Host)
	l.number("port", uint64(f.target.Port))
	l.duration("slot_wait", f.slot.Waited())
	l.duration("dial", f.dialTime)
	l.number("bytes_in", in)
	l.number("bytes_out", out)
	l.duration("duration", now.Sub(f.since))
	l.text("end", f.endName())
	f.srv.lines.end(l)
}

// endName says how the flow ended.
func (f *flow) endName() string {
	if cause := f.endCause(); cause != nil {
		return cause.Error()
	}
	return "closed"
}
