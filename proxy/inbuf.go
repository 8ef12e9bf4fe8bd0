package proxy

import (
	"errors"

	"github.com/weirproxy/weir/proxy/http1"
)

// maxBuffered is the largest buffer, and so the most bytes that may be unread.
const maxBuffered = 64 << 10

// A head must fit.
const _ = uint(maxBuffered - http1.MaxHead)

// errFull means that maxBuffered bytes are unread.
var errFull = errors.New("too many bytes are unread")

// inbuf reads a socket through one pooled buffer, which it holds only while it has unread bytes.
type inbuf struct {
	sock *sock
	buf  []byte
	r, w int // unread bytes are buf[r:w]
	// unpaid is how many of the unread bytes were read without the socket's meter and are to be taken
	// from it before they are passed on: the first ones.
	unpaid int
	// before, if not nil, is called before each read of the socket. A read may wait, and output
	// that depends on the bytes in hand, such as a head that waits for the first piece of its body,
	// must not wait with it.
	before beforeReader
}

// beforeReader is called before a read that may wait. Its error is returned in the read's place.
type beforeReader interface{ beforeRead() error }

// bytes returns the unread bytes, valid until the next fill.
func (in *inbuf) Bytes() []byte { return in.buf[in.r:in.w] }

func (in *inbuf) Len() int { return in.w - in.r }

// pass is skip, but the bytes stay valid until the next fill or skip.
func (in *inbuf) Pass(n int) { in.r += n }

// skip drops n unread bytes.
func (in *inbuf) Skip(n int) {
	in.r += n
	if in.r == in.w {
		in.release()
	}
}

// release gives the buffer back and drops what is in it.
func (in *inbuf) release() {
	if in.buf != nil {
		in.sock.pool.put(in.buf)
	}
	in.buf, in.r, in.w, in.unpaid = nil, 0, 0, 0
}

// fill reads more bytes. The buffer grows beyond the pooled size up to maxBuffered; then fill
// fails with errFull.
func (in *inbuf) Fill() error {
	if in.before != nil {
		if err := in.before.beforeRead(); err != nil {
			return err
		}
	}
	in.unpaid = min(in.unpaid, in.Len())
	if in.r == in.w { // wait without a buffer
		in.release()
		buf, n, err := in.sock.readPaced(nil)
		if err != nil {
			return err
		}
		in.buf, in.r, in.w = buf, 0, n
		return nil
	}
	if in.w == len(in.buf) {
		switch {
		case in.r > 0:
			copy(in.buf, in.buf[in.r:in.w])
		case len(in.buf) < maxBuffered:
			grown := make([]byte, maxBuffered)
			copy(grown, in.buf)
			in.sock.pool.put(in.buf)
			in.buf = grown
		default:
			return errFull
		}
		in.r, in.w = 0, in.w-in.r
	}
	_, n, err := in.sock.readPaced(in.buf[in.w:])
	in.w += n
	return err
}

// take puts the first n bytes of a pooled buffer in hand. There must be none before.
func (in *inbuf) take(buf []byte, n int) {
	if n == 0 {
		in.sock.pool.put(buf)
		return
	}
	in.buf, in.r, in.w = buf, 0, n
}

// outbuf collects small pieces for a socket, so that heads, chunk sizes and short bodies go out in
// one write.
type outbuf struct {
	sock *sock
	buf  []byte
	err  error // of beforeRead's flush
}

// writable returns the buffer to append to; set stores the result.
func (o *outbuf) Writable() []byte {
	if o.buf == nil {
		o.buf = o.sock.pool.get()[:0]
	}
	return o.buf
}

func (o *outbuf) Set(b []byte) { o.buf = b }

// flush writes the collected bytes.
func (o *outbuf) Flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	err := o.sock.write(o.buf, nil, nil)
	o.release()
	return err
}

// beforeRead implements [beforeReader].
func (o *outbuf) beforeRead() error {
	o.err = o.Flush()
	return o.err
}

// release gives the buffer back and drops what is in it.
func (o *outbuf) release() {
	if o.buf != nil {
		o.sock.pool.put(o.buf)
	}
	o.buf = nil
}

// send writes the collected bytes, p and end.
func (o *outbuf) Send(p, end []byte) error {
	err := o.sock.write(o.buf, p, end)
	o.release()
	return err
}

// Err returns the error of beforeRead's flush.
func (o *outbuf) Err() error { return o.err }

// begin lets a message pass: what is collected in out goes out before each read. The meter, which
// may be nil, paces what is read from the socket, and what is in hand already. end ends both.
func (in *inbuf) begin(out *outbuf, meter Meter) {
	in.before, out.err = out, nil
	if in.sock.meter = meter; meter != nil {
		in.unpaid = in.Len()
	}
}

// end ends what begin began.
func (in *inbuf) end() { in.before, in.sock.meter, in.unpaid = nil, nil, 0 }
