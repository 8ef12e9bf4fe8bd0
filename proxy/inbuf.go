package proxy

import (
	"bytes"
	"errors"
	"io"
	"strconv"
)

// errTooLong says that what was asked for doesn't fit the bound.
var errTooLong = errors.New("too long")

// inbuf reads a socket through one pooled buffer, which it holds only while there are bytes in it.
type inbuf struct {
	sock *sock
	buf  []byte
	r, w int // unread bytes are buf[r:w]
	// before, where not nil, is told before the socket is read: what hangs on the bytes in hand,
	// such as a head to be sent with the first of its body, must not wait for the next ones.
	before beforeReader
}

// beforeReader is told of a read that may wait; its error takes the read's place.
type beforeReader interface{ beforeRead() error }

// bytes are those in hand, valid until the next fill.
func (in *inbuf) bytes() []byte { return in.buf[in.r:in.w] }

func (in *inbuf) len() int { return in.w - in.r }

// skip drops n bytes in hand.
func (in *inbuf) skip(n int) {
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
	in.buf, in.r, in.w = nil, 0, 0
}

// fill reads more. It grows beyond the pooled size up to maxHead, and then fails with errTooLong.
func (in *inbuf) fill() error {
	if in.before != nil {
		if err := in.before.beforeRead(); err != nil {
			return err
		}
	}
	if in.r == in.w { // wait without a buffer
		in.release()
		buf, n, err := in.sock.read(nil)
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
		case len(in.buf) < maxHead:
			grown := make([]byte, maxHead)
			copy(grown, in.buf)
			in.sock.pool.put(in.buf)
			in.buf = grown
		default:
			return errTooLong
		}
		in.r, in.w = 0, in.w-in.r
	}
	_, n, err := in.sock.read(in.buf[in.w:])
	in.w += n
	return err
}

// take puts bytes of a pooled buffer in hand, where there are none.
func (in *inbuf) take(buf []byte, n int) {
	if n == 0 {
		in.sock.pool.put(buf)
		return
	}
	in.buf, in.r, in.w = buf, 0, n
}

// head reads until a whole message head is in hand and returns it, its empty line included. The
// bytes stay in hand. io.EOF says that the peer ended before a first byte; a syntaxError that it
// isn't HTTP.
func (in *inbuf) head() ([]byte, error) {
	line := 0 // where the line begins that isn't complete yet
	for {
		b := in.bytes()
		for {
			i := bytes.IndexByte(b[line:], '\n')
			if i < 0 {
				break
			}
			// RFC 9112 §2.2: a line may end with LF alone, and an empty line before the first one
			// is ignored.
			empty := i == 0 || i == 1 && b[line] == '\r'
			switch {
			case empty && line == 0:
				in.skip(i + 1)
				b = in.bytes()
				continue
			case empty:
				return b[:line+i+1], nil
			}
			line += i + 1
		}
		if len(b) > 0 && !isTokenChar(b[0]) && b[0] != '\r' {
			return nil, errNotHTTP
		}
		if len(b) >= maxHead {
			return nil, errTooLong
		}
		if err := in.fill(); err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// line reads one line of at most limit bytes, its CR included, and returns it without its CRLF,
// valid until the next fill. It takes the line out of hand.
func (in *inbuf) line(limit int) ([]byte, error) {
	from := 0
	for {
		b := in.bytes()
		if i := bytes.IndexByte(b[from:], '\n'); i >= 0 {
			end := from + i
			if end == 0 || b[end-1] != '\r' {
				return nil, errBareLF
			}
			if end > limit {
				return nil, errTooLong
			}
			// Not skip: the buffer must outlive the line.
			in.r += end + 1
			return b[:end-1], nil
		}
		from = len(b)
		if len(b) > limit {
			return nil, errTooLong
		}
		if err := in.fill(); err != nil {
			return nil, unexpected(err)
		}
	}
}

// unexpected is err, where an end is out of place.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// outbuf collects small pieces for a socket, so that heads, chunk sizes and short bodies go out
// together.
type outbuf struct {
	sock *sock
	buf  []byte
	err  error // of the flush before a read
}

// writable is the buffer to append to; the result goes back with set.
func (o *outbuf) writable() []byte {
	if o.buf == nil {
		o.buf = o.sock.pool.get()[:0]
	}
	return o.buf
}

func (o *outbuf) set(b []byte) { o.buf = b }

// flush writes what was collected.
func (o *outbuf) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	err := o.sock.write(o.buf, nil, nil)
	o.release()
	return err
}

// beforeRead implements [beforeReader].
func (o *outbuf) beforeRead() error {
	o.err = o.flush()
	return o.err
}

// release gives the buffer back and drops what is in it.
func (o *outbuf) release() {
	if o.buf != nil {
		o.sock.pool.put(o.buf)
	}
	o.buf = nil
}

// smallPiece is the size up to which a piece is copied to go out with its neighbours.
const smallPiece = 4 << 10

// payload sends a piece of a body, as one chunk where chunked. A small one waits for the next
// flush.
func (o *outbuf) payload(p []byte, chunked bool) error {
	b := o.writable()
	if chunked {
		b = strconv.AppendUint(b, uint64(len(p)), 16)
		b = append(b, "\r\n"...)
	}
	if len(p) <= smallPiece && len(b)+len(p) < bufSize-2 {
		b = append(b, p...)
		if chunked {
			b = append(b, "\r\n"...)
		}
		o.set(b)
		return nil
	}
	var end []byte
	if chunked {
		end = crlf
	}
	o.set(b)
	err := o.sock.write(b, p, end)
	o.release()
	return err
}
