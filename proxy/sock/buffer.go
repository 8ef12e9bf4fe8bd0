package sock

import (
	"errors"
)

// MaxBuffered is the largest buffer, and so the most bytes that may be unread.
const MaxBuffered = 64 << 10

// errFull means that MaxBuffered bytes are unread.
var errFull = errors.New("too many bytes are unread")

// Reader reads a socket through one pooled buffer, which it holds only while it has unread bytes.
type Reader struct {
	Conn *Conn
	buf  []byte
	r, w int // unread bytes are buf[r:w]
	// unpaid is how many of the unread bytes were read without the socket's meter and are to be taken
	// from it before they are passed on: the first ones.
	unpaid int
	// Before, if not nil, is called before each read of the socket. A read may wait, and output
	// that depends on the bytes in hand, such as a head that waits for the first piece of its body,
	// must not wait with it.
	Before BeforeReader
}

// BeforeReader is called before a read that may wait. Its error is returned in the read's place.
type BeforeReader interface{ BeforeRead() error }

// Bytes returns the unread bytes, valid until the next Fill.
func (in *Reader) Bytes() []byte { return in.buf[in.r:in.w] }

// Len returns the number of unread bytes.
func (in *Reader) Len() int { return in.w - in.r }

// Pass is Skip, but the bytes stay valid until the next Fill or Skip.
func (in *Reader) Pass(n int) { in.r += n }

// Skip drops n unread bytes.
func (in *Reader) Skip(n int) {
	in.r += n
	if in.r == in.w {
		in.Release()
	}
}

// Release gives the buffer back and drops what is in it.
func (in *Reader) Release() {
	if in.buf != nil {
		in.Conn.pool.Put(in.buf)
	}
	in.buf, in.r, in.w, in.unpaid = nil, 0, 0, 0
}

// Fill reads more bytes. The buffer grows beyond the pooled size up to MaxBuffered; then Fill
// fails with errFull.
func (in *Reader) Fill() error {
	if in.Before != nil {
		if err := in.Before.BeforeRead(); err != nil {
			return err
		}
	}
	in.unpaid = min(in.unpaid, in.Len())
	if in.r == in.w { // wait without a buffer
		in.Release()
		buf, n, err := in.Conn.readPaced(nil)
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
		case len(in.buf) < MaxBuffered:
			grown := make([]byte, MaxBuffered)
			copy(grown, in.buf)
			in.Conn.pool.Put(in.buf)
			in.buf = grown
		default:
			return errFull
		}
		in.r, in.w = 0, in.w-in.r
	}
	_, n, err := in.Conn.readPaced(in.buf[in.w:])
	in.w += n
	return err
}

// Take puts the first n bytes of a pooled buffer in hand. There must be none before.
func (in *Reader) Take(buf []byte, n int) {
	if n == 0 {
		in.Conn.pool.Put(buf)
		return
	}
	in.buf, in.r, in.w = buf, 0, n
}

// Writer collects small pieces for a socket, so that heads, chunk sizes and short bodies go out in
// one write.
type Writer struct {
	Conn *Conn
	buf  []byte
	err  error // of BeforeRead's Flush
}

// Writable returns the buffer to append to; Set stores the result.
func (o *Writer) Writable() []byte {
	if o.buf == nil {
		o.buf = o.Conn.pool.Get()[:0]
	}
	return o.buf
}

// Set stores what Writable returned, with what was appended.
func (o *Writer) Set(b []byte) { o.buf = b }

// Flush writes the collected bytes.
func (o *Writer) Flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	err := o.Conn.Write(o.buf, nil, nil)
	o.Release()
	return err
}

// BeforeRead implements [BeforeReader].
func (o *Writer) BeforeRead() error {
	o.err = o.Flush()
	return o.err
}

// Release gives the buffer back and drops what is in it.
func (o *Writer) Release() {
	if o.buf != nil {
		o.Conn.pool.Put(o.buf)
	}
	o.buf = nil
}

// Send writes the collected bytes, p and end.
func (o *Writer) Send(p, end []byte) error {
	err := o.Conn.Write(o.buf, p, end)
	o.Release()
	return err
}

// Err returns the error of BeforeRead's Flush.
func (o *Writer) Err() error { return o.err }

// Begin lets a message pass: what is collected in out goes out before each read. The meter, which
// may be nil, paces what is read from the socket, and what is in hand already. End ends both.
func (in *Reader) Begin(out *Writer, meter Meter) {
	in.Before, out.err = out, nil
	if in.Conn.meter = meter; meter != nil {
		in.unpaid = in.Len()
	}
}

// End ends what Begin began.
func (in *Reader) End() { in.Before, in.Conn.meter, in.unpaid = nil, nil, 0 }
